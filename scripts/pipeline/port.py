"""Make patches/ from the edits: what the directories hold, and what is written there."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Iterable, Iterator, Mapping

from packaging.version import Version

from . import edits, package, patch, releases, upstream
from .drive import drive
from .errors import PipelineError
from .releases import LOCK, PATCHES, Lock, hashes, sha256
from .upstream import Upstream
from .verify import check_files, verify


@dataclass(frozen=True)
class Port:
    """One release: what its lock says of it, and its patches."""

    lock: Lock
    """Of this release alone."""
    patches: dict[str, str]

    @property
    def release(self) -> str:
        return self.lock.directory


def make(source: Upstream, driven: bool) -> Port:
    """Edit the release's files, and look at what comes out.

    :param driven: also run it.
    :raises RefusedError: an edit, `verify` or `drive` says why.
    """
    upstream.check_license(source)
    check_files(source)
    patches, vendored = _edited(tuple(sorted(source.files.items())))
    verify(source, {name: data.decode("utf-8") for name, data in vendored.items()})
    if driven:
        drive(source, {**vendored, **package.generated(source.release)})
    assert source.wheel
    wheel = {
        "wheel": source.wheel.name,
        "sha256": sha256(source.wheel.read_bytes()),
        "license": sha256(source.license),
    }
    before, after = hashes(source.files), hashes(vendored)
    lock = Lock(
        {source.release: wheel},
        [{"name": name, "sha256": sha256(text.encode())} for name, text in patches.items()],
        {name: {"upstream": before[name], "vendored": after[name]} for name in source.files},
    )
    return Port(lock, patches)


@lru_cache(maxsize=8)
def _edited(files: tuple[tuple[str, bytes], ...]) -> tuple[dict[str, str], dict[str, bytes]]:
    texts = patch.rewrite_imports(dict(files))
    patches = edits.generate(texts)
    return patches, patch.finish(patch.apply(patches, texts))


def make_all(
    names: Iterable[str], locks: Mapping[str, Lock], driven: bool, find_links: str | None = None
) -> Iterator[tuple[str, Port | PipelineError]]:
    """Each release's port, or the reason that there is none.

    :param locks: of the releases whose wheels are known.
    """

    def work(name: str) -> Port | PipelineError:
        try:
            wheel = upstream.fetch(name, locks.get(name), find_links)
            return make(upstream.read_wheel(name, wheel), driven)
        except PipelineError as error:
            return error

    # Most of the time is spent in other processes: pip's, and those that are driven.
    with ThreadPoolExecutor(4) as pool:
        futures = [(name, pool.submit(work, name)) for name in names]
        yield from ((name, future.result()) for name, future in futures)


def committed(locks: Iterable[Lock]) -> dict[str, Port]:
    """What patches/ has for each release."""
    found = {}
    for lock in locks:
        patches = lock.read_patches()
        for release, wheel in lock.releases.items():
            found[release] = Port(Lock({release: wheel}, lock.patches, lock.files), patches)
    return found


def arrange(ports: Mapping[str, Port]) -> dict[str, dict[str, bytes]]:
    """The directories, and the files in them, that these ports make.

    Releases that follow each other and have the same files, before and after, share one.
    """
    groups: list[list[Port]] = []
    for _, port in sorted(ports.items(), key=lambda item: Version(item[0])):
        if groups and groups[-1][0].lock.files == port.lock.files:
            groups[-1].append(port)
        else:
            groups.append([port])
    directories = {}
    for group in groups:
        served = {name: wheel for port in group for name, wheel in port.lock.releases.items()}
        lock = Lock(served, group[0].lock.patches, group[0].lock.files)
        patches = {name: text.encode() for name, text in group[0].patches.items()}
        directories[lock.directory] = {LOCK: lock.dump(), **patches}
    return directories


def differing(directories: Mapping[str, Mapping[str, bytes]]) -> Iterator[Path]:
    """The files of patches/ that are not those, are missing or are extra."""
    for directory in sorted({*directories, *(path.name for path in releases.directories())}):
        wanted, found = directories.get(directory, {}), package.read(PATCHES / directory)
        for name in sorted({*wanted, *found}):
            if wanted.get(name) != found.get(name):
                yield PATCHES / directory / name


def write(directories: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """Make patches/ hold these directories, and no other; return what has changed."""
    present = {path.name for path in PATCHES.glob("[0-9]*")}
    changed = []
    for name, files in directories.items():
        if package.read(PATCHES / name) != files:
            package.write(files, PATCHES / name)
            changed.append(f"patches/{name}: written")
    for name in sorted(present - {*directories}):
        shutil.rmtree(PATCHES / name)
        changed.append(f"patches/{name}: removed")
    return changed


def compared(port: Port, ports: Mapping[str, Port]) -> list[str]:
    """Which vendored files differ from the nearest earlier release's, a line for each."""
    earlier = [name for name in ports if Version(name) < Version(port.release)]
    if not earlier:
        return [f"sentry-sdk {port.release}: the oldest"]
    nearest = max(earlier, key=Version)
    before, after = ports[nearest].lock.upstream, port.lock.upstream
    lines = [f"sentry-sdk {port.release}, since {nearest}:"]
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            what = "added" if name not in before else "changed" if name in after else "removed"
            lines.append(f"  {name}: {what}")
    return lines if len(lines) > 1 else [f"{lines[0]} same sources"]
