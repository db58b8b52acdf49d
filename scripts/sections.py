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
from typing import Any, Callable, Iterable, Sequence

import environment

ROOT = environment.ROOT
RESULTS = ROOT / "benchmarks" / "results"


def makers() -> list[tuple[str, str, Callable[[], str]]]:
    """Page, name of the section, and what makes it."""
    sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "benchmarks")]
    import outage
    import tables

    import faults
    import soak

    def reliability() -> str:
        return soak.section(kept("soak.json")) + "\n" + outage.section(kept("outage.json"))

    return [
        ("benchmarks/README.md", "benchmarks", lambda: tables.section(kept("results.json"))),
        ("docs/reliability.md", "soak", reliability),
        ("docs/reliability.md", "faults", lambda: faults.section(ROOT)),
    ]


def update(check: bool) -> int:
    """Write the sections, or compare them; the exit status."""
    status = 0
    for page, name, make in makers():
        path = ROOT / page
        try:
            text = path.read_text("utf-8")
            before, begin, rest = text.partition(f"<!-- {name} -->\n")
            _, end, after = rest.partition(f"<!-- /{name} -->")
            wanted = f"{before}{begin}{make()}{end}{after}"
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise environment.Refused(
                f"{page}, section {name}: cannot be made: {error!r}"
            ) from None
        if not end:
            raise environment.Refused(
                f"{page}: expected the lines <!-- {name} --> and <!-- /{name} -->"
            )
        if wanted != text and check:
            print(f"{page}: another section {name}\n  next: python3 scripts/sections.py")
            status = 1
        elif wanted != text:
            path.write_text(wanted, "utf-8")
            print(f"{page}: section {name} written")
    return status


# -- what the makers share


def kept(name: str) -> Any:
    """The content of a file of results."""
    return json.loads((RESULTS / name).read_text("utf-8"))


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a script that measures what is installed."""
    parser = environment.parser_of(doc, installs=True)
    parser.add_argument("--write", action="store_true", help="keep the result, and write the page")
    return parser


def conclude(name: str, found: Any, wrong: Sequence[str], write: bool) -> int:
    """Say what is wrong, or keep the result and write the sections; the exit status."""
    for line in wrong:
        print(f"wrong: {line}")
    if wrong or not write:
        return 1 if wrong else 0
    (RESULTS / name).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"benchmarks/results/{name}: written")
    return update(check=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: bool = True) -> str:
    """A table in Markdown; with `numbers` all columns but the first are on the right."""
    rules = ["---", *["---:" if numbers else "---"] * (len(columns) - 1)]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [columns, *rows]]
    lines.insert(1, "|" + "|".join(rules) + "|")
    return "\n".join(lines) + "\n"


def about(*distributions: str, besides: Sequence[str] = ()) -> dict[str, Any]:
    """When, where and with which installed versions something is measured.

    :param besides: where others are installed.
    """
    found = metadata.distributions(path=[*besides, *sys.path])
    installed = {one.metadata["Name"]: one.version for one in found}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {name: installed[name] for name in distributions if name in installed},
    }


def measured(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return f"\nMeasured: {about['date']}, Python {about['python']}, {about['cores']} cores, {versions}.\n"


if __name__ == "__main__":
    parser = environment.parser_of(__doc__)
    parser.add_argument("--check", action="store_true", help="compare; exit 1 if one differs")
    sys.exit(update(parser.parse_args().check))
