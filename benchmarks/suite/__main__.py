"""The command line; run.py starts it in the tools' environment."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

from rich.console import Console

import environments
import measure
import tables
from errors import BenchmarkError
from results import Results
from systems import SYSTEMS, WORKS

COMMITTED = environments.ROOT / "benchmarks" / "results"
SCRATCH = environments.CACHE / "results"
README = environments.ROOT / "README.md"
FILE = "results.json"

# What stands in the report; the rest of what is installed follows from these.
NAMED = [
    "Django",
    "sentry-sdk",
    "vendored-integration",
    "shr_span_recorder",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-django",
    "ddtrace",
    "gunicorn",
]


def main(argv: "List[str]") -> int:
    options = parse(argv)
    console = Console(width=options.width)
    try:
        if options.readme:
            return readme(options.check)
        if options.report:
            tables.show(_read(COMMITTED), console)
            return 0
        import plots  # matplotlib takes a second, and --readme does without

        results = run(options, console)
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    directory = COMMITTED if options.write else SCRATCH
    results.write(directory / FILE)
    written = [directory / FILE, *plots.draw(results, directory)]
    tables.show(results, console)
    console.print("Written: " + ", ".join(map(str, written)), soft_wrap=True, highlight=False)
    return 0


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
    parser.add_argument("--sdk", metavar="RELEASE", help="build ours for this SDK, not the newest")
    parser.add_argument(
        "--package",
        type=Path,
        metavar="DIR",
        help="measure DIR/vendored_integration, generated modules included, instead of a wheel",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write to benchmarks/results, which is committed, not to {SCRATCH.name} in .cache",
    )
    parser.add_argument("--report", action="store_true", help="print the committed results")
    parser.add_argument("--readme", action="store_true", help="write them into the README")
    parser.add_argument("--check", action="store_true", help="with --readme: compare, exit 1")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of the tables")
    options = parser.parse_args(argv)
    if options.check and not options.readme:
        parser.error("--check goes with --readme")
    if options.write and (options.quick or options.only or options.package):
        parser.error("--write is for a whole run: without --quick, --only and --package")
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
    found = [float(item) for item in text.split(",")]
    if not all(0 <= rate <= 1 for rate in found):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0 to 1")
    return found


def run(options: argparse.Namespace, console: Console) -> Results:
    """Measure all parts, or those asked for."""
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        console.print(f"{minutes:3}:{seconds:02} {text}", highlight=False, markup=False)

    package = options.package.resolve() if options.package else None
    parts = options.only or list(measure.PARTS)
    needed = {SYSTEMS[system].environment for system in options.systems}
    if not set(parts) & {"instructions", "wallclock", "load"}:
        needed = {"sentry"}
    found = {"sentry": environments.sentry(options.sdk, package)}
    found.update({name: environments.other(name) for name in sorted(needed - {"sentry"})})
    plan = measure.Plan(
        # What the others are compared with is measured in the same run.
        [name for name in SYSTEMS if name in options.systems or name in ("bare", "stock")],
        options.works,
        options.rates,
        options.lifecycles,
        options.quick,
        found,
        say,
    )
    results = Results(_about(options, found))
    for part in parts:
        measure.PARTS[part](plan, results)
    return results


def _about(
    options: argparse.Namespace, found: "Dict[str, environments.Environment]"
) -> "Dict[str, Any]":
    installed: "Dict[str, str]" = {}
    for environment in found.values():
        installed.update(environments.versions(environment))
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": measure.machine(),
        "versions": {name: installed[name] for name in NAMED if name in installed},
        "quick": options.quick,
    }


def _read(directory: Path) -> Results:
    try:
        return Results.read(directory / FILE)
    except FileNotFoundError:
        raise BenchmarkError(
            f"{directory / FILE}: not there\n  next: python3 benchmarks/run.py --write"
        ) from None


def readme(check: bool) -> int:
    """Write the README's section, or compare it."""
    problem = tables.readme(README, _read(COMMITTED), check)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
