#!/usr/bin/env python3
"""Measure what the integration costs, beside stock and others, on a machine that has only Python.

    python3 benchmarks/run.py                  everything: half an hour
    python3 benchmarks/run.py --quick          instructions and memory of what the targets need
    python3 benchmarks/run.py --write          keep the results, and write benchmarks/README.md

Builds this checkout, and installs it and what it is compared with in .cache. Needs valgrind and
Python 3.8 or later with venv. benchmarks/README.md says what is measured.

Exit status: 0 measured, whether or not the targets are met; 1 a step has failed; 2 the command line.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import measure
import tables

import sections
from environment import Refused, go_inside


def main() -> int:
    parser = sections.parser_of(__doc__)
    parser.add_argument("--quick", action="store_true", help="what the targets need")
    options = parser.parse_args()
    if options.write and options.quick:
        parser.error("--write is for a whole run: without --quick")
    if shutil.which("valgrind") is None:
        raise Refused("valgrind is not installed\n  next: apt install valgrind")
    go_inside(options, __file__, "benchmarks", measure.SENTRY)
    systems = list(tables.SYSTEMS)[: 4 if options.quick else None]
    machine = measure.Machine(systems)
    values = measure.count(machine, systems, options.quick)
    names = ["Django", "sentry-sdk", "vendored-integration", "shr_span_recorder"]
    names += [measure.OTHERS[system][0] for system in systems if system in measure.OTHERS]
    found: dict[str, Any] = {
        "about": sections.about(*names, besides=machine.packages()),
        "values": values,
        "seconds": "" if options.quick else measure.clock(machine, systems, values),
    }
    print(tables.section(found))
    return sections.conclude("results.json", found, [], options.write)


if __name__ == "__main__":
    sys.exit(main())
