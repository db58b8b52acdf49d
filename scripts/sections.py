#!/usr/bin/env python3
"""Write the generated sections of the pages: what was measured, and the tests for faults.

    python3 scripts/sections.py            write them
    python3 scripts/sections.py --check    exit 1 if a page has another one

A section stands between the lines `<!-- name -->` and `<!-- /name -->`. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def makers() -> list[tuple[str, str, Callable[[], str]]]:
    """Page, name of the section, and what makes it."""
    sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
    import outage
    import tables

    import faults
    import soak

    return [
        ("benchmarks/README.md", "benchmarks", lambda: tables.section(kept("results.json"))),
        (
            "docs/reliability.md",
            "soak",
            lambda: "\n".join(
                [soak.section(kept("soak.json")), outage.section(kept("outage.json"))]
            ),
        ),
        ("docs/reliability.md", "faults", lambda: faults.section(ROOT)),
    ]


def update(check: bool) -> int:
    """Write the sections, or compare them; the exit status."""
    status = 0
    for page, name, make in makers():
        path = ROOT / page
        try:
            text = path.read_text("utf-8")
            made = make()
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return _fail(f"{page}, section {name}: cannot be made: {error!r}", "git status")
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not end:
            return _fail(f"{page}: expected the lines <!-- {name} --> and <!-- /{name} -->", "")
        wanted = f"{before}{begin}{made}{end}{after}"
        if wanted != text and check:
            status = _fail(f"{page}: another section {name}", "python3 scripts/sections.py")
        elif wanted != text:
            path.write_text(wanted, "utf-8")
            print(f"{page}: section {name} written")
    return status


def _fail(problem: str, command: str) -> int:
    print(f"error: {problem}" + (f"\n  next: {command}" if command else ""), file=sys.stderr)
    return 1


# -- what the makers share


def kept(name: str) -> Any:
    """The content of a file of results."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def keep(name: str, content: Any) -> int:
    """Write a file of results, and the sections; the exit status."""
    (RESULTS / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"benchmarks/results/{name}: written")
    return update(check=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = True) -> str:
    """A table in Markdown; with `numbers` all columns but the first are on the right."""
    rules = ["---", *["---:" if numbers else "---"] * (len(columns) - 1)]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [columns, *rows]]
    lines.insert(1, "|" + "|".join(rules) + "|")
    return "\n".join(lines) + "\n"


def about(*distributions: str) -> dict[str, Any]:
    """When, where and with which installed versions something is measured."""
    installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: installed[name] for name in distributions if name in installed},
    }


def measured(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"\nMeasured: {about['date']}, Python {about['python']}, {about['cores']} cores, {versions}.\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare; exit 1 if one differs")
    return update(parser.parse_args(argv).check)


if __name__ == "__main__":
    sys.exit(main())
