"""scripts/upstream_tests.py: what counts as a regression.

Offline, and with made-up results: nothing of upstream's tests is here.
"""

import importlib
import io
import json
import re
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def tool() -> ModuleType:
    return importlib.import_module("upstream_tests")


@pytest.fixture
def upstream(tool: ModuleType) -> ModuleType:
    return importlib.import_module("upstream.compare")


def a_report(test: str, outcome: str, when: str = "call", longrepr: Any = None) -> Dict[str, Any]:
    return {
        "$report_type": "TestReport",
        "nodeid": test,
        "outcome": outcome,
        "when": when,
        "longrepr": longrepr,
    }


def a_passed_test(test: str) -> List[Dict[str, Any]]:
    return [a_report(test, "passed", when) for when in ("setup", "call", "teardown")]


def written(path: Path, reports: List[Dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in reports))
    return path


def test_results_of_a_report_log(upstream: ModuleType, tmp_path: Path) -> None:
    """A failure in any phase is one; the last word is not the teardown's."""
    crash = {"reprcrash": {"message": "assert 1 == 2\n +  where 1 = f()"}}
    forked = "def test():\n    f()\nE   KeyError: 'x'\nE     more\ntests/a.py:3: KeyError"
    log = written(
        tmp_path / "log.jsonl",
        [
            {"pytest_version": "8", "$report_type": "SessionStart"},
            *a_passed_test("a.py::passed"),
            a_report("a.py::failed", "passed", "setup"),
            a_report("a.py::failed", "failed", "call", crash),
            a_report("a.py::failed", "passed", "teardown"),
            *a_passed_test("a.py::teardown")[:2],
            a_report("a.py::teardown", "failed", "teardown", crash),
            a_report("a.py::forked", "failed", "???", forked),
            a_report("a.py::skipped", "skipped", "setup", ["a.py", 1, "Skipped: no"]),
            a_report("a.py::skipped", "passed", "teardown"),
            {"$report_type": "CollectReport", "nodeid": "", "outcome": "passed"},
            {"$report_type": "CollectReport", "nodeid": "a.py", "outcome": "passed"},
            {
                "$report_type": "CollectReport",
                "nodeid": "b.py",
                "outcome": "failed",
                "longrepr": "b.py:1: in <module>\nE   ImportError: no\n",
            },
        ],
    )
    assert upstream.read(log) == {
        "a.py::passed": ("passed", ""),
        "a.py::failed": ("failed", "assert 1 == 2"),
        "a.py::teardown": ("failed", "assert 1 == 2"),
        "a.py::forked": ("failed", "KeyError: 'x'"),
        "a.py::skipped": ("skipped", ""),
        "b.py": ("failed", "ImportError: no"),
    }


@pytest.mark.parametrize("longrepr", [None, "", {}, {"reprcrash": None}])
def test_failure_without_a_message(upstream: ModuleType, longrepr: Any) -> None:
    assert upstream.one_line(longrepr) in ("no message", "None")


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
def test_difference(upstream: ModuleType, stock: str, ours: str, found: str) -> None:
    def results(outcome: str) -> Dict[str, Any]:
        return {"a.py::t": upstream.Result(outcome, "")} if outcome else {}

    verdict = upstream.compare(results(stock), results(ours))
    named = {name: [test for test, _ in getattr(verdict, name)] for name in verdict._fields}
    assert {name: tests for name, tests in named.items() if tests} == (
        {found: ["a.py::t"]} if found else {}
    )


def test_later_attempts_only_take_failures_away(upstream: ModuleType) -> None:
    """A test that has passed is not looked at again: the files run again as a whole."""
    passed, failed = upstream.Result("passed"), upstream.Result("failed", "no")
    results = {"a": failed, "b": failed, "c": passed}
    assert upstream.take_passes(results, {"a": passed, "b": failed, "c": failed}) == ["a"]
    assert results == {"a": passed, "b": failed, "c": passed}


