"""The provenance for scanners: a CycloneDX document.

PEP 770 says where it lies in a wheel: <name>.dist-info/sboms/. It has neither a
timestamp nor a serial number (both are optional): same input, same bytes. The hash of
each file is in the wheel's RECORD.
"""

from __future__ import annotations

from typing import Any, Mapping

NAME = "vendored-integration.cdx.json"
_NOTES = """\
Before the patches are applied, imports of the vendored modules are made to point to each other; \
after it, each file gets a last statement that sets its __name__."""


def document(provenance: Mapping[str, Any], patches: Mapping[str, bytes]) -> dict[str, Any]:
    vendored = _library("vendored", provenance["upstream"])
    # The patched files are not the release any more: its hash belongs to the ancestor.
    release = _library("upstream", provenance["upstream"])
    release["hashes"] = [{"alg": "SHA-256", "content": provenance["upstream"]["sha256"]}]
    diffs = [{"contentType": "text/x-diff", "content": data.decode()} for data in patches.values()]
    vendored["pedigree"] = {
        "ancestors": [release],
        "patches": [{"type": "unofficial", "diff": {"text": diff}} for diff in diffs],
        "notes": _NOTES,
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _library("main", provenance["package"])},
        "components": [vendored],
        "dependencies": [{"ref": "main", "dependsOn": ["vendored"]}, {"ref": "vendored"}],
    }


def _library(ref: str, stated: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": ref,
        "name": stated["name"],
        "version": stated["version"],
        "purl": f"pkg:pypi/{stated['name']}@{stated['version']}",
        "licenses": [{"license": {"id": stated["license"]}}],
    }
