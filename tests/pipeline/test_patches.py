"""Patch files: exact or refused, and one way to write them."""

import difflib
import random

import pytest
import sdk
from conftest import Project

DIFF_HEAD = f"{sdk.HEADER}\n--- a/wsgi.py\n+++ b/wsgi.py\n"


def build(project: Project, **patches: str) -> str:
    """Lock the patches for 9.0.0, build, and return what became of wsgi.py."""
    project.path("patches/9.0.0/limit.patch").unlink()
    project.patches("9.0.0", **patches)
    project.vendor("refresh", "9.0.0")
    project.vendor("build", "9.0.0")
    text = project.vendored("wsgi.py")
    return text[: text.index("\n# Generated")]


def refused(project: Project, patch: str) -> str:
    project.write("patches/9.0.0/limit.patch", patch)
    output = project.refused("refresh", "9.0.0")
    assert "patches/9.0.0/limit.patch" in output
    return output


@pytest.mark.parametrize("line", [0, 1, 4, 12, 13])
def test_insertion_lands_behind_the_named_line(project: Project, line: int) -> None:
    """Start, middle and end: without context the number is all there is."""
    patch = f"{DIFF_HEAD}@@ -{line},0 +{line + 1},2 @@\n+# one\n+# two\n"
    lines = sdk.WSGI.splitlines(keepends=True)
    assert len(lines) == 13
    lines[line:line] = ["# one\n", "# two\n"]
    assert build(project, insert=patch) == "".join(lines)


def test_lines_can_be_removed(project: Project) -> None:
    patch = f"{DIFF_HEAD}@@ -1,2 +0,0 @@\n-import sys\n-\n"
    assert build(project, remove=patch) == sdk.WSGI[len("import sys\n\n") :]


def test_several_hunks_count_in_the_old_file(project: Project) -> None:
    """A hunk's first number does not shift by what the hunks before it add."""
    patch = (
        f"{DIFF_HEAD}@@ -0,0 +1,3 @@\n+# 1\n+# 2\n+# 3\n"
        "@@ -3 +6 @@\n-LIMIT = 1\n+LIMIT = 2\n@@ -13,0 +17 @@\n+# end\n"
    )
    expected = "# 1\n# 2\n# 3\n" + sdk.WSGI.replace("= 1", "= 2") + "# end\n"
    assert build(project, several=patch) == expected


def test_patches_apply_in_the_order_of_the_series(project: Project) -> None:
    """The second is a diff against what the first leaves."""
    first = f"{DIFF_HEAD}@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 2\n"
    second = f"{DIFF_HEAD}@@ -3 +3 @@\n-LIMIT = 2\n+LIMIT = 3\n"
    assert "LIMIT = 3" in build(project, zz=first, aa=second)


def test_order_of_the_series_is_locked(project: Project) -> None:
    first = f"{DIFF_HEAD}@@ -0,0 +1 @@\n+# first\n"
    second = f"{DIFF_HEAD}@@ -13,0 +14 @@\n+# second\n"
    build(project, a=first, b=second)
    project.write("patches/9.0.0/series", "b.patch\na.patch\n")
    assert "series" in project.refused("build", "9.0.0")


def test_lines_are_split_at_newlines_only(project: Project) -> None:
    """A form feed is white space to Python and no end of a line to diff."""
    text = sdk.WSGI.replace("\n\ndef finish", "\n\f\n\ndef finish")
    project.release("9.2.0", {**sdk.FILES, "wsgi.py": text})
    last = text.count("\n")
    project.patches("9.2.0", end=f"{DIFF_HEAD}@@ -{last},0 +{last + 1} @@\n+# end\n")
    project.vendor("refresh", "9.2.0")
    project.vendor("build", "9.2.0")
    assert project.vendored("wsgi.py").startswith(text + "# end\n")


