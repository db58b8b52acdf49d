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
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import findings  # noqa: E402
import page  # noqa: E402
import report  # noqa: E402
import requests  # noqa: E402

from sink import EnvelopeSink  # noqa: E402

# Does not fit into the buffers of two sockets, so that sending it takes as long as reading.
CATALOGUE_BYTES = 32 * 1024 * 1024
ORDERS = 2000
TIMEOUT = 30.0  # seconds, for everything that is waited for here


class Stream(NamedTuple):
    """A request of the demo, and how its client behaves."""

    name: str
    title: str
    target: str
    hangs_up_after: Optional[int] = None  # lines
    reads_after: float = 0.0  # seconds between the response's headers and the first read

    @property
    def journalled(self) -> bool:
        """The body is code of the project."""
        return not self.reads_after


STREAMS = [
    Stream("export", "A CSV export with database queries", "/export.csv"),
    Stream("prices", "Server-sent events", "/prices?n=4"),
    Stream("labels", "A stream that fails half-way", "/labels.txt"),
    Stream("hang-up", "A client that hangs up", "/prices?n=100", hangs_up_after=6),
    Stream("file", "A file, sent with sendfile() to a slow client", "/catalogue.bin", None, 0.4),
]


class Served(NamedTuple):
    """What the client saw of a stream, and what the server's journal says of its body."""

    stream: Stream
    trace_id: str
    status: int
    size: int  # bytes
    started: float  # seconds since the epoch
    arrivals: List[float]  # of the body's pieces, in seconds since `started`
    seconds: float
    ending: str
    journal: List[Dict[str, Any]]


@contextmanager
def served(directory: Path, environment: Dict[str, str]) -> Iterator[str]:
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
    except (requests.RequestException, TimeoutError) as error:
        log_lines = (directory / "gunicorn.log").read_text("utf-8", "replace").splitlines()
        lines = [f"error: the demo project does not answer: {error}", *log_lines[-15:]]
        sys.exit("\n  ".join(lines))
    finally:
        # The worker's exit sends what Sentry has not been sent yet.
        process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()


def read(client: requests.Session, url: str, stream: Stream, name: str, journal: Path) -> Served:
    size, lines, arrivals, ending = 0, 0, [], "read to its end"
    # The server's clock, for the page's time axis, and one that nobody sets.
    started, counter = time.time(), time.perf_counter()
    headers = {"X-Request-ID": name}
    with client.get(url + stream.target, headers=headers, stream=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        time.sleep(stream.reads_after)
        try:
            for chunk in response.iter_content(None if stream.journalled else 1 << 20):
                arrivals.append(time.perf_counter() - counter)
                size += len(chunk)
                lines += chunk.count(b"\n")
                if stream.hangs_up_after is not None and lines >= stream.hangs_up_after:
                    ending = "hung up"
                    break
        except requests.exceptions.ChunkedEncodingError:
            ending = "cut off"
    seconds = time.perf_counter() - counter
    entries = entries_of(name, journal) if stream.journalled else []
    trace_id = response.headers["X-Trace-Id"]
    return Served(
        stream, trace_id, response.status_code, size, started, arrivals, seconds, ending, entries
    )


def entries_of(name: str, journal: Path) -> List[Dict[str, Any]]:
    """The lines of one stream, once its body has ended: after a hang-up that takes a while."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        # What follows the last newline is being written.
        lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
        entries = [entry for entry in map(json.loads, lines) if entry["stream"] == name]
        if entries and entries[-1]["event"] == "end":
            return entries
        time.sleep(0.02)
    raise TimeoutError(f"the body of {name} has not ended after {TIMEOUT:.0f} s")


def make_data(directory: Path) -> None:
    with (directory / "catalogue.bin").open("wb") as file:
        file.truncate(CATALOGUE_BYTES)
    with sqlite3.connect(str(directory / "shop.sqlite3")) as connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)"
        )
        rows = [(f"customer {number % 89}", number * 37 % 10_000) for number in range(ORDERS)]
        connection.executemany("INSERT INTO orders (customer, cents) VALUES (?, ?)", rows)
    connection.close()


def run(options: argparse.Namespace, directory: Path) -> int:
    screen = report.Screen()
    names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    versions += f", Python {platform.python_version()}"
    screen.say(versions, "dim")
    make_data(directory)
    runs: Dict[str, List[Served]] = {}
    sinks: Dict[str, EnvelopeSink] = {}
    for name in findings.NAMES:
        began = time.perf_counter()
        journal = directory / f"journal-{name}.jsonl"
        with EnvelopeSink() as sinks[name]:
            environment = {
                "DEMO_INTEGRATION": name,
                "DEMO_DSN": options.dsn or sinks[name].dsn,
                "DEMO_LIFECYCLE": options.lifecycle,
                "DEMO_JOURNAL": str(journal),
                "DEMO_SPOTLIGHT": options.spotlight or "",
            }
            with served(directory, environment) as url, requests.Session() as client:
                client.trust_env = False  # the user's proxy and .netrc are not for loopback
                # So that the first stream does not pay for the imports.
                client.get(url + "/", timeout=TIMEOUT)
                runs[name] = [
                    read(client, url, stream, f"{stream.name}-{name}", journal)
                    for stream in STREAMS
                ]
        screen.served(name, runs[name], time.perf_counter() - began)
    if options.dsn or options.spotlight:
        screen.traces(runs)
        screen.say("Look for these trace ids, or for the environments demo-stock and demo-ours.")
    if options.dsn:
        return 0
    sides = findings.compare(runs, sinks)
    screen.compare(sides)
    if options.html:
        made = time.strftime("%Y-%m-%d %H:%M")
        about = {"versions": versions, "lifecycle": options.lifecycle, "made": made}
        page.write(options.html, sides, about)
        screen.written(options.html)
    return 0 if sides[-1].clean else 1  # the last one is ours


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dsn")
    parser.add_argument("--lifecycle", choices=("static", "stream"), default="static")
    parser.add_argument("--html", type=Path)
    parser.add_argument("--spotlight", metavar="URL")
    # An exception, so that the `with` blocks end the server on the way out.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda signum, frame: sys.exit(128 + signum))
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        return run(parser.parse_args(), Path(directory))


if __name__ == "__main__":
    sys.exit(main())
