#!/usr/bin/env python3
"""Run the tests on a machine that has only Python.

    python3 scripts/test.py                  what a change has to pass, in 15 minutes
    python3 scripts/test.py --all            every environment of tox.ini
    python3 scripts/test.py -e pipeline -- -k tampered

The arguments are tox's, save --all, and -h and --help, which show this. tox lives in a virtual
environment of its own, in .cache/test-venv, so that a system Python which refuses `pip install`
(PEP 668) is left alone. Remove that directory to begin afresh.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".cache" / "test-venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
# Written last: without it the environment is taken for half made.
READY = VENV / f"tox-uv-for-python{sys.version_info[0]}.{sys.version_info[1]}"


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(__doc__, end="")
        return 0
    if not READY.is_file():
        shutil.rmtree(str(VENV), ignore_errors=True)
        VENV.parent.mkdir(exist_ok=True)
        # Debian and Ubuntu package venv's other half, ensurepip, by itself.
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]) != 0:
            return _fail(
                "could not make a virtual environment\n"
                "  expected: the standard library's venv and ensurepip\n"
                "  next: on Debian or Ubuntu: apt install python3-venv"
            )
        pip = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "tox>=4.22", "tox-uv"]
        if subprocess.call(pip) != 0:
            return _fail("could not install tox\n  next: " + " ".join(pip))
        READY.touch()
    parallel = ["run-parallel", "--parallel", "auto", "--parallel-no-spinner", "--parallel-live"]
    if not arguments:
        arguments = [*parallel, "-m", "test"]
    elif arguments == ["--all"]:
        arguments = parallel
    tox = [str(BIN / "python"), "-m", "tox", *arguments]
    return subprocess.call(tox, cwd=str(ROOT), env=_with_every_python())


def _with_every_python() -> "dict[str, str]":
    """tox should find pyenv's Pythons, activated or not, and those that .ci/run has made."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [*pyenv.glob("versions/3.*/bin/python3"), *ROOT.glob(".cache/python3.*/bin/python3.*")]
    directories = [
        os.environ.get("PATH", os.defpath),
        *(str(path.parent) for path in sorted(found)),
    ]
    return {**os.environ, "PATH": os.pathsep.join(directories)}


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
