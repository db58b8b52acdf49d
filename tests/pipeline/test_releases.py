"""A directory serves later releases whose files are the same."""

import json

import sdk
from conftest import Project


def test_release_is_served_by_an_earlier_directory(project: Project) -> None:
    project.release("9.0.5", sdk.FILES)
    assert "patches/9.0.0/lock.json: written" in project.vendor("refresh", "--add", "9.0.5")
    project.vendor("build", "9.0.5")
    assert 'SENTRY_SDK_RELEASE = "9.0.5"' in project.vendored("__init__.py")
    assert "9.0.5" in project.vendor("status", status=2)  # there is no index
    project.vendor("check")
    # and stays so
    assert "written" not in project.vendor("refresh")
    assert list(json.loads(project.text("patches/9.0.0/lock.json"))["releases"]) == [
        "9.0.0",
        "9.0.5",
    ]


def test_releases_are_in_numerical_order(project: Project) -> None:
    """9.1.10 is later than 9.1.9, and is the default."""
    for release in ("9.1.9", "9.1.10"):
        project.release(release, sdk.LATER)
    project.vendor("refresh", "--add", "9.1.10", "--add", "9.1.9")
    assert "9.1.10" in project.vendor("build")


def test_release_with_other_files_needs_its_own_directory(project: Project) -> None:
    project.release("9.0.5", {**sdk.FILES, "django/asgi.py": sdk.ASGI + "\n"})
    output = project.refused("refresh", "--add", "9.0.5")
    assert "django/asgi.py" in output
    assert "patches/9.0.5" in output


def test_release_with_one_file_more_needs_its_own_directory(project: Project) -> None:
    project.release("9.0.5", sdk.LATER)
    assert "tasks.py: extra" in project.refused("refresh", "--add", "9.0.5")


def test_release_before_the_first_directory(project: Project) -> None:
    project.release("8.0.0", sdk.FILES)
    assert "8.0.0" in project.refused("refresh", "--add", "8.0.0")


def test_pre_release_cannot_be_added(project: Project) -> None:
    assert "pre-release" in project.refused("refresh", "--add", "9.1.1b1")


def test_release_belongs_to_the_nearest_directory_only(project: Project) -> None:
    """A directory made later for a release that an earlier one had served."""
    project.release("9.0.5", sdk.FILES)
    project.vendor("refresh", "--add", "9.0.5")
    project.patches("9.0.5", limit=sdk.PATCH)
    output = project.refused("build", "9.0.5")
    assert "patches/9.0.0/lock.json: cannot serve 9.0.5" in output
    assert "refresh 9.0.0" in output
