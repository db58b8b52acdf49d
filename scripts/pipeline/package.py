"""The files of vendored_integration/_vendor/ for one release, checked against its lock."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Mapping

from . import patch, releases, sbom, upstream
from .releases import Lock, compare, hashes, supported
from .upstream import Upstream

FORMAT = 1
STATEMENT = "provenance.json"

_PACKAGE = '''\
"""Generated from sentry-sdk {release} by scripts/vendor.py, do not edit.

Mirrors sentry_sdk/integrations/: wsgi.py and django/, patched.
"""

SENTRY_SDK_RELEASE = "{release}"
REVISION = {revision}
'''


def vendor(source: Upstream) -> dict[str, bytes]:
    """Patch the release's files; every step is checked against the lock."""
    lock = supported()[source.release]
    upstream.check(source, lock)
    texts = patch.apply(lock.read_patches(), patch.rewrite_imports(source.files))
    files = patch.finish(texts)
    compare(
        f"the patched files are not those in patches/{lock.directory}",
        {name: file["vendored"] for name, file in lock.files.items()},
        hashes(files),
        "if scripts/pipeline has changed: python3 scripts/vendor.py port --all",
    )
    return {**files, **generated(source.release), STATEMENT: dump(statement(source.release, lock))}


def vendor_installed(release: str, directory: Path) -> None:
    """What `pip install` runs: the SDK is the one installed beside the build."""
    write(vendor(upstream.read_installed(release)), directory)


def license_installed(release: str) -> bytes:
    """The installed SDK's licence, checked against the lock."""
    source = upstream.read_installed(release)
    upstream.check(source, supported()[release])
    return source.license


def sbom_text(release: str) -> bytes:
    """What the wheel carries, as an SBOM."""
    lock = supported()[release]
    return dump(sbom.document(statement(release, lock), lock.read_patches()))


def generated(release: str) -> dict[str, bytes]:
    """The files of _vendor/ that upstream has no part in."""
    text = _PACKAGE.format(release=release, revision=releases.REVISION)
    return {"__init__.py": text.encode("utf-8")}


def statement(release: str, lock: Lock) -> dict[str, Any]:
    """What a build carries, from the lock and nothing else.

    It goes into the package, where `python -m vendored_integration` reads it.
    """
    wheel = lock.releases[release]
    own = {name: {"vendored": found} for name, found in hashes(generated(release)).items()}
    return {
        "format": FORMAT,
        "package": {
            "name": "vendored-integration",
            "version": releases.version(release),
            "license": upstream.LICENSE_ID,
        },
        "upstream": {
            "name": "sentry-sdk",
            "version": release,
            "wheel": wheel["wheel"],
            "sha256": wheel["sha256"],
            "license": upstream.LICENSE_ID,
            "license_sha256": wheel["license"],
        },
        "directory": f"patches/{lock.directory}",
        "patches": lock.patches,
        "files": {**lock.files, **own},
    }


def dump(content: Mapping[str, Any]) -> bytes:
    """The one text that says this: same input, same bytes."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8")


def write(files: Mapping[str, bytes], directory: Path) -> None:
    """Make the directory hold exactly these files, all of them or nothing."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, or the renames would be copies.
    with tempfile.TemporaryDirectory(prefix=".vendor-", dir=directory.parent) as name:
        new, old = Path(name, "new"), Path(name, "old")
        for path, data in files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if directory.exists():
            directory.rename(old)
        try:
            new.rename(directory)
        except OSError:
            if old.exists():
                old.rename(directory)
            raise


def read(directory: Path) -> dict[str, bytes]:
    """The files of the directory, without what running them leaves there."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__"
    }
