"""`vendor.py status`, `replay` and `wheels`: all releases at a time."""

import json
import sys
import zipfile
from pathlib import Path
from typing import List

import pytest
import sdk
from conftest import Project

OTHER = {**sdk.LATER, "wsgi.py": "import os\n" + sdk.LATER["wsgi.py"]}
TABLE = "<!-- replay -->\n{}<!-- /replay -->\n"


def rows(output: str) -> List[List[str]]:
    return [line.split(None, 1) for line in output.splitlines() if line[0].isdigit()]


@pytest.fixture
def index(project: Project) -> Project:
    """A package index with two releases more, one of them like the last, and others."""
    project.release("9.1.1", sdk.LATER)
    project.release("9.10.0", OTHER)
    project.release("9.11.0rc1", OTHER)
    project.release("1.45.1", sdk.FILES)
    project.env["PIP_FIND_LINKS"] = str(project.wheels)
    return project


def test_status(index: Project) -> None:
    """Final releases only, in numerical order, and none of before 2.0.0."""
    index.vendor("refresh", "--add", "9.1.1")
    output = index.vendor("status")
    assert rows(output) == [
        ["9.0.0", "supported              limit.patch"],
        ["9.1.0", "supported              limit.patch"],
        ["9.1.1", "same sources as 9.1.0  limit.patch"],
        ["9.10.0", "not ported yet"],
        ["4", "releases: 3 supported, by 2 directories; 1 not ported yet"],
    ]
    assert "port --missing" in output
    assert "note" not in output


def test_status_without_the_index(index: Project) -> None:
    """The list of the last time, and its day; what is supported is always in it."""
    index.vendor("status")
    del index.env["PIP_FIND_LINKS"]
    next(index.wheels.glob("*-9.10.0-*")).unlink()
    output = index.vendor("status")
    assert ["9.10.0", "not ported yet"] in rows(output)
    assert "pip could not list the releases" in output
    assert "instead: the list of 20" in output


def test_status_without_index_or_list(project: Project) -> None:
    """What is not known is not 0; and nothing is missing only if something is known."""
    output = project.vendor("status", status=2)
    assert [row[0] for row in rows(output)] == ["9.0.0", "9.1.0", "2"]
    assert "; what is not ported yet is unknown\nerror: pip could not list" in output
    assert "No matching distribution found" in output
    assert "pip could not list" in project.refused("port", "--missing")


def test_replay(project: Project) -> None:
    """From the oldest release on, step by step, and the share of those without a hand."""
    project.release("9.1.1", sdk.LATER)
    project.release("9.2.0", OTHER)
    for release in ("9.1.1", "9.2.0"):
        project.vendor("port", release, "--from-nearest")
    before = project.snapshot()
    lines = project.vendor("replay").splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["9.0.0", "->", "9.1.0", "clean"],
        ["9.1.1", "->", "9.2.0", "merged"],
    ]
    assert "| same sources | 1 | 33.3 % |" in "\n".join(lines)
    assert "| **without a hand** | **3** | **100.0 %** | of 3 |" in lines
    assert project.snapshot() == before


def conflict(project: Project) -> None:
    """A release that needed a hand, and one after it that has the same lines."""
    project.release("9.2.0", {**sdk.FILES, "wsgi.py": sdk.WSGI.replace("= 1\n", "= 10\n")})
    project.patches("9.2.0", limit=sdk.PATCH.replace("-LIMIT = 1\n", "-LIMIT = 10\n"))
    project.vendor("refresh", "9.2.0")
    project.release("9.3.0", {**sdk.LATER, "wsgi.py": sdk.WSGI.replace("= 1\n", "= 10\n")})
    project.vendor("port", "9.2.0", "9.3.0")


def test_replay_counts_the_hands(project: Project) -> None:
    """After a conflict it goes on with what the checkout has."""
    conflict(project)
    output = project.vendor("replay")
    assert "9.1.0 -> 9.2.0    by hand\n    wsgi.py: both sides" in output
    assert "9.2.0 -> 9.3.0    clean\n" in output
    assert "| by hand | 1 | 33.3 % | somebody had to edit: 9.2.0 |" in output
    assert "| **without a hand** | **2** | **66.7 %** | of 3 |" in output


def test_replay_does_not_believe_what_the_checkout_does_not_have(project: Project) -> None:
    """A merge without a conflict, which somebody has changed afterwards."""
    project.replace("patches/9.1.0/limit.patch", "# added", "# changed")
    project.vendor("refresh", "9.1.0")
    output = project.vendor("replay")
    assert "9.0.0 -> 9.1.0    by hand\n    other patches than in patches/9.1.0" in output


def test_replay_of_one_release(project: Project) -> None:
    for path in project.path("patches/9.1.0").iterdir():
        path.unlink()
    project.path("patches/9.1.0").rmdir()
    assert "only one release" in project.vendor("replay")


def test_replay_writes_and_checks_the_readme(project: Project) -> None:
    project.write("README.md", f"# A project\n\n{TABLE.format('old')}end\n")
    project.vendor("replay", "--check", status=1)
    assert "README.md: written" in project.vendor("replay", "--write")
    table = project.text("README.md")
    assert "| 9.0.0 to 9.1.0 | steps | share | |\n" in table
    assert table.startswith("# A project\n\n<!-- replay -->\n|")
    assert table.endswith("|\n<!-- /replay -->\nend\n")
    project.vendor("replay", "--check")
    assert "written" not in project.vendor("replay", "--write")


