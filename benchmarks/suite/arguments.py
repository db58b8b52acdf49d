"""The command line. Standard library only: run.py asks it before it installs anything."""

import argparse
import sys
from pathlib import Path
from typing import Any, List

import environments
import measure
from errors import BenchmarkError
from systems import SYSTEMS, WORKS

sys.path.insert(0, str(environments.ROOT / "scripts"))

from supported import release  # noqa: E402


def parse(argv: "List[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure what the integration costs, beside stock and others.",
        epilog="Exit status: 0 done, whether or not the targets are met; 1 an error, or "
        "--check has found a difference; 2 the command line.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PART",
        choices=list(measure.PARTS),
        help=f"one measurement (repeatable): {', '.join(measure.PARTS)}",
    )
    for name, known in (("systems", SYSTEMS), ("works", WORKS)):
        parser.add_argument(
            f"--{name}", metavar="A,B", type=_list_of(name, list(known)), default=list(known),
            help=f"of {', '.join(known)}",
        )  # fmt: skip
    parser.add_argument("--rates", metavar="A,B", type=_rates, default=[0.0, 0.1, 1.0])
    parser.add_argument(
        "--lifecycles",
        metavar="A,B",
        type=_list_of("lifecycles", ["static", "stream"]),
        default=["static", "stream"],
        help="of static, stream (default: both)",
    )
    parser.add_argument(
        "--sdk", type=release, metavar="RELEASE", help="build ours for this SDK, not the newest"
    )
    parser.add_argument(
        "--package",
        type=Path,
        metavar="DIR",
        help="measure DIR/vendored_integration, generated modules included, instead of a wheel",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="write to benchmarks/results, which is committed, not to results in .cache",
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--report", action="store_true", help="print the committed results")
    kept.add_argument("--readme", action="store_true", help="write them into the README")
    parser.add_argument("--check", action="store_true", help="with --readme: compare, exit 1")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of the tables")
    options = parser.parse_args(argv)
    if options.check and not options.readme:
        parser.error("--check goes with --readme")
    if options.write and (options.quick or options.only or options.package):
        parser.error("--write is for a whole run: without --quick, --only and --package")
    if options.package:
        options.package = options.package.resolve()
        try:
            environments.release_of(options.package)
        except BenchmarkError as error:
            parser.error(f"--package: {error}")
    return options


def _list_of(name: str, known: "List[str]") -> Any:
    def parsed(text: str) -> "List[str]":
        found = text.split(",")
        unknown = [item for item in found if item not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{name}: no {', '.join(unknown)}; expected {', '.join(known)}"
            )
        return found

    return parsed


def _rates(text: str) -> "List[float]":
    try:
        found = [float(item) for item in text.split(",")]
    except ValueError:
        found = [-1.0]
    if not all(0 <= rate <= 1 for rate in found):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0 to 1")
    return found
