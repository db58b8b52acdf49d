"""Get a release of the SDK, through pip, and read what is vendored.

Files are read as bytes; nothing of the SDK is ever imported or run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from subprocess import PIPE, STDOUT, CompletedProcess
from typing import Mapping

from .errors import DamagedError, PipelineError
from .releases import OLDEST, RELEASE, ROOT, Lock, compare, hashes, numbers, sha256

# Where wheels are kept; the variable lets several checkouts share one directory.
CACHE = Path(os.environ.get("VENDOR_CACHE") or ROOT / ".cache" / "wheels")

# The SDK's file name -> the name below _vendor/. Whatever lies in the folder is taken,
# so that `verify` sees what upstream has added.
_VENDORED = re.compile(
    r"sentry_sdk/integrations/(wsgi\.py|(?:wsgi|django)/(?!.*__pycache__).*(?<!/))"
)
# Up to 2.25 the licence lay one level higher.
_LICENSE = re.compile(r"sentry_sdk-[^/]+\.dist-info/(?:licenses/)?LICENSE")
LICENSE_ID = "MIT"
# Unpacked, the SDK has 3 MB.
_LIMIT = 50_000_000


@dataclass(frozen=True)
class Upstream:
    """One SDK release."""

    release: str
    contents: Mapping[str, bytes]
    """All that it installs, by path."""
    wheel: Path | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """What is vendored, by the path below `integrations/`."""
        matches = map(_VENDORED.fullmatch, sorted(self.contents))
        return {match[1]: self.contents[match[0]] for match in matches if match}

    @property
    def license(self) -> bytes:
        return next(
            (self.contents[name] for name in self.contents if _LICENSE.fullmatch(name)), b""
        )


def fetch(release: str, lock: Lock | None) -> Upstream:
    """Return the release as its wheel has it, checked against the lock.

    Without a lock (a release that is being added) it is downloaded anew: nothing but
    the hash that the index gives to pip vouches for it.

    :raises DamagedError: it is another wheel, or cannot be read.
    """
    cached = sorted(CACHE.glob(f"sentry_sdk-{release}-*.whl"))
    wheel = cached[0] if cached and lock else _download(release)
    if lock is not None:
        locked = lock.releases[release]
        compare(
            f"the wheel of sentry-sdk {release} is not the one in patches/{lock.directory}",
            {locked["wheel"]: locked["sha256"]},
            {wheel.name: sha256(wheel.read_bytes())},
            f"rm {wheel}, then the same command again",
        )
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > _LIMIT:
                raise zipfile.BadZipFile(f"{size:,} bytes when unpacked, more than {_LIMIT:,}")
            contents = {name: archive.read(name) for name in archive.namelist()}
    # Encrypted: RuntimeError; a compression that nobody knows: NotImplementedError.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise DamagedError(
            f"{wheel}: not a wheel that can be read", found=str(error), next=f"rm {wheel}"
        ) from error
    return Upstream(release, contents, wheel)


def _download(release: str) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    # A directory of its own, so that a download that breaks off leaves no half wheel.
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        said = _pip_download(f"sentry-sdk=={release}", directory)
        for wheel in Path(directory).glob("*.whl"):
            return wheel.replace(CACHE / wheel.name)
    raise (DamagedError if "invalid" in said else PipelineError)(
        f"sentry-sdk {release}: pip could not download the wheel",
        found=_said(said),
        next="python3 scripts/vendor.py status   (lists the releases)",
    )


def listed() -> list[str]:
    """The releases that the index has, the oldest first; pre-releases are among them.

    :raises PipelineError: the index cannot be reached.
    """
    # pip lists all that there is when it is asked for what cannot be, and only then the
    # yanked releases too, which somebody may have pinned. `pip index versions` does not.
    said = _pip_download("sentry-sdk==0", tempfile.gettempdir())
    match = re.search(r"\(from versions: ([^)]*)\)", said)
    found = [text for text in (match[1] if match else "").split(", ") if RELEASE.fullmatch(text)]
    if not found:
        raise PipelineError("pip could not list the releases of sentry-sdk", found=_said(said))
    return sorted((text for text in found if numbers(text) >= numbers(OLDEST)), key=numbers)


def _pip_download(requirement: str, directory: str) -> str:
    """Return what pip prints."""
    options = ["--no-deps", "--only-binary=:all:", f"--dest={directory}"]
    return pip(sys.executable, "download", *options, requirement).stdout


def pip(python: str, command: str, *args: str, **env: str) -> CompletedProcess[str]:
    quiet = [python, "-m", "pip", command, "--quiet", "--disable-pip-version-check"]
    return run([*quiet, *args], {**os.environ, **env})


def run(command: list[str], env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run a program; what it prints is kept, both streams together."""
    return subprocess.run(command, env=env, stdout=PIPE, stderr=STDOUT, text=True, errors="replace")


def _said(output: str) -> str:
    """pip's own words, without the list of all versions and all retries but the last."""
    lines = re.sub(r" \(from versions: [^)]*\)", "", output).strip().splitlines()
    retries = [line for line in lines if line.startswith("WARNING: Retrying")]
    return "\n".join(line for line in lines if line not in retries[:-1]) or "no output"


def read_installed(release: str) -> Upstream:
    """Read the SDK that pip has installed beside this build.

    :raises PipelineError: there is none, or another one.
    """
    try:
        distribution = metadata.distribution("sentry-sdk")
        found = distribution.version
    except metadata.PackageNotFoundError:
        found = ""
    if found != release:
        instead = f"SENTRY_SDK_VERSION={found}, or " if found else ""
        raise PipelineError(
            "building vendored-integration needs exactly the SDK that it is made from",
            expected=f"sentry-sdk {release}, installed beside the build requirements",
            found=f"sentry-sdk {found}" if found else "no sentry-sdk",
            next=f"{sys.executable} -m pip install sentry-sdk=={release}   "
            f"(or {instead}build without --no-build-isolation)",
        )
    paths = {str(path): Path(str(path.locate())) for path in distribution.files or ()}
    there = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    return Upstream(release, there)


def check(upstream: Upstream, lock: Lock) -> None:
    """Compare the files with those in the lock.

    :raises DamagedError: some differ.
    """
    compare(
        f"the files of sentry-sdk {upstream.release} are not those in patches/{lock.directory}",
        {**lock.upstream, "LICENSE": lock.releases[upstream.release]["license"]},
        hashes({**upstream.files, "LICENSE": upstream.license}),
        f"pip install --force-reinstall --no-deps sentry-sdk=={upstream.release}",
    )
