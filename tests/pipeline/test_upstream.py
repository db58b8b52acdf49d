"""scripts/upstream_tests.py and django_tests.py: what counts as a regression.

Offline, and with made-up results: nothing of upstream's tests is here.
"""

import importlib
import io
import json
import re
import sys
import tarfile
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


def report(test: str, outcome: str, when: str = "call", longrepr: Any = None) -> Dict[str, Any]:
    result = {"nodeid": test, "outcome": outcome, "when": when, "longrepr": longrepr}
    return {"$report_type": "TestReport", **result}


def passed(test: str) -> List[Dict[str, Any]]:
    return [report(test, "passed", when) for when in ("setup", "call", "teardown")]


def test_results_of_a_report_log(upstream: ModuleType, tmp_path: Path) -> None:
    """A failure in any phase is one; the last word is not the teardown's."""
    crash = {"reprcrash": {"message": "assert 1 == 2\n +  where 1 = f()"}}
    forked = "def test():\n    f()\nE   KeyError: 'x'\nE     more\ntests/a.py:3: KeyError"
    collected = {"$report_type": "CollectReport", "nodeid": "b.py", "outcome": "failed"}
    log = [
        {"pytest_version": "8", "$report_type": "SessionStart"},
        *passed("a.py::passed"),
        report("a.py::failed", "passed", "setup"),
        report("a.py::failed", "failed", "call", crash),
        report("a.py::failed", "passed", "teardown"),
        *passed("a.py::teardown")[:2],
        report("a.py::teardown", "failed", "teardown", crash),
        report("a.py::forked", "failed", "???", forked),
        report("a.py::skipped", "skipped", "setup", ["a.py", 1, "Skipped: no"]),
        report("a.py::skipped", "passed", "teardown"),
        {**collected, "nodeid": "", "outcome": "passed"},
        {**collected, "longrepr": "b.py:1: in <module>\nE   ImportError: no\n"},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in log))
    assert upstream.read(path) == {
        "a.py::passed": ("passed", ""),
        "a.py::failed": ("failed", "assert 1 == 2"),
        "a.py::teardown": ("failed", "assert 1 == 2"),
        "a.py::forked": ("failed", "KeyError: 'x'"),
        "a.py::skipped": ("skipped", ""),
        "b.py": ("failed", "ImportError: no"),
    }
    for longrepr in None, "", {}, {"reprcrash": None}:
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
def test_difference(
    upstream: ModuleType, stock: Optional[str], ours: Optional[str], found: Optional[str]
) -> None:
    sides = [{"t": upstream.Result(outcome, "")} if outcome else {} for outcome in (stock, ours)]
    verdict = upstream.compare(*sides)
    named = {name: [test for test, _ in getattr(verdict, name)] for name in verdict._fields}
    assert {name: tests for name, tests in named.items() if tests} == (
        {found: ["t"]} if found else {}
    )


def test_later_attempts_only_take_failures_away(upstream: ModuleType) -> None:
    """A test that has passed is not looked at again: the files run again as a whole."""
    passed, failed = upstream.Result("passed"), upstream.Result("failed", "no")
    results = {"a": failed, "b": failed, "c": passed}
    assert upstream.take_passes(results, {"a": passed, "b": failed, "c": failed}) == ["a"]
    assert results == {"a": passed, "b": failed, "c": passed}


