"""Which SDK releases there are patches for, and which one is meant. Standard library only.

A directory of patches/ serves one release, or several whose vendored files are the same.
It holds the patches, and `lock.json` with the hash of everything that goes into it and
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
import re
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Iterable, Mapping

from .errors import DamagedError, PipelineError

# The last part of this project's version, <SDK release>.<REVISION>: raise it when
# what is built for the same SDK release changes.
REVISION = 1

# Before 2.0.0 the SDK had no isolation scopes, which the runtime is built upon.
OLDEST = "2.0.0"

DJANGO = "Django>=3.2,<6.2"

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "patches"

FORMAT = 1
LOCK = "lock.json"
VARIABLE = "SENTRY_SDK_VERSION"
RELEASE = re.compile(r"(\d+\.\d+\.\d+)(a|b|rc)?(\d*)")


def numbers(release: str) -> tuple[Any, ...]:
    """To sort by: 2.9.0, 2.10.0a2, 2.10.0rc1, 2.10.0."""
    [(number, kind, count)] = RELEASE.findall(release)
    return (*map(int, number.split(".")), kind or "release", int(count or 0))


def is_pre(release: str) -> bool:
    return not release.replace(".", "").isdigit()


def order(release: str) -> tuple[Any, ...]:
    """To list by: the final releases, then the pre-releases."""
    return (is_pre(release), *numbers(release))


@dataclass(frozen=True)
class Lock:
    """One directory of patches/."""

    releases: dict[str, dict[str, str]]
    """Release -> wheel (file name), sha256 (of it), license (sha256)."""
    files: dict[str, dict[str, str]]
    """Path below integrations/ -> upstream, vendored (sha256)."""
    patches: dict[str, bytes]

    @property
    def directory(self) -> str:
        """Its name: the first release that it serves."""
        return min(self.releases, key=numbers)

    @property
    def upstream(self) -> dict[str, str]:
        return {name: file["upstream"] for name, file in self.files.items()}

    def stated(self) -> list[dict[str, str]]:
        """Each patch's name and sha256."""
        return [{"name": n, "sha256": sha} for n, sha in sorted(hashes(self.patches).items())]

    def dump(self) -> dict[str, bytes]:
        """The directory's files; they never depend on the order of insertion."""
        content: dict[str, Any] = {"format": FORMAT, "patches": self.stated()}
        content.update(releases=self.releases, files=self.files)
        content["digest"] = sha256(json.dumps(content, sort_keys=True).encode())
        return {LOCK: dump(content), **self.patches}


def load(directory: Path) -> Lock:
    """Read a directory.

    :raises DamagedError: its lock or a patch is missing, or not as vendor.py writes it.
    """
    patches = {path.name: path.read_bytes() for path in sorted(directory.glob("*.patch"))}
    changed: list[str] = []
    try:
        text = (directory / LOCK).read_bytes()
        content = json.loads(text)
        lock = Lock(content["releases"], content["files"], patches)
        if lock.dump()[LOCK] == text and lock.directory == directory.name:
            return lock
        changed = [name for name, sha in hashes(patches).items() if sha.encode() not in text]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    name = f"patches/{directory.name}"
    raise DamagedError(
        f"{name}/{', '.join(changed) or LOCK}: missing, damaged, or edited by hand",
        expected=f"format {FORMAT}, exactly as vendor.py writes it",
        next=f"git checkout -- {name}, or remove the directory   (edits: see patches/README.md)",
    )


def directories() -> list[Path]:
    """The patch directories, oldest release first.

    :raises PipelineError: there is none.
    """
    found = [path for path in PATCHES.glob("[0-9]*") if RELEASE.fullmatch(path.name)]
    if not found:
        raise PipelineError(
            "patches/: missing, or without a directory for a release",
            next="git checkout -- patches, or python3 scripts/vendor.py port --all",
        )
    return sorted(found, key=lambda path: numbers(path.name))


def served(locks: Iterable[Lock]) -> dict[str, Lock]:
    """Release -> the lock of the directory that serves it, pre-releases last."""
    found = {release: lock for lock in locks for release in lock.releases}
    return {release: found[release] for release in sorted(found, key=order)}


def supported() -> dict[str, Lock]:
    return served(map(load, directories()))


def finals() -> list[str]:
    """The supported releases without the pre-releases, the oldest first."""
    return [release for release in supported() if not is_pre(release)]


def newest() -> str:
    """The newest final release."""
    return finals()[-1]


def choose(text: str | None) -> str:
    """The supported release that the text names: 2.75.0, 2.75, `oldest` or `newest`.

    :param text: none: `newest`. Neither word means a pre-release.
    :raises PipelineError: there are no patches for it.
    """
    if text in (None, "", "newest"):
        return newest()
    if text == "oldest":
        return finals()[0]
    known = list(supported())
    release = text + ".0" * (2 - text.count("."))  # 2.75 is 2.75.0
    if release in known:
        return release
    names = finals()
    if len(names) > 10:  # a hundred would hide the rest of the message
        names = [f"{len(names)}, {names[0]} to {names[-1]}"]
    several = ", ".join([*names, *filter(is_pre, known)])
    raise PipelineError(
        f"sentry-sdk {text}: there are no patches for it",
        expected=f"one of {several}",
        next="python3 scripts/vendor.py status   (lists the releases)",
    )


def version(release: str) -> str:
    """This project's version, for that release; a pre-release's is one, too."""
    return f"{release}.{'post' if is_pre(release) else ''}{REVISION}"


def selected() -> str:
    """The release to build: the sdist's own, else the variable's, else the newest."""
    wanted = os.environ.get(VARIABLE)
    path = ROOT / "PKG-INFO"  # at the root of every sdist, and of no checkout
    if not path.is_file():
        return choose(wanted)
    info = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
    own: str = info["Version"].rpartition(".")[0]
    if wanted not in (None, "", own):
        raise PipelineError(
            f"this source distribution is for sentry-sdk {own} (see PKG-INFO)",
            expected=f"{VARIABLE}={own}, or not set",
            found=f"{VARIABLE}={wanted}",
            next=f"unset {VARIABLE}, or get the source distribution {wanted}.*",
        )
    return choose(own)


def dump(content: Mapping[str, Any]) -> bytes:
    """The one JSON text that says this: same input, same bytes."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in files.items()}


def compare(problem: str, expected: Mapping[str, str], found: Mapping[str, str], next: str) -> None:
    """Compare hashes by file name.

    :raises DamagedError: it names each file that differs, is missing or is extra.
    """
    lines = [
        f"{name}: expected {expected.get(name, 'no such file')}, found {found.get(name, 'no file')}"
        for name in sorted({name for name, _ in expected.items() ^ found.items()})
    ]
    if lines:
        raise DamagedError("\n    ".join([problem, *lines]), next=next)
