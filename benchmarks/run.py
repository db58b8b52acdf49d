#!/usr/bin/env python3
"""Measure what the integration costs, beside stock and others, on a machine that has only Python.

    python3 benchmarks/run.py                          everything: takes an hour or two
    python3 benchmarks/run.py --quick                  fewer repeats, shorter runs
    python3 benchmarks/run.py --only instructions      one measurement (repeatable)
    python3 benchmarks/run.py --only instructions --package DIR --works plain,stream
                                                       a package directory instead of a wheel

The tools, and each system that is compared, live in virtual environments of their own in
.cache/benchmarks; remove that directory to begin afresh. Python 3.8 or newer; `--help`
lists all options.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".cache" / "benchmarks" / "tools"
PYTHON = VENV / ("Scripts" if os.name == "nt" else "bin") / "python"
REQUIREMENTS = ["build", "matplotlib", "packaging", "pyflakes", "rich"]
# Written last: without it the environment is taken for half made.
READY = VENV / f"for-python{sys.version_info[0]}.{sys.version_info[1]}"


def main() -> int:
    if sys.version_info < (3, 8):
        return _fail("Python 3.8 or later is needed, this is " + sys.version.split()[0])
    sys.path.insert(0, str(ROOT / "benchmarks" / "suite"))
    from arguments import parse

    # Ends here with --help, and with a wrong command line: nothing is installed for that.
    parse(sys.argv[1:])
    if not READY.is_file():
        shutil.rmtree(str(VENV), ignore_errors=True)
        VENV.parent.mkdir(parents=True, exist_ok=True)
        print("Making the tools' environment ...", flush=True)
        # Debian and Ubuntu package venv's other half, ensurepip, by itself.
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]) != 0:
            return _fail(
                "could not make a virtual environment\n"
                "  expected: the standard library's venv and ensurepip\n"
                "  next: on Debian or Ubuntu: apt install python3-venv"
            )
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
        if subprocess.call(pip) != 0:
            return _fail("could not install the tools\n  next: " + " ".join(pip))
        READY.touch()
    command = [str(PYTHON), str(ROOT / "benchmarks" / "suite"), *sys.argv[1:]]
    try:
        return subprocess.call(command)
    except KeyboardInterrupt:
        return 130


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
