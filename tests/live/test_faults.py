"""Faults, each with what the client, the server's log and Sentry must then see.

Client and log are compared with the same server without Sentry. Each test bears the mark `fault`,
of which scripts/sections.py makes the table in docs/reliability.md.
"""

import contextlib
import os
import re
import signal
import threading
import time
import uuid
from typing import List, NamedTuple, Optional

import pytest
from client import Gate, Response, fetch
from running import INTEGRATION, Running
from servers import SERVERS
from support.sdk import HAS_STATIC_LIFECYCLE, LIFECYCLES

from sink import EnvelopeSink, Reply

pytestmark = pytest.mark.skipif(INTEGRATION != "ours", reason="about what stock does not do")

fault = pytest.mark.fault
needs_transactions = pytest.mark.skipif(
    not HAS_STATIC_LIFECYCLE, reason="this SDK has no hooks for transactions"
)

GTHREAD, GEVENT = "gunicorn-gthread", "gunicorn-gevent"


def faulty(name, *arguments):
    """A server that runs faulty.py."""
    return SERVERS[name].serving("faulty", *arguments)


def run(directory, server, integration="ours"):
    """A server of its own, with time enough for what is captured at the end of a process."""
    return Running(server, directory, integration, SHUTDOWN_TIMEOUT="10")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a server, once for each name and integration."""
    started = {}
    with contextlib.ExitStack() as stack:

        def start(name, integration="ours"):
            key = (name, integration)
            if key not in started:
                running = run(tmp_path_factory.mktemp("faults"), faulty(name), integration)
                started[key] = stack.enter_context(running)
            started[key].sink.clear()
            return started[key]

        yield start


def complaints(output):
    """What a log says above INFO, without times, process ids and the frames of tracebacks."""
    found = []
    for line in output.splitlines():
        # Frames are indented, and differ by ours.
        if line and not line.startswith((" ", "mark ")) and "INFO" not in line:
            line = re.sub(r"^\[[-0-9: +]+\] ", "", line)
            found.append(re.sub(r"0x[0-9a-f]+|/\S+\.py|\d+", "N", line))
    return found


class Seen(NamedTuple):
    """What a client, and who reads the log, have seen of a request."""

    answer: Optional[Response]  # None: the connection was closed without one
    log: List[str]

    @property
    def comparable(self):
        return self.log, self.answer and self.answer.comparable

    @property
    def complete(self):
        return self.answer is not None and self.answer.complete


def ask(running, path, request_id="", fault="", closes=True):
    """Make a request, wait until all of it is in the log, and return what is seen of it."""
    before = len(running.process.output)
    answer = None
    with running.open(path, request_id, headers={"X-Fault": fault}) as response:
        # A connection that is closed without an answer.
        with contextlib.suppress(ConnectionError):
            answer = response.read()
        if closes:
            response.wait_until_closed()
    mark = uuid.uuid4().hex
    fetch_of_new_worker(running, "/-/mark?" + mark)
    running.process.wait_for_output("mark " + mark)
    return Seen(answer, complaints(running.process.output[before:]))


def ask_both(start, server, path, request_id, fault=""):
    """Make a request, and see that client and log see what they see without Sentry."""
    running = start(server)
    seen = ask(running, path, request_id, fault)
    if fault == "transport raises" and seen.log:
        assert seen.log[0] == "internal error while finishing a response"
        assert seen.log[-1] == "LookupError: transport raises"
        seen = Seen(seen.answer, [])
    assert seen.comparable == ask(start(server, "none"), path).comparable
    return running, seen


def fetch_of_new_worker(running, path):
    """Fetch, also if a worker has just ended and the next one is not there yet."""
    deadline = time.monotonic() + 20
    while True:
        try:
            assert fetch(running.port, path).status == 204
            return
        except ConnectionError:
            # The old worker's: it accepted, and ended.
            assert time.monotonic() < deadline, running.process.output


def check_event(running, trace, kind):
    """One event of the error, in the trace."""
    found = [
        event
        for event in running.sink.errors()
        if event["exception"]["values"][-1]["type"] == kind
        and event["contexts"]["trace"]["trace_id"] == trace.trace_id
    ]
    assert len(found) == 1, running.sink.describe()


def check_next_stream(running):
    request_id = uuid.uuid4().hex
    assert ask(running, "/stream/", request_id).complete
    running.check_outcome(running.the_transaction(request_id), "completed", "ok")


# -- what Sentry calls


@fault(
    "`before_send_transaction` raises",
    client="the whole response",
    log="nothing",
    sink="this transaction is missing, and counted as lost",
)
@fault(
    "an event processor raises",
    client="the whole response",
    log="nothing",
    sink="the transaction, without what the processor would have done",
)
@fault(
    "the transport raises",
    client="the whole response",
    log="nothing; with older SDKs, that it was swallowed",
    sink="this transaction is missing",
)
@needs_transactions
@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        ("before_send_transaction raises", False),
        ("event processor raises", True),
        ("transport raises", False),
    ],
)
def test_what_sentry_calls_raises(start, request_id, name, arrives):
    """The response is as without Sentry; at most its own transaction is lost."""
    running, seen = ask_both(start, GTHREAD, "/stream/", request_id, name)
    assert seen.complete
    check_next_stream(running)
    assert len(running.transactions(request_id)) == arrives
    if name.startswith("before_send"):
        (report,) = running.sink.client_reports()
        lost = {(lost["category"], lost["quantity"]) for lost in report["discarded_events"]}
        assert ("transaction", 1) in lost


@fault(
    "`before_send_transaction` hangs",
    client="the whole response; others are served",
    log="nothing",
    sink="the other transactions; this one when the hook comes back",
)
@needs_transactions
def test_hook_hangs(start, request_id):
    """It takes the server's thread, as with stock, but after the client has all of it."""
    running = start(GTHREAD)
    with Gate() as gate:
        path = f"/stream/?hang={gate.port}"
        seen = ask(running, path, request_id, "before_send_transaction hangs", closes=False)
        gate.wait_until_reached()
        assert seen.comparable == ask(start(GTHREAD, "none"), path).comparable
        assert seen.complete
        for _ in range(8):
            check_next_stream(running)
        assert not running.transactions(request_id)
    running.check_outcome(running.the_transaction(request_id), "completed", "ok")