@pytest.mark.parametrize("option", ["--check", "--write"])
def test_replay_without_a_place_for_its_table(project: Project, option: str) -> None:
    """A marker that is lost must not make `--check` agree with whatever stands there."""
    assert "expected: the lines <!-- replay -->" in project.refused("replay", option)
    project.path("README.md").unlink()
    assert "git checkout -- README.md" in project.refused("replay", option)


def offline(project: Project) -> None:
    """Let the build environment be the one that runs the tests."""
    project.replace(
        "scripts/pipeline/wheels.py",
        "        if not self._python:\n",
        f"        self._python = {sys.executable!r}\n        if not self._python:\n",
    )


def built(project: Project) -> "dict[str, bytes]":
    return {path.name: path.read_bytes() for path in project.path("dist").glob("*.whl")}


def test_wheels(project: Project) -> None:
    """One for each release, each with its own pin and files."""
    offline(project)
    output = project.vendor("wheels", "--all")
    assert "2 of 2 wheels" in output
    assert sorted(built(project)) == [
        "vendored_integration-9.0.0.1-py3-none-any.whl",
        "vendored_integration-9.1.0.1-py3-none-any.whl",
    ]
    for release, line in (("9.0.0", "sys.version"), ("9.1.0", "sys.platform")):
        wheel = project.path(f"dist/vendored_integration-{release}.1-py3-none-any.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert line in archive.read("vendored_integration/_vendor/wsgi.py").decode()
            metadata = archive.read(f"vendored_integration-{release}.1.dist-info/METADATA")
            assert f"sentry-sdk=={release}\n" in metadata.decode().replace(" ", "")


def test_wheels_again_with_the_same_bytes(project: Project) -> None:
    """What is up to date is left alone; what is built again has to be the same."""
    offline(project)
    project.vendor("wheels", "--all")
    first = built(project)
    mtimes = [path.stat().st_mtime_ns for path in sorted(project.path("dist").glob("*.whl"))]
    assert ": built" not in project.vendor("wheels", "--all")
    assert mtimes == [
        path.stat().st_mtime_ns for path in sorted(project.path("dist").glob("*.whl"))
    ]
    assert project.vendor("wheels", "--all", "--rebuild").count(": built") == 2
    assert built(project) == first


@pytest.mark.parametrize("damage", ["missing", "cut short", "sources", "patch"])
def test_wheels_builds_what_is_not_up_to_date(project: Project, damage: str) -> None:
    offline(project)
    project.vendor("wheels", "--all")
    wheel = project.path("dist/vendored_integration-9.0.0.1-py3-none-any.whl")
    count = 1
    if damage == "missing":
        wheel.unlink()
    elif damage == "cut short":
        wheel.write_bytes(wheel.read_bytes()[:100])
    elif damage == "sources":
        project.write("vendored_integration/runtime/new.py", "")
        count = 2
    else:
        project.replace("patches/9.0.0/limit.patch", "LIMIT = 2", "LIMIT = 3")
        project.vendor("refresh", "9.0.0")
    assert project.vendor("wheels", "--all").count(": built") == count
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None


def test_wheels_goes_on_after_a_failure(project: Project) -> None:
    """It is listed at the end, with the command that tries again."""
    offline(project)
    project.replace("patches/9.0.0/limit.patch", "LIMIT = 2", "LIMIT = 3")
    output = project.vendor("wheels", "--all", status=1)
    assert "limit.patch: expected" in output
    assert "1 of 2 wheels" in output
    assert "failed: 9.0.0\n" in output
    assert "vendor.py wheels 9.0.0\n" in output
    assert list(built(project)) == ["vendored_integration-9.1.0.1-py3-none-any.whl"]


def test_wheels_that_are_not_reproducible(project: Project) -> None:
    """The same sources, other bytes: the old wheel is kept, and the run fails."""
    offline(project)
    project.vendor("wheels", "9.0.0")
    first = built(project)
    record = project.path("dist/.vendor-wheels.json")
    text = json.loads(record.read_text())
    text["vendored_integration-9.0.0.1-py3-none-any.whl"]["sha256"] = "0" * 64
    record.write_text(json.dumps(text))
    output = project.vendor("wheels", "9.0.0", "--rebuild", status=1)
    assert "the same sources have given other bytes" in output
    assert built(project) == first


@pytest.mark.parametrize("args", [(), ("--all", "9.0.0"), ("9.2.0",), ("9.1.0rc1",)])
def test_wheels_of_which_releases(project: Project, args: tuple) -> None:
    assert "next: python3 scripts/vendor.py" in project.refused("wheels", *args)


@pytest.mark.parametrize("out", ["README.md", "README.md/below"])
def test_wheels_where_no_directory_can_be(project: Project, out: str) -> None:
    output = project.refused("wheels", "9.0.0", "--out", out)
    assert str(project.path(out)) in output
    assert "--out DIR" in output


@pytest.mark.parametrize("module", ["build", "rich"])
def test_wheels_without_its_libraries(project: Project, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError('No module {module}')")
    output = project.refused("wheels", "--all", PYTHONPATH=str(tmp_path))
    assert "pip install build rich" in output
