"""10,000 streams open at once in one process: each is traced, and each is ended, once."""

import json
import resource
import socket
import threading
from collections import Counter

import pytest
from client import fetch
from running import INTEGRATION, Running
from servers import SERVERS, Server, _gunicorn

from traces import traces

STREAMS = 10_000
BATCH = 100
PATIENCE = 300  # seconds

GEVENT = Server(
    "gevent",
    _gunicorn("--worker-class", "gevent", "--worker-connections", "11000", "--timeout", "0"),
    concurrent=True,
)

# Their transactions may wait in the queue. With MAX_SPANS there are none of Django's
# spans, which would take most of the time.
ENVIRONMENT = {"QUEUE_SIZE": str(2 * STREAMS), "MAX_SPANS": "1000"}

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(INTEGRATION != "ours", reason="about max_open_responses"),
]


@pytest.fixture
def _descriptors():
    """So many sockets here, and as many in the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = STREAMS + 500
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{hard} files may be open at once, {needed} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def read_until(sock, end):
    received = b""
    while end not in received:
        more = sock.recv(65536)
        assert more, received
        received += more
    return received


def open_all(port, path, streams):
    """Open them, and read the first chunk of each. A batch is older than the next one."""
    for start in range(0, STREAMS, BATCH):
        for number in range(start, start + BATCH):
            stream = socket.create_connection(("127.0.0.1", port), PATIENCE)
            streams.append(stream)
            lines = [f"GET {path}?batch={start} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
            lines += [f"X-Request-Id: {number}", "", ""]
            stream.sendall("\r\n".join(lines).encode())
        for stream in streams[start:]:
            read_until(stream, b"first\n")


def serve(server, path, directory, max_open):
    """Hold all of them open, release them, read them to their ends; what Sentry has heard."""
    streams = []
    # At its end whatever could be heard has been heard.
    with Running(
        server, directory, OPTIONS=json.dumps({"max_open_responses": max_open}), **ENVIRONMENT
    ) as running:
        try:
            # To parse all that has arrived at each arrival would take too long.
            arrived = threading.Semaphore(0)
            running.sink.on_item = lambda item: item.type == "transaction" and arrived.release()
            open_all(running.port, path, streams)
            # Not all at once: under gevent nothing else would run meanwhile, and a connection to
            # Sentry that is being used could time out.
            for start in range(0, STREAMS, BATCH):
                assert fetch(running.port, f"/-/release?{start}").status == 204
                for stream in streams[start : start + BATCH]:
                    assert b"last\n" in read_until(stream, b"0\r\n\r\n")
            for number in range(STREAMS):
                assert arrived.acquire(timeout=PATIENCE), (number, running.sink.client_reports())
        finally:
            for stream in streams:
                stream.close()
    return traces(running.sink)


def check(found, evicted):
    """Each stream has one transaction; of the oldest, as many as there were too many, are evicted."""
    outcomes = {}
    for trace in found:
        number = int(trace.headers["x-request-id"])
        assert number not in outcomes, f"stream {number} has two transactions"
        outcomes[number] = trace.outcome or "none"
        # The span that came after the eviction is lost, all others are there.
        spans = [name for name in trace.names() if name == "after the release"]
        assert len(spans) == (0 if trace.outcome == "evicted" else 1)
    assert Counter(outcomes.values()) == Counter(evicted=evicted, completed=STREAMS - evicted)
    oldest = {number for number, outcome in outcomes.items() if outcome == "evicted"}
    assert oldest == set(range(evicted))


@pytest.mark.usefixtures("_descriptors")
def test_uvicorn(tmp_path):
    """As many as the default max_open_responses: none is evicted."""
    found = serve(SERVERS["uvicorn-httptools"], "/stream-held-async/", tmp_path, STREAMS)
    check(found, evicted=0)


@pytest.mark.usefixtures("_descriptors")
def test_gunicorn_gevent(tmp_path):
    """1,000 more than max_open_responses: the oldest 1,000 are evicted."""
    check(serve(GEVENT, "/stream-held/", tmp_path, STREAMS - 1000), evicted=1000)
