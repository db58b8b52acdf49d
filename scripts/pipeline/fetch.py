"""Get the SDK's wheel from the package index, through pip."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from . import lock
from .errors import FetchError
from .releases import ROOT

# Where wheels are kept; the variable lets several checkouts share one directory.
CACHE = Path(os.environ.get("VENDOR_CACHE") or ROOT / ".cache" / "wheels")


def fetch(release: str, locked: lock.Lock | None) -> Path:
    """Return the path of the release's wheel, checked against the lock.

    Without a lock (a release that is being added) there is nothing to check
    against but what pip has checked: the index's own hash.
    """
    cached = sorted(CACHE.glob(f"sentry_sdk-{release}-*.whl"))
    wheel = cached[0] if cached else _download(release)
    if locked is not None:
        lock.check_wheel(locked, release, wheel)
    return wheel


def _download(release: str) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    # A directory of its own, so that a download that breaks off leaves no half wheel.
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += [f"--dest={directory}", f"sentry-sdk=={release}"]
        result = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True)
        wheels = sorted(Path(directory).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise FetchError(
                f"sentry-sdk {release}: pip could not download the wheel",
                found=result.stderr.strip() or "no output",
                next=" ".join([*command[:-2], f"--dest={CACHE}", command[-1]]),
            )
        return wheels[0].replace(CACHE / wheels[0].name)
