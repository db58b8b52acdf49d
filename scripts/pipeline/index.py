"""Which final releases of the SDK the package index has, through pip."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from packaging.version import Version

from . import releases
from .errors import FetchError, ReleaseError
from .fetch import CACHE


def listed() -> tuple[list[str], str]:
    """The releases, oldest first, and what pip said if the list is not of today.

    The index's answer is kept beside the wheels, for the next time that it cannot
    be reached. The releases that the checkout supports are part of any list.
    """
    path = CACHE / "releases.txt"
    problem = ""
    try:
        names = _ask()
        CACHE.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    except FetchError as error:
        names, source = _remembered(path)
        problem = f"{error}\n  instead: {source}"
    return sorted({*names, *releases.supported()}, key=Version), problem


def _remembered(path: Path) -> tuple[list[str], str]:
    if not path.is_file():
        return [], "only what this checkout supports"
    day = date.fromtimestamp(path.stat().st_mtime)
    return path.read_text().split(), f"the list of {day}"


def _ask() -> list[str]:
    # pip lists all that there is when it is asked for what cannot be, and only then the
    # yanked releases too, which somebody may have pinned. `pip index versions` does not.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "sentry-sdk==0"]
    with tempfile.TemporaryDirectory() as directory:
        result = subprocess.run(
            [*command, f"--dest={directory}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            universal_newlines=True,
        )
    found = re.search(r"\(from versions: (.+)\)", result.stderr)
    if found is None or found[1] == "none":
        lines = result.stderr.strip().splitlines() or ["no output"]
        raise FetchError(
            "pip could not list the releases of sentry-sdk",
            expected="(from versions: ...)",
            found=lines[-1],
            next=" ".join(command),
        )
    return [name for text in found[1].split(", ") for name in _final(text)]


def _final(text: str) -> list[str]:
    try:
        name = releases.parse(text)
    except ReleaseError:
        return []
    return [name] if Version(name) >= releases.OLDEST else []
