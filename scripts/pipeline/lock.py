"""lock.json: the hash of everything that goes into, and comes out of, a directory.

    format     of this file
    releases   that the directory serves: each one's wheel and licence
    patches    in the order of the series
    files      each file before (upstream) and after (vendored)
    digest     of all the above, so that no byte of the lock can change unseen

`vendor.py refresh` writes it. Everything else only compares.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LockError, MismatchError
from .extract import Upstream
from .patchqueue import Patch

FORMAT = 1
NAME = "lock.json"


@dataclass(frozen=True)
class Lock:
    directory: Path
    releases: dict[str, dict[str, str]]
    """Release -> wheel (file name), sha256 (of it), license (sha256)."""
    patches: list[dict[str, str]]
    """In order: name, sha256."""
    files: dict[str, dict[str, str]]
    """Path below integrations/ -> upstream, vendored (sha256)."""

    @property
    def path(self) -> str:
        return f"patches/{self.directory.name}/{NAME}"

    def dump(self) -> str:
        """The one text that says this; never depends on the order of insertion."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "releases": self.releases,
            "patches": self.patches,
            "files": self.files,
        }
        content["digest"] = sha256(json.dumps(content, sort_keys=True).encode())
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


def load(directory: Path) -> Lock | None:
    """Read the directory's lock; None if it has none yet."""
    path = directory / NAME
    if not path.is_file():
        return None
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        content = json.loads(text)
        lock = Lock(directory, content["releases"], content["patches"], content["files"])
        intact = text == lock.dump()
    except (ValueError, LookupError, TypeError):
        intact = False
    if not intact:
        raise LockError(
            f"patches/{directory.name}/{NAME}: damaged, or edited by hand",
            expected=f"format {FORMAT}, exactly as vendor.py writes it",
            found="content and digest do not agree",
            next=f"git checkout -- patches/{directory.name}/{NAME}",
        )
    return lock


def locked_or_refuse(directory: Path) -> Lock:
    locked = load(directory)
    if locked is None:
        raise LockError(
            f"patches/{directory.name}/{NAME}: missing",
            expected="the hashes of the wheel, the patches and the files",
            next=f"python3 scripts/vendor.py refresh {directory.name}, or remove the directory",
        )
    return locked


def same_files(lock: Lock, upstream: Upstream) -> bool:
    """Whether the directory could serve the release too."""
    return hashes(upstream.files) == {name: file["upstream"] for name, file in lock.files.items()}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(files: dict[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in files.items()}


def check_wheel(lock: Lock, release: str, wheel: Path) -> None:
    locked = lock.releases[release]
    _compare(
        f"the wheel of sentry-sdk {release} is not the one in {lock.path}",
        {locked["wheel"]: locked["sha256"]},
        {wheel.name: sha256(wheel.read_bytes())},
        f"rm {wheel}, then the same command again",
    )


def check_upstream(lock: Lock, release: str, upstream: Upstream) -> None:
    _compare(
        f"the files of sentry-sdk {release} are not those in {lock.path}",
        {
            **{name: file["upstream"] for name, file in lock.files.items()},
            "LICENSE": lock.releases[release]["license"],
        },
        hashes({**upstream.files, "LICENSE": upstream.license}),
        f"pip install --force-reinstall --no-deps sentry-sdk=={release}",
    )


def check_patches(lock: Lock, patches: list[Patch]) -> None:
    found = {patch.name: sha256(patch.path.read_bytes()) for patch in patches}
    locked = {patch["name"]: patch["sha256"] for patch in lock.patches}
    series = f"patches/{lock.directory.name}/series"
    next = (
        f"git checkout -- patches/{lock.directory.name}, or, if the change is meant, "
        f"python3 scripts/vendor.py refresh {lock.directory.name}"
    )
    _compare(
        f"the patches of patches/{lock.directory.name} are not those in {lock.path}",
        locked,
        found,
        next,
    )
    if list(locked) != list(found):
        raise MismatchError(
            f"{series}: the order is not that in {lock.path}",
            expected=", ".join(locked),
            found=", ".join(found),
            next=next,
        )


def check_vendored(lock: Lock, files: dict[str, bytes]) -> None:
    _compare(
        f"the patched files are not those in {lock.path}",
        {name: file["vendored"] for name, file in lock.files.items()},
        hashes(files),
        "if scripts/pipeline has changed: python3 scripts/vendor.py refresh",
    )


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
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


def _compare(problem: str, expected: dict[str, str], found: dict[str, str], next: str) -> None:
    lines = differences(expected, found)
    if lines:
        raise MismatchError("\n    ".join([problem, *lines]), next=next)
