"""Bring a patch directory into its one form: patch files re-exported, lock computed."""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from packaging.version import Version

from . import extract, lock, patchqueue, rewrite
from .errors import MismatchError
from .fetch import fetch


def refreshed(directory: Path, added: Iterable[str] = ()) -> dict[Path, str]:
    """The text that each patch file, and the lock, should have.

    What the lock says about upstream is kept and checked; what it says about the
    patches and their result is computed anew. `added` are releases that the
    directory is to serve from now on.
    """
    locked = lock.load(directory)
    names = {*(locked.releases if locked else [directory.name]), *added}
    upstreams, wheels = {}, {}
    for release in sorted(names, key=Version):
        known = locked if locked and release in locked.releases else None
        wheel = fetch(release, known)
        upstream = extract.from_wheel(wheel)
        if known:
            lock.check_upstream(known, release, upstream)
        extract.check_license(release, upstream)
        upstreams[release] = upstream
        wheels[release] = {
            "wheel": wheel.name,
            "sha256": lock.sha256(wheel.read_bytes()),
            "license": lock.sha256(upstream.license),
        }
    files = upstreams[directory.name].files
    for release, upstream in upstreams.items():
        if upstream.files != files:
            raise MismatchError(
                f"patches/{directory.name} cannot serve {release}: the SDK's files differ",
                found=", ".join(lock.differences(lock.hashes(files), lock.hashes(upstream.files))),
                next=f"make patches/{release} for it",
            )

    texts = rewrite.rewrite(files)
    result, patches = {}, []
    for patch in patchqueue.read(directory):
        text = patchqueue.export(patch, texts)
        texts = patchqueue.apply(patch, texts)
        result[patch.path] = text
        patches.append({"name": patch.name, "sha256": lock.sha256(text.encode())})
    before_and_after = {
        name: {"upstream": lock.sha256(files[name]), "vendored": lock.sha256(data)}
        for name, data in rewrite.append_tail(texts).items()
    }
    result[directory / lock.NAME] = lock.Lock(directory, wheels, patches, before_and_after).dump()
    return result


def changed(texts: dict[Path, str]) -> list[Path]:
    """Those of the files that do not have their text."""
    return [
        path
        for path, text in texts.items()
        if not path.is_file() or path.read_bytes() != text.encode()
    ]
