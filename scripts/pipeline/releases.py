"""Which SDK releases there are patches for, and which one is meant.

`patches/<release>/lock.json` has the hash of everything that goes into a directory, and
comes out of it:

    format     of this file
    releases   that the directory serves: each one's wheel and licence
    patches    each patch file
    files      each file before (upstream) and after (vendored)
    digest     of all the above, so that no byte of the lock can change unseen
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Mapping

from packaging.version import InvalidVersion, Version

from .errors import DamagedError, PipelineError

# The last part of this project's version, <SDK release>.<REVISION>: raise it when
# what is built for the same SDK release changes.
REVISION = 1

# Before 2.0.0 the SDK had no isolation scopes, which the runtime is built upon.
OLDEST = Version("2.0.0")

DJANGO = "Django>=3.2,<6.2"

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "patches"

FORMAT = 1
LOCK = "lock.json"
VARIABLE = "SENTRY_SDK_VERSION"


@dataclass(frozen=True)
class Lock:
    """What is known of the releases that one directory of patches/ serves."""

    releases: dict[str, dict[str, str]]
    """Release -> wheel (file name), sha256 (of it), license (sha256)."""
    patches: list[dict[str, str]]
    """Each patch's name and sha256."""
    files: dict[str, dict[str, str]]
    """Path below integrations/ -> upstream, vendored (sha256)."""

    @property
    def directory(self) -> str:
        """Its name: the first release that it serves."""
        return min(self.releases, key=Version)

    @property
    def upstream(self) -> dict[str, str]:
        return {name: file["upstream"] for name, file in self.files.items()}

    def dump(self) -> bytes:
        """The one text that says this; never depends on the order of insertion."""
        content: dict[str, Any] = {"format": FORMAT, **vars(self)}
        content["digest"] = sha256(json.dumps(content, sort_keys=True).encode())
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    def read_patches(self) -> dict[str, str]:
        """The patches' texts, which are those of the lock.

        :raises DamagedError: one is missing or differs.
        """
        paths = sorted((PATCHES / self.directory).glob("*.patch"))
        found = {path.name: path.read_bytes() for path in paths}
        compare(
            f"the patches of patches/{self.directory} are not those in its {LOCK}",
            {patch["name"]: patch["sha256"] for patch in self.patches},
            hashes(found),
            f"git checkout -- patches/{self.directory}   (an edit is changed in "
            "scripts/pipeline/edits, see patches/README.md)",
        )
        return {name: data.decode("utf-8") for name, data in found.items()}


def load(directory: Path) -> Lock:
    """Read a directory's lock.

    :raises DamagedError: there is none, or it is not as vendor.py writes it.
    """
    try:
        text = (directory / LOCK).read_bytes()
        content = json.loads(text)
        lock = Lock(content["releases"], content["patches"], content["files"])
        intact = text == lock.dump() and lock.directory == directory.name
    except (OSError, ValueError, LookupError, TypeError):
        intact = False
    if not intact:
        name = f"patches/{directory.name}"
        raise DamagedError(
            f"{name}/{LOCK}: missing, damaged, or edited by hand",
            expected=f"format {FORMAT}, exactly as vendor.py writes it",
            next=f"git checkout -- {name}, or remove the directory",
        )
    return lock


def directories() -> list[Path]:
    """The patch directories, oldest release first.

    :raises PipelineError: there is none.
    """
    found = [path for path in PATCHES.glob("[0-9]*") if path.is_dir()]
    if not found:
        raise PipelineError(
            "patches/: missing, or without a directory for a release",
            next="git checkout -- patches, or python3 scripts/vendor.py port --all",
        )
    return sorted(found, key=lambda path: Version(path.name))


def supported() -> dict[str, Lock]:
    """Release -> the lock of the directory that serves it, oldest release first."""
    return dict(sorted(served(map(load, directories())).items(), key=lambda item: Version(item[0])))


def served(locks: Any) -> dict[str, Lock]:
    return {release: lock for lock in locks for release in lock.releases}


def parse(text: str, pre: bool = False) -> str:
    """A release's canonical name; whether it is supported is not looked at."""
    try:
        version = Version(text)
    except InvalidVersion:
        raise _refused(f"{text!r} is not a release number", text) from None
    if (version.is_prerelease and not pre) or version.is_postrelease or version.local:
        raise _refused(f"sentry-sdk {text}: only final releases, no pre-releases", text)
    # 2.75 is 2.75.0
    number = ".".join(map(str, (*version.release, 0, 0)[: max(3, len(version.release))]))
    if version < OLDEST:
        raise _refused(f"sentry-sdk {text}: there are no isolation scopes before {OLDEST}", text)
    return number + str(version)[len(version.base_version) :]


def choose(text: str) -> str:
    """The supported release that the text names."""
    release = parse(text, pre=True)
    if release not in supported():
        raise _refused(f"sentry-sdk {text}: there are no patches for it", text)
    return release


def version(release: str) -> str:
    """This project's version, for that release."""
    return f"{release}.{REVISION}"


def newest() -> str:
    return list(supported())[-1]


def selected() -> str:
    """The release to build: the sdist's own, else the variable's, else the newest."""
    wanted = os.environ.get(VARIABLE)
    path = ROOT / "PKG-INFO"  # at the root of every sdist, and of no checkout
    if not path.is_file():
        return choose(wanted) if wanted else newest()
    info = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    own: str = info["Version"].rpartition(".")[0]
    if wanted and parse(wanted) != own:
        raise PipelineError(
            f"this source distribution is for sentry-sdk {own} (see PKG-INFO)",
            expected=f"{VARIABLE}={own}, or not set",
            found=f"{VARIABLE}={wanted}",
            next=f"unset {VARIABLE}, or get the source distribution {wanted}.*",
        )
    return choose(own)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in files.items()}


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """One line for each file that differs, is missing or is extra."""
    lines = []
    for name in sorted({*expected, *found}):
        if name not in found:
            lines.append(f"{name}: missing, expected {expected[name]}")
        elif name not in expected:
            lines.append(f"{name}: extra, found {found[name]}")
        elif expected[name] != found[name]:
            lines.append(f"{name}: expected {expected[name]}, found {found[name]}")
    return lines


def compare(problem: str, expected: Mapping[str, str], found: Mapping[str, str], next: str) -> None:
    lines = differences(expected, found)
    if lines:
        raise DamagedError("\n    ".join([problem, *lines]), next=next)


def _refused(problem: str, text: str) -> PipelineError:
    names = list(supported())
    # A hundred would hide the rest of the message.
    several = ", ".join(names) if len(names) < 10 else f"{len(names)}, {names[0]} to {names[-1]}"
    return PipelineError(
        problem,
        expected=f"one of {several}",
        found=text,
        next="python3 scripts/vendor.py status   (lists the releases)",
    )
