"""The short form of scripts/soak.py, and the workers of the benchmarks: what is installed."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SOAK = CHECKOUT / "scripts" / "soak.py"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["gthread", "gevent"], ids=["threads", "greenlets"])
def test_10_000_requests_are_received_once_each(tmp_path, kind):
    """None is lost, double, or left open; no thread and no memory is left behind."""
    for module in "gevent", "gunicorn":
        pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, str(SOAK), "--installed", f"--server={kind}", "--requests=10000"],
        cwd=str(tmp_path),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    # 5 in 100 fail before, and 5 in mid-stream.
    assert f"| gunicorn {kind} | 10,000 | 10,000, 1,000 | 0 | 0 | 0 | " in done.stdout


def item(type_, number, name, trace_id=""):
    """As the sink hands it on."""
    trace = {"trace_id": trace_id or f"{number:032}", "status": "internal_error"}
    event = {
        "request": {"url": f"http://127.0.0.1/{name}/{number}"},
        "contexts": {"trace": trace},
        "exception": {"values": [{"type": "Soaked", "value": str(number)}]},
        "spans": [],
    }
    return SimpleNamespace(type=type_, json=event)


def test_soak_notices_what_is_lost_double_and_wrong(monkeypatch):
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
def test_benchmarks_serve_their_requests(system, tmp_path):
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
