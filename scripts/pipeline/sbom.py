"""The same as the provenance, for scanners: a CycloneDX document.

PEP 770 says where it lies in a wheel: <name>.dist-info/sboms/. It has neither a
timestamp nor a serial number (both are optional): same input, same bytes.
"""

from __future__ import annotations

from typing import Any

from .patchqueue import Patch
from .provenance import dump

NAME = "vendored-integration.cdx.json"


def document(provenance: dict[str, Any], patches: list[Patch]) -> bytes:
    package, upstream = provenance["package"], provenance["upstream"]
    files = provenance["files"]
    content = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _library("main", package)},
        "components": [
            {
                **_library("vendored", upstream),
                "description": (
                    f"{len(_upstreams(files))} files of the release, patched, "
                    "as vendored_integration/_vendor/"
                ),
                "components": [
                    _file(f"vendored_integration/_vendor/{name}", hashes["vendored"])
                    for name, hashes in sorted(_upstreams(files).items())
                ],
                # The patched files are not the release any more: its hash belongs to
                # the ancestor.
                "pedigree": {
                    "ancestors": [
                        {
                            **_library("upstream", upstream),
                            "hashes": _hashes(upstream["sha256"]),
                            "externalReferences": [
                                {
                                    "type": "distribution",
                                    "url": upstream["wheel"],
                                    "hashes": _hashes(upstream["sha256"]),
                                }
                            ],
                            "components": [
                                _file(f"sentry_sdk/integrations/{name}", hashes["upstream"])
                                for name, hashes in sorted(_upstreams(files).items())
                            ],
                        }
                    ],
                    "patches": [
                        {
                            "type": "unofficial",
                            "diff": {
                                "url": f"{provenance['directory']}/{patch.name}",
                                "text": {
                                    "contentType": "text/x-diff",
                                    "content": f"{patch.header}\n\n{patch.diff}",
                                },
                            },
                        }
                        for patch in patches
                    ],
                    "notes": (
                        "Before the patches are applied, imports of the vendored modules "
                        "are made to point to each other; after it, each file gets a last "
                        "statement that sets its __name__."
                    ),
                },
            }
        ],
        "dependencies": [
            {"ref": "main", "dependsOn": ["vendored"]},
            {"ref": "vendored"},
        ],
    }
    return dump(content)


def _upstreams(files: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Those that come from upstream."""
    return {name: hashes for name, hashes in files.items() if "upstream" in hashes}


def _library(ref: str, stated: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": ref,
        "name": stated["name"],
        "version": stated["version"],
        "purl": f"pkg:pypi/{stated['name']}@{stated['version']}",
        "licenses": [{"license": {"id": stated["license"]}}],
    }


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {"type": "file", "name": name, "hashes": _hashes(sha256)}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
