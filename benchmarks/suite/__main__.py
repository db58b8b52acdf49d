"""The command line; run.py starts it in the tools' environment."""

import argparse
import sys
from pathlib import Path
from typing import Dict, List

from rich.console import Console
from rich.table import Table

import callgrind
import environments
from callgrind import Counted, Work
from errors import BenchmarkError

PLAIN = Work("/plain", 20, 60)
STREAM = [Work("/stream/100", 2, 6), Work("/stream/1100", 1, 3)]
CHUNKS = 1000  # between the two


def main(argv: "List[str]") -> int:
    parser = argparse.ArgumentParser(prog="run.py")
    parser.add_argument("--only", action="append", choices=["instructions"])
    parser.add_argument("--package", type=Path, metavar="DIR")
    parser.add_argument("--sdk", metavar="RELEASE")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(argv)
    console = Console()
    try:
        if not callgrind.available():
            raise BenchmarkError(callgrind.MISSING)
        package = options.package.resolve() if options.package else None
        environment = environments.sentry(options.sdk, package)
        found: "Dict[float, Dict[str, Dict[str, Counted]]]" = {}
        repeats = 1 if options.quick else 3
        for rate in (0.0, 1.0):
            found[rate] = {}
            for system in ("bare", "stock", "ours", "ours-return"):
                with console.status(f"{system} at rate {rate:g}"):
                    found[rate][system] = callgrind.count(
                        environment, system, [PLAIN, *STREAM], rate, repeats=repeats
                    )
    except BenchmarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for rate, systems in found.items():
        table = Table(title=f"Instructions, traces_sample_rate={rate:g}")
        for heading in ("", "spans", "request", "over bare", "of stock's", "chunk", "of stock's"):
            table.add_column(heading, justify="right" if heading else "left")
        bare, stock = systems["bare"], systems["stock"]

        def chunk(counted: "Dict[str, Counted]", bare: "Dict[str, Counted]" = bare) -> float:
            short, long = (
                counted[work.path].instructions.over(bare[work.path].instructions).middle
                for work in STREAM
            )
            return (long - short) / CHUNKS

        for name, counted in systems.items():
            plain = counted["/plain"].instructions
            over = plain.over(bare["/plain"].instructions)
            of_stock = (
                over.middle / stock["/plain"].instructions.over(bare["/plain"].instructions).middle
            )
            table.add_row(
                name,
                str(counted["/plain"].spans),
                f"{plain.middle:,.0f}",
                f"{over.middle:,.0f}",
                f"{of_stock:.3f}",
                f"{chunk(counted):,.0f}",
                f"{chunk(counted) / chunk(stock):.3f}",
            )
        console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
