"""The demo's two stages, as processes."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DEMO = SCRIPTS / "demo.py"
SECOND_STAGE = SCRIPTS / "demo_project" / "run.py"

NEEDED = ("django", "gunicorn", "requests", "rich", "structlog", "vendored_integration")
needs_installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the demo's second stage needs " + ", ".join(NEEDED),
)


def start(script, directory, *arguments, **environment):
    """Start it with a temporary directory and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        cwd=str(directory),
        env={
            **os.environ,
            "TMPDIR": str(directory),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_heed_hang_up,
    )


def _heed_hang_up():
    """Undo what ``nohup`` has done: its children inherit that the signal is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def finish(process, timeout=60):
    """Its exit status, and its output as text."""
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process.returncode, out.decode(), err.decode()


def assert_refused(result, *words):
    status, out, err = result
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert "Traceback" not in err
    for word in words:
        assert word in err