@pytest.mark.parametrize(
    ("hunk", "reason"),
    [
        ("@@ -3 +3 @@\n-LIMIT = 2\n+LIMIT = 3\n", "line 3"),
        ("@@ -3 +3 @@\n-LIMIT = 1 \n+LIMIT = 3\n", "line 3"),
        ("@@ -2 +2 @@\n-LIMIT = 1\n+LIMIT = 3\n", "line 2"),
        ("@@ -0 +0 @@\n-LIMIT = 1\n+LIMIT = 3\n", "line 0"),
        ("@@ -99 +99 @@\n-LIMIT = 1\n+LIMIT = 3\n", "line 99"),
        ("@@ -14,0 +15 @@\n+# behind the end\n", "line 14"),
        # context, too, has to be right
        ("@@ -2,2 +2,2 @@\n #\n-LIMIT = 1\n+LIMIT = 3\n", "line 2"),
        # not in order
        ("@@ -9,0 +9 @@\n+# a\n@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\n", "line 3"),
        # twice the same line
        ("@@ -3 +3 @@\n-LIMIT = 1\n+A = 3\n@@ -3 +3 @@\n-LIMIT = 1\n+B = 3\n", "line 3"),
    ],
)
def test_no_fuzz(project: Project, hunk: str, reason: str) -> None:
    """One byte, or one line, off is refused."""
    output = refused(project, DIFF_HEAD + hunk)
    assert f"does not apply to wsgi.py at {reason}" in output


@pytest.mark.parametrize(
    "diff",
    [
        # a damaged head, which unidiff would take for a remark, alone and as second
        "@@ -3 +3 @\n-LIMIT = 1\n+LIMIT = 3\n",
        "@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\n@@ 9,0 +9 @@\n+# a\n",
        # counts that are too small and too great
        "@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\n+LIMIT = 4\n",
        "@@ -3 +3,2 @@\n-LIMIT = 1\n+LIMIT = 3\n",
        "@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\nand a remark\n",
        "and a remark\n@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\n",
        "@@ -13 +13 @@\n-    return sys.version\n+    return 1\n\\ No newline at end of file\n",
        "",
    ],
)
def test_nothing_of_a_patch_is_skipped(project: Project, diff: str) -> None:
    """A line that is not understood is an error, wherever it stands."""
    refused(project, DIFF_HEAD + diff)


def test_patch_without_a_diff(project: Project) -> None:
    assert "git checkout -- patches/9.0.0/limit.patch" in refused(project, sdk.HEADER)


def test_hunk_without_a_file(project: Project) -> None:
    refused(project, f"{sdk.HEADER}\n@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 3\n")


def test_patch_that_names_a_file_that_is_not_there(project: Project) -> None:
    output = refused(project, sdk.PATCH.replace("wsgi.py", "django/tasks.py"))
    assert "django/tasks.py" in output
    assert "django/asgi.py" in output


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--- a/wsgi.py", "--- /dev/null"),
        ("+++ b/wsgi.py", "+++ /dev/null"),
        ("+++ b/wsgi.py", "+++ b/other.py"),
        ("--- a/wsgi.py\n+++ b/wsgi.py", "--- wsgi.py\n+++ wsgi.py"),
    ],
)
def test_patch_can_only_change_files(project: Project, old: str, new: str) -> None:
    assert old in sdk.PATCH
    refused(project, sdk.PATCH.replace(old, new))


def test_file_twice_in_a_patch(project: Project) -> None:
    """Against which of the two states the second is meant cannot be told."""
    again = "--- a/wsgi.py\n+++ b/wsgi.py\n@@ -13,0 +14 @@\n+# end\n"
    refused(project, sdk.PATCH + again)


def test_one_patch_can_change_several_files(project: Project) -> None:
    other = (
        "--- a/django/asgi.py\n+++ b/django/asgi.py\n@@ -5 +5 @@\n-    return None\n+    return 1\n"
    )
    assert "LIMIT = 2" in build(project, both=sdk.PATCH + other)
    assert "    return 1\n" in project.vendored("django/asgi.py")
    # in the order of their names
    text = project.text("patches/9.0.0/both.patch")
    assert text.index("a/django/asgi.py") < text.index("a/wsgi.py")


def test_patch_that_changes_nothing(project: Project) -> None:
    output = refused(project, f"{DIFF_HEAD}@@ -3 +3 @@\n-LIMIT = 1\n+LIMIT = 1\n")
    assert "changes nothing" in output


def test_patch_that_no_longer_applies(project: Project) -> None:
    """Next release, other line: the message shows both."""
    text = sdk.WSGI.replace("LIMIT = 1", "LIMIT = 1.0")
    project.release("9.2.0", {**sdk.FILES, "wsgi.py": text})
    project.patches("9.2.0", limit=sdk.PATCH)
    output = project.refused("refresh", "9.2.0")
    assert "patches/9.2.0/limit.patch" in output
    assert "'LIMIT = 1\\n'" in output
    assert "'LIMIT = 1.0\\n'" in output


