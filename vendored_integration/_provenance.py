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


def look() -> tuple[dict[str, Any] | None, dict[str, str], str]:
    """Return what the build states (see scripts/pipeline/package.py), each file that is
    not as stated -> how it differs, and why there is no statement if there is none.
    """
    name = PATH.relative_to(VENDOR.parents[1]).as_posix()
    try:
        stated = json.loads(PATH.read_text("utf-8"))
        if stated["format"] != FORMAT:
            return None, {}, f"{name}: expected format {FORMAT}, found {stated['format']}"
        expected = {file: hashes["vendored"] for file, hashes in stated["files"].items()}
    except FileNotFoundError:
        return None, {}, f"{name}: missing"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return None, {}, f"{name}: damaged: {error}"
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path != PATH and "__pycache__" not in path.parts
    }
    differences = {
        file: f"expected {expected.get(file, 'no such file')}, found {found.get(file, 'none')}"
        for file in sorted({*expected, *found})
        if expected.get(file) != found.get(file)
    }
    return stated, differences, ""
