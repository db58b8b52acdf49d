"""Which SDK releases there are patches for, and which one is meant."""

from __future__ import annotations

import os
from email.parser import HeaderParser
from pathlib import Path

from packaging.version import InvalidVersion, Version

from . import lock
from .errors import LockError, ReleaseError

# The last part of this project's version, <SDK release>.<REVISION>: raise it when
# what is built for the same SDK release changes.
REVISION = 1

# Before 2.0.0 the SDK had no isolation scopes, which the runtime is built upon.
OLDEST = Version("2.0.0")

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "patches"

VARIABLE = "SENTRY_SDK_VERSION"


def directories() -> list[Path]:
    """The patch directories, oldest release first.

    :raises ReleaseError: there is none.
    """
    found = [path for path in PATCHES.glob("[0-9]*") if path.is_dir()]
    if not found:
        raise ReleaseError(
            "patches/: missing, or without a directory for a release",
            next="git checkout -- patches",
        )
    return sorted(found, key=lambda path: Version(path.name))


def supported() -> dict[str, Path]:
    """Release -> the patch directory that serves it, oldest release first.

    A directory serves its own release and every later one, up to the next
    directory, that its lock lists.
    """
    serves: dict[str, Path] = {}
    found = directories()
    for directory, next_one in zip(found, [*found[1:], None]):
        locked = lock.load(directory)
        names = [directory.name] if locked is None else list(locked.releases)
        first, end = Version(directory.name), Version(next_one.name) if next_one else None
        for name in sorted(names, key=Version):
            inside = first <= Version(name) and (end is None or Version(name) < end)
            if not inside or directory.name not in names:
                raise LockError(
                    f"patches/{directory.name}/{lock.NAME}: cannot serve {name}",
                    expected=f"{directory.name} and later ones, up to the next directory",
                    found=", ".join(names),
                    next=f"rm patches/{directory.name}/{lock.NAME}, then "
                    f"python3 scripts/vendor.py refresh {directory.name}",
                )
            serves[name] = directory
    return serves


def nearest(release: str) -> Path | None:
    """The directory that would serve the release: the last that is not later."""
    earlier = [d for d in directories() if Version(d.name) <= Version(release)]
    return earlier[-1] if earlier else None


def parse(text: str) -> str:
    """A final release's canonical name; whether it is supported is not looked at."""
    try:
        version = Version(text)
    except InvalidVersion:
        raise _refused(f"{text!r} is not a release number", text) from None
    if version.is_prerelease or version.is_postrelease or version.local:
        raise _refused(
            f"sentry-sdk {text}: only final releases are supported, no pre-releases", text
        )
    # 2.75 is 2.75.0
    return ".".join(map(str, (*version.release, 0, 0)[: max(3, len(version.release))]))


def version(release: str) -> str:
    """This project's version, for that release."""
    return f"{release}.{REVISION}"


def choose(text: str) -> str:
    """The supported release that the text names."""
    release = parse(text)
    if Version(release) < OLDEST:
        raise _refused(f"sentry-sdk {text}: there are no isolation scopes before {OLDEST}", text)
    if release not in supported():
        raise _refused(f"sentry-sdk {text}: there are no patches for it", text)
    return release


def newest() -> str:
    return list(supported())[-1]


def selected() -> str:
    """The release to build: the sdist's own, else the variable's, else the newest."""
    wanted = os.environ.get(VARIABLE)
    own = _sdist_release()
    if own is None:
        return choose(wanted) if wanted else newest()
    if wanted and parse(wanted) != own:
        raise ReleaseError(
            f"this source distribution is for sentry-sdk {own} (see PKG-INFO)",
            expected=f"{VARIABLE}={own}, or not set",
            found=f"{VARIABLE}={wanted}",
            next=f"unset {VARIABLE}, or get the source distribution {wanted}.*",
        )
    return choose(own)


def _sdist_release() -> str | None:
    """What PKG-INFO says, which every sdist has at its root and no checkout has."""
    path = ROOT / "PKG-INFO"
    if not path.is_file():
        return None
    info = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    return info["Version"].rpartition(".")[0]


def _refused(problem: str, text: str) -> ReleaseError:
    names = list(supported())
    # A hundred would hide the rest of the message.
    several = ", ".join(names) if len(names) < 10 else f"{len(names)}, {names[0]} to {names[-1]}"
    return ReleaseError(
        problem,
        expected=f"one of {several}",
        found=text,
        next="python3 scripts/vendor.py status   (lists the releases)",
    )
