"""Which final releases of the SDK the package index has, through pip."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

from packaging.version import Version

from . import releases
from .errors import FetchError, ReleaseError
from .fetch import CACHE, listed_versions, said, temporary_directory


def listed() -> tuple[list[str], str]:
    """The releases, oldest first, and what pip said if the list is not of today.

    The index's answer is kept beside the wheels, for the next time that it cannot
    be reached. The releases that the checkout supports are part of any list.

    :raises FetchError: it cannot be reached, and there is no list of an earlier time.
    """
    path = CACHE / "releases.txt"
    problem = ""
    with temporary_directory() as directory:
        try:
            names = _ask(directory)
            path.write_text("".join(f"{name}\n" for name in names))
        except FetchError as error:
            if not path.is_file():
                raise
            names = path.read_text().split()
            problem = f"{error}\n  instead: the list of {date.fromtimestamp(path.stat().st_mtime)}"
    return sorted({*names, *releases.supported()}, key=Version), problem


def _ask(directory: str) -> list[str]:
    # pip lists all that there is when it is asked for what cannot be, and only then the
    # yanked releases too, which somebody may have pinned. `pip index versions` does not.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "sentry-sdk==0"]
    result = subprocess.run(
        [*command, f"--dest={directory}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    versions = listed_versions(result.stderr)
    if not versions:
        raise FetchError(
            "pip could not list the releases of sentry-sdk",
            found=said(result.stderr),
            next=" ".join(command),
        )
    return [name for text in versions for name in _final(text)]


def _final(text: str) -> list[str]:
    try:
        name = releases.parse(text)
    except ReleaseError:
        return []
    return [name] if Version(name) >= releases.OLDEST else []
