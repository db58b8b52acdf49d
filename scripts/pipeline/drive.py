"""Run a built package with its SDK, in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Mapping

from .errors import PipelineError, RefusedError
from .package import write
from .releases import DJANGO, ROOT
from .upstream import Upstream, pip, run

_REQUESTS = Path(__file__).with_name("drive_requests.py")


def drive(source: Upstream, vendored: Mapping[str, bytes]) -> None:
    """Serve requests with the vendored files.

    :raises RefusedError: what comes out of it is not right.
    """
    python = _python(source)
    with tempfile.TemporaryDirectory(prefix="vendor-drive-") as site:
        package = Path(site, "vendored_integration")
        ignored = shutil.ignore_patterns("_vendor", "__pycache__")
        shutil.copytree(ROOT / package.name, package, ignore=ignored)
        write(vendored, package / "_vendor")
        wanted = f"--target={site}", str(source.wheel), DJANGO, "packaging"
        result = pip(python, "install", "--no-compile", *wanted)
        if result.returncode == 0:
            # -S: nothing of what is installed beside that Python.
            command = [python, "-S", "-B", "-W", "ignore", str(_REQUESTS)]
            env = {key: text for key, text in os.environ.items() if not key.startswith("SENTRY_")}
            result = run(command, {**env, "PYTHONPATH": site})
    if result.returncode != 0:
        raise RefusedError(
            "the built package does not serve a request as it has to",
            found=result.stdout.strip()[-2000:],
            next='see "When a port is refused" in CONTRIBUTING.md',
        )


def _python(source: Upstream) -> str:
    """An interpreter that the release says it is for: this one, or another on PATH.

    Up to 2.7 the SDK cannot report an error on Python 3.13, which it does not name.
    """
    (metadata,) = (name for name in source.contents if name.endswith(".dist-info/METADATA"))
    classifiers = rb"Classifier: Programming Language :: Python :: 3\.(\d+)"
    minors = sorted(map(int, re.findall(classifiers, source.contents[metadata])))
    if sys.version_info[1] in minors:
        return sys.executable
    for minor in reversed(minors):
        python = shutil.which(f"python3.{minor}")
        # What pyenv puts there need not work.
        if python and run([python, "-m", "pip", "--version"]).returncode == 0:
            return python
    raise PipelineError(
        f"sentry-sdk {source.release}: no Python to run it with",
        expected=f"one of 3.{', 3.'.join(map(str, minors))}, with pip",
        found=f"3.{sys.version_info[1]}",
        next="install one of them, so that its name (python3.12) is on PATH",
    )