@pytest.fixture
def sdk_tests(upstream: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """upstream_tests.py without pip and pytest: a test says how a run ends."""
    tool = importlib.import_module("upstream_tests")
    runs: Dict[str, Any] = {}
    ran: List[str] = []

    def run(self: Any, name: str, *args: Any) -> Any:
        ran.append(name)
        return {TEST: runs[name]}

    monkeypatch.setattr(tool.Runs, "run", run)
    environment = tool.Environment(Path(sys.executable), "5.2")
    monkeypatch.setattr(tool, "prepare", lambda django: environment)
    monkeypatch.setattr(tool, "install", lambda *args: None)

    def unpack(release: str, environment: Any) -> None:
        if release == "2.0.1":
            raise tool.Refused("no tests in it")

    monkeypatch.setattr(tool, "unpack_tests", unpack)
    results = {"passed": upstream.Result("passed"), "failed": upstream.Result("failed", "boom")}
    return SimpleNamespace(tool=tool, runs=runs, ran=ran, environment=environment, **results)


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


def test_error_with_one_release_does_not_stop_the_others(sdk_tests: Any, capsys: Any) -> None:
    sdk_tests.runs["stock"] = sdk_tests.runs["ours"] = sdk_tests.passed
    assert sdk_tests.tool.main(["2.0.1", "2.0.0"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no tests in it\n"
    assert "sentry-sdk 2.0.0" in captured.out


def test_release_without_patches_is_refused(sdk_tests: Any, capsys: Any) -> None:
    """Before the tests of the others, which take long."""
    with pytest.raises(SystemExit) as ended:
        sdk_tests.tool.main(["2.75.0", "1.0.0"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "sentry-sdk 1.0.0: there are no patches for it" in error
    assert re.search(r"expected: one of \d+, 2\.0\.0 to \d", error)
    assert "vendor.py status" in error


@pytest.mark.parametrize("with_tests", [True, False])
def test_source_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_tests: bool
) -> None:
    """The tests are taken out of it, never the sources; without tests it is refused."""
    tool = importlib.import_module("upstream.environment")
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "CACHE", tmp_path / "cache")
    names = ["pyproject.toml", "sentry_sdk/__init__.py", "tests/../../evil.py"]
    wanted = ["tests/integrations/django/a.py", "tests/integrations/wsgi/b.py"]

    def download(command: List[str], problem: str) -> None:
        (target,) = (one[7:] for one in command if one.startswith("--dest="))
        with tarfile.open(f"{target}/sdk.tar.gz", "w:gz") as tar:
            for name in [*names, *wanted] if with_tests else names:
                tar.addfile(tarfile.TarInfo(f"sdk-1/{name}"), io.BytesIO())

    monkeypatch.setattr(tool, "call", download)
    command = importlib.import_module("upstream_tests")
    environment = command.Environment(Path(sys.executable), "5.2")
    if not with_tests:
        with pytest.raises(tool.Refused, match="carries no such tests"):
            command.unpack_tests("2.1.0", environment)
        return
    source = command.unpack_tests("2.1.0", environment)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    assert files == ["pyproject.toml", *wanted]
    assert not list(tmp_path.rglob("evil.py"))


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

    def prepare(version: str, *args: Any) -> Any:
        if version == "9.9":
            raise tool.Refused("no such Django")
        return tool.Suite("5.2.1", Path(sys.executable), Path(), {})

    monkeypatch.setattr(tool, "run", run)
    monkeypatch.setattr(tool, "prepare", prepare)
    monkeypatch.setattr(tool, "EXPLAINED", {"reads too much": ("m.tests.T.explained",)})
    return SimpleNamespace(tool=tool, runs=runs, ran=ran, failed=upstream.Result("failed", "boom"))


def test_django_without_a_difference(django_tests: Any, capsys: Any) -> None:
    """And an error with one version does not stop the others."""
    assert django_tests.tool.main(["9.9", "5.2"]) == 2
    assert [(name, lifecycle) for name, lifecycle, _ in django_tests.ran] == [
        ("without", "static"),
        ("stock", "static"),
        ("ours", "static"),
        ("stock", "stream"),
        ("ours", "stream"),
    ]
    captured = capsys.readouterr()
    assert captured.err == "error: no such Django\n"
    assert "0 explained, 0 unexplained" in captured.out
    assert django_tests.tool.main(["5.2"]) == 0


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


@pytest.mark.parametrize("arguments", [["5"], ["main"], ["5.2", "--finish-on=never"], []])
def test_arguments_that_are_refused(django_tests: Any, arguments: List[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        django_tests.tool.main(arguments)
    assert ended.value.code == 2
