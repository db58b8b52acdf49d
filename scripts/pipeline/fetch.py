"""Get the SDK's wheel from the package index, through pip."""

from __future__ import annotations

import os
import re
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


def said(stderr: str) -> str:
    """pip's own words, without the list of all versions and all retries but the last."""
    lines = re.sub(r" \(from versions: [^)]*\)", "", stderr).strip().splitlines()
    retries = [line for line in lines if line.startswith("WARNING: Retrying")]
    return "\n".join(line for line in lines if line not in retries[:-1]) or "no output"


def listed_versions(stderr: str) -> list[str]:
    """What pip lists when the index has not what it was asked for."""
    found = re.search(r"\(from versions: ([^)]*)\)", stderr)
    return found[1].split(", ") if found and found[1] != "none" else []


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """A directory in the cache, which is made if it is missing."""
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=CACHE)
    except OSError as error:
        raise FetchError(
            f"{CACHE}: the SDK's wheels cannot be kept there",
            expected="a directory that can be written to",
            found=error.strerror or str(error),
            next="set VENDOR_CACHE to another directory",
        ) from error


def _download(release: str) -> Path:
    # A directory of its own, so that a download that breaks off leaves no half wheel.
    with temporary_directory() as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += [f"--dest={directory}", f"sentry-sdk=={release}"]
        result = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True)
        wheels = sorted(Path(directory).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            raise FetchError(
                f"sentry-sdk {release}: pip could not download the wheel",
                found=said(result.stderr),
                next="python3 scripts/vendor.py status   (lists the releases)"
                if listed_versions(result.stderr)
                else " ".join([*command[:-2], f"--dest={CACHE}", command[-1]]),
            )
        return wheels[0].replace(CACHE / wheels[0].name)
