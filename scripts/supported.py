"""Which releases of sentry-sdk there are patches for. Standard library only.

For what has to refuse another one on a machine that has only Python; the build itself
asks pipeline/releases.py, which also looks whether the locks are right.
"""

import argparse
import json
import os
from pathlib import Path
from typing import List, Tuple

PATCHES = Path(__file__).resolve().parents[1] / "patches"


def releases() -> List[str]:
    """Those that the locks list, the oldest first."""
    found = set()
    for path in PATCHES.glob("*/lock.json"):
        try:
            found.update(json.loads(path.read_text(encoding="utf-8"))["releases"])
        except (ValueError, LookupError, TypeError):
            name = f"patches/{path.parent.name}/{path.name}"
            raise argparse.ArgumentTypeError(
                f"{name}: damaged\n  next: git checkout -- {name}"
            ) from None
    if not found:
        raise argparse.ArgumentTypeError("no locks in patches/\n  next: git checkout -- patches")
    return sorted(found, key=numbers)


def numbers(release: str) -> Tuple[int, ...]:
    """2.10.0 comes after 2.9.0."""
    return tuple(map(int, release.split(".")))


def release(text: str) -> str:
    """The type of an argument of argparse: a release; 2.75 is 2.75.0."""
    known = releases()
    name = text + ".0" * (2 - text.count("."))
    if name not in known:
        raise argparse.ArgumentTypeError(
            f"sentry-sdk {text}: there are no patches for it\n"
            f"  expected: one of {len(known)}, {known[0]} to {known[-1]}\n"
            "  next: python3 scripts/vendor.py status   (lists the releases)"
        )
    return name


def add_option(parser: argparse.ArgumentParser) -> None:
    """--sdk, of what builds this checkout."""
    parser.add_argument(
        "--sdk",
        type=release,
        metavar="RELEASE",
        # It would decide all the same, when pip has fetched all that the build needs.
        default=os.environ.get("SENTRY_SDK_VERSION") or None,
        help="build for this sentry-sdk (default: SENTRY_SDK_VERSION if that is set, or the "
        "newest that patches/ supports)",
    )
