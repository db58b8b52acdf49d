"""`vendor.py wheels`: many releases at a time."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Dict

import pytest
from conftest import Project


@pytest.fixture(autouse=True)
def _offline(project: Project) -> None:
    """Let the build environment be the one that runs the tests."""
    project.replace("scripts/pipeline/wheels.py", "_environment(stack)", repr(sys.executable))
    # A file that is written in the same instant as a wheel may be older or newer.
    for path in project.root.rglob("*"):
        os.utime(path, (1, 1))


def built(project: Project) -> Dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.path("dist").glob("*.whl")}


def wheel(project: Project, release: str) -> Path:
    return project.path(f"dist/vendored_integration-{release}.1-py3-none-any.whl")


def test_wheels(project: Project) -> None:
    """One for each release, each with its own pin and files."""
    assert "2 of 2 wheels" in project.vendor("wheels", "--all")
    assert len(built(project)) == 2
    for release, line in (("2.9.0", "TEMPLATES = 1"), ("9.1.0", "TEMPLATES = 2")):
        with zipfile.ZipFile(wheel(project, release)) as archive:
            text = archive.read("vendored_integration/_vendor/django/templates.py").decode()
            metadata = archive.read(f"vendored_integration-{release}.1.dist-info/METADATA")
        assert line in text
        assert f"sentry-sdk=={release}\n" in metadata.decode().replace(" ", "")


def test_wheels_again_with_the_same_bytes(project: Project) -> None:
    """What is up to date is left alone; what is built again has to be the same."""
    project.vendor("wheels", "--all")
    first = built(project)
    assert ": built" not in project.vendor("wheels", "--all")
    assert project.vendor("wheels", "--all", "--rebuild").count(": built") == 2
    assert built(project) == first


@pytest.mark.parametrize("damage", ["missing", "sources", "patch"])
def test_wheels_builds_what_is_not_up_to_date(project: Project, damage: str) -> None:
    project.vendor("wheels", "--all")
    if damage == "missing":
        wheel(project, "2.9.0").unlink()
    elif damage == "sources":
        project.write("vendored_integration/runtime/new.py", "")
    else:
        project.path("patches/2.9.0/lock.json").touch()
    output = project.vendor("wheels", "--all")
    assert output.count(": built") == (2 if damage == "sources" else 1)
    with zipfile.ZipFile(wheel(project, "2.9.0")) as archive:
        assert archive.testzip() is None


def test_wheels_goes_on_after_a_failure(project: Project) -> None:
    """The end has the command that tries again."""
    project.replace("patches/2.9.0/close-aware.patch", "@close_aware", "@closing")
    output = project.vendor("wheels", "--all", status=1)
    assert "close-aware.patch: expected" in output
    assert "1 of 2 wheels" in output
    assert "next: python3 scripts/vendor.py wheels 2.9.0\n" in output
    assert list(built(project)) == [wheel(project, "9.1.0").name]


def test_wheels_that_are_not_reproducible(project: Project) -> None:
    """The same sources, other bytes: the old wheel is kept, and the run fails."""
    project.vendor("wheels", "2.9.0")
    data = wheel(project, "2.9.0").read_bytes() + b"\0"
    wheel(project, "2.9.0").write_bytes(data)
    output = project.vendor("wheels", "2.9.0", "--rebuild", status=1)
    assert "the same sources have given other bytes" in output
    assert wheel(project, "2.9.0").read_bytes() == data


@pytest.mark.parametrize("args", [(), ("--all", "2.9.0"), ("9.2.0",), ("9.1.0rc1",)])
def test_wheels_of_which_releases(project: Project, args: "tuple[str, ...]") -> None:
    assert "next: python3 scripts/vendor.py" in project.refused("wheels", *args)


@pytest.mark.parametrize("out", ["README.md", "README.md/below"])
def test_wheels_where_no_directory_can_be(project: Project, out: str) -> None:
    output = project.refused("wheels", "2.9.0", "--out", out)
    assert str(project.path(out)) in output


def test_wheels_without_its_library(project: Project, tmp_path: Path) -> None:
    (tmp_path / "build.py").write_text("raise ModuleNotFoundError('No module build')")
    output = project.refused("wheels", "--all", PYTHONPATH=str(tmp_path))
    assert "pip install packaging pyflakes build" in output
