"""The short form of scripts/soak.py: what is installed, under load."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DRIVE = Path(__file__).resolve().parents[2] / "scripts" / "soak_project" / "drive.py"
NEEDED = ("gevent", "gunicorn", "rich")


def start(kind: str, requests: int, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(DRIVE), "--json", f"--server={kind}", f"--requests={requests}"],
        cwd=str(directory),
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        # The server is in the group, too.
        start_new_session=True,
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs " + ", ".join(NEEDED),
)
@pytest.mark.timeout(600)
def test_20_000_requests_are_heard_of_once_each(tmp_path: Path) -> None:
    """None is lost, double, or left open; no thread and no memory is left behind."""
    kinds = ("gthread", "gevent")
    running = [start(kind, 10_000, tmp_path) for kind in kinds]
    try:
        for kind, process in zip(kinds, running):
            out, err = process.communicate()
            assert process.returncode == 0, err
            result = json.loads(out)["servers"][kind]
            assert result["requests"] == 10_000
            assert sum(row["transactions"] for row in result["kinds"]) == 10_000
            # 5 in 100 fail before, and 5 in the midst of a stream.
            assert sum(row["errors"] for row in result["kinds"]) == 1_000
            assert (result["open"], result["wrong"]) == (0, [])
    finally:
        for process in running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
