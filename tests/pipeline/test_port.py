"""`vendor.py port`: the patches of one release on the files of another."""

import re
import shutil
from datetime import date
from pathlib import Path

import pytest
import sdk
from conftest import Project

TODAY = f"Last-Update: {date.today()}"


@pytest.fixture(autouse=True)
def temporary(project: Project, tmp_path: Path) -> Path:
    """Where the repositories are made; outside the checkout."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    project.env["TMPDIR"] = str(directory)
    return directory


def publish(project: Project, wsgi: str, release: str = "9.2.0") -> None:
    project.release(release, {**sdk.LATER, "wsgi.py": wsgi})


def later(old: str = "", new: str = "") -> str:
    """The later release's wsgi.py with one change more."""
    text = sdk.LATER["wsgi.py"]
    assert old in text
    return text.replace(old, new, 1)


def conflict(project: Project, *args: str) -> Path:
    """Run a port that must stop; return its repository."""
    patches = {name: data for name, data in project.snapshot().items() if "patches" in name}
    output = project.vendor("port", *args, status=1)
    assert ": conflict\n" in output
    after = {name: data for name, data in project.snapshot().items() if "patches" in name}
    assert after == patches
    found = re.search(r"python3 scripts/vendor\.py port --continue (\S+)\n", output)
    assert found
    assert f"git -C {found[1]} diff HEAD\n" in output
    return Path(found[1])


# The upstream line that the patch replaces has changed.
BIGGER = ("LIMIT = 1\n", "LIMIT = 10\n")


def resolve(repository: Path) -> None:
    """What a maintainer would do."""
    path = repository / "wsgi.py"
    text = re.sub(r"(?s)<<<<<<<.*>>>>>>>[^\n]*\n", "LIMIT = 20\n", path.read_text())
    path.write_text(text)


def test_clean(project: Project, temporary: Path) -> None:
    """Another file has changed: the patch file is the same, byte for byte."""
    project.release("9.2.0", {**sdk.LATER, "django/tasks.py": "TASKS = False\n"})
    output = project.vendor("port", "9.1.0", "9.2.0")
    assert "limit.patch: clean\n" in output
    assert "patches/9.2.0: written\n" in output
    for name in ("limit.patch", "series"):
        assert project.text(f"patches/9.2.0/{name}") == project.text(f"patches/9.1.0/{name}")
    assert "9.2.0: checked" in project.vendor("check")
    assert list(temporary.iterdir()) == []


def test_merged(project: Project) -> None:
    """The lines have moved; words and date are copied, since nothing else has changed."""
    publish(project, "import os\n" + later())
    assert "limit.patch: merged\n" in project.vendor("port", "9.1.0", "9.2.0")
    text = project.text("patches/9.1.0/limit.patch")
    moved = text.replace("@@ -3 +3 @@", "@@ -4 +4 @@").replace("@@ -9,0 +10 @@", "@@ -10,0 +11 @@")
    assert project.text("patches/9.2.0/limit.patch") == moved
    project.vendor("build", "9.2.0")
    assert "LIMIT = 2" in project.vendored("wsgi.py")


def test_merged_with_part_of_it_upstream(project: Project) -> None:
    """Fewer lines than before: that is another patch, with today's date."""
    publish(project, later(*("LIMIT = 1\n", "LIMIT = 2\n")))
    assert "limit.patch: merged\n" in project.vendor("port", "9.1.0", "9.2.0")
    text = project.text("patches/9.2.0/limit.patch")
    assert TODAY in text
    assert "LIMIT" not in text
    assert "+    # added\n" in text
    project.vendor("check", "9.2.0")


def test_dropped(project: Project) -> None:
    """Upstream has all of it: neither a file nor a line of the series is left."""
    text = later("LIMIT = 1\n", "LIMIT = 2\n")
    publish(project, text.replace("    return name\n", "    return name\n    # added\n"))
    assert "limit.patch: dropped\n" in project.vendor("port", "9.1.0", "9.2.0")
    assert not project.path("patches/9.2.0/limit.patch").exists()
    assert project.text("patches/9.2.0/series") == "# in this order\n"
    project.vendor("check", "9.2.0")


