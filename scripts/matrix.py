#!/usr/bin/env python3
"""Run tests against one SDK release after the other, in this Python environment.

    python scripts/matrix.py runtime                         one release a patch directory
    python scripts/matrix.py --release 2.12.0 runtime -k close
    python scripts/matrix.py --share 1/6 runtime             every sixth of them

tox starts it, in an environment with one Django (see tox.ini); what it does not know
itself it gives to pytest. The releases are read from patches/, so that a new directory
is tested without being named anywhere. An environment for each of them would take
hours to install: here only the SDK and the wheel built for it are exchanged.

Exit status: 0 all passed, 1 some have failed, 2 an error.
"""

import argparse
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from typing import Iterator, List

import supported
from pipeline import releases, upstream
from pipeline.errors import PipelineError

TESTS = releases.ROOT / "tests"
PYTHON = "{}.{}".format(*sys.version_info)

# Of the environment, and not of the checkout, whose sources would be another build.
IS_INSTALLED = """
import sys, vendored_integration._vendor as v
found = v.SENTRY_SDK_RELEASE, v.__file__.startswith(sys.prefix)
assert found == (sys.argv[1], True), found
"""


def main(argv: List[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # pytest has options that begin alike.
        allow_abbrev=False,
    )
    parser.add_argument(
        "--release", action="append", metavar="RELEASE", help="or `oldest`, `newest`; repeatable"
    )
    parser.add_argument("--share", metavar="I/N", help="the I-th of each N patch directories")
    parser.add_argument("--ends", action="store_true", help="with --share: oldest and newest, too")
    args, pytest_args = parser.parse_known_args(argv)
    try:
        chosen = choose(args)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed: List[str] = []
    passed: List[str] = []
    for release in chosen:
        if not reports_errors(release):
            print(f"sentry-sdk {release}: cannot report an error on Python {PYTHON}")
            continue
        began = time.monotonic()
        # Environments that run at the same time write to one terminal.
        code = run(release, pytest_args, quiet=len(chosen) > 1)
        (failed if code else passed).append(release)
        result = "passed" if code == 0 else f"failed ({code})"
        seconds = time.monotonic() - began
        print(f"Python {PYTHON}, sentry-sdk {release}: {result}, {seconds:.0f} s", flush=True)
    skipped = len(chosen) - len(passed) - len(failed)
    print(f"{len(passed)} releases passed, {len(failed)} failed, {skipped} are not for this Python")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def choose(args: argparse.Namespace) -> List[str]:
    """The releases to test: those asked for, or one for each patch directory.

    Pre-releases are tested when they are asked for.
    """
    finals = releases.finals()
    if args.release:
        return [releases.choose(text) for text in args.release]
    names = [name for name in finals if (releases.PATCHES / name).is_dir()]
    if not args.share:
        return names
    index, _, count = args.share.partition("/")
    chosen = names[int(index) - 1 :: int(count)]
    if args.ends:
        # Not the last directory's name: it may serve later releases as well.
        chosen = list(dict.fromkeys([finals[0], *chosen, finals[-1]]))
    return chosen


def reports_errors(release: str) -> bool:
    """Whether the SDK works on the Python that runs this.

    Up to 2.10 it fails on 3.13 and later at every error that it is to report (`cannot pickle
    'FrameLocalsProxy' object`).
    """
    return sys.version_info < (3, 13) or supported.numbers(release) >= (2, 11, 0)


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Environments that run at the same time build this checkout one after the other."""
    path = releases.ROOT / ".cache" / "build-lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run(release: str, pytest_args: List[str], quiet: bool) -> int:
    python = [sys.executable]
    install = [*python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # What the two need is there already, and setuptools with it.
    sdk = [*install, "--no-deps", "--find-links", str(upstream.CACHE), f"sentry-sdk=={release}"]
    ours = [*install, "--no-deps", "--no-build-isolation", "--force-reinstall", str(releases.ROOT)]
    env = {**os.environ, "SDK": release}
    with locked():
        for command in sdk, ours, [*python, "-c", IS_INSTALLED, release]:
            code = subprocess.call(command, cwd=str(TESTS), env={**env, releases.VARIABLE: release})
            if code != 0:
                return code
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest_args],
        cwd=str(TESTS),
        env=env,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        errors="replace",
    )
    if quiet:
        # The last line is pytest's summary.
        lines = result.stdout.splitlines()
        print("\n".join(lines[-1:] if result.returncode == 0 else lines), flush=True)
    return result.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
