"""scripts/demo.py, as a user runs it: in a process of its own, judged by what it prints and leaves."""

import importlib.util
import re
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from stages import DEMO, SCRIPTS, SECOND_STAGE, assert_refused, finish, needs_installed, start


def wait_until(condition, timeout=30):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "not within %d s" % timeout
        time.sleep(0.02)


def processes_with(text):
    """The processes that have a text in their environment or their command line."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            data = (directory / "environ").read_bytes() + (directory / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is somebody else's
        if text.encode() in data:
            found.append(int(directory.name))
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="looks for processes in /proc"
)


# -- the report


@needs_installed
def test_report_of_what_both_integrations_sent(tmp_path):
    """Ours has every span and every error at its place, and stock none; each line fits."""
    status, out, err = finish(start(SECOND_STAGE, tmp_path, "--width", "100"))
    assert (status, err) == (0, "")
    assert "\033" not in out
    assert max(map(len, out.splitlines())) <= 100
    lines = out.splitlines()
    stock = next(line for line in lines if line.startswith("stock: ") and "lost" in line)
    ours = next(
        line for line in lines if line.startswith("vendored_integration: ") and "lost" in line
    )
    total = int(re.search(r"of (\d+) spans", stock)[1])
    assert total > 20
    assert stock.startswith("stock: %d of %d spans lost, 1 of 1 errors" % (total, total))
    assert ours.startswith("vendored_integration: 0 of %d spans lost, 0 of 1 errors" % total)
    assert {"completed", "failed", "cancelled"} <= set(re.findall(r"stream (\w+)", out))
    assert list(tmp_path.iterdir()) == []


@needs_installed
def test_output_for_an_encoding_without_box_characters(tmp_path):
    """An ASCII terminal gets ASCII, not a UnicodeEncodeError, and nothing replaced by "?"."""
    status, out, err = finish(start(SECOND_STAGE, tmp_path, PYTHONIOENCODING="ascii"))
    assert (status, err) == (0, "")
    assert out.isascii() if hasattr(out, "isascii") else True
    assert "`--" in out
    assert re.findall(r".*\?.*", out.replace("/prices?n=", "")) == []


@needs_installed
@needs_proc
def test_second_stage_ends_its_server_on_sigterm(tmp_path):
    process = start(SECOND_STAGE, tmp_path)
    wait_until(lambda: list(tmp_path.glob("demo-*/journal-stock.jsonl")))
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


# -- what is refused: exit status 2, a message, no traceback, nothing begun


def test_busy_port(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(1)
        port = str(busy.getsockname()[1])
        assert_refused(finish(start(DEMO, tmp_path, "--port", port)), port, "in use", "Next:")
    assert list(tmp_path.iterdir()) == []


def test_dsn_that_is_none(tmp_path):
    assert_refused(finish(start(DEMO, tmp_path, "--dsn", "sentry.example")), "https://KEY@HOST")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["", "missing/demo.html"])
def test_page_that_cannot_be_written(tmp_path, place):
    """Said before anything is installed."""
    page = str(tmp_path / place)
    assert_refused(finish(start(DEMO, tmp_path, "--html", page)), page, "Next:")
    assert list(tmp_path.iterdir()) == []


def test_page_of_what_another_sentry_received(tmp_path):
    """It would have nothing to show."""
    arguments = ("--html", "demo.html", "--dsn", "https://key@sentry.example/1")
    assert_refused(finish(start(DEMO, tmp_path, *arguments)), "--html with --dsn", "Next:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(("--sdk", "9.9.9"), {}), (("--sdk=9.9",), {}), ((), {"SENTRY_SDK_VERSION": "9.9.9"})],
)
def test_release_without_patches(tmp_path, arguments, environment):
    """Said before anything is installed."""
    status, out, err = finish(start(DEMO, tmp_path, *arguments, **environment))
    assert (status, out) == (2, "")
    assert re.search(
        r"sentry-sdk 9\.9\S*: there are no patches for it\n  expected: one of \d+, ", err
    )
    assert list(tmp_path.iterdir()) == []


def test_release_that_knows_no_stream_lifecycle(tmp_path):
    arguments = ("--lifecycle", "stream", "--sdk", "2.60")
    assert_refused(finish(start(DEMO, tmp_path, *arguments)), "2.60.0: needs 2.61.0 or later")
    assert list(tmp_path.iterdir()) == []


def test_python_without_ensurepip(demo, monkeypatch, capsys):
    """Debian's Python: `venv` can be imported, but makes nothing without python3-venv."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name)
    )
    assert demo.main([]) == 2
    assert "apt install python3-venv" in capsys.readouterr().err


def test_python_that_is_too_old(demo, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 7, 16, "final", 0))
    assert demo.main([]) == 2
    assert "Python 3.8 or newer is needed" in capsys.readouterr().err


# -- interruptions


@needs_proc
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_a_step(tmp_path, signum):
    """A signal ends the step and what it has started, and removes the temporary directory."""
    process = start(DEMO, tmp_path)
    wait_until(lambda: list(tmp_path.glob("*/venv/bin/python*")))
    process.send_signal(signum)
    status, _, err = finish(process)
    assert (status, err) == (128 + signum, "stopped\n")
    assert processes_with(str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


# -- all of it


def checkout():
    """The checkout's files; a cache of bytecode may belong to whoever else works in it."""
    root = SCRIPTS.parent
    return {
        path
        for path in root.rglob("*")
        if not {".git", "__pycache__", ".pytest_cache"} & set(path.relative_to(root).parts)
    }


@pytest.mark.network
@needs_proc
def test_whole_run_leaves_nothing_but_the_page_behind(tmp_path):
    before = checkout()
    page = SCRIPTS.parent / ".cache" / "demo.html"
    status, out, err = finish(start(DEMO, tmp_path), timeout=600)
    assert (status, err) == (0, "")
    assert "\033" not in out
    assert "vendored_integration: 0 of " in out
    assert out.endswith(f": {page}\n")
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []
    assert checkout() == before | {page.parent, page}
