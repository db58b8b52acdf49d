#!/usr/bin/env python3
"""Soak the package: a million requests of all kinds, each of which Sentry must receive once.

    python3 scripts/soak.py                                500,000 to each server
    python3 scripts/soak.py --requests 20000 --server gthread
    python3 scripts/soak.py --write                        keep the result in the repository

Builds this checkout, installs it with Django, gunicorn and gevent in .cache, and serves a small
project in one process that is never replaced. A client sends plain requests, streams and files,
errors before and in mid-stream, and hangs up. An ingest on loopback counts by the requests'
numbers: what is lost, what comes twice, and what comes out wrong. At the end no response may be
open, no thread more than at the start, and no memory lost.

Needs Linux, and Python 3.8 or later with venv. Takes an hour on two cores.

Exit status: 0 all right, 1 something is lost, double, wrong or grows, or a step has failed, 2 the
command line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import sections
from environment import go_inside
from serving import gunicorn
from sink import EnvelopeSink

PROJECT = Path(__file__).resolve().parent / "soak_project"
REQUIREMENTS = ["Django>=4.2,<5.3", "gevent", "gunicorn"]
SERVERS = {
    "gthread": ["--worker-class", "gthread", "--threads", "8"],
    "gevent": ["--worker-class", "gevent"],
}
# However slow the machine: no connection is closed, no worker is replaced.
PATIENT = ["--max-requests", "0", "--timeout", "0", "--keep-alive", "3600"]
PATIENT += ["--graceful-timeout", "10", "--log-level", "error"]
LEAST = 1_000  # requests: fewer say nothing about memory
WARM_UP = 2_000  # requests at most, before the first look at memory and threads
SAMPLES = 400  # of the resident set size; the first quarter is left out of the slope


def soak(kind: str, count: int) -> dict[str, Any]:
    """Soak one kind of server: what was sent and received, what grew, and what is wrong."""
    sys.path.insert(0, str(PROJECT))
    import load

    ledger = load.Ledger(count)
    warm_up = min(WARM_UP, count // 4)
    samples: list[tuple[int, int]] = []  # the request's number, and the resident set size
    every = max(1, (count - warm_up) // SAMPLES)

    def sample(number: int) -> None:
        sink.clear()
        if number % every == 0:
            samples.append((number, resident(before["pid"])))
            if len(samples) % (SAMPLES // 10) == 0:
                print(f"{kind}: {number:,} of {count:,}", flush=True)

    sink = EnvelopeSink(on_item=ledger.take, keep_alive=True)
    with sink, tempfile.TemporaryDirectory(prefix="soak-") as directory:
        file = Path(directory, "file")
        file.write_bytes(load.FILE)
        environ = {"SOAK_DSN": sink.dsn, "SOAK_FILE": str(file)}
        options = [*SERVERS[kind], *PATIENT]
        with gunicorn(PROJECT, Path(directory), options, **environ) as port:
            load.send(port, range(warm_up), ledger, lambda number: sink.clear())
            before = state(port)
            load.send(port, range(warm_up, count), ledger, sample)
            after = state(port)
    return load.judge(ledger, before, after, sorted(samples))


def state(port: int) -> dict[str, Any]:
    """What the server's process says of itself."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/state", timeout=300) as response:
        found: dict[str, Any] = json.load(response)
    return found


def resident(pid: int) -> int:
    """The resident set size of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def section(soak: dict[str, Any]) -> str:
    """The table in docs/reliability.md, which is printed, too."""
    columns = ["soak", "requests", "transactions, errors", "lost", "double", "open at the end"]
    columns += ["threads", "memory, MB", "slope, bytes per 1,000 requests (95 %)"]
    rows = []
    for kind, result in sorted(soak["servers"].items()):
        cells = [f"gunicorn {kind}", f"{result['requests']:,}"]
        cells.append(f"{result['transactions']:,}, {result['errors']:,}")
        cells += [f"{result[name]:,}" for name in ("lost", "double", "open")]
        cells.append("{} → {}".format(*result["threads"]))
        cells.append("{:.1f} → {:.1f}".format(*(size / 1e6 for size in result["resident"])))
        cells.append("{:+,.0f} ({:+,.0f} to {:+,.0f})".format(*result["slope"]))
        rows.append(cells)
    return sections.table(columns, rows) + sections.measured(soak["about"])


def main() -> int:
    parser = sections.parser_of(__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=500_000, metavar="N", help="to each server")
    add("--server", choices=SERVERS, help="default: one after the other")
    options = parser.parse_args()
    if options.requests < LEAST:
        parser.error(f"--requests {options.requests}: expected at least {LEAST}")
    if options.write and options.server:
        parser.error("--write is for all servers: without --server")
    go_inside(options, __file__, "soak", REQUIREMENTS)
    # So that the server is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers = [options.server] if options.server else list(SERVERS)
    names = ["Django", "gevent", "gunicorn", "sentry-sdk", "vendored-integration"]
    found = {
        "about": sections.about(*names),
        "servers": {kind: soak(kind, options.requests) for kind in servers},
    }
    print(section(found))
    wrong = [line for result in found["servers"].values() for line in result["wrong"]]
    return sections.conclude("soak.json", found, wrong, options.write)


if __name__ == "__main__":
    sys.exit(main())
