"""Others' tests: download them, run them, and say where one run is worse than another."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Sequence

from environment import ROOT, Refused, last_lines, pip

CACHE = ROOT / ".cache" / "upstream"

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"
#: How the second of two runs differs.
WORSE, GAINED, UNDECIDED = "REGRESSION", "passes for the second only", "fails for both"


class Result(NamedTuple):
    """How one test ended."""

    outcome: str
    #: One line, empty unless it failed.
    error: str = ""
    #: What the SDK has sent meanwhile; `None`: not to be compared.
    sent: list[str] | None = None


Results = Dict[str, Result]


def unpack(project: str, release: str, python: Path) -> Path:
    """Return the directory with a release's tests, downloaded if it is not there."""
    target = CACHE / f"{project}-{release}"
    if not target.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"downloading the source distribution of {project} {release} ...", flush=True)
        with tempfile.TemporaryDirectory(dir=str(CACHE)) as scratch:
            options = ["--no-deps", f"--no-binary={project}", f"--dest={scratch}"]
            pip(python, "download", *options, f"{project}=={release}")
            (archive,) = Path(scratch).glob("*.tar.gz")
            shutil.unpack_archive(str(archive), scratch)
            (source,) = (path for path in Path(scratch).iterdir() if path.is_dir())
            # No sources, which would hide what is installed.
            tests = Path(scratch, "out")
            tests.mkdir()
            for name in "tests", "pyproject.toml":
                if (source / name).exists():
                    (source / name).replace(tests / name)
            tests.replace(target)  # now, so that a broken-off run leaves no half directory
    return target


def run_tests(
    title: str,
    command: Sequence[str],
    directory: Path,
    environ: Dict[str, str],
    log: Path,
    read: Callable[[Path], Any],
) -> Any:
    """Run tests that write their results to `log`; return what `read` makes of it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.unlink()
    print(f"running the tests of {title} ...", flush=True)
    output = log.with_suffix(".txt")
    with output.open("w") as stream:
        status = subprocess.call(
            command,
            cwd=str(directory),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    results = read(log) if log.exists() else None
    # 0 all have passed, 1 some have failed; pytest: 2 some file could not be imported.
    if status not in (0, 1, 2) or not results:
        raise Refused(
            f"could not run the tests of {title}: exit status {status}\n"
            f"{last_lines(output.read_text())}\n  next: read {output.relative_to(ROOT)}"
        )
    return results


def compare(first: Results, second: Results) -> Iterator[tuple[str, str, str]]:
    """Yield how the second run differs, the test, and its error."""
    missing = Result("missing", "the test was not run")
    for test in dict.fromkeys([*first, *second]):
        here, there = first.get(test, missing), second.get(test, missing)
        if here.outcome == FAILED:
            yield (GAINED if there.outcome == PASSED else UNDECIDED), test, here.error
        elif here.outcome != there.outcome and (here.outcome == PASSED or there.outcome == FAILED):
            yield WORSE, test, there.error or there.outcome


def worse(first: Results, second: Results) -> Dict[str, str]:
    """The errors of the tests that passed in the first run only, or failed in the second only."""
    return {test: error for kind, test, error in compare(first, second) if kind == WORSE}


def sent_otherwise(stock: Results, ours: Results) -> Dict[str, str]:
    """The tests in which something else was sent, with the first difference."""
    found = {}
    for test in filter(ours.__contains__, stock):
        expected, sent = stock[test].sent, ours[test].sent
        if expected is not None and sent is not None and expected != sent:
            pairs = zip_longest(expected, sent, fillvalue="nothing more")
            wanted, got = next(pair for pair in pairs if pair[0] != pair[1])
            at = next((i for i, (a, b) in enumerate(zip(wanted, got)) if a != b), 0)
            part = slice(max(0, at - 60), at + 140)
            found[test] = f"sends ...{got[part]}..., stock ...{wanted[part]}..."
    return found


def take_passes(results: Results, again: Results) -> None:
    """Let a failed test pass that passes at a later attempt."""
    for test, result in results.items():
        if result.outcome == FAILED and test in again and again[test].outcome == PASSED:
            results[test] = again[test]
            print(f"passes not always: {test}")


def count(results: Results, outcome: str) -> int:
    """How many tests ended so."""
    return sum(result.outcome == outcome for result in results.values())


def judge_each(names: Sequence[str], judge: Callable[[str], bool]) -> int:
    """Judge one version after the other; an error with one does not stop the others.

    Returns the exit status: 0 all are right, 1 one is not, 2 an error.
    """
    status = 0
    for name in names:
        try:
            status = max(status, int(not judge(name)))
        except Refused as error:
            print(error, file=sys.stderr)
            status = 2
    return status
