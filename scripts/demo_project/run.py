"""The demo's second stage: serve, drive, compare. Runs where the package is installed.

scripts/demo.py starts it inside the virtual environment that it has made. Where the
package, gunicorn, requests, rich and structlog are installed already, it can be run by
itself.

The same project is served twice by gunicorn, once with the stock integration and once
with ours, and a client reads five streams from it, one after the other.
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
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Type
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import findings  # noqa: E402
import page  # noqa: E402
import report  # noqa: E402
import requests  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
from gunicorn.config import (  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
    KNOWN_SETTINGS,
)
from sentry_sdk.utils import BadDsn, Dsn  # noqa: E402
from spotlight import Spotlight  # noqa: E402

from sink import EnvelopeSink  # noqa: E402

INTEGRATIONS = ("stock", "ours")

# Does not fit into the buffers of two sockets, so that sending it takes as long as reading.
CATALOGUE_BYTES = 32 * 1024 * 1024
ORDERS = 2000

TIMEOUT = 30.0  # seconds, for everything that is waited for here


class Failed(Exception):
    """The demo cannot go on; the message is for the user."""


class Refused(Failed):
    """What was asked for cannot be had with what is installed."""


class Stream(NamedTuple):
    """A request of the demo, and how its client behaves."""

    name: str
    title: str
    target: str
    hangs_up_after: Optional[int] = None  # lines
    reads_after: float = 0.0  # seconds between the response's headers and the first read
    journalled: bool = True


STREAMS = [
    Stream("export", "A CSV export with database queries", "/export.csv"),
    Stream("prices", "Server-sent events", "/prices?n=4"),
    Stream("labels", "A stream that fails half-way", "/labels.txt"),
    Stream("hang-up", "A client that hangs up", "/prices?n=100", hangs_up_after=6),
    Stream(
        "download",
        "A file, sent with sendfile() to a slow client",
        "/catalogue.bin",
        reads_after=0.4,
        journalled=False,
    ),
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


class Server:
    """gunicorn with the demo project, from `with` to its end."""

    def __init__(
        self, integration: str, directory: Path, dsn: str, lifecycle: str, port: int
    ) -> None:
        self.journal = directory / f"journal-{integration}.jsonl"
        self._log = directory / f"gunicorn-{integration}.log"
        listener = _listen(port)
        self.url = "http://127.0.0.1:%d" % listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "app:application"]
        # Bound here: nobody else can take the port meanwhile, and requests that arrive
        # before the worker is up wait in the backlog.
        command += ["--bind", f"fd://{listener.fileno()}", "--pythonpath", str(HERE)]
        command += ["--worker-class", "gthread", "--threads", "4", "--workers", "1"]
        command += ["--graceful-timeout", "5", "--worker-tmp-dir", str(directory)]
        if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS):
            # It would be in the user's home directory.
            command.append("--no-control-socket")
        environment = dict(os.environ)
        environment.pop("GUNICORN_CMD_ARGS", None)
        environment.update(
            DEMO_INTEGRATION=integration,
            DEMO_DSN=dsn,
            DEMO_LIFECYCLE=lifecycle,
            DEMO_DIRECTORY=str(directory),
            PYTHONDONTWRITEBYTECODE="1",
        )
        with listener, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=str(directory),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        # The worker's exit sends what Sentry has not been sent yet: worth waiting for, unless
        # all this is being stopped.
        self._process.terminate()
        try:
            self._process.wait(TIMEOUT if exc is None else 1)
        except subprocess.TimeoutExpired:
            pass  # a worker that is being started misses the signal
        finally:
            # Also if a signal has come while we waited. A worker ends without its master.
            self._process.kill()
            self._process.wait()

    def explain(self, problem: str) -> Failed:
        log = self._log.read_text("utf-8", "replace").strip().splitlines()
        return Failed("\n  ".join([problem, "gunicorn's last lines:", *log[-15:]]))


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # As gunicorn does, for connections that come before it: else a first chunk waits for the
    # acknowledgement of the headers, for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise Failed(
            f"port {port} on 127.0.0.1: {error.strerror}; "
            "choose another --port, or none for a free one"
        ) from None
    return listener


def drive(integration: str, directory: Path, dsn: str, lifecycle: str, port: int) -> List[Served]:
    """Serve the project with one of the integrations, and read every stream."""
    with Server(
        integration, directory, dsn, lifecycle, port
    ) as server, requests.Session() as client:
        # The user's proxy and .netrc are not for loopback.
        client.trust_env = False
        try:
            # So that the first stream does not pay for the imports.
            client.get(server.url + "/ready", timeout=TIMEOUT).raise_for_status()
            return [_read(client, server, integration, stream) for stream in STREAMS]
        except requests.RequestException as error:
            raise server.explain(f"the demo project does not answer: {error}") from None


def _read(client: requests.Session, server: Server, integration: str, stream: Stream) -> Served:
    name = f"{stream.name}-{integration}"
    size = 0
    arrivals = []
    ending = "read to its end"
    # The server's clock, for the page's time axis, and one that nobody sets.
    started, counter = time.time(), time.perf_counter()
    with client.get(
        server.url + stream.target,
        headers={"X-Request-ID": name},
        stream=True,
        timeout=TIMEOUT,
    ) as response:
        response.raise_for_status()
        time.sleep(stream.reads_after)
        try:
            lines = 0
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
    journal = _journal(server, name) if stream.journalled else []
    trace_id = response.headers["X-Trace-Id"]
    return Served(
        stream, trace_id, response.status_code, size, started, arrivals, seconds, ending, journal
    )


def _journal(server: Server, name: str) -> List[Dict[str, Any]]:
    """The lines of one stream, once its body has ended: after a hang-up that takes a while."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        # What follows the last newline is being written.
        lines = server.journal.read_text(encoding="utf-8").split("\n")[:-1]
        entries = [entry for entry in map(json.loads, lines) if entry["stream"] == name]
        if entries and entries[-1]["event"] == "end":
            return entries
        if time.monotonic() > deadline:
            raise server.explain(f"the body of {name} has not ended after {TIMEOUT:.0f} s")
        time.sleep(0.02)


