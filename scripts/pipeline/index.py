"""Which final releases of the SDK the package index has, through pip."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

from packaging.version import Version

from . import releases
from .errors import FetchError, ReleaseError
from .fetch import CACHE

# Before 2.0.0 the SDK had no isolation scopes, which the runtime is built upon.
OLDEST = Version("2.0.0")


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
    command = [sys.executable, "-m", "pip", "index", "versions", "sentry-sdk"]
    command += ["--disable-pip-version-check"]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True
    )
    found = re.search(r"(?m)^Available versions: (.+)$", result.stdout)
    if result.returncode != 0 or found is None:
        lines = result.stderr.strip().splitlines() or ["no output"]
        raise FetchError(
            "pip could not list the releases of sentry-sdk",
            expected="Available versions: ...   (pip 21.2 or later)",
            found=lines[-1],
            next=" ".join(command),
        )
    return [name for text in found[1].split(", ") for name in _final(text)]


def _final(text: str) -> list[str]:
    try:
        name = releases.parse(text)
    except ReleaseError:
        return []
    return [name] if Version(name) >= OLDEST else []