# -- the ingest


@fault(
    "the ingest is down, answers 500, or cuts the connection",
    client="the whole response",
    log="nothing",
    sink="nothing of the outage, all after it",
)
@fault(
    "the ingest is slow",
    client="the whole response, while the ingest has not answered",
    log="nothing",
    sink="everything, later",
)
@fault(
    "the ingest answers 429",
    client="the whole response",
    log="nothing",
    sink="nothing until the limit ends, then all",
)
@pytest.mark.parametrize("name", ["down", "slow", "429", "500", "cut"])
def test_ingest(start, name):
    """Streams go on as without Sentry, and transactions arrive as soon as the ingest is back."""
    running = start(GTHREAD)
    back = threading.Event()

    def respond(envelope):
        if name == "slow":
            back.wait(60)
        elif not back.is_set():
            refused.append(envelope)
            return replies[name]
        return None

    refused = []
    replies = {
        "429": Reply(429, {"X-Sentry-Rate-Limits": "1::organization"}),
        "500": Reply(500),
        "cut": Reply(0),
    }
    before = len(running.process.output)
    port = running.sink.port
    if name == "down":
        running.sink.stop()
    else:
        running.sink.respond = respond
    during = [uuid.uuid4().hex for _ in range(5)]
    try:
        seen = [ask(running, "/stream/", request_id) for request_id in during]
        if name != "slow":
            running.flush()
    finally:
        if name == "down":
            running.sink = EnvelopeSink(port).start()
        back.set()
    expected = ask(start(GTHREAD, "none"), "/stream/")
    assert expected.complete
    assert [one.comparable for one in seen] == [expected.comparable] * 5
    found = []
    deadline = time.monotonic() + 20
    while not found and time.monotonic() < deadline:
        after = uuid.uuid4().hex
        ask(running, "/stream/", after)
        running.flush()
        found = running.transactions(after)
    running.check_outcome(found[0], "completed", "ok")
    taken = b"".join(
        item.payload
        for envelope in running.sink.envelopes
        if envelope not in refused
        for item in envelope.items
        if item.type in ("transaction", "span")
    )
    arrived = [request_id for request_id in during if request_id.encode() in taken]
    assert arrived == (during if name == "slow" else [])
    assert complaints(running.process.output[before:]) == []
    running.sink.respond = None