def _make_data(directory: Path) -> None:
    with (directory / "catalogue.bin").open("wb") as file:
        file.truncate(CATALOGUE_BYTES)
    connection = sqlite3.connect(str(directory / "shop.sqlite3"))
    with connection:
        connection.execute(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, cents INTEGER)"
        )
        connection.executemany(
            "INSERT INTO orders (customer, cents) VALUES (?, ?)",
            ((f"customer {number % 89}", number * 37 % 10_000) for number in range(ORDERS)),
        )
    connection.close()


def versions() -> str:
    names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn")
    text = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return f"{text}, Python {platform.python_version()}"


def sdk_streams_spans() -> bool:
    # That the SDK has sentry_sdk.traces is not enough: its Django integration came later.
    from vendored_integration._vendor import django

    return hasattr(django, "has_span_streaming_enabled")


def run(options: argparse.Namespace, screen: report.Screen) -> int:
    runs: Dict[str, List[Served]] = {}
    sinks: Dict[str, EnvelopeSink] = {}
    spotlight = Spotlight(options.spotlight) if options.spotlight else None
    with tempfile.TemporaryDirectory(prefix="demo-") as temporary:
        directory = Path(temporary)
        _make_data(directory)
        for integration in INTEGRATIONS:
            started = time.perf_counter()
            with EnvelopeSink(on_body=spotlight.keep if spotlight else None) as sink:
                runs[integration] = drive(
                    integration,
                    directory,
                    options.dsn or sink.dsn,
                    options.lifecycle,
                    options.port,
                )
            sinks[integration] = sink
            screen.served(integration, runs[integration], time.perf_counter() - started)
    if options.dsn:
        screen.sent(runs, urlsplit(options.dsn).hostname or "")
        return 0
    sides = findings.compare(runs, sinks)
    screen.compare(sides)
    if options.html:
        about = {
            "versions": versions(),
            "lifecycle": options.lifecycle,
            "made": time.strftime("%Y-%m-%d %H:%M"),
        }
        try:
            page.write(options.html, sides, about)
        except OSError as error:
            raise Failed(f"cannot write the page {options.html}: {error.strerror}") from None
        screen.written(options.html)
    if spotlight is not None:
        try:
            spotlight.forward()
        except requests.RequestException as error:
            raise Failed(f"Spotlight at {options.spotlight} took no envelope: {error}") from None
        screen.forwarded(runs, spotlight)
    # The last one is ours.
    return 0 if sides[-1].clean else 1


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn")
    parser.add_argument("--lifecycle", choices=("static", "stream"), default="static")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--width", type=int)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--spotlight", metavar="URL")
    parser.add_argument("--no-color", action="store_true")
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> int:
    options = parse(argv)
    screen = report.Screen(options.width, color=not options.no_color)
    try:
        if options.dsn:
            Dsn(options.dsn)
        if options.lifecycle == "stream" and not sdk_streams_spans():
            raise Refused(
                f"sentry-sdk {metadata.version('sentry-sdk')} knows no --lifecycle stream"
            )
        screen.versions(versions())
        return run(options, screen)
    except BadDsn as error:
        print(f"error: --dsn {options.dsn}: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, Refused) else 1


def _exit(signum: int, frame: object) -> NoReturn:
    # An exception, so that the `with` blocks end the server on the way out.
    sys.exit(128 + signum)


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _exit)
    sys.exit(main())
