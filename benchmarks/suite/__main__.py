"""What the command line asks for; run.py starts it in the tools' environment."""

import argparse
import sys
import time
from typing import Any, Dict, List

from rich.console import Console

import environments
import measure
import tables
from arguments import parse
from errors import BenchmarkError
from results import Results
from systems import SYSTEMS

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
            tables.show(_committed(), console)
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


def run(options: argparse.Namespace, console: Console) -> Results:
    """Measure all parts, or those asked for."""
    began = time.monotonic()

    def say(text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - began), 60)
        console.print(f"{minutes:3}:{seconds:02} {text}", highlight=False, markup=False)

    parts = options.only or list(measure.PARTS)
    needed = {SYSTEMS[system].environment for system in options.systems}
    if not set(parts) & {"instructions", "wallclock", "load"}:
        needed = {"sentry"}
    found = {"sentry": environments.sentry(options.sdk, options.package)}
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


def _committed() -> Results:
    path = COMMITTED / FILE
    try:
        return Results.read(path)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: missing or damaged\n  found: {error!r}\n"
            "  next: git checkout -- benchmarks/results/results.json"
        ) from None


def readme(check: bool) -> int:
    """Write the README's section, or compare it."""
    problem = tables.readme(README, _committed(), check)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
