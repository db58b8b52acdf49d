"""Make patches/ from the edits: what the directories hold, and what is written there."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import Iterable, Iterator, Mapping

from . import edits, package, patch, upstream
from .drive import drive
from .errors import PipelineError
from .releases import PATCHES, Lock, hashes, is_pre, numbers, order, sha256
from .upstream import Upstream
from .verify import check_files, verify


def make(source: Upstream, driven: bool) -> Lock:
    """Edit the release's files, and look at what comes out.

    :param driven: also run it.
    :raises RefusedError: an edit, `verify` or `drive` says why.
    """
    check_files(source)
    texts = patch.rewrite_imports(source.files)
    patches = edits.generate(texts)
    edited = patch.apply(patches, texts)
    verify(source, edited)
    vendored = patch.finish(edited)
    if driven:
        drive(source, {**vendored, **package.generated(source.release)})
    assert source.wheel
    wheel = {
        "wheel": source.wheel.name,
        "sha256": sha256(source.wheel.read_bytes()),
        "license": sha256(source.license),
    }
    before, after = hashes(source.files), hashes(vendored)
    files = {name: {"upstream": before[name], "vendored": after[name]} for name in before}
    return Lock({source.release: wheel}, files, patches)


def make_all(
    names: Iterable[str], known: Mapping[str, Lock], driven: bool
) -> tuple[dict[str, Lock], list[PipelineError]]:
    """Make each release's lock, of itself alone, or find why there is none; print either.

    :param known: the locks that there are, with the hashes of these releases' wheels.
    """

    def work(name: str) -> Lock | PipelineError:
        try:
            return make(upstream.fetch(name, known.get(name)), driven)
        except PipelineError as error:
            return error

    ports: dict[str, Lock] = {}
    errors = []
    # Most of the time is spent in other processes: pip's, and those that are driven.
    with ThreadPoolExecutor(4) as pool:
        futures = {name: pool.submit(work, name) for name in names}
        for name, future in futures.items():
            found = future.result()
            if isinstance(found, PipelineError):
                errors.append(found)
                print(f"sentry-sdk {name}: refused\n{found}", flush=True)
            else:
                ports[name] = found
                print("\n".join(_compared(name, {**known, **ports})), flush=True)
    return ports, errors


def arrange(ports: Mapping[str, Lock]) -> dict[str, dict[str, bytes]]:
    """The directories, and the files in them, for these releases.

    Releases that follow each other and have the same files, before and after, share one;
    a pre-release shares none with a final release, so that it can be removed again.

    :param ports: release -> a lock that has it; what else it has is left out.
    """
    found: list[Lock] = []
    for release in sorted(ports, key=order):
        port = ports[release]
        wheel = {release: port.releases[release]}
        last = found[-1] if found else None
        if last and last.files == port.files and is_pre(last.directory) == is_pre(release):
            last.releases.update(wheel)
        else:
            found.append(Lock(wheel, port.files, port.patches))
    return {lock.directory: lock.dump() for lock in found}


def differing(directories: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """The names of those in patches/ that are not these, are missing or are extra."""
    present = {
        directory.name: {path.name: path.read_bytes() for path in directory.iterdir()}
        for directory in PATCHES.glob("[0-9]*")
    }
    names = sorted({*directories, *present})
    return [name for name in names if directories.get(name) != present.get(name)]


def write(directories: Mapping[str, Mapping[str, bytes]]) -> Iterator[str]:
    """Make patches/ hold these directories, and no other; say what has changed."""
    for name in differing(directories):
        if name in directories:
            package.write(directories[name], PATCHES / name)
        else:
            shutil.rmtree(PATCHES / name)
        yield f"patches/{name}: {'written' if name in directories else 'removed'}"


def _compared(release: str, ports: Mapping[str, Lock]) -> list[str]:
    """Which vendored files differ from the nearest earlier release's, a line for each."""
    earlier = [name for name in ports if numbers(name) < numbers(release)]
    if not earlier:
        return [f"sentry-sdk {release}: the oldest"]
    nearest = max(earlier, key=numbers)
    before, after = ports[nearest].upstream, ports[release].upstream
    lines = [f"sentry-sdk {release}, since {nearest}:"]
    for name in sorted({name for name, _ in before.items() ^ after.items()}):
        what = "added" if name not in before else "changed" if name in after else "removed"
        lines.append(f"  {name}: {what}")
    return lines if len(lines) > 1 else [f"{lines[0]} same sources"]