def test_same_sources(project: Project) -> None:
    """No directory: the earlier one's lock lists the release."""
    project.release("9.2.0", sdk.LATER)
    output = project.vendor("port", "9.0.0", "9.2.0")
    assert "same sources as 9.1.0\n" in output
    assert not project.path("patches/9.2.0").exists()
    project.vendor("check", "9.2.0")


def test_several_patches(project: Project) -> None:
    """Each is a diff against what the ones before it leave, in the new release too."""
    head = f"{sdk.HEADER}\n--- a/wsgi.py\n+++ b/wsgi.py\n"
    project.path("patches/9.1.0/limit.patch").unlink()
    project.patches(
        "9.1.0",
        zz=f"{head}@@ -3 +3,2 @@\n-LIMIT = 1\n+LIMIT = 2\n+MORE = 1\n",
        aa=f"{head}@@ -4 +4 @@\n-MORE = 1\n+MORE = 2\n",
    )
    project.vendor("refresh", "9.1.0")
    publish(project, "import os\n" + later())
    output = project.vendor("port", "9.1.0", "9.2.0")
    assert output.index("zz.patch: merged") < output.index("aa.patch: merged")
    project.vendor("build", "9.2.0")
    assert "LIMIT = 2\nMORE = 2\n" in project.vendored("wsgi.py")


def test_from_nearest(project: Project) -> None:
    """The last release before, or, before all of them, the first."""
    publish(project, "import os\n" + later())
    assert "9.1.0 -> 9.2.0" in project.vendor("port", "9.2.0", "--from-nearest")
    project.release("8.0.0", {**sdk.FILES, "wsgi.py": "import os\n" + sdk.WSGI})
    assert "9.0.0 -> 8.0.0" in project.vendor("port", "--from-nearest", "8.0.0")
    project.vendor("check")


def test_missing(project: Project) -> None:
    """All that `status` lists, in order; what is there already is no matter."""
    publish(project, "import os\n" + later())
    publish(project, "import os\n" + later(), "9.2.1")
    project.env["PIP_FIND_LINKS"] = str(project.wheels)
    output = project.vendor("port", "--missing")
    assert "9.1.0 -> 9.2.0" in output
    assert "same sources as 9.2.0" in output
    assert project.vendor("port", "--missing").startswith("nothing to port: all 4 releases")
    assert project.vendor("status").count("not ported yet") == 1  # the sum: 0 of them


def test_conflict_and_continue(project: Project, temporary: Path) -> None:
    """Nothing is written until all is done; afterwards nothing is left."""
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    assert repository.parent == temporary
    text = (repository / "wsgi.py").read_text()
    for line in ("LIMIT = 10\n", "LIMIT = 1\n", "LIMIT = 2\n", "    # added\n"):
        assert line in text
    resolve(repository)
    output = project.vendor("port", "--continue", str(repository))
    assert "limit.patch: by hand\n" in output
    assert "patches/9.2.0: written\n" in output
    assert TODAY in project.text("patches/9.2.0/limit.patch")
    assert "-LIMIT = 10\n+LIMIT = 20\n" in project.text("patches/9.2.0/limit.patch")
    project.vendor("check", "9.2.0")
    assert list(temporary.iterdir()) == []


def test_continue_after_the_users_own_commit(project: Project) -> None:
    """As git itself proposes; what counts is the working tree."""
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    resolve(repository)
    git = ["git", "-C", str(repository), "-c", "user.name=n", "-c", "user.email=e"]
    project.run(*git, "commit", "--quiet", "--all", "-m", "mended")
    assert "by hand" in project.vendor("port", "--continue", str(repository))
    project.vendor("check", "9.2.0")


def test_continue_goes_on_with_the_next_patch(project: Project) -> None:
    head = f"{sdk.HEADER}\n--- a/wsgi.py\n+++ b/wsgi.py\n"
    project.patches("9.1.0", limit=sdk.PATCH, end=f"{head}@@ -14,0 +15 @@\n+# end\n")
    project.vendor("refresh", "9.1.0")
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    resolve(repository)
    output = project.vendor("port", "--continue", str(repository))
    assert "limit.patch: by hand\n" in output
    assert "end.patch: clean\n" in output
    project.vendor("build", "9.2.0")
    assert "# end\n" in project.vendored("wsgi.py")


