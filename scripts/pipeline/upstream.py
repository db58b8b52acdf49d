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
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterable, Mapping

from packaging.version import Version

from .errors import DamagedError, PipelineError
from .releases import OLDEST, ROOT, Lock, compare, hashes, parse, sha256

# Where wheels are kept; the variable lets several checkouts share one directory.
CACHE = Path(os.environ.get("VENDOR_CACHE") or ROOT / ".cache" / "wheels")

# The SDK's file name -> the name below _vendor/. Whatever lies in the folder is taken,
# so that `verify` sees what upstream has added.
_VENDORED = re.compile(r"sentry_sdk/integrations/(wsgi\.py|wsgi/.+|django/(?!.*__pycache__).+)")
# Up to 2.25 the licence lay one level higher.
_LICENSE = re.compile(r"sentry_sdk-[^/]+\.dist-info/(?:licenses/)?LICENSE")
# What the licence has to be: another one may not allow to copy, or ask for more.
LICENSE_ID = "MIT"
_LICENSE_TITLE = "MIT License"
# Unpacked, the SDK has 3 MB.
_LIMIT = 50_000_000


@dataclass(frozen=True)
class Upstream:
    """One SDK release: its files by their path below `integrations/`, its licence."""

    release: str
    files: dict[str, bytes]
    license: bytes
    wheel: Path | None = None
    contents: Mapping[str, bytes] = field(default_factory=dict)
    """All that the wheel has, by path."""


def fetch(release: str, lock: Lock | None, find_links: str | None = None) -> Path:
    """Return the path of the release's wheel, checked against the lock.

    Without a lock (a release that is being added) it is downloaded anew: nothing but
    the hash that the index gives to pip vouches for it.

    :param find_links: a directory to take it from.
    """
    cached = sorted(CACHE.glob(f"sentry_sdk-{release}-*.whl"))
    wheel = cached[0] if cached and lock else _download(release, find_links)
    if lock is not None:
        locked = lock.releases[release]
        compare(
            f"the wheel of sentry-sdk {release} is not the one in patches/{lock.directory}",
            {locked["wheel"]: locked["sha256"]},
            {wheel.name: sha256(wheel.read_bytes())},
            f"rm {wheel}, then the same command again",
        )
    return wheel


def listed(known: Iterable[str], find_links: str | None = None) -> list[str]:
    """The final releases that the index has, and those that are known; oldest first.

    :raises PipelineError: the index cannot be reached.
    """
    # pip lists all that there is when it is asked for what cannot be, and only then the
    # yanked releases too, which somebody may have pinned. `pip index versions` does not.
    said = _pip("sentry-sdk==0", tempfile.gettempdir(), find_links)
    match = re.search(r"\(from versions: ([^)]*)\)", said)
    if not match or match[1] == "none":
        raise PipelineError("pip could not list the releases of sentry-sdk", found=_said(said))
    versions = [Version(text) for text in match[1].split(", ")]
    final = [v for v in versions if v >= OLDEST and not v.is_prerelease and not v.is_postrelease]
    return sorted({*known, *(parse(str(version)) for version in final)}, key=Version)


def _download(release: str, find_links: str | None) -> Path:
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        # A directory of its own, so that a download that breaks off leaves no half wheel.
        temporary = tempfile.TemporaryDirectory(dir=CACHE)
    except OSError as error:
        raise PipelineError(
            f"{CACHE}: the SDK's wheels cannot be kept there",
            expected="a directory that can be written to",
            found=error.strerror or str(error),
            next="set VENDOR_CACHE to another directory",
        ) from error
    with temporary as directory:
        said = _pip(f"sentry-sdk=={release}", directory, find_links)
        wheels = sorted(Path(directory).glob("*.whl"))
        if not wheels:
            kind = DamagedError if "invalid" in said else PipelineError
            raise kind(
                f"sentry-sdk {release}: pip could not download the wheel",
                found=_said(said),
                next="python3 scripts/vendor.py status   (lists the releases)",
            )
        return wheels[0].replace(CACHE / wheels[0].name)


def _pip(requirement: str, directory: str, find_links: str | None) -> str:
    """Download into the directory; return what pip prints."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:"]
    if find_links:
        command += ["--no-index", f"--find-links={find_links}"]
    command += [f"--dest={directory}", requirement]
    return run(command).stdout


def run(
    command: list[str], env: Mapping[str, str] | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program; what it prints is kept, both streams together."""
    return subprocess.run(
        command,
        env=env,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
    )


def _said(output: str) -> str:
    """pip's own words, without the list of all versions and all retries but the last."""
    lines = re.sub(r" \(from versions: [^)]*\)", "", output).strip().splitlines()
    retries = [line for line in lines if line.startswith("WARNING: Retrying")]
    return "\n".join(line for line in lines if line not in retries[:-1]) or "no output"


def read_wheel(release: str, wheel: Path) -> Upstream:
    """Read what is vendored out of a wheel.

    :raises DamagedError: it cannot be read, or has another layout.
    """
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
    files, license = _extract(str(wheel), contents, contents.__getitem__)
    return Upstream(release, files, license, wheel, contents)


def read_installed(release: str) -> Upstream:
    """Read the SDK that pip has installed beside this build."""
    install = f"{sys.executable} -m pip install sentry-sdk=={release}"
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
            next=f"{install}   (or {instead}build without --no-build-isolation)",
        )
    paths = {
        str(path).replace("\\", "/"): Path(str(distribution.locate_file(path)))
        for path in distribution.files or ()
    }
    there = [name for name, path in paths.items() if path.is_file()]
    source = f"the installed sentry-sdk {release}"
    return Upstream(release, *_extract(source, there, lambda name: paths[name].read_bytes()))


def _extract(
    source: str, names: Iterable[str], read: Callable[[str], bytes]
) -> tuple[dict[str, bytes], bytes]:
    files, licenses = {}, []
    for name in sorted(names):
        vendored = _VENDORED.fullmatch(name)
        if vendored and not name.endswith("/"):
            files[vendored[1]] = read(name)
        elif _LICENSE.fullmatch(name):
            licenses.append(read(name))
    return files, licenses[0] if licenses else b""


def check_license(upstream: Upstream) -> None:
    """For a release that is being ported: its lock vouches for the licence from then on."""
    title = upstream.license.decode("utf-8", "replace").split("\n")[0]
    if title != _LICENSE_TITLE:
        raise DamagedError(
            f"sentry-sdk {upstream.release}: no licence, or another one",
            expected=f"a file LICENSE that begins with {_LICENSE_TITLE}",
            found=title or "none",
            next="read it; do not go on before it is clear that it allows this",
        )


def check(upstream: Upstream, lock: Lock) -> None:
    """Compare the files with those in the lock."""
    compare(
        f"the files of sentry-sdk {upstream.release} are not those in patches/{lock.directory}",
        {**lock.upstream, "LICENSE": lock.releases[upstream.release]["license"]},
        hashes({**upstream.files, "LICENSE": upstream.license}),
        f"pip install --force-reinstall --no-deps sentry-sdk=={upstream.release}",
    )
