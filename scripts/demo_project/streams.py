"""Serve the project with each of the integrations, read five streams from each, and compare."""

from __future__ import annotations

import json
import platform
import sqlite3
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import List, NamedTuple, Optional

import findings
import report
import requests
from rich.console import Console

from serving import gunicorn
from sink import EnvelopeSink

# Does not fit into the buffers of two sockets, so that sending it takes as long as reading.
CATALOGUE_BYTES = 32 * 1024 * 1024
TIMEOUT = 30.0  # seconds, for everything that is waited for here


class Stream(NamedTuple):
    """A request of the demo, and how its client behaves."""

    name: str
    title: str
    target: str
    hangs_up_after: Optional[int] = None  # lines
    reads_after: float = 0.0  # seconds between the response's headers and the first read


STREAMS = [
    Stream("export", "A CSV export with database queries", "/export.csv"),
    Stream("prices", "Server-sent events", "/prices?n=4"),
    Stream("labels", "A stream that fails half-way", "/labels.txt"),
    Stream("hang-up", "A client that hangs up", "/prices?n=100", hangs_up_after=6),
    Stream("file", "A file, sent with sendfile() to a slow client", "/catalogue.bin", None, 0.4),
]


class Served(NamedTuple):
    """What the client saw of a stream."""

    stream: Stream
    trace_id: str
    status: int
    size: int  # bytes
    started: float  # seconds since the epoch
    ended: float
    ending: str


def run(lifecycle: str, dsn: Optional[str], html: Path) -> int:
    """The exit status: 1 if ours has lost something."""
    # What the encoding cannot show must not end the demo; box characters are rich's.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr,unused-ignore]
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn")
    about = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    about += f", Python {platform.python_version()}, trace_lifecycle {lifecycle}"
    print(about)
    sides = []
    for name, title in findings.NAMES.items():
        with tempfile.TemporaryDirectory(prefix="demo-") as directory, EnvelopeSink() as sink:
            served = drive(Path(directory), name, dsn or sink.dsn, lifecycle)
            journal = Path(directory, "journal").read_text(encoding="utf-8").splitlines()
        if dsn:
            for one in served:
                print(f"{one.trace_id}  {title}  {one.stream.target}")
        else:
            sides.append(findings.compare(title, served, list(map(json.loads, journal)), sink))
    if dsn:
        print("Look for these trace ids, or for the environments demo-stock and demo-ours.")
        return 0
    report.show(console, sides)
    # A name can hold half of a surrogate pair, which UTF-8 has no bytes for.
    html.write_text(report.page(sides, about), encoding="utf-8", errors="replace")
    print(f"\nThe same as waterfalls, for a browser: {html}")
    return 0 if sides[-1].clean else 1  # the last one is ours


def drive(directory: Path, name: str, dsn: str, lifecycle: str) -> List[Served]:
    """Serve the project with one of the integrations, and read all streams."""
    make_data(directory)
    environ = {"DEMO_INTEGRATION": name, "DEMO_DSN": dsn, "DEMO_LIFECYCLE": lifecycle}
    options = ["--threads=4", "--graceful-timeout=5"]
    serving = gunicorn(Path(__file__).parent, directory, options, **environ)
    with serving as port, requests.Session() as client:
        client.trust_env = False  # the user's proxy and .netrc are not for loopback
        url = f"http://127.0.0.1:{port}"
        client.get(url, timeout=TIMEOUT)  # the first stream is not to pay for the imports
        return [read(client, url, stream) for stream in STREAMS]


def make_data(directory: Path) -> None:
    with (directory / "catalogue.bin").open("wb") as file:
        file.truncate(CATALOGUE_BYTES)
    with sqlite3.connect(str(directory / "shop.sqlite3")) as connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)"
        )
        rows = [(f"customer {number % 89}", number * 37 % 10_000) for number in range(2000)]
        connection.executemany("INSERT INTO orders (customer, cents) VALUES (?, ?)", rows)
    connection.close()


def read(client: requests.Session, url: str, stream: Stream) -> Served:
    size, lines, ending = 0, 0, "read to its end"
    started = time.time()
    headers = {"X-Request-ID": stream.name}
    with client.get(url + stream.target, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        time.sleep(stream.reads_after)
        try:
            for chunk in response.iter_content(1 << 20 if stream.reads_after else None):
                size += len(chunk)
                lines += chunk.count(b"\n")
                if stream.hangs_up_after is not None and lines >= stream.hangs_up_after:
                    ending = "hung up"
                    break
        except requests.exceptions.ChunkedEncodingError:
            ending = "cut off"
    trace_id = response.headers["X-Trace-Id"]
    return Served(stream, trace_id, response.status_code, size, started, time.time(), ending)
