"""What this build carries, and whether it is still there, byte for byte.

Needs nothing but the files: neither the SDK nor the generated modules are imported.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).absolute().parent / "_vendor"
PATH = VENDOR / "provenance.json"
FORMAT = 1


class ProvenanceError(Exception):
    """There is no statement that could be read."""


def load() -> dict[str, Any]:
    """What the build states: see scripts/pipeline/provenance.py.

    :raises ProvenanceError: it is missing or damaged.
    """
    try:
        content: dict[str, Any] = json.loads(PATH.read_bytes().decode("utf-8"))
        found = content["format"]
    except FileNotFoundError:
        raise ProvenanceError(f"{_short(PATH)}: missing") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ProvenanceError(f"{_short(PATH)}: damaged: {error}") from None
    if found != FORMAT:
        raise ProvenanceError(f"{_short(PATH)}: expected format {FORMAT}, found {found}")
    return content


def look() -> tuple[dict[str, Any] | None, dict[str, str], str]:
    """Return the statement, what differs from it, and why there is none if there is none."""
    try:
        provenance = load()
        return provenance, differences(provenance["files"]), ""
    except ProvenanceError as error:
        return None, {}, str(error)


def differences(files: dict[str, dict[str, str]]) -> dict[str, str]:
    """Each file that is not as stated -> how it differs."""
    expected = {name: hashes["vendored"] for name, hashes in files.items()}
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path != PATH and "__pycache__" not in path.parts
    }
    problems = {}
    for name in sorted({*expected, *found}):
        if name not in found:
            problems[name] = f"missing, expected {expected[name]}"
        elif name not in expected:
            problems[name] = f"extra, found {found[name]}"
        elif expected[name] != found[name]:
            problems[name] = f"expected {expected[name]}, found {found[name]}"
    return problems


def _short(path: Path) -> str:
    return path.relative_to(VENDOR.parents[1]).as_posix()
