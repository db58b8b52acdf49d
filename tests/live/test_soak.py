"""The short form of scripts/soak.py, and the workers of the benchmarks: what is installed."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SOAK = CHECKOUT / "scripts" / "soak.py"


def start(kind: str, requests: int, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(SOAK), "--installed", f"--server={kind}", f"--requests={requests}"],
        cwd=str(directory),
        env={**os.environ, "TMPDIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        # The server is in the group, too.
        start_new_session=True,
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gevent", "gunicorn")),
    reason="needs gevent, gunicorn",
)
@pytest.mark.timeout(600)
def test_20_000_requests_are_received_once_each(tmp_path: Path) -> None:
    """None is lost, double, or left open; no thread and no memory is left behind."""
    running = {kind: start(kind, 10_000, tmp_path) for kind in ("gthread", "gevent")}
    try:
        for kind, process in running.items():
            out, _ = process.communicate()
            assert process.returncode == 0, out
            # 5 in 100 fail before, and 5 in mid-stream.
            assert f"| gunicorn {kind} | 10,000 | 10,000, 1,000 | 0 | 0 | 0 | " in out
    finally:
        for process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            if process.stdout is not None and not process.stdout.closed:
                process.communicate()


def item(type_: str, number: int, name: str, trace_id: str = "") -> SimpleNamespace:
    """As the sink hands it on."""
    trace = {"trace_id": trace_id or f"{number:032}", "status": "internal_error"}
    event = {
        "request": {"url": f"http://127.0.0.1/{name}/{number}"},
        "contexts": {"trace": trace},
        "exception": {"values": [{"type": "Soaked", "value": str(number)}]},
        "spans": [],
    }
    return SimpleNamespace(type=type_, json=event)


def test_soak_notices_what_is_lost_double_and_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost one and one that came twice do not make up for each other."""
    monkeypatch.syspath_prepend(str(SOAK.parent / "soak_project"))
    load = importlib.import_module("load")
    kinds = [load.kind_of(number).name for number in range(100)]
    first, second, *_ = [number for number, name in enumerate(kinds) if name == "error"]
    ledger = load.Ledger(100)
    before = (ledger.lost(), ledger.double())
    for type_, number in (("event", first), ("transaction", first), ("event", first)):
        ledger.take(item(type_, number, "error"))
    assert (ledger.lost(), ledger.double(), ledger.problems) == (before[0] - 2, 1, [])
    ledger.take(item("event", second, "error", trace_id="another"))
    ledger.take(item("transaction", second, "error"))
    assert ledger.problems == [f"request {second}: its error is in another trace"]
    ledger.take(item("transaction", kinds.index("plain"), "plain"))
    assert "expected ('plain', 'ok', '', 0)" in ledger.problems[-1]


@pytest.mark.parametrize("system", ["stock", "ours"])
def test_benchmarks_serve_their_requests(system: str, tmp_path: Path) -> None:
    """They use the registry of the runtime, too."""
    works = ["/plain", "/stream/10", "/astream/10", "/error", "/file", "/plain@2"]
    works += ["deadline@2"] if system == "ours" else []
    job = {"system": system, "rate": 1, "lifecycle": "static"}
    job["works"] = [[work, 1, 2, 1] for work in works]
    worker = CHECKOUT / "benchmarks" / "worker" / "instructions.py"
    spans = json.loads(
        subprocess.check_output([sys.executable, str(worker), json.dumps(job)], cwd=str(tmp_path))
    )
    assert list(spans) == works
    # Upstream's spans of the view, and of the receivers of a signal.
    assert spans["/plain"] == 2
