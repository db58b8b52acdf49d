"""The same as the provenance, for scanners: a CycloneDX document.

PEP 770 says where it lies in a wheel: <name>.dist-info/sboms/. It has neither a
timestamp nor a serial number (both are optional): same input, same bytes.
"""

from __future__ import annotations

from typing import Any, Mapping

NAME = "vendored-integration.cdx.json"
_NOTES = """\
Before the patches are applied, imports of the vendored modules are made to point to each other; \
after it, each file gets a last statement that sets its __name__."""


def document(provenance: Mapping[str, Any], patches: Mapping[str, str]) -> dict[str, Any]:
    upstream = provenance["upstream"]
    files = {name: file for name, file in provenance["files"].items() if "upstream" in file}
    wheel = {"type": "distribution", "url": upstream["wheel"], "hashes": _sha(upstream["sha256"])}
    # The patched files are not the release any more: its hash belongs to the ancestor.
    ancestor = {
        **_library("upstream", upstream),
        "hashes": _sha(upstream["sha256"]),
        "externalReferences": [wheel],
        "components": _files("sentry_sdk/integrations", files, "upstream"),
    }
    vendored = {
        **_library("vendored", upstream),
        "description": f"{len(files)} files of the release, patched, "
        "as vendored_integration/_vendor/",
        "components": _files("vendored_integration/_vendor", files, "vendored"),
        "pedigree": {
            "ancestors": [ancestor],
            "patches": [
                {"type": "unofficial", "diff": _diff(f"{provenance['directory']}/{name}", text)}
                for name, text in patches.items()
            ],
            "notes": _NOTES,
        },
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


def _files(where: str, files: Mapping[str, Mapping[str, str]], key: str) -> list[dict[str, Any]]:
    return [
        {"type": "file", "name": f"{where}/{name}", "hashes": _sha(file[key])}
        for name, file in sorted(files.items())
    ]


def _diff(url: str, text: str) -> dict[str, Any]:
    return {"url": url, "text": {"contentType": "text/x-diff", "content": text}}


def _sha(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
