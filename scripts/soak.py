#!/usr/bin/env python3
"""Soak the package: a million requests of all kinds, each of which Sentry must hear of once.

    python3 scripts/soak.py                                500,000 to each server
    python3 scripts/soak.py --requests 20000 --server gthread
    python3 scripts/soak.py --write                        keep the result in the repository
    python3 scripts/soak.py --docs [--check]               docs/reliability.md, made from it

Builds this checkout, installs it with Django, gunicorn and gevent in .cache/soak, and serves
a small project in one process that is never replaced. A client sends plain requests, streams
and files, errors before and in the midst of a stream, and hangs up. An ingest on loopback
counts by the requests' numbers: what is lost, what comes twice, and what comes out wrong.
At the end no response may be open, no thread more than at the start, and no memory lost.

Needs Linux, and Python 3.8 or newer with venv. Takes an hour or so on two cores; --requests
is shorter. scripts/soak_project/drive.py soaks what is installed already.

Exit status: 0 all right, 1 something is lost, double, wrong or grows, or a step has failed,
2 this machine or the command line lacks something.
"""

# Only the standard library here: what is installed is for the second stage.

import argparse
import sys
from pathlib import Path
from typing import List, Optional

import supported
from demo import (
    ROOT,
    Failed,
    Refused,
    Runner,
    Signals,
    check_machine,
    environment,
    exit_status,
    install,
)

PROJECT = ROOT / "scripts" / "soak_project"
sys.path.insert(0, str(PROJECT))

import section  # noqa: E402
from command_line import add_options, passed_on  # noqa: E402

CACHE = ROOT / ".cache" / "soak"
# Beside the package itself, which brings Django and the SDK.
REQUIREMENTS = ["gevent", "gunicorn", "rich"]


def soak(options: argparse.Namespace, signals: Signals) -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    runner = Runner(signals, CACHE, environment(options, CACHE))
    python = install(runner, CACHE, options.sdk, REQUIREMENTS)
    return runner.show([python, str(PROJECT / "drive.py"), *passed_on(options)])


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    supported.add_option(parser)
    parser.add_argument(
        "--docs", action="store_true", help="write the kept results into docs/reliability.md"
    )
    parser.add_argument("--check", action="store_true", help="with --docs: compare, exit 1")
    options = parser.parse_args(argv)
    if options.check and not options.docs:
        parser.error("--check goes with --docs")
    options.dsn = None  # see environment()
    return options


def main(argv: Optional[List[str]] = None) -> int:
    options = parse(argv)

    def work(signals: Signals) -> int:
        if options.docs:
            problem = section.update(section.PAGE, options.check)
            if problem:
                raise Failed(problem)
            return 0
        check_machine()
        if not Path("/proc/self/statm").exists():
            raise Refused("Linux is needed: threads and memory are read from /proc.")
        return soak(options, signals)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