# -- the application


@fault(
    "the body raises `SystemExit`, or `gevent.Timeout`",
    client="the chunks before, and a cut-off, as without",
    log="the server's error, as without",
    sink="`failed`, and one event in its trace",
)
@fault(
    "the body raises `KeyboardInterrupt`, or `GeneratorExit`",
    client="the chunks before, and a cut-off, as without",
    log="gunicorn's threaded worker ends by it, as without",
    sink="`failed`, and one event in its trace",
)
@fault(
    "the body raises `GreenletExit`",
    client="the chunks before, and a cut-off, as without",
    log="nothing, as without",
    sink="`failed`, and one event in its trace",
)
@fault(
    "`sys.exit` in a view",
    client="the connection closes without an answer, as without",
    log="gunicorn's threaded worker ends, as without",
    sink="the transaction failed, and one event in its trace",
)
@fault(
    "`close()` raises",
    client="the whole response, as without",
    log="the server's error, as without",
    sink="`failed`, and one event in its trace",
)
@pytest.mark.parametrize(
    ("server", "path", "kind", "body"),
    [
        (GTHREAD, "/stream-raises/", "SystemExit", b"before\n"),
        (GTHREAD, "/stream-raises/", "KeyboardInterrupt", b"before\n"),
        (GTHREAD, "/stream-raises/", "GeneratorExit", b"before\n"),
        (GEVENT, "/stream-raises/", "GreenletExit", b"before\n"),
        (GEVENT, "/stream-raises/", "Timeout", b"before\n"),
        (GTHREAD, "/raises/", "SystemExit", None),
        (GTHREAD, "/stream-close-raises/", "LookupError", b"all\n"),
    ],
)
def test_application_raises(start, request_id, server, path, kind, body):
    """Whatever it raises reaches the server, and ends what it ends without us."""
    running, seen = ask_both(start, server, f"{path}?kind={kind}", request_id)
    assert seen.complete == (body == b"all\n")
    assert body == (seen.answer and seen.answer.body)
    trace = running.the_transaction(request_id)
    running.check_outcome(trace, None if body is None else "failed", "internal_error")
    check_event(running, trace, kind)
    if body == b"before\n":
        assert trace.named("raises").parent_span_id == trace.span_id


@fault(
    "an async body raises `GeneratorExit` (ASGI)",
    client="the chunks before, and a cut-off, as without",
    log="the server's error, as without",
    sink="`abandoned`, and the event of the server's log",
)
def test_async_body_raises_generator_exit(start, request_id):
    """Under ASGI it cannot be told from a task that is dropped."""
    path = "/stream-raises-async/?kind=GeneratorExit"
    running, _ = ask_both(start, "uvicorn-h11", path, request_id)
    running.check_outcome(running.the_transaction(request_id), "abandoned", "aborted")
    (event,) = running.sink.errors()
    assert event["exception"]["values"][-1]["type"] == "GeneratorExit"


@fault(
    "`sys.exit` in a view (ASGI)",
    client="500, as without",
    log="uvicorn ends, with its error, as without",
    sink="the transaction, and the event of the server's log",
)
def test_exit_in_a_view_under_asgi(tmp_path, request_id):
    """It ends the event loop; what there is to tell is sent before the process ends."""
    seen = []
    for integration in "none", "ours":
        with run(tmp_path, faulty("uvicorn-h11"), integration) as running:
            answer = running.fetch("/raises/?kind=SystemExit", request_id)
            status = running.process.wait()
            seen.append((status, Seen(answer, complaints(running.process.output)).comparable))
    assert seen[0] == seen[1]
    assert len(running.transactions(request_id)) == 1
    (event,) = running.sink.errors()
    assert "SystemExit" in [value["type"] for value in event["exception"]["values"]]


