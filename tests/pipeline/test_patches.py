"""Committed patches apply exactly or not at all, to the source that the lock names."""

import hashlib
import json

import pytest
from conftest import Project

PATCH = "patches/2.9.0/close-aware.patch"
LOCK = "patches/2.9.0/lock.json"


def relock(project: Project) -> None:
    """Let the lock vouch for the patch as it is: what somebody would do who wants it so."""
    lock = json.loads(project.text(LOCK))
    for patch in lock["patches"]:
        data = project.path(f"patches/2.9.0/{patch['name']}").read_bytes()
        patch["sha256"] = hashlib.sha256(data).hexdigest()
    del lock["digest"]
    lock["digest"] = hashlib.sha256(json.dumps(lock, sort_keys=True).encode()).hexdigest()
    project.write(LOCK, json.dumps(lock, indent=2, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("-class _Scoped", "-class Scoped", "does not apply to wsgi.py at line"),
        ("@@ -8 +8,2 @@", "@@ -9 +9,2 @@", "does not apply to wsgi.py at line 9"),
        ("@@ -8 +8,2 @@", "@@ -800 +800,2 @@", "does not apply to wsgi.py at line 800"),
        ("--- a/wsgi.py\n+++ b/wsgi.py", "--- a/x.py\n+++ b/x.py", "does not apply to x.py"),
        ("@@ -8 +8,2 @@", "@@ -8 +8,3 @@", "the lines below"),
        ("@@ -8 +8,2 @@", "@@ -8 +8 @@", "not a line of a diff"),
        ("@@ -8 +8,2 @@", "@@ -8,1 +8,2 @", "not a line of a diff"),
        (
            "+    @close_aware\n",
            "+    @close_aware\n a remark\n",
            "not a line of a diff",
        ),
        ("--- a/wsgi.py\n+++ b/wsgi.py\n", "", "not a line of a diff"),
    ],
)
def test_no_fuzz(project: Project, old: str, new: str, words: str) -> None:
    """One byte, or one line, off is refused; and no line is skipped."""
    project.replace(PATCH, old, new)
    relock(project)
    output = project.refused("build", "2.9.0", status=3)
    assert f"close-aware.patch: {words}" in output, output


def test_result_is_compared(project: Project) -> None:
    """A patch that applies, and that the lock names, but that gives other files."""
    project.replace(PATCH, "+    @close_aware", "+    @closing")
    relock(project)
    output = project.refused("build", "2.9.0", status=3)
    assert "the patched files are not those in patches/2.9.0" in output
    assert "wsgi.py: expected" in output
