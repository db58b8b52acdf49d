"""scripts/upstream_tests.py and django_tests.py: what counts as a regression.

Offline, and with made-up results: nothing of upstream's tests is here.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Dict, List, Optional

import pytest
from conftest import CHECKOUT

TEST = "tests/integrations/a.py::t"


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))


@pytest.fixture
def upstream() -> ModuleType:
    return importlib.import_module("upstream.compare")


@pytest.mark.parametrize(
    ("stock", "ours", "found"),
    [
        ("passed", "passed", None),
        ("passed", "failed", "worse"),
        ("passed", "skipped", "worse"),
        ("passed", None, "worse"),
        ("failed", "passed", "gained"),
        ("failed", "failed", "undecided"),
        ("failed", None, "undecided"),
        ("skipped", "skipped", None),
        ("skipped", "failed", "worse"),
        (None, "failed", "worse"),
    ],
)
def test_difference(
    upstream: ModuleType, stock: Optional[str], ours: Optional[str], found: Optional[str]
) -> None:
    sides = [{"t": upstream.Result(outcome, "")} if outcome else {} for outcome in (stock, ours)]
    verdict = upstream.compare(*sides)
    named = {name: [test for test, _ in getattr(verdict, name)] for name in verdict._fields}
    assert {name: tests for name, tests in named.items() if tests} == (
        {found: ["t"]} if found else {}
    )


@pytest.fixture
def sdk_tests(upstream: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """upstream_tests.py without pip and pytest: a test says how a run ends."""
    tool = importlib.import_module("upstream_tests")
    runs: Dict[str, Any] = {}
    ran: List[str] = []

    def run(suite: Any, name: str, *args: Any) -> Any:
        ran.append(name)
        return {TEST: runs[name]}

    monkeypatch.setattr(tool, "run", run)
    suite = tool.Suite("2.0.0", "5.2", Path(sys.executable), Path())
    monkeypatch.setattr(tool, "prepare", lambda *args: suite)
    results = {"passed": upstream.Result("passed"), "failed": upstream.Result("failed", "boom")}
    return SimpleNamespace(tool=tool, runs=runs, ran=ran, **results)


def test_regression(sdk_tests: Any, capsys: Any) -> None:
    """Reported after three attempts; one that passes then is none."""
    sdk_tests.runs["stock"] = sdk_tests.passed
    sdk_tests.runs["ours"] = sdk_tests.runs["ours-again"] = sdk_tests.failed
    assert sdk_tests.tool.main(["2.0.0"]) == 1
    assert sdk_tests.ran == ["stock", "ours", "ours-again", "ours-again"]
    output = capsys.readouterr().out
    assert "REGRESSION" in output
    assert "boom" in output
    assert "  1 regression\n" in output
    sdk_tests.runs["ours-again"] = sdk_tests.passed
    assert sdk_tests.tool.main(["2.0.0"]) == 0
    output = capsys.readouterr().out
    assert "passes not always, for ours" in output
    assert "  0 regressions\n" in output


# -- Django's own tests


@pytest.fixture
def django_tests(upstream: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """django_tests.py without pip and Django: what ends how, by the run; a test changes it."""
    tool = importlib.import_module("django_tests")
    tests = ("m.tests.T.explained", "m.tests.T.new", "m.tests.T.steady")
    names = ("without", "stock", "ours", "ours again")
    runs = {name: dict.fromkeys(tests, upstream.Result("passed")) for name in names}
    ran = []

    def run(suite: Any, name: str, lifecycle: str, labels: str = "") -> Any:
        name += " again" if labels else ""
        ran.append((name, lifecycle, labels))
        return dict(runs[name])

    monkeypatch.setattr(tool, "run", run)
    suite = tool.Suite("5.2.1", Path(sys.executable), Path(), {})
    monkeypatch.setattr(tool, "prepare", lambda *args: suite)
    monkeypatch.setattr(tool, "EXPLAINED", {"reads too much": ("m.tests.T.explained",)})
    return SimpleNamespace(tool=tool, runs=runs, ran=ran, failed=upstream.Result("failed", "boom"))


def test_django_with_differences(django_tests: Any, capsys: Any) -> None:
    """What is explained does not count; nor what fails now and then, or without us."""
    runs, failed = django_tests.runs, django_tests.failed
    for name in ("stock", "ours", "ours again"):
        runs[name]["m.tests.T.explained"] = failed
    runs["ours"]["m.tests.T.new"] = failed
    runs["without"]["m.tests.T.steady"] = runs["ours"]["m.tests.T.steady"] = failed
    assert django_tests.tool.main(["5.2"]) == 0
    assert ("ours again", "static", "m.tests") in django_tests.ran
    output = capsys.readouterr().out
    assert "explained: it reads too much" in output
    assert "m.tests.T.explained (static, with stock too)\n      boom" in output
    assert "2 explained, 0 unexplained" in output
    runs["ours again"]["m.tests.T.new"] = failed
    assert django_tests.tool.main(["5.2"]) == 1
    output = capsys.readouterr().out
    assert "m.tests.T.new (stream)\n      boom" in output
    assert "2 explained, 2 unexplained" in output
