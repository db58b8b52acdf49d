"""The options of both stages."""

from __future__ import annotations

import argparse
from typing import Callable, List

LEAST = 1_000  # requests: fewer say nothing about memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that the first stage hands on to the second."""
    parser.add_argument(
        "--requests",
        type=at_least(LEAST),
        default=500_000,
        metavar="N",
        help="to each server (default: 500000)",
    )
    parser.add_argument(
        "--server",
        action="append",
        choices=("gthread", "gevent"),
        help="gunicorn's worker class (repeatable; default: one after the other)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, too")
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep the result in benchmarks/results/soak.json, and write docs/reliability.md",
    )
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="of the report")


def passed_on(options: argparse.Namespace) -> List[str]:
    """The command line of the second stage."""
    arguments = [f"--requests={options.requests}"]
    arguments += [f"--server={server}" for server in options.server or ()]
    arguments += ["--json"] if options.json else []
    arguments += ["--write"] if options.write else []
    arguments += [f"--width={options.width}"] if options.width else []
    return arguments


def at_least(least: int) -> Callable[[str], int]:
    """The type of an argument: a number, which may be 100,000 or 100_000."""

    def number(text: str) -> int:
        try:
            found = int(text.replace(",", "").replace("_", ""))
        except ValueError:
            found = least - 1
        if found < least:
            raise argparse.ArgumentTypeError(f"{text}: expected a number from {least} on")
        return found

    return number
