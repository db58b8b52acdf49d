"""scripts/upstream_tests.py and django_tests.py: what counts as a regression.

Offline, and with made-up results: nothing of upstream's tests is here.
"""

import importlib
import subprocess
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
def suites() -> ModuleType:
    return importlib.import_module("upstream.suites")


@pytest.mark.parametrize(
    ("stock", "ours", "found"),
    [
        ("passed", "passed", None),
        ("passed", "failed", "WORSE"),
        ("passed", "skipped", "WORSE"),
        ("passed", None, "WORSE"),
        ("failed", "passed", "GAINED"),
        ("failed", "failed", "UNDECIDED"),
        ("failed", None, "UNDECIDED"),
        ("skipped", "skipped", None),
        ("skipped", "failed", "WORSE"),
        (None, "failed", "WORSE"),
    ],
)
def test_difference(
    suites: ModuleType, stock: Optional[str], ours: Optional[str], found: Optional[str]
) -> None:
    sides = [{"t": suites.Result(outcome)} if outcome else {} for outcome in (stock, ours)]
    differences = [(kind, test) for kind, test, _ in suites.compare(*sides)]
    assert differences == ([(getattr(suites, found), "t")] if found else [])


@pytest.fixture
def sdk_tests(suites: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """upstream_tests.py without pip and pytest: a test says how the runs end."""
    tool = importlib.import_module("upstream_tests")
    runs: Dict[str, List[Any]] = {}

    def run(suite: Any, name: str, tests: Any) -> Any:
        assert tests in (tool.PATHS, ["tests/integrations/a.py"])
        return {TEST: runs[name].pop(0)}

    monkeypatch.setattr(tool, "run", run)
    suite = tool.Suite("2.0.0", "5.2", Path(sys.executable), Path())
    monkeypatch.setattr(tool, "prepare", lambda *args: suite)
    results = {"passed": suites.Result("passed"), "failed": suites.Result("failed", "boom")}
    return SimpleNamespace(tool=tool, runs=runs, **results)


def test_regression(sdk_tests: Any, capsys: Any) -> None:
    """Reported after three attempts; one that passes then is none."""
    passed, failed = sdk_tests.passed, sdk_tests.failed
    sdk_tests.runs.update(stock=[passed], ours=[failed] * 3)
    assert sdk_tests.tool.main(["2.0.0"]) == 1
    assert sdk_tests.runs["ours"] == []
    assert f"  REGRESSION: {TEST}\n      boom\n  regressions: 1\n" in capsys.readouterr().out
    sdk_tests.runs.update(stock=[passed], ours=[failed, failed, passed])
    assert sdk_tests.tool.main(["2.0.0"]) == 0
    assert "  regressions: 0\n" in capsys.readouterr().out


def test_results_of_pytest(sdk_tests: Any, tmp_path: Path) -> None:
    """As pytest writes them, by the file: a part of a test that fails decides."""
    (tmp_path / "test_one.py").write_text(
        """
import pytest


class TestClass:
    @pytest.mark.parametrize("a", [1])
    def test_passes(self, a):
        pass


@pytest.fixture
def breaks():
    yield
    raise ValueError("afterwards")


def test_breaks(breaks):
    pass


def test_fails():
    assert "one" == "two"


def test_skipped():
    pytest.skip()
"""
    )
    (tmp_path / "test_two.py").write_text("import no_such_module")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--junit-xml=log"]
    subprocess.call(
        [*command, "-o", "junit_family=xunit1", "--continue-on-collection-errors"],
        cwd=str(tmp_path),
    )
    results = sdk_tests.tool.read(tmp_path / "log")
    assert {test: result.outcome for test, result in results.items()} == {
        "test_one.py::TestClass::test_passes[1]": "passed",
        "test_one.py::test_breaks": "failed",
        "test_one.py::test_fails": "failed",
        "test_one.py::test_skipped": "skipped",
        "test_two.py::test_two": "failed",
    }
    assert results["test_one.py::test_fails"].error.startswith("AssertionError: assert 'one'")


# -- Django's own tests


@pytest.fixture
def django_tests(suites: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """django_tests.py without pip and Django: what ends how, by the run; a test changes it."""
    tool = importlib.import_module("django_tests")
    tests = ("m.tests.T.explained", "m.tests.T.new", "m.tests.T.steady")
    names = ("without", "stock", "ours", "ours again")
    runs = {name: dict.fromkeys(tests, suites.Result("passed")) for name in names}
    ran = []

    def run(suite: Any, name: str, lifecycle: str, labels: str = "") -> Any:
        name += " again" if labels else ""
        ran.append((name, lifecycle, labels))
        return dict(runs[name])

    monkeypatch.setattr(tool, "run", run)
    suite = tool.Suite("5.2.1", Path(sys.executable), Path())
    monkeypatch.setattr(tool, "prepare", lambda *args: suite)
    for name in "FAILS", "SENDS_OTHERWISE":
        monkeypatch.setattr(tool, name, {"reads too much": ("m.tests.T.explained",)})
    return SimpleNamespace(tool=tool, runs=runs, ran=ran, failed=suites.Result("failed", "boom"))


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
    assert "m.tests.T.explained (static, with stock too)\n      boom\n      explained" in output
    assert "  0 unexplained" in output
    runs["ours again"]["m.tests.T.new"] = failed
    assert django_tests.tool.main(["5.2"]) == 1
    output = capsys.readouterr().out
    assert "m.tests.T.new (stream)\n      boom\n      UNEXPLAINED" in output
    assert "  2 unexplained" in output


def test_django_with_something_else_sent(
    django_tests: Any, suites: ModuleType, capsys: Any
) -> None:
    """Also where every test passes; what has a stream (None) is not compared."""

    def passed(*sent: Optional[str]) -> Any:
        return suites.Result("passed", sent=None if None in sent else list(sent))

    runs = django_tests.runs
    runs["stock"].update({"m.tests.T.explained": passed("a"), "m.tests.T.new": passed("a", "b")})
    runs["ours"].update({"m.tests.T.explained": passed(), "m.tests.T.new": passed(None)})
    assert django_tests.tool.main(["5.2"]) == 0
    assert "m.tests.T.explained (static)" in capsys.readouterr().out
    runs["ours"]["m.tests.T.new"] = passed("a", "c")
    assert django_tests.tool.main(["5.2"]) == 1
    output = capsys.readouterr().out
    assert "m.tests.T.new (static)\n      sends ...c..., stock ...b...\n      UNEXPLAINED" in output
