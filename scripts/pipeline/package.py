"""The files of vendored_integration/_vendor/ for one release, checked against its lock."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Mapping

from . import patch, releases, sbom, upstream
from .releases import Lock, compare, dump, hashes
from .upstream import LICENSE_ID, Upstream

FORMAT = 1

_PACKAGE = '''\
"""Generated from sentry-sdk {release} by scripts/vendor.py, do not edit.

Mirrors sentry_sdk/integrations/: wsgi.py and django/, patched.
"""

SENTRY_SDK_RELEASE = "{release}"
VERSION = "{version}"
'''


def vendor(source: Upstream) -> dict[str, bytes]:
    """Patch the release's files; every step is checked against the lock."""
    lock = releases.supported()[source.release]
    upstream.check(source, lock)
    files = patch.finish(patch.apply(lock.patches, patch.rewrite_imports(source.files)))
    compare(
        f"the patched files are not those in patches/{lock.directory}",
        {name: file["vendored"] for name, file in lock.files.items()},
        hashes(files),
        "if scripts/pipeline has changed: python3 scripts/vendor.py port --all",
    )
    stated = dump(statement(source.release, lock))
    return {**files, **generated(source.release), "provenance.json": stated}


def vendor_installed(release: str, directory: Path) -> None:
    """What `pip install` runs: the SDK is the one installed beside the build."""
    write(vendor(upstream.read_installed(release)), directory)


def sbom_text(release: str) -> bytes:
    """What the wheel carries, as an SBOM."""
    lock = releases.supported()[release]
    return dump(sbom.document(statement(release, lock), lock.patches))


def generated(release: str) -> dict[str, bytes]:
    """The files of _vendor/ that upstream has no part in."""
    text = _PACKAGE.format(release=release, version=releases.version(release))
    return {"__init__.py": text.encode("utf-8")}


def statement(release: str, lock: Lock) -> dict[str, Any]:
    """What a build carries, from the lock and nothing else.

    It goes into the package, where `python -m vendored_integration` reads it.
    """
    version, wheel = releases.version(release), lock.releases[release]
    own = {name: {"vendored": found} for name, found in hashes(generated(release)).items()}
    return {
        "format": FORMAT,
        "package": {"name": "vendored-integration", "version": version, "license": LICENSE_ID},
        "upstream": {
            "name": "sentry-sdk",
            "version": release,
            "wheel": wheel["wheel"],
            "sha256": wheel["sha256"],
            "license": LICENSE_ID,
            "license_sha256": wheel["license"],
        },
        "directory": f"patches/{lock.directory}",
        "patches": lock.stated(),
        "files": {**lock.files, **own},
    }


def write(files: Mapping[str, bytes], directory: Path) -> None:
    """Make the directory hold exactly these files; no half of them is ever there."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system, or the rename would be a copy.
    with tempfile.TemporaryDirectory(prefix=".vendor-", dir=directory.parent) as name:
        new = Path(name, "new")
        for path, data in files.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        shutil.rmtree(directory, ignore_errors=True)
        new.rename(directory)
