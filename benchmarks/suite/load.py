"""Requests a second and their 99th percentile, by wrk, while other streams are held open.

One gunicorn worker with threads for all that is held and 16 more, 8 connections of wrk. The
streams are held by plain sockets that read the first chunk and wait.
"""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import List, NamedTuple

from environments import WORKER, Environment
from errors import BenchmarkError

MISSING = "wrk is not installed: the load is left out (apt install wrk)"
CONNECTIONS = 8
SPARE_THREADS = 16
PATIENCE = 60.0  # seconds

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


class Load(NamedTuple):
    """What wrk says: requests a second, the 99th percentile in seconds, failed requests."""

    rate: float
    p99: float
    failed: int


def available() -> bool:
    """Whether there are wrk and a Unix."""
    return os.name == "posix" and shutil.which("wrk") is not None


def measure(environment: Environment, system: str, rate: float, held: int, seconds: int) -> Load:
    """Serve, hold streams open, and have wrk request /plain for so many seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = environment.variables()
    variables.update(BENCHMARK_SYSTEM=system, BENCHMARK_RATE=str(rate))
    command = [str(environment.python), "-m", "gunicorn", "--worker-class=gthread"]
    command += ["--workers=1", f"--threads={held + SPARE_THREADS}", f"--bind=127.0.0.1:{port}"]
    command += ["--worker-connections=4000", "--timeout=0", "--log-level=warning"]
    command += ["served:application"]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            # Where the worker's modules are; gunicorn looks in the current directory first.
            command,
            cwd=str(WORKER),
            env=variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        streams: "List[socket.socket]" = []
        try:
            _wait_for(port, server)
            streams += (_hold(port) for _ in range(held))
            wrk = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
            out = subprocess.run(
                [*wrk, f"http://127.0.0.1:{port}/plain"],
                stdout=subprocess.PIPE,
                universal_newlines=True,
                check=True,
            ).stdout
        except (OSError, http.client.HTTPException, subprocess.CalledProcessError) as error:
            log.seek(0)
            lines = "\n  ".join(log.read().decode("utf-8", "replace").splitlines()[-25:])
            raise BenchmarkError(f"load of {system}: {error}\n  {lines}") from error
        finally:
            for stream in streams:
                stream.close()
            # Threads that serve a held stream would hold up a graceful end.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    found = parse(out)
    if found.failed:
        raise BenchmarkError(f"load of {system}: {found.failed} requests have failed")
    return found


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Until a request is answered: gunicorn listens before a worker has the application."""
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/plain")
            status = connection.getresponse().status
            if status != 200:
                raise BenchmarkError(f"/plain is answered with {status}")
            return
        except (OSError, http.client.HTTPException):
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        finally:
            connection.close()


def _hold(port: int) -> socket.socket:
    """A stream that has begun: its first chunk has been read."""
    stream = socket.create_connection(("127.0.0.1", port), PATIENCE)
    stream.sendall(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while b"\r\n\r\n1\r\nx\r\n" not in received:
        more = stream.recv(4096)
        if not more:
            raise OSError(f"a stream to hold has ended: {received!r}")
        received += more
    return stream


def parse(out: str) -> Load:
    """Read wrk's output.

    :raises BenchmarkError: it is not what is expected.
    """
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", out)
    if rate is None or p99 is None:
        raise BenchmarkError(f"wrk: expected Requests/sec and 99% in its output:\n{out}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    count = int(failed[1]) if failed else 0
    count += sum(map(int, errors.groups())) if errors else 0
    return Load(float(rate[1]), float(p99[1]) * _UNITS[p99[2]], count)
