"""What a build carries, as data: from the lock, and from nothing else.

`_vendor/provenance.json` goes into the package, where `python -m vendored_integration`
reads it; the SBOM is made from it too.
"""

from __future__ import annotations

import json
from typing import Any

from . import extract, lock, releases
from .lock import Lock

FORMAT = 1
NAME = "provenance.json"
PACKAGE = "vendored-integration"
SDK = "sentry-sdk"


def statement(release: str, locked: Lock, generated: dict[str, bytes]) -> dict[str, Any]:
    """`generated` are files of _vendor/ that upstream has no part in."""
    wheel = locked.releases[release]
    files = {
        **locked.files,
        **{name: {"vendored": lock.sha256(data)} for name, data in generated.items()},
    }
    return {
        "format": FORMAT,
        "package": {
            "name": PACKAGE,
            "version": releases.version(release),
            "license": extract.LICENSE_ID,
        },
        "upstream": {
            "name": SDK,
            "version": release,
            "wheel": wheel["wheel"],
            "sha256": wheel["sha256"],
            "license": extract.LICENSE_ID,
            "license_sha256": wheel["license"],
        },
        "directory": f"patches/{locked.directory.name}",
        "patches": locked.patches,
        "files": files,
    }


def dump(content: dict[str, Any]) -> bytes:
    """The one text that says this: same input, same bytes."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8")
