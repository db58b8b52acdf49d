"""benchmarks/: each target is judged by what a run measures. Nothing is measured here."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]

#: Instructions of a request, and of a chunk.
COSTS = {"bare": (100, 10), "stock": (400, 40), "ours": (240, 12)}


class MadeUp:
    """In the place of `measure.Machine`: numbers with which each target is met."""

    def instructions(self, job: Any) -> Dict[str, float]:
        request, chunk = COSTS.get(job.system, (400, 40))
        return {
            f"{what} {job.system} {work} {job.rate} {job.lifecycle}": request
            + chunk * int("0" + work.partition("stream/")[2])
            for work, *_ in job.works
            for what in ("instructions", "spans")
        }

    def memory(self, system: str, rate: int) -> Dict[str, float]:
        found = {"at work": 2_000, "open@0": 0, "open@10000": 1_000 * 10_000, "after": 0}
        found["threads@10000"] = 1
        return {f"memory {system} {what} {rate}": value for what, value in found.items()}


SECONDS = {"seconds deadline": 5e-7, "seconds timer": 1e-4}
SECONDS.update({"seconds import stock": 0.1, "seconds import ours": 0.101})


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("measure"), importlib.import_module("tables")


def words(tables: Any, values: Dict[str, float]) -> List[str]:
    results = tables.Results(values)
    return [tables.verdict(target, results)[3] for target in tables.TARGETS]


def test_targets_are_judged_by_what_a_run_measures(modules: Any) -> None:
    measure, tables = modules
    values = {**measure.count(MadeUp(), list(tables.SYSTEMS), quick=False), **SECONDS}
    assert words(tables, values) == ["met"] * len(tables.TARGETS)
    about = {"date": "", "python": "", "cores": 2, "versions": {}}
    assert "| error, rate 1 | " in tables.section({"values": values, "about": about})
    # A quick run measures those of instructions and memory.
    quick = words(tables, measure.count(MadeUp(), ["bare", "stock", "ours"], quick=True))
    assert quick[:8] == ["met"] * 8
    assert set(quick[8:]) == {"not measured"}
    values["instructions ours /plain 1 static"] += 300
    assert words(tables, values)[2].startswith("**over by 0.567")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("benchmarks/run.py --write --quick", "--write is for a whole run"),
        ("benchmarks/outage.py --events 9", "expected at least 10"),
        ("scripts/soak.py --requests 10", "expected at least 1000"),
        ("scripts/soak.py --sdk 9.9.9", "sentry-sdk 9.9.9: there are no patches for it"),
    ],
)
def test_a_wrong_command_line_is_refused(command: str, said: str) -> None:
    """Before anything is installed."""
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=str(CHECKOUT),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