def test_patch_that_the_series_does_not_name(project: Project) -> None:
    project.write("patches/9.0.0/other.patch", sdk.PATCH)
    assert "series" in project.refused("build", "9.0.0")


def test_series_that_names_a_patch_that_is_not_there(project: Project) -> None:
    project.write("patches/9.0.0/series", "limit.patch\nother.patch\n")
    for command in "build", "check", "refresh":
        output = project.refused(command, "9.0.0")
        assert output.startswith("error: patches/9.0.0/other.patch: missing\n")
        assert "or remove its line from patches/9.0.0/series" in output


def test_series_that_is_no_text(project: Project) -> None:
    project.path("patches/9.0.0/series").write_bytes(b"\xff")
    output = project.refused("build", "9.0.0")
    assert "git checkout -- patches/9.0.0/series" in output


def test_missing_series(project: Project) -> None:
    project.path("patches/9.0.0/series").unlink()
    assert "patches/9.0.0/series: missing" in project.refused("build", "9.0.0")


def test_refresh_is_idempotent(project: Project) -> None:
    """Not even the modification times change."""
    before = project.snapshot()
    mtime = project.path("patches/9.0.0/limit.patch").stat().st_mtime_ns
    assert "written" not in project.vendor("refresh")
    assert project.snapshot() == before
    assert project.path("patches/9.0.0/limit.patch").stat().st_mtime_ns == mtime


def test_refresh_takes_a_diff_as_git_writes_it(project: Project) -> None:
    """With context, index line and section; what it writes has none of them."""
    git = (
        f"{sdk.HEADER}\ndiff --git a/wsgi.py b/wsgi.py\nindex 1234567..89abcde 100644\n"
        "--- a/wsgi.py\n+++ b/wsgi.py\n"
        "@@ -1,5 +1,5 @@\n import sys\n \n-LIMIT = 1\n+LIMIT = 2\n \n \n"
        '@@ -7,5 +7,6 @@ def handle(environ):\n     name = environ["name"]\n \n'
        "     return name\n+    # added\n \n \n"
    )
    project.write("patches/9.0.0/limit.patch", git)
    assert "limit.patch: written" in project.vendor("refresh", "9.0.0")
    assert project.text("patches/9.0.0/limit.patch") == sdk.PATCH


def test_patch_files_are_written_in_one_form_only(project: Project) -> None:
    """`check` is the twin of `refresh`: locked as it is, but not in that form."""
    project.replace("patches/9.0.0/limit.patch", "@@ -3 +3 @@", "@@ -3,1 +3,1 @@")
    assert "limit.patch" in project.vendor("check", "9.0.0", status=1)


@pytest.mark.parametrize("field", ["Description", "Origin", "Forwarded", "Author"])
def test_header_must_be_complete(project: Project, field: str) -> None:
    output = refused(project, sdk.PATCH.replace(f"{field}:", "Other:"))
    assert f"no {field}" in output
    assert "patches/README.md" in output


def test_diffs_quote_no_more_of_the_sdk_than_changes(project: Project) -> None:
    """A new diff would: difflib takes frequent lines for junk, and is not minimal."""
    text = sdk.WSGI + "\n\nx = 1\n\n" * 150
    project.release("9.2.0", {**sdk.FILES, "wsgi.py": text})
    project.patches("9.2.0", end=f"{DIFF_HEAD}@@ -100,0 +101 @@\n+# here\n")
    before = project.text("patches/9.2.0/end.patch")
    project.vendor("refresh", "9.2.0")
    assert project.text("patches/9.2.0/end.patch") == before


def test_random_changes_survive_the_round_trip(project: Project) -> None:
    """difflib's diffs of random edits, applied and written again, mean the same."""
    random.seed(1)
    patches, lines = {}, sdk.WSGI.splitlines(keepends=True)
    for number in range(30):
        after = list(lines)
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(after) + 1)
            after[at : at + random.randint(0, 2)] = random.sample(
                ["# a\n", "# b\n", "\n", "LIMIT = 1\n"], random.randint(1, 2)
            )
        context = random.randint(0, 3)
        diff = difflib.unified_diff(lines, after, "a/wsgi.py", "b/wsgi.py", n=context)
        text = "".join(diff)
        if text:
            patches[f"p{number}"] = f"{sdk.HEADER}\n{text}"
        lines = after
    assert build(project, **patches) == "".join(lines)
    assert "written" not in project.vendor("refresh", "9.0.0")
