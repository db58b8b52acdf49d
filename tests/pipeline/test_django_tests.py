"""scripts/django_tests.py: which differences it finds, and what they do to its exit status.

Offline, and with made-up results: nothing of Django's tests is here.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("django_tests")


@pytest.fixture
def runs(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    """What ends how, by the run; a test changes it."""
    compare = importlib.import_module("upstream.compare")
    passed, failed = compare.Result("passed"), compare.Result("failed", "boom")
    tests = ("m.tests.T.explained", "m.tests.T.new", "m.tests.T.steady")
    runs: Dict[str, Any] = {"passed": passed, "failed": failed, "ran": []}
    for name in ("without", "stock", "ours", "ours again"):
        runs[name] = dict.fromkeys(tests, passed)

    def run(suite: Any, name: str, lifecycle: str, labels: str = "") -> Any:
        name += " again" if labels else ""
        runs["ran"].append((name, lifecycle, labels))
        return dict(runs[name])

    suite = tool.Suite("5.2.1", Path(sys.executable), Path(), {})
    monkeypatch.setattr(tool, "run", run)
    monkeypatch.setattr(tool, "prepare", lambda *args: suite)
    monkeypatch.setattr(tool, "EXPLAINED", {"reads too much": ("m.tests.T.explained",)})
    return runs


def test_no_difference(tool: ModuleType, runs: Dict[str, Any], capsys: Any) -> None:
    assert tool.main(["5.2"]) == 0
    assert runs["ran"] == [
        ("without", "static", ""),
        ("stock", "static", ""),
        ("ours", "static", ""),
        ("stock", "stream", ""),
        ("ours", "stream", ""),
    ]
    assert "0 explained, 0 unexplained" in capsys.readouterr().out


def test_explained_difference(tool: ModuleType, runs: Dict[str, Any], capsys: Any) -> None:
    for name in ("stock", "ours", "ours again"):
        runs[name]["m.tests.T.explained"] = runs["failed"]
    assert tool.main(["5.2"]) == 0
    output = capsys.readouterr().out
    assert "explained: it reads too much" in output
    assert "m.tests.T.explained (static, with stock too)\n      boom" in output
    assert "2 explained, 0 unexplained" in output


def test_unexplained_difference(tool: ModuleType, runs: Dict[str, Any], capsys: Any) -> None:
    runs["ours"]["m.tests.T.new"] = runs["ours again"]["m.tests.T.new"] = runs["failed"]
    assert tool.main(["5.2"]) == 1
    output = capsys.readouterr().out
    assert "m.tests.T.new (stream)\n      boom" in output
    assert "0 explained, 2 unexplained" in output


def test_what_fails_now_and_then_or_without_the_integration(
    tool: ModuleType, runs: Dict[str, Any]
) -> None:
    runs["ours"]["m.tests.T.new"] = runs["failed"]
    runs["without"]["m.tests.T.steady"] = runs["ours"]["m.tests.T.steady"] = runs["failed"]
    assert tool.main(["5.2"]) == 0
    assert ("ours again", "static", "m.tests") in runs["ran"]


def test_error_with_one_version_does_not_stop_the_others(
    tool: ModuleType, runs: Dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    prepared = tool.prepare

    def prepare(version: str, *args: Any) -> Any:
        if version == "9.9":
            raise tool.Refused("no such Django")
        return prepared(version, *args)

    monkeypatch.setattr(tool, "prepare", prepare)
    assert tool.main(["9.9", "5.2"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: no such Django\n"
    assert "Django 5.2.1" in captured.out


@pytest.mark.parametrize("arguments", [["5"], ["main"], ["5.2", "--finish-on=never"], []])
def test_arguments_that_are_refused(tool: ModuleType, arguments: List[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 2