def test_conflict_resolved_in_favour_of_upstream(project: Project) -> None:
    """A hand may decide that a patch is not needed any more."""
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    (repository / "wsgi.py").write_text(later(*BIGGER))
    assert "limit.patch: dropped\n" in project.vendor("port", "--continue", str(repository))
    assert project.text("patches/9.2.0/series") == "# in this order\n"


@pytest.mark.parametrize(
    ("text", "reason"), [("x = (\n", "not Python"), ("<<<<<<< HEAD\n", "conflict marker")]
)
def test_continue_with_what_is_not_mended(project: Project, text: str, reason: str) -> None:
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    (repository / "wsgi.py").write_text(text)
    assert conflict(project, "--continue", str(repository)) == repository
    assert reason in project.vendor("port", "--continue", str(repository), status=1)
    (repository / "wsgi.py").write_text(later("LIMIT = 1\n", "LIMIT = 20\n"))
    project.vendor("port", "--continue", str(repository))


def test_merge_that_is_no_python(project: Project) -> None:
    """Two changes, each right by itself, which git merges without a conflict."""
    head = f"{sdk.HEADER}\n--- a/wsgi.py\n+++ b/wsgi.py\n"
    project.patches("9.1.0", limit=f"{head}@@ -4,0 +5 @@\n+x = 1\n")
    project.vendor("refresh", "9.1.0")
    function = sdk.WSGI[sdk.WSGI.index("def handle") : sdk.WSGI.index("\n\ndef finish")]
    indented = "".join(f"    {line}".rstrip(" ") for line in function.splitlines(keepends=True))
    publish(project, later("LIMIT", "if sys:\n    LIMIT").replace(function, indented))
    repository = conflict(project, "9.1.0", "9.2.0")
    assert "<<<<<<<" not in (repository / "wsgi.py").read_text()
    output = project.vendor("port", "--continue", str(repository), status=1)
    assert re.search(r"wsgi\.py:\d+: not Python", output)


def test_merge_that_puts_a_line_into_another_function(project: Project) -> None:
    """A new `def` above the patched line, nothing else changed: git sees no conflict."""
    head = f"{sdk.HEADER}\n--- a/wsgi.py\n+++ b/wsgi.py\n"
    project.patches("9.1.0", limit=f"{head}@@ -8,0 +9 @@\n+    name = name.upper()\n")
    project.vendor("refresh", "9.1.0")
    publish(project, later('    name = environ["name"]\n', "    pass\n\n\ndef other(name):\n"))
    output = project.vendor("port", "9.1.0", "9.2.0", status=1)
    assert "'name = name.upper()' has come to lie in other, and not in handle" in output
    repository = re.findall(r"--continue (\S+)", output)[0]
    project.vendor("port", "--continue", repository)  # somebody has looked at it
    assert "+    name = name.upper()" in project.text("patches/9.2.0/limit.patch")


def test_file_that_the_new_release_has_not(project: Project) -> None:
    """What the patch was for may be elsewhere by now."""
    text = f"{sdk.HEADER}\n--- a/django/tasks.py\n+++ b/django/tasks.py\n@@ -1 +1 @@\n"
    project.patches("9.1.0", limit=f"{text}-TASKS = True\n+TASKS = 1\n")
    project.vendor("refresh", "9.1.0")
    project.release("9.2.0", {**sdk.FILES, "wsgi.py": "import os\n" + sdk.WSGI})
    conflict(project, "9.1.0", "9.2.0")


def test_rewrite_rule_that_no_longer_holds(project: Project, temporary: Path) -> None:
    """The new release must pass the rewrite stage first."""
    text = sdk.DJANGO.replace("from sentry_sdk.integrations.wsgi", "from sentry_sdk.wsgi")
    project.release("9.2.0", {**sdk.LATER, "django/__init__.py": text})
    assert "rewrite rule import-wsgi" in project.refused("port", "9.1.0", "9.2.0")
    assert list(temporary.iterdir()) == []


