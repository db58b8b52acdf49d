"""From the patches of one release to those of another, and through the whole history."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from packaging.version import Version

from . import emit, extract, lock, patchqueue, releases, rewrite, upstream, vendor
from .errors import PortError, RewriteError
from .extract import Upstream
from .fetch import fetch
from .git import Repository
from .merge import BY_HAND, CLEAN, DROPPED, MERGED, Merge
from .patchqueue import Patch
from .refresh import refreshed

SAME = "same sources"

# Of a release with several patches, the one that took most counts.
_EFFORT = (CLEAN, DROPPED, MERGED, BY_HAND)


def port(old: str, new: str) -> Path | Merge:
    """Make `new` supported, with the patches of `old`.

    :returns: the directory that serves it already, since the SDK's files are the
        same, or the merges: either all done, and the new directory written, or
        stopped at a conflict.
    """
    _refuse_supported(new)
    if Version(new) < releases.OLDEST:
        releases.choose(new)  # says why
    found = extract.from_wheel(fetch(new, None))
    nearest = releases.nearest(new)
    if nearest and lock.same_files(lock.locked_or_refuse(nearest), found):
        for path, text in refreshed(nearest, [new]).items():
            path.write_bytes(text.encode())
        return nearest
    _refuse_to_cut_off(nearest, new)
    directory = releases.supported()[old]
    before = upstream(old)
    vendor(old, before)  # checks the lock, and that the patches apply
    try:
        texts = rewrite.rewrite(found.files)
    except RewriteError as error:
        raise RewriteError(f"sentry-sdk {new}: {error}") from error
    merge = Merge.begin(patchqueue.read(directory), rewrite.rewrite(before.files), texts, new)
    return _go_on(merge, old, new, directory)


def resume(path: Path) -> tuple[str, Merge]:
    """Go on with the port that has left this repository."""
    _, state = Repository.reopen(path)
    old, new = state["from"], state["to"]
    _refuse_supported(new)
    directory = releases.supported().get(old)
    if directory is None or _fingerprint(directory) != state["lock"]:
        raise PortError(
            f"the patches of sentry-sdk {old} have changed since the port began",
            next=f"rm -r {path}, then python3 scripts/vendor.py port {old} {new}",
        )
    merge = Merge.resume(path, patchqueue.read(directory))
    return new, _go_on(merge, old, new, directory)


def nearest(release: str) -> str:
    """The supported release to port from: the last before, else the first after."""
    supported = list(releases.supported())
    earlier = [name for name in supported if Version(name) < Version(release)]
    return earlier[-1] if earlier else supported[0]


@dataclass(frozen=True)
class Step:
    """From one release to the next, in the replay of the history."""

    old: str
    new: str
    status: str
    reasons: tuple[str, ...] = ()


def replay() -> Iterator[Step]:
    """Port the oldest release's patches through all supported releases.

    Every step begins with what the step before it gave, as if no later release
    were known. Where that is a conflict, or differs from the patches that the
    checkout has for the release, a hand was needed, and theirs are taken.
    """
    supported = releases.supported()
    names = list(supported)
    patches = patchqueue.read(supported[names[0]])
    before = upstream(names[0])
    for old, new in zip(names, names[1:]):
        found = upstream(new)
        if found.files == before.files:
            yield Step(old, new, SAME)
            continue
        status, reasons, ported = _step(patches, before, found, new)
        committed = patchqueue.read(supported[new])
        if not reasons and _diffs(ported) != _diffs(committed):
            status, reasons = BY_HAND, (f"other patches than in patches/{supported[new].name}",)
        yield Step(old, new, status, reasons)
        patches = committed if reasons else ported
        before = found


def _step(
    patches: list[Patch], old: Upstream, new: Upstream, name: str
) -> tuple[str, tuple[str, ...], list[Patch]]:
    merge = Merge.begin(patches, rewrite.rewrite(old.files), rewrite.rewrite(new.files), name)
    try:
        merge.run()
        if merge.conflict:
            return BY_HAND, merge.conflict.reasons, []
        status = max((step.status for step in merge.steps), key=_EFFORT.index, default=CLEAN)
        return status, (), merge.result(releases.PATCHES / name)
    finally:
        merge.repository.remove()


def _diffs(patches: list[Patch]) -> list[tuple[str, str]]:
    return [(patch.name, patch.diff) for patch in patches]


def _go_on(merge: Merge, old: str, new: str, directory: Path) -> Merge:
    merge.run()
    if merge.conflict:
        merge.save(**{"from": old, "to": new, "lock": _fingerprint(directory)})
        return merge
    emit.write(_files(merge, directory, new), releases.PATCHES / new)
    merge.repository.remove()
    return merge


def _files(merge: Merge, old: Path, new: str) -> dict[str, bytes]:
    """The new directory: series, patch files and lock."""
    dropped = {step.name for step in merge.steps if step.status == DROPPED}
    series = [
        line
        for line in patchqueue.split_lines((old / "series").read_text(encoding="utf-8"))
        if line.split("#")[0].strip() not in dropped
    ]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, new)
        directory.mkdir()
        (directory / "series").write_bytes("".join(series).encode())
        for patch in merge.result(directory):
            patch.path.write_bytes(f"{patch.header}\n\n{patch.diff}".encode())
        for path, text in refreshed(directory).items():
            path.write_bytes(text.encode())
        return emit.read(directory)


def _fingerprint(directory: Path) -> str:
    return lock.sha256((directory / lock.NAME).read_bytes())


def _refuse_supported(release: str) -> None:
    directory = releases.supported().get(release)
    if directory is not None:
        raise PortError(
            f"sentry-sdk {release} is supported already, by patches/{directory.name}",
            next=f"to port it anew: git rm -r patches/{release}"
            if directory.name == release
            else f"python3 scripts/vendor.py check {release}",
        )


def _refuse_to_cut_off(nearest: Path | None, release: str) -> None:
    """A new directory takes over all later releases that the one before it serves."""
    served = [] if nearest is None else [*lock.locked_or_refuse(nearest).releases]
    later = [name for name in served if Version(name) > Version(release)]
    if nearest is not None and later:
        raise PortError(
            f"patches/{nearest.name} serves {', '.join(later)}, and patches/{release} "
            "would come in between",
            next=f"rm patches/{nearest.name}/{lock.NAME}, then python3 scripts/vendor.py "
            f"refresh {nearest.name}, and port {release} and the later ones in order",
        )
