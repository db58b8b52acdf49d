"""The soak's second stage: serve, drive, count. Runs where the package is installed.

scripts/soak.py starts it in the virtual environment that it has made. Where the package,
Django, gunicorn, gevent and rich are installed already, it can be run by itself.

Exit status: 0 all that was sent is there, once, and nothing else; 1 it is not; 2 an error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional, Tuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import section  # noqa: E402
from client import FILE_CONTENT, Client  # noqa: E402
from command_line import add_options  # noqa: E402
from growth import slope  # noqa: E402
from gunicorn.config import (  # type: ignore[import-untyped,unused-ignore]  # noqa: E402
    KNOWN_SETTINGS,
)
from kinds import KINDS, requests_of  # noqa: E402
from ledger import Ledger, Stalled  # noqa: E402
from receiver import Receiver  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import (  # noqa: E402
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table  # noqa: E402

SERVERS = {
    "gthread": ["--worker-class", "gthread", "--threads", "8"],
    "gevent": ["--worker-class", "gevent"],
}
WARM_UP = 2_000  # requests at most, before the first look at memory and threads
SAMPLES = 400  # of the resident set size; the first quarter is left out of the slope
TIMEOUT = 30.0  # seconds, for the server's start and its end

# What is called growth: an object for each request of one kind. The smallest one takes 16
# bytes, and a block of the allocator. Memory comes in pieces of 1 MiB: a few say nothing, nor
# do a few blocks.
MOST_BYTES = 16.0  # a request
MOST_PIECES = 4 * 1024 * 1024  # bytes
MOST_BLOCKS = 0.02  # a request
FEW_BLOCKS = 2_000

Json = Dict[str, Any]


class Failed(Exception):
    """The soak cannot go on; the message is for the user."""


class Server:
    """gunicorn with one worker, which is never replaced; from `async with` to its end."""

    def __init__(self, kind: str, directory: Path, dsn: str) -> None:
        self._kind = kind
        self._directory = directory
        self._log = directory / "gunicorn.log"
        self._dsn = dsn

    async def __aenter__(self) -> Server:
        with socket.socket() as listener, self._log.open("wb") as log:
            listener.bind(("127.0.0.1", 0))
            # Bound here: requests that arrive before the worker is up wait in the backlog.
            listener.listen(64)
            self.port = listener.getsockname()[1]
            command = ["-m", "gunicorn", "app:application", "--workers", "1"]
            command += SERVERS[self._kind]
            # However slow the machine: no connection is closed, no worker is replaced.
            command += ["--max-requests", "0", "--timeout", "0", "--keep-alive", "3600"]
            command += ["--graceful-timeout", "10", "--log-level", "error"]
            command += ["--bind", f"fd://{listener.fileno()}", "--pythonpath", str(HERE)]
            if any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS):
                command.append("--no-control-socket")
            environment = {
                key: value for key, value in os.environ.items() if not key.startswith("SENTRY_")
            }
            environment.pop("GUNICORN_CMD_ARGS", None)
            environment.update(
                SOAK_DSN=self._dsn,
                SOAK_FILE=str(self._directory / "file"),
                PYTHONDONTWRITEBYTECODE="1",
                # The SDK would send through a proxy what is for loopback.
                NO_PROXY="127.0.0.1",
                no_proxy="127.0.0.1",
            )
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                cwd=str(self._directory),
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # An ordinary end: what the SDK has not sent yet, it sends now.
        if self._process.returncode is None:
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), TIMEOUT)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()

    def last_lines(self) -> str:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()[-15:]
        return "\n  ".join(["gunicorn's last lines:", *lines])


def resident(pid: int) -> int:
    """The resident set size of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def threads(pid: int) -> int:
    """The kernel's threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


async def soak(kind: str, count: int, directory: Path, console: Console) -> Json:
    """Soak one kind of server: what was sent, heard and left behind, and what is wrong."""
    ledger = Ledger(count)
    receiver = Receiver(ledger.take, lambda reason: ledger.problems.add(f"malformed: {reason}"))
    samples: List[Tuple[int, int]] = []
    dsn = await receiver.start()
    stalled: Optional[Stalled] = None
    with _progress(console) as progress:
        async with Server(kind, directory, dsn) as server:
            try:
                before = await Client(server.port, ledger).state()
                pid = before["stats"]["pid"]
                task = progress.add_task(kind, total=count)
                warm_up = min(WARM_UP, count // 4)

                def on_done(done: int) -> None:
                    if done % every == 0:
                        samples.append((done, resident(pid)))
                        said = warm_up + done
                        progress.update(task, completed=said)
                        if not console.is_terminal and len(samples) % (SAMPLES // 10) == 0:
                            console.print(f"{kind}: {said:,} of {count:,}", highlight=False)

                every = max(1, (count - warm_up) // SAMPLES)
                await Client(server.port, ledger).drive(iter(range(warm_up)))
                before = {**await Client(server.port, ledger).state(), "threads": threads(pid)}
                started = time.monotonic()
                client = Client(server.port, ledger, on_done)
                await client.drive(iter(range(warm_up, count)))
                seconds = time.monotonic() - started
                after = {**await client.state(), "threads": threads(pid)}
            except Stalled as error:
                stalled = error
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                raise Failed(f"{kind}: {error!r}\n  {server.last_lines()}") from None
        # The server has ended, and with it all that could still be heard.
    await receiver.stop()
    if stalled is not None:
        raise Failed(
            "\n  ".join([f"{kind}: {stalled}", *ledger.problems.shown, server.last_lines()])
        )
    return _result(count, count - warm_up, seconds, ledger, samples, before, after)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _result(
    count: int,
    measured: int,
    seconds: float,
    ledger: Ledger,
    samples: "List[Tuple[int, int]]",
    before: Json,
    after: Json,
) -> Json:
    growth = slope(samples[len(samples) // 4 :])
    stats = after["stats"]
    result: Json = {
        "requests": count,
        "seconds": round(seconds, 1),
        "rate": round(measured / seconds, 1),
        "kinds": ledger.table(),
        "lost": ledger.lost(),
        "double": ledger.double(),
        "problems": ledger.problems.count,
        "open": stats["open_responses"] + stats["left_open"],
        "deadlines": stats["pending_deadlines"] + stats["waiting_jobs"],
        "internal_errors": stats["internal_errors"],
        "threads": [before["threads"], after["threads"]],
        "resident": [samples[0][1], samples[-1][1]],
        "slope": [round(value, 1) for value in growth],
        "blocks": [before["blocks"], after["blocks"]],
    }
    wrong = list(ledger.problems.shown)
    if ledger.problems.count > len(wrong):
        wrong.append(f"... {ledger.problems.count - len(wrong):,} more of these")
    for name in ("lost", "double", "open", "deadlines", "internal_errors"):
        if result[name]:
            wrong.append(f"{name}: {result[name]:,}, expected 0")
    outcomes = streaming(count)
    found = {name: number for name, number in stats["streaming"].items() if number}
    if found != outcomes:
        wrong.append(f"stats() has streams {found}, expected {outcomes}")
    if after["threads"] > before["threads"]:
        names = [", ".join(state["thread_names"]) for state in (before, after)]
        wrong.append("threads: {} -> {}".format(*names))
    if growth.low > MOST_BYTES * 1000 and growth.low * measured / 1000 > MOST_PIECES:
        wrong.append(f"memory grows by at least {growth.low:,.0f} bytes per 1,000 requests")
    blocks = after["blocks"] - before["blocks"]
    if blocks > max(FEW_BLOCKS, MOST_BLOCKS * measured):
        wrong.append(f"memory: {blocks:,} blocks of the allocator more than before")
    result["wrong"] = wrong
    return result


def streaming(count: int) -> Dict[str, int]:
    """The streams among so many requests, by outcome."""
    found: Counter[str] = Counter()
    for kind in KINDS:
        if kind.outcome:
            found[kind.outcome] += requests_of(kind, count)
    return dict(found)


def show(kind: str, result: Json, console: Console) -> None:
    """The report, as tables."""
    console.print(
        f"\n[b]gunicorn {kind}[/b]: {result['requests']:,} requests in {result['seconds']:,.0f} s, "
        f"{result['rate']:,.0f} a second",
        highlight=False,
    )
    table = Table("requests", "sent", "transactions", "status", "outcome", "error events")
    for index in (1, 2, 5):
        table.columns[index].justify = "right"
    for expected, row in zip(KINDS, result["kinds"]):
        table.add_row(
            expected.name,
            f"{requests_of(expected, result['requests']):,}",
            f"{row['transactions']:,}",
            expected.status,
            expected.outcome or "",
            f"{row['errors']:,}" if expected.fails else "",
        )
    console.print(table)
    for line in section.lines(result):
        console.print(line, highlight=False)
    for line in result["wrong"]:
        console.print(f"[red]wrong[/red]: {line}", highlight=False)


def about() -> Json:
    names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn", "gevent")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "from a directory"
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "versions": versions,
    }


def parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> int:
    options = parse(argv)
    # With --json alone on stdout.
    console = Console(stderr=options.json, width=options.width)
    found: Json = {"about": about(), "servers": {}}
    try:
        if options.write:
            section.kept()  # what cannot be read is said now, and not in an hour
        for kind in options.server or SERVERS:
            with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
                directory = Path(temporary)
                (directory / "file").write_bytes(FILE_CONTENT)
                result = asyncio.run(soak(kind, options.requests, directory, console))
            found["servers"][kind] = result
            show(kind, result, console)
    except (Failed, section.Damaged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(found))
    wrong = any(result["wrong"] for result in found["servers"].values())
    if options.write and not wrong:
        problem = section.keep(found)
        console.print(f"Written: {section.SOAK}", soft_wrap=True, highlight=False)
        if problem:
            print(f"error: {problem}", file=sys.stderr)
            return 2
    return 1 if wrong else 0


def _exit(signum: int, frame: object) -> NoReturn:
    # An exception, so that the server is ended on the way out.
    sys.exit(128 + signum)


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _exit)
    sys.exit(main())
