"""Open responses cost no thread each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest
from running import INTEGRATION

from sink import EnvelopeSink

HERE = Path(__file__).resolve().parent


def hold(
    integration: str, count: int, directory: Path, sink: EnvelopeSink, **environment: str
) -> "Dict[str, int]":
    """Hold so many responses open at once in one process; its threads."""
    result = subprocess.run(
        [sys.executable, str(HERE / "hold.py"), str(count)],
        cwd=str(directory),
        env={
            **os.environ,
            "DSN": sink.dsn,
            "INTEGRATION": integration,
            "DATABASE": ":memory:",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    found: "Dict[str, int]" = json.loads(result.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here")
def test_threads_of_500_open_responses(tmp_path: Path) -> None:
    """They are served by a few threads in all: the fix that was taken back had one each."""
    with EnvelopeSink() as sink:
        without, with_ours = (hold(name, 500, tmp_path, sink) for name in ("none", INTEGRATION))
        assert sink.transactions()
    grown_without = without["with_all"] - without["after_one"]
    grown = with_ours["with_all"] - with_ours["after_one"]
    assert grown - grown_without <= 4, (without, with_ours)
    # Nor has the first request started that many: the SDK has a few threads of its own.
    assert with_ours["after_one"] - without["after_one"] <= 8, (without, with_ours)
