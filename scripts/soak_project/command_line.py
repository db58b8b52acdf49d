"""The options of both stages."""

from __future__ import annotations

import argparse
from typing import List

LEAST = 1_000  # requests: fewer say nothing about memory


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that the first stage hands on to the second."""
    parser.add_argument(
        "--requests",
        type=_requests,
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


def _requests(text: str) -> int:
    try:
        number = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        number = 0
    if number < LEAST:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from {LEAST} on")
    return number