@pytest.fixture
def judged(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    """The tool without pip and pytest: the runs' results are what a test puts in here."""
    runs: Dict[str, Any] = {}

    def run(self: Any, name: str, *args: Any) -> Any:
        runs.setdefault("ran", []).append(name)
        return dict(runs[name])

    monkeypatch.setattr(tool.Runs, "run", run)
    environment = tool.Environment(Path(sys.executable), "5.2")
    monkeypatch.setattr(tool, "prepare", lambda django: environment)
    for name in ("unpack_tests", "install"):
        monkeypatch.setattr(tool, name, lambda *args: None)
    return runs


TEST = "tests/integrations/a.py::t"


def test_regression(
    tool: ModuleType, upstream: ModuleType, judged: Dict[str, Any], capsys: Any
) -> None:
    """Reported after three attempts."""
    judged["stock"] = {TEST: upstream.Result("passed")}
    judged["ours"] = judged["ours-again"] = {TEST: upstream.Result("failed", "boom")}
    assert tool.main(["2.0.0"]) == 1
    assert judged["ran"] == ["stock", "ours", "ours-again", "ours-again"]
    output = capsys.readouterr().out
    assert "REGRESSION" in output
    assert "boom" in output
    assert "  1 regression\n" in output


def test_failure_now_and_then(
    tool: ModuleType, upstream: ModuleType, judged: Dict[str, Any], capsys: Any
) -> None:
    judged["stock"] = judged["ours-again"] = {TEST: upstream.Result("passed")}
    judged["ours"] = {TEST: upstream.Result("failed", "boom")}
    assert tool.main(["2.0.0"]) == 0
    output = capsys.readouterr().out
    assert "passes not always, for ours" in output
    assert "  0 regressions\n" in output


def test_error_with_one_release_does_not_stop_the_others(
    tool: ModuleType,
    upstream: ModuleType,
    judged: Dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    def unpack(release: str, environment: Any) -> None:
        if release == "2.0.0":
            raise tool.Refused("no tests in it")

    monkeypatch.setattr(tool, "unpack_tests", unpack)
    judged["stock"] = judged["ours"] = {"other": upstream.Result("passed")}
    assert tool.main(["2.0.0", "2.0.1"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no tests in it\n"
    assert "sentry-sdk 2.0.1" in captured.out


def test_release_without_patches_is_refused(tool: ModuleType, capsys: Any) -> None:
    """Before the tests of the others, which take long."""
    with pytest.raises(SystemExit) as ended:
        tool.main(["2.75.0", "1.0.0"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "sentry-sdk 1.0.0: there are no patches for it" in error
    assert re.search(r"expected: one of \d+, 2\.0\.0 to \d", error)
    assert "vendor.py status" in error


@pytest.mark.parametrize("with_tests", [True, False])
def test_source_distribution(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_tests: bool,
) -> None:
    """The tests are taken out of it, never the sources; without tests it is refused."""
    getting_ready = importlib.import_module("upstream.environment")
    monkeypatch.setattr(getting_ready, "ROOT", tmp_path)
    monkeypatch.setattr(getting_ready, "CACHE", tmp_path / "cache")

    def download(command: List[str], problem: str) -> None:
        (target,) = [one[7:] for one in command if one.startswith("--dest=")]
        names = ["pyproject.toml", "sentry_sdk/__init__.py", "tests/../../evil.py"]
        if with_tests:
            names += ["tests/integrations/django/a.py", "tests/integrations/wsgi/b.py"]
        with tarfile.open(f"{target}/sdk.tar.gz", "w:gz") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(f"sdk-1/{name}"), io.BytesIO())

    monkeypatch.setattr(getting_ready, "call", download)
    environment = tool.Environment(Path(sys.executable), "5.2")
    if not with_tests:
        with pytest.raises(tool.Refused, match="carries no such tests"):
            tool.unpack_tests("2.1.0", environment)
        return
    source = tool.unpack_tests("2.1.0", environment)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    assert files == [
        "pyproject.toml",
        "tests/integrations/django/a.py",
        "tests/integrations/wsgi/b.py",
    ]
    assert not list(tmp_path.rglob("evil.py"))