@fault(
    "fork in a view, or in mid-stream",
    client="the whole response, as without",
    log="nothing",
    sink="one transaction, the parent's; what the child captures is in its trace",
)
@pytest.mark.parametrize("path", ["/fork/", "/stream-forks/"])
def test_fork(start, request_id, path):
    """The child does not send the parent's transaction, and ends."""
    running, seen = ask_both(start, GTHREAD, path, request_id)
    assert seen.answer is not None
    assert seen.answer.body.endswith(b"0\n")
    trace = running.the_transaction(request_id)
    running.check_outcome(trace, "completed", "ok")
    assert ("parent" in trace.names()) == (path == "/stream-forks/")
    assert "child" not in trace.names()
    (message,) = running.sink.errors()
    assert message["contexts"]["trace"]["trace_id"] == trace.trace_id
    assert seen.log == []


# -- the process


@pytest.mark.parametrize(
    ("name", "lifecycle"),
    [
        *((GTHREAD, lifecycle) for lifecycle in LIFECYCLES),
        *((name, LIFECYCLES[0]) for name in ("gunicorn-sync", GEVENT, "uvicorn-h11")),
    ],
)
@fault(
    "SIGTERM with streams open",
    client="all that the server still waits for",
    log="how many spans came too late",
    sink="`abandoned`, within `shutdown_timeout`, before the server is killed with its streams",
)
def test_sigterm(tmp_path, name, lifecycle):
    """A server waits for its streams, and is killed: they are told of before."""
    path = "/stream-async/" if SERVERS[name].interface == "asgi" else "/stream/"
    # Longer than a busy machine takes: the streams are to be told of before they are let go on.
    grace = "--timeout-graceful-shutdown" if "uvicorn" in name else "--graceful-timeout"
    ids = [uuid.uuid4().hex for _ in range(2 if SERVERS[name].concurrent else 1)]
    with Running(
        faulty(name, grace, "30"), tmp_path, lifecycle=lifecycle, SHUTDOWN_TIMEOUT="0.3"
    ) as running, contextlib.ExitStack() as stack:
        held = [stack.enter_context(running.held(path, request_id)) for request_id in ids]
        running.process.send_signal(signal.SIGTERM)
        for request_id in ids:
            trace = running.wait_for_transaction(request_id)
            running.check_outcome(trace, "abandoned", "aborted")
            assert "chunk 1" in trace.names()
        for _, gate in held:
            gate.open()
        for response, _ in held:
            received = response.read()
            assert received.body == b"chunk 0\nchunk 1\nchunk 2\n"
            assert received.complete
        running.process.wait()
        for request_id in ids:
            assert len(running.transactions(request_id)) == 1
        assert running.sink.errors() == []
        log = complaints(running.process.output)
        assert len(log) == (0 if lifecycle == "stream" else len(ids)), log
        assert all(" span(s) of " in line for line in log), log


@fault(
    "SIGKILL of one worker",
    client="its streams are cut off; those of other workers complete",
    log="gunicorn's line about it",
    sink="nothing of the killed worker's streams, all of the others",
)
def test_sigkill(tmp_path, request_id):
    """Nothing else in the fleet suffers."""
    killed_id = uuid.uuid4().hex
    path = "/stream-many-spans/?n=1&spans=0"
    server = faulty(GTHREAD, "--workers", "2")
    with run(tmp_path, server) as running, running.held(path, killed_id) as (killed, _):
        pid = int(killed.read_headers().readline())
        os.kill(pid, signal.SIGSTOP)  # so that the other one gets the next request
        with running.held(path, request_id) as (other, gate):
            os.kill(pid, signal.SIGKILL)
            # The connection may be reset, or end.
            with contextlib.suppress(ConnectionError):
                assert not killed.read().complete
            running.process.wait_for_output(rf"\(pid:{pid}\) was sent SIGKILL")
            gate.open()
            received = other.read()
            assert received.complete
            assert int(received.body) != pid
        running.check_outcome(running.the_transaction(request_id), "completed", "ok")
        check_next_stream(running)
        assert running.transactions(killed_id) == []
