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

Needs Linux, and Python 3.8 or later with venv. Takes an hour and a half on two cores.

Exit status: 0 all right, 1 something is lost, double, wrong or grows, or a step has failed, 2 the
command line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import sections
from upstream.environment import Refused, go_inside, parser_of

PROJECT = Path(__file__).resolve().parent / "soak_project"
REQUIREMENTS = ["Django>=4.2,<5.3", "gevent", "gunicorn", "packaging"]
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

# What is called growth: an object for each request of one kind. The smallest one takes 16 bytes,
# and a block of the allocator. Memory comes in pieces of 1 MiB: a few say nothing, nor do a few
# blocks.
MOST_BYTES, FEW_BYTES = 16.0, 4 * 1024 * 1024  # a request; in all
MOST_BLOCKS, FEW_BLOCKS = 0.02, 2_000


def soak(kind: str, count: int) -> dict[str, Any]:
    """Soak one kind of server: what was sent and received, what grew, and what is wrong."""
    sys.path.insert(0, str(PROJECT))
    import load
    import urllib3

    from sink import EnvelopeSink

    ledger = load.Ledger(count)
    warm_up, samples = min(WARM_UP, count // 4), []
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        Path(directory, "file").write_bytes(load.FILE)
        with EnvelopeSink(on_item=ledger.take, keep_alive=True) as sink:
            server, port = start(kind, sink.dsn, directory)
            try:
                load.send(port, iter(range(warm_up)), ledger, lambda number: sink.clear())
                before = state(port)

                def sample(number: int) -> None:
                    sink.clear()
                    if number % max(1, (count - warm_up) // SAMPLES) == 0:
                        samples.append((number, resident(before["pid"])))
                        if len(samples) % (SAMPLES // 10) == 0:
                            print(f"{kind}: {number:,} of {count:,}", flush=True)

                load.send(port, iter(range(warm_up, count)), ledger, sample)
                after = state(port)
            except (OSError, urllib3.exceptions.HTTPError) as error:
                log = Path(directory, "log").read_text("utf-8", "replace")[-2000:]
                raise Refused(f"{kind}: {error!r}; gunicorn's last lines:\n{log}") from None
            finally:
                # An ordinary end: what the SDK has not sent yet, it sends now.
                server.terminate()
                server.wait()
    samples.sort()
    low_high = load.slope(samples[len(samples) // 4 :])
    stats = after["stats"]
    result: dict[str, Any] = {
        "requests": count,
        "transactions": sum(ledger.transactions),
        "errors": sum(ledger.errors),
        "lost": ledger.lost(),
        "double": ledger.double(),
        "open": stats["open_responses"] + stats["left_open"],
        "deadlines": stats["pending_deadlines"] + stats["waiting_jobs"],
        "internal_errors": stats["internal_errors"],
        "threads": [before["threads"], after["threads"]],
        "resident": [samples[0][1], samples[-1][1]],
        "slope": [round(value, 1) for value in low_high],
        "blocks": [before["blocks"], after["blocks"]],
    }
    wrong = [f"{len(ledger.problems):,} problems", *ledger.problems[:10]] if ledger.problems else []
    for name in ("lost", "double", "open", "deadlines", "internal_errors"):
        if result[name]:
            wrong.append(f"{name}: {result[name]:,}, expected 0")
    if after["threads"] > before["threads"]:
        wrong.append(f"threads: {before['thread_names']} -> {after['thread_names']}")
    if low_high[1] > MOST_BYTES * 1000 and low_high[1] * count / 1000 > FEW_BYTES:
        wrong.append(f"memory grows by at least {low_high[1]:,.0f} bytes per 1,000 requests")
    blocks = after["blocks"] - before["blocks"]
    if blocks > max(FEW_BLOCKS, MOST_BLOCKS * count):
        wrong.append(f"memory: {blocks:,} blocks of the allocator more than before")
    return {**result, "wrong": wrong}


def start(kind: str, dsn: str, directory: str) -> tuple[subprocess.Popen[bytes], int]:
    """gunicorn with one worker, and its port."""
    with socket.socket() as listener, Path(directory, "log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        # Requests that arrive before the worker is up wait in the backlog.
        listener.listen(64)
        command = [sys.executable, "-m", "gunicorn", "app:application", "--workers", "1", *PATIENT]
        command += [*SERVERS[kind], "--pythonpath", str(PROJECT)]
        command += ["--bind", f"fd://{listener.fileno()}"]
        variables = {"SOAK_DSN": dsn, "SOAK_FILE": f"{directory}/file"}
        server = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **variables, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
        )
        return server, listener.getsockname()[1]


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
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=500_000, metavar="N", help="to each server")
    parser.add_argument("--server", choices=SERVERS, help="default: one after the other")
    options = parser.parse_args()
    if options.requests < LEAST:
        parser.error(f"--requests {options.requests}: expected at least {LEAST}")
    if options.write and options.server:
        parser.error("--write is for all servers: without --server")
    go_inside(options, __file__, "soak", REQUIREMENTS)
    # So that the server is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    servers = [options.server] if options.server else list(SERVERS)
    found = {
        "about": sections.about(
            "Django", "gevent", "gunicorn", "sentry-sdk", "vendored-integration"
        ),
        "servers": {kind: soak(kind, options.requests) for kind in servers},
    }
    print(section(found))
    wrong = [line for result in found["servers"].values() for line in result["wrong"]]
    for line in wrong:
        print(f"wrong: {line}")
    if options.write and not wrong:
        return sections.keep("soak.json", found)
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Refused as error:
        sys.exit(f"error: {error}")
