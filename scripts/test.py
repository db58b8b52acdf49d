#!/usr/bin/env python3
"""Run the tests on a machine that has only Python.

    python3 scripts/test.py                  what a change has to pass, in 15 minutes
    python3 scripts/test.py --all            every environment of tox.ini
    python3 scripts/test.py -e pipeline -- -k tampered

The arguments are tox's, save --all, and -h and --help, which show this. tox lives in a virtual
environment of its own, in .cache/environments, so that a system Python which refuses `pip install`
(PEP 668) is left alone. Remove that directory to begin afresh.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import environment


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__, end="")
        return 0
    python = environment.make("tox", ["tox>=4.22", "tox-uv"])
    parallel = ["run-parallel", "--parallel", "auto", "--parallel-no-spinner", "--parallel-live"]
    if not arguments:
        arguments = [*parallel, "-m", "test"]
    elif arguments == ["--all"]:
        arguments = parallel
    tox = [str(python), "-m", "tox", *arguments]
    return subprocess.call(tox, cwd=str(environment.ROOT), env=_with_every_python())


def _with_every_python() -> dict[str, str]:
    """tox should find pyenv's Pythons, activated or not, and those that .ci/run has made."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [*pyenv.glob("versions/3.*/bin/python3")]
    found += environment.ROOT.glob(".cache/python3.*/bin/python3.*")
    directories = [
        os.environ.get("PATH", os.defpath),
        *(str(path.parent) for path in sorted(found)),
    ]
    return {**os.environ, "PATH": os.pathsep.join(directories)}


if __name__ == "__main__":
    sys.exit(main())
