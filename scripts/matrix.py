#!/usr/bin/env python3
"""Run tests against one SDK release after the other, in this Python environment.

    python scripts/matrix.py runtime                         one release a patch directory
    python scripts/matrix.py --release 2.12.0 runtime -k close
    python scripts/matrix.py --share 1/6 runtime             every sixth of them

tox starts it, in an environment with one Django (see tox.ini); what it does not know
itself it gives to pytest. The releases are read from patches/, so that a new directory
is tested without being named anywhere. An environment for each of them would take
hours to install: here only the SDK and the wheel built for it are exchanged.

Exit status: 0 all passed, 1 some have failed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterator

from environment import Refused, parser_of, pip, sdk_release
from pipeline import releases, upstream

TESTS = releases.ROOT / "tests"

# Of the environment, and not of the checkout, whose sources would be another build.
IS_INSTALLED = """
import sys, vendored_integration._vendor as v
found = v.SENTRY_SDK_RELEASE, v.__file__.startswith(sys.prefix)
assert found == (sys.argv[1], True), found
"""


def main() -> int:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--release", action="append", default=[], type=sdk_release, help="repeatable")
    add("--share", metavar="I/N", help="the I-th of each N patch directories, besides")
    args, pytest_args = parser.parse_known_args()
    chosen = args.release
    if args.share or not chosen:
        names = [name for name in releases.finals() if (releases.PATCHES / name).is_dir()]
        index, _, count = (args.share or "1/1").partition("/")
        chosen = list(dict.fromkeys([*chosen, *names[int(index) - 1 :: int(count)]]))
    # Up to 2.10 the SDK fails on Python 3.13 and later at every error that it is to report
    # (`cannot pickle 'FrameLocalsProxy' object`).
    oldest = (2, 11, 0) if sys.version_info >= (3, 13) else (0,)
    tested = [release for release in chosen if releases.numbers(release) >= oldest]
    failed = [release for release in tested if not passes(release, pytest_args)]
    print(f"{len(tested)} releases tested, {len(chosen) - len(tested)} are not for this Python")
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Environments that run at the same time build this checkout one after the other."""
    path = releases.ROOT / ".cache" / "build-lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def passes(release: str, pytest_args: list[str]) -> bool:
    """Install a release and the wheel built for it, and run the tests."""
    print(f"sentry-sdk {release}:", flush=True)
    python = Path(sys.executable)
    # What the two need is there already, and setuptools with it.
    sdk = ["--no-deps", "--find-links", str(upstream.CACHE), f"sentry-sdk=={release}"]
    ours = ["--no-deps", "--no-build-isolation", "--force-reinstall", str(releases.ROOT)]
    try:
        with locked():
            pip(python, "install", *sdk)
            pip(python, "install", *ours, **{releases.VARIABLE: release})
    except Refused as error:
        print(error)
        return False
    check = [str(python), "-c", IS_INSTALLED, release]
    pytest = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest_args]
    env = {**os.environ, "SDK": release}
    return not any(subprocess.call(command, cwd=str(TESTS), env=env) for command in (check, pytest))


if __name__ == "__main__":
    sys.exit(main())