def test_release_that_is_supported_already(project: Project) -> None:
    output = project.refused("port", "9.0.0", "9.1.0")
    assert "git rm -r patches/9.1.0" in output


def test_release_between_those_of_one_directory(project: Project) -> None:
    """A directory in between would take the later ones over."""
    project.release("9.3.0", sdk.LATER)
    project.vendor("port", "9.1.0", "9.3.0")
    publish(project, "import os\n" + later())
    output = project.refused("port", "9.1.0", "9.2.0")
    assert "patches/9.1.0 serves 9.3.0" in output


@pytest.mark.parametrize(
    "args",
    [
        ("9.2.0",),
        (),
        ("9.0.0", "9.1.0", "9.2.0"),
        ("9.1.0", "9.2.0", "--from-nearest"),
        ("9.2.0", "--missing"),
        ("9.1.0", "9.2.0", "--continue", "somewhere"),
    ],
)
def test_arguments_that_make_no_sense(project: Project, args: tuple) -> None:
    assert "next: python3 scripts/vendor.py port" in project.refused("port", *args)


@pytest.mark.parametrize("release", ["9.2.0rc1", "9.2.0.dev1", "newest", "1.45.1"])
def test_release_that_can_never_be_supported(project: Project, release: str) -> None:
    assert release in project.refused("port", "9.1.0", release)


def test_old_release_without_patches(project: Project) -> None:
    assert "no patches" in project.refused("port", "9.0.9", "9.2.0")


def test_new_release_that_cannot_be_had(project: Project) -> None:
    assert "pip download" in project.refused("port", "9.1.0", "9.2.0")


def test_tampered_patch_is_not_ported(project: Project) -> None:
    publish(project, "import os\n" + later())
    project.replace("patches/9.1.0/limit.patch", "+LIMIT = 2", "+LIMIT = 3")
    assert "limit.patch: expected" in project.refused("port", "9.1.0", "9.2.0")


def test_tampered_wheel_is_not_ported_from(project: Project) -> None:
    publish(project, "import os\n" + later())
    wheel = next(project.wheels.glob("*-9.1.0-*"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert wheel.name in project.refused("port", "9.1.0", "9.2.0")


def test_patches_that_change_while_a_port_waits(project: Project) -> None:
    publish(project, later(*BIGGER))
    repository = conflict(project, "9.1.0", "9.2.0")
    resolve(repository)
    project.replace("patches/9.1.0/limit.patch", "# added", "# changed")
    project.vendor("refresh", "9.1.0")
    output = project.refused("port", "--continue", str(repository))
    assert "port 9.1.0 9.2.0" in output


def test_continue_with_any_directory(project: Project, tmp_path: Path) -> None:
    output = project.refused("port", "--continue", str(tmp_path))
    assert "not a repository that a port has left" in output


def test_no_git(project: Project) -> None:
    publish(project, "import os\n" + later())
    output = project.refused("port", "9.1.0", "9.2.0", PATH=str(project.root))
    assert "porting needs git" in output


def test_users_git_settings_do_not_matter(project: Project, tmp_path: Path) -> None:
    """Nor the variables that git sets for a hook."""
    settings = "[commit]\n\tgpgsign = true\n[core]\n\tautocrlf = true\n[diff]\n\tnoprefix = true\n"
    (tmp_path / ".gitconfig").write_text(settings)
    publish(project, "import os\n" + later())
    project.vendor("port", "9.1.0", "9.2.0", HOME=str(tmp_path), GIT_DIR=str(tmp_path / "none"))
    project.vendor("check", "9.2.0")


def test_same_port_same_bytes(project: Project) -> None:
    """Deleted and ported again: the way to prove CONTRIBUTING's commands."""
    before = project.snapshot()
    shutil.rmtree(project.path("patches/9.1.0"))
    project.vendor("port", "9.0.0", "9.1.0")
    assert project.snapshot() == before
