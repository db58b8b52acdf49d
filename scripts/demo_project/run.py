"""The demo's second stage: serve, drive, compare. Runs where the package is installed.

scripts/demo.py starts it in the virtual environment that it has made. gunicorn serves the same
project twice, with the stock integration and with ours, and a client reads five streams from each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import findings  # noqa: E402
import report  # noqa: E402
import requests  # noqa: E402
from rich.console import Console  # noqa: E402

from sink import EnvelopeSink  # noqa: E402

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


@contextmanager
def serve(directory: Path, environment: Dict[str, str]) -> Iterator[str]:
    """Run gunicorn with the demo project; yields its URL."""
    # Bound here: nobody else can take the port meanwhile, and requests that arrive before the
    # worker is up wait in the backlog.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As gunicorn does: else a first chunk waits for the acknowledgement of the headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [sys.executable, "-m", "gunicorn", "app:application", "--threads=4"]
        command += [f"--bind=fd://{listener.fileno()}", f"--pythonpath={HERE}"]
        command += ["--graceful-timeout=5", f"--worker-tmp-dir={directory}"]
        with (directory / "gunicorn.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=str(directory),
                env={**os.environ, **environment, "HOME": str(directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield url
    except requests.RequestException as error:
        lines = (directory / "gunicorn.log").read_text("utf-8", "replace").splitlines()[-15:]
        sys.exit("\n  ".join([f"error: the demo project does not answer: {error}", *lines]))
    finally:
        # The worker ends the streams that are left, and its exit sends what has not been sent yet.
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()


def read(client: requests.Session, url: str, stream: Stream, name: str) -> Served:
    size, lines, ending = 0, 0, "read to its end"
    started = time.time()
    headers = {"X-Request-ID": f"{stream.name}-{name}"}
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


def drive(options: argparse.Namespace, directory: Path, name: str, dsn: str) -> List[Served]:
    """Serve the project with one of the integrations, and read all streams."""
    environment = {
        "DEMO_INTEGRATION": name,
        "DEMO_DSN": dsn,
        "DEMO_LIFECYCLE": options.lifecycle,
        "DEMO_JOURNAL": str(directory / f"journal-{name}.jsonl"),
    }
    with serve(directory, environment) as url, requests.Session() as client:
        client.trust_env = False  # the user's proxy and .netrc are not for loopback
        client.get(url + "/", timeout=TIMEOUT)  # the first stream is not to pay for the imports
        return [read(client, url, stream, name) for stream in STREAMS]


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


def run(options: argparse.Namespace, directory: Path) -> int:
    # What the encoding cannot show must not end the demo; box characters are rich's.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr,unused-ignore]
    width = None if sys.stdout.isatty() else 100
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn")
    about = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    about += f", Python {platform.python_version()}, trace_lifecycle {options.lifecycle}"
    console.print(about, style="dim", soft_wrap=True)
    make_data(directory)
    sides = []
    for name, title in findings.NAMES.items():
        with EnvelopeSink() as sink:
            all_served = drive(options, directory, name, options.dsn or sink.dsn)
        if options.dsn:
            for served in all_served:
                console.print(f"{served.trace_id}  {title}  {served.stream.target}", soft_wrap=True)
            continue
        journal = (directory / f"journal-{name}.jsonl").read_text(encoding="utf-8").splitlines()
        sides.append(findings.compare(name, all_served, list(map(json.loads, journal)), sink))
    if options.dsn:
        print("Look for these trace ids, or for the environments demo-stock and demo-ours.")
        return 0
    report.show(console, sides)
    if options.html:
        # A name can hold half of a surrogate pair, which UTF-8 has no bytes for.
        options.html.write_text(report.page(sides, about), encoding="utf-8", errors="replace")
        # Not broken into lines: a path is to be copied.
        console.print(f"\nThe same as waterfalls, for a browser: {options.html}", soft_wrap=True)
    return 0 if sides[-1].clean else 1  # the last one is ours


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dsn")
    parser.add_argument("--lifecycle", choices=("static", "stream"), default="static")
    parser.add_argument("--html", type=Path)
    # An exception, so that the `with` blocks end the server on the way out.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, frame: sys.exit(128 + signum))
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        return run(parser.parse_args(), Path(directory))


if __name__ == "__main__":
    sys.exit(main())
