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
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from client import Gate, Response, fetch
from running import INTEGRATION, Running
from seen import Trace, transactions
from sentry_sdk.integrations import django
from servers import SERVERS, Server

from sink import Envelope, EnvelopeSink, Reply

pytestmark = pytest.mark.skipif(INTEGRATION != "ours", reason="about what stock does not do")

fault = pytest.mark.fault

#: The SDK's shutdown_timeout: enough for what is captured at the end of a process.
SECONDS = "10"

HAS_STREAM_LIFECYCLE = hasattr(django, "has_span_streaming_enabled")


def faulty(name: str, *arguments: str) -> Server:
    """A server that runs faulty.py."""
    command = SERVERS[name].command
    return SERVERS[name]._replace(
        command=lambda: [*(part.replace("app:", "faulty:") for part in command()), *arguments]
    )


Start = Callable[..., Running]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a server, once for each name and integration."""
    started: Dict[object, Running] = {}

    def start(name: str, integration: str = "ours") -> Running:
        key = (name, integration)
        if key not in started:
            directory = tmp_path_factory.mktemp("faults")
            started[key] = Running(faulty(name), directory, integration, SHUTDOWN_TIMEOUT=SECONDS)
        started[key].sink.clear()
        return started[key]

    yield start
    for running in started.values():
        running.stop()


def fresh(
    directory: Path,
    server: Server,
    integration: str = "ours",
    lifecycle: str = "static",
    shutdown_timeout: str = SECONDS,
) -> Running:
    """A server for a test that ends it."""
    return Running(server, directory, integration, lifecycle, SHUTDOWN_TIMEOUT=shutdown_timeout)


def complaints(output: str) -> List[str]:
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

    def same_as(self, other: "Seen") -> bool:
        return self._comparable == other._comparable

    @property
    def _comparable(self) -> object:
        if self.answer is None:
            return self.log
        return (
            self.log,
            self.answer.status,
            self.answer.comparable_headers,
            self.answer.body,
            self.answer.complete,
        )


def ask(
    running: Running, path: str, request_id: str = "", fault: str = "", closes: bool = True
) -> Seen:
    """Make a request, wait until all of it is in the log, and return what is seen of it."""
    before = len(running.process.output)
    answer = None
    headers = {"X-Fault": fault} if fault else None
    # A connection that is closed without an answer.
    with running.open(path, request_id, headers=headers) as response:
        with contextlib.suppress(ConnectionError):
            answer = response.read()
        if closes:
            response.wait_until_closed()
    mark = uuid.uuid4().hex
    fetch_of_new_worker(running, "/-/mark?mark=" + mark)
    running.process.wait_for_output([re.compile("mark " + mark)])
    return Seen(answer, complaints(running.process.output[before:]))


def ask_both(
    start: Start, server: str, path: str, request_id: str, fault: str = ""
) -> Tuple[Running, Seen]:
    """Make a request, and see that client and log see what they see without Sentry."""
    running = start(server)
    seen = ask(running, path, request_id, fault)
    if fault == "transport raises" and seen.log:
        assert seen.log[0] == "internal error while finishing a response"
        assert seen.log[-1] == "LookupError: transport raises"
        seen = Seen(seen.answer, [])
    assert seen.same_as(ask(start(server, "none"), path))
    return running, seen


def complete(seen: Seen) -> bool:
    return seen.answer is not None and seen.answer.complete


def fetch_of_new_worker(running: Running, path: str) -> None:
    """Fetch, also if a worker has just ended and the next one is not there yet."""
    deadline = time.monotonic() + 20
    while True:
        try:
            assert fetch(running.port, path).status == 204
            return
        except ConnectionError:
            # The old worker's: it accepted, and ended.
            assert time.monotonic() < deadline, running.process.output


def check_trace(trace: Trace, outcome: str, status: str) -> None:
    assert (trace.outcome, trace.status) == (outcome, status)


def check_event(running: Running, trace: Trace, kind: str) -> None:
    """One event of the error, in the trace."""
    found = [
        event
        for event in running.sink.errors()
        if event["exception"]["values"][-1]["type"] == kind
        and event["contexts"]["trace"]["trace_id"] == trace.trace_id
    ]
    assert len(found) == 1, running.sink.describe()


# -- what Sentry calls


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        pytest.param(
            "before_send_transaction raises",
            False,
            marks=fault(
                "`before_send_transaction` raises",
                client="the whole response",
                log="nothing",
                sink="this transaction is missing, and counted as lost",
            ),
        ),
        pytest.param(
            "event processor raises",
            True,
            marks=fault(
                "an event processor raises",
                client="the whole response",
                log="nothing",
                sink="the transaction, without what the processor would have done",
            ),
        ),
        pytest.param(
            "transport raises",
            False,
            marks=fault(
                "the transport raises",
                client="the whole response",
                log="nothing; with older SDKs, that it was swallowed",
                sink="this transaction is missing",
            ),
        ),
    ],
)
def test_what_sentry_calls_raises(start: Start, request_id: str, name: str, arrives: bool) -> None:
    """The response is as without Sentry; at most its own transaction is lost."""
    running, seen = ask_both(start, "gunicorn-gthread", "/stream/", request_id, name)
    assert complete(seen)
    after = uuid.uuid4().hex
    ask(running, "/stream/", after)
    check_trace(running.the_transaction(after), "completed", "ok")
    running.flush()
    assert len(transactions(running.sink, request_id)) == arrives
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
def test_hook_hangs(start: Start, request_id: str) -> None:
    """It takes the server's thread, as with stock, but after the client has all of it."""
    running = start("gunicorn-gthread")
    with Gate() as gate:
        path = f"/stream/?hang={gate.port}"
        seen = ask(running, path, request_id, "before_send_transaction hangs", closes=False)
        gate.wait_until_reached()
        assert seen.same_as(ask(start("gunicorn-gthread", "none"), path))
        assert complete(seen)
        others = [uuid.uuid4().hex for _ in range(8)]
        for other in others:
            ask(running, "/stream/", other)
            check_trace(running.the_transaction(other), "completed", "ok")
        assert not transactions(running.sink, request_id)
    check_trace(running.the_transaction(request_id), "completed", "ok")


# -- the ingest


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "down",
            marks=fault(
                "the ingest is down",
                client="the whole response",
                log="nothing",
                sink="nothing of the outage, all after it",
            ),
        ),
        pytest.param(
            "slow",
            marks=fault(
                "the ingest is slow",
                client="the whole response, while the ingest has not answered",
                log="nothing",
                sink="everything, later",
            ),
        ),
        pytest.param(
            "429",
            marks=fault(
                "the ingest answers 429",
                client="the whole response",
                log="nothing",
                sink="nothing until the limit ends, then all",
            ),
        ),
        pytest.param(
            "500",
            marks=fault(
                "the ingest answers 500",
                client="the whole response",
                log="nothing",
                sink="nothing of the outage, all after it",
            ),
        ),
        pytest.param(
            "cut",
            marks=fault(
                "the ingest cuts the connection",
                client="the whole response",
                log="nothing",
                sink="nothing of the outage, all after it",
            ),
        ),
    ],
)
def test_ingest(start: Start, name: str) -> None:
    """Streams go on as without Sentry, and transactions arrive as soon as the ingest is back."""
    running = start("gunicorn-gthread")
    back = threading.Event()

    def respond(envelope: Envelope) -> Optional[Reply]:
        if name == "slow":
            back.wait(60)
        elif not back.is_set():
            refused.append(envelope)
            return replies[name]
        return None

    refused: List[Envelope] = []
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
    expected = ask(start("gunicorn-gthread", "none"), "/stream/")
    for one in seen:
        assert one.same_as(expected)
        assert complete(one)
    found: List[Trace] = []
    deadline = time.monotonic() + 20
    while not found and time.monotonic() < deadline:
        after = uuid.uuid4().hex
        ask(running, "/stream/", after)
        running.flush()
        found = transactions(running.sink, after)
    check_trace(found[0], "completed", "ok")
    taken = b"".join(
        item.payload
        for envelope in running.sink.envelopes
        if envelope not in refused
        for item in envelope.items
        if item.type == "transaction"
    )
    arrived = [request_id for request_id in during if request_id.encode() in taken]
    assert arrived == (during if name == "slow" else [])
    assert complaints(running.process.output[before:]) == []
    running.sink.respond = None


# -- the application


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        pytest.param(
            "gunicorn-gthread",
            "SystemExit",
            marks=fault(
                "the body raises `SystemExit`",
                client="the chunks before, and a cut-off, as without",
                log="the server's error, as without",
                sink="`failed`, and one event in its trace",
            ),
        ),
        pytest.param(
            "gunicorn-gthread",
            "KeyboardInterrupt",
            marks=fault(
                "the body raises `KeyboardInterrupt`",
                client="the chunks before, and a cut-off, as without",
                log="gunicorn's threaded worker ends, as without",
                sink="`failed`, and one event in its trace",
            ),
        ),
        pytest.param(
            "gunicorn-gthread",
            "GeneratorExit",
            marks=fault(
                "the body raises `GeneratorExit`",
                client="the chunks before, and a cut-off, as without",
                log="gunicorn's threaded worker ends by it, as without",
                sink="`failed`, and one event in its trace",
            ),
        ),
        pytest.param(
            "gunicorn-gevent",
            "GreenletExit",
            marks=fault(
                "the body raises `GreenletExit`",
                client="the chunks before, and a cut-off, as without",
                log="nothing, as without",
                sink="`failed`, and one event in its trace",
            ),
        ),
        pytest.param(
            "gunicorn-gevent",
            "gevent.Timeout",
            marks=fault(
                "the body raises `gevent.Timeout`",
                client="the chunks before, and a cut-off, as without",
                log="the server's error, as without",
                sink="`failed`, and one event in its trace",
            ),
        ),
    ],
)
def test_body_raises(start: Start, request_id: str, server: str, kind: str) -> None:
    """Whatever a body raises reaches the server, and ends what it ends without us."""
    path = f"/stream-raises/{kind}/"
    running, seen = ask_both(start, server, path, request_id)
    assert seen.answer is not None
    assert (seen.answer.body, seen.answer.complete) == (b"before\n", False)
    trace = running.the_transaction(request_id)
    check_trace(trace, "failed", "internal_error")
    assert trace.named("raises").parent_span_id == trace.span_id
    check_event(running, trace, kind.split(".")[-1])


@fault(
    "an async body raises `GeneratorExit` (ASGI)",
    client="the chunks before, and a cut-off, as without",
    log="the server's error, as without",
    sink="`abandoned`, and the event of the server's log",
)
def test_async_body_raises_generator_exit(start: Start, request_id: str) -> None:
    """Under ASGI it cannot be told from a task that is dropped."""
    path = "/stream-async-raises/GeneratorExit/"
    running, _ = ask_both(start, "uvicorn-h11", path, request_id)
    check_trace(running.the_transaction(request_id), "abandoned", "aborted")
    (event,) = running.sink.errors()
    assert event["exception"]["values"][-1]["type"] == "GeneratorExit"


@fault(
    "`sys.exit` in a view",
    client="the connection closes without an answer, as without",
    log="gunicorn's threaded worker ends, as without",
    sink="the transaction failed, and one event in its trace",
)
def test_exit_in_a_view(start: Start, request_id: str) -> None:
    """The worker ends, and is replaced; what it has to tell is sent before."""
    running, seen = ask_both(start, "gunicorn-gthread", "/raises/SystemExit/", request_id)
    assert seen.answer is None
    trace = running.the_transaction(request_id)
    assert trace.status == "internal_error"
    check_event(running, trace, "SystemExit")


@fault(
    "`sys.exit` in a view (ASGI)",
    client="500, as without",
    log="uvicorn ends, with its error, as without",
    sink="the transaction, and the event of the server's log",
)
def test_exit_in_a_view_under_asgi(tmp_path: Path, request_id: str) -> None:
    """It ends the event loop; what there is to tell is sent before the process ends."""
    seen = []
    for integration in "ours", "none":
        with fresh(tmp_path, faulty("uvicorn-h11"), integration) as running:
            answer = running.fetch("/raises/SystemExit/", request_id)
            returncode = running.process.wait()
            seen.append((Seen(answer, complaints(running.process.output)), returncode))
            if integration == "ours":
                sink = running.sink
                assert len(transactions(sink, request_id)) == 1
                assert len(sink.errors()) == 1, sink.describe()
                kinds = [value["type"] for value in sink.errors()[0]["exception"]["values"]]
                assert "SystemExit" in kinds
    assert seen[0][0].same_as(seen[1][0])
    assert seen[0][1] == seen[1][1]


@fault(
    "`close()` raises",
    client="the whole response, as without",
    log="the server's error, as without",
    sink="`failed`, and one event in its trace",
)
def test_close_raises(start: Start, request_id: str) -> None:
    """The error is the server's, and is reported."""
    running, seen = ask_both(start, "gunicorn-gthread", "/stream-close-raises/", request_id)
    assert seen.answer is not None
    assert seen.answer.body == b"all\n"
    trace = running.the_transaction(request_id)
    check_trace(trace, "failed", "internal_error")
    check_event(running, trace, "LookupError")


@fault(
    "fork in a view, or in mid-stream",
    client="the whole response, as without",
    log="nothing",
    sink="one transaction, the parent's; what the child captures is in its trace",
)
@pytest.mark.parametrize("path", ["/fork/", "/stream-forks/"])
def test_fork(start: Start, request_id: str, path: str) -> None:
    """The child does not send the parent's transaction, and ends."""
    running, seen = ask_both(start, "gunicorn-gthread", path, request_id)
    assert seen.answer is not None
    assert seen.answer.body.endswith(b"0\n")
    trace = running.the_transaction(request_id)
    check_trace(trace, "completed", "ok")
    assert "parent" in trace.names()
    assert "child" not in trace.names()
    (message,) = running.sink.errors()
    assert message["contexts"]["trace"]["trace_id"] == trace.trace_id
    assert seen.log == []


# -- the process


@pytest.mark.parametrize(
    ("name", "lifecycle"),
    [
        ("gunicorn-sync", "static"),
        ("gunicorn-gthread", "static"),
        ("gunicorn-gthread", "stream"),
        ("gunicorn-gevent", "static"),
        ("uvicorn-h11", "static"),
    ],
)
@fault(
    "SIGTERM with streams open",
    client="all that the server still waits for",
    log="how many spans came too late",
    sink="`abandoned`, within `shutdown_timeout`, before the server is killed with its streams",
)
def test_sigterm(tmp_path: Path, name: str, lifecycle: str) -> None:
    """A server waits for its streams, and is killed: they are told of before."""
    if lifecycle == "stream" and not HAS_STREAM_LIFECYCLE:
        pytest.skip("this SDK has no stream lifecycle for Django")
    path = "/stream-async/" if SERVERS[name].interface == "asgi" else "/stream/"
    # Longer than a busy machine takes: the streams are to be told of before they are let go on.
    grace = "--timeout-graceful-shutdown" if "uvicorn" in name else "--graceful-timeout"
    server = faulty(name, grace, "30")
    with fresh(tmp_path, server, lifecycle=lifecycle, shutdown_timeout="0.3") as running:
        streams = {uuid.uuid4().hex: Gate() for _ in range(2 if SERVERS[name].concurrent else 1)}
        with contextlib.ExitStack() as stack:
            responses = []
            for request_id, gate in streams.items():
                stack.enter_context(gate)
                query = f"?gate={gate.port}"
                responses.append(stack.enter_context(running.open(path + query, request_id)))
                gate.wait_until_reached()
            running.process.send_signal(signal.SIGTERM)
            for request_id in streams:
                trace = running.wait_for_transaction(request_id)
                check_trace(trace, "abandoned", "ok" if lifecycle == "stream" else "aborted")
                assert "chunk 1" in trace.names()
            for gate in streams.values():
                gate.open()
            for response in responses:
                received = response.read()
                assert received.body == b"chunk 0\nchunk 1\nchunk 2\n"
                assert received.complete
            running.process.wait()
        for request_id in streams:
            assert len(transactions(running.sink, request_id)) == 1
        assert running.sink.errors() == []
        late = [] if lifecycle == "stream" else [" span(s) of "] * len(streams)
        log = complaints(running.process.output)
        assert len(log) == len(late), log
        assert all(expected in line for line, expected in zip(log, late)), log


@pytest.mark.parametrize("name", ["hypercorn", "daphne"])
@fault(
    "SIGTERM, and the server cancels its streams",
    client="the chunks before, and a cut-off, as without",
    log="what the event loop says of what is left, as without",
    sink="`cancelled`",
)
def test_sigterm_cancels(tmp_path: Path, request_id: str, name: str) -> None:
    """hypercorn does after its grace period, daphne at once; what is left is sent at exit."""
    if not SERVERS[name].ends_with_streams:
        pytest.skip("it does not end while a stream is open")
    with fresh(tmp_path, faulty(name), "ours") as running, Gate() as gate, running.open(
        f"/stream-endless-async/?gate={gate.port}", request_id
    ) as response:
        gate.wait_until_reached()
        running.process.send_signal(signal.SIGTERM)
        running.process.wait()
        received = response.read()
        assert (received.body, received.complete) == (b"first\n", False)
        (trace,) = transactions(running.sink, request_id)
        check_trace(trace, "cancelled", "cancelled")
        # What is left to the garbage collector, and what asyncio says of it, differs from run
        # to run, with and without us.
        assert {event["logger"] for event in running.sink.errors()} <= {"asyncio"}
        assert "internal error" not in running.process.output


@fault(
    "SIGKILL of one worker",
    client="its streams are cut off; those of other workers complete",
    log="gunicorn's line about it",
    sink="nothing of the killed worker's streams, all of the others",
)
def test_sigkill(tmp_path: Path, request_id: str) -> None:
    """Nothing else in the fleet suffers."""
    killed_id = uuid.uuid4().hex
    server = faulty("gunicorn-gthread", "--workers", "2")
    with fresh(tmp_path, server) as running, Gate() as first, Gate() as second, running.open(
        f"/stream-pid/?gate={first.port}", killed_id
    ) as killed:
        first.wait_until_reached()
        pid = int(killed.read_headers().readline())
        os.kill(pid, signal.SIGSTOP)  # so that the other one gets the next request
        with running.open(f"/stream-pid/?gate={second.port}", request_id) as other:
            second.wait_until_reached()
            os.kill(pid, signal.SIGKILL)
            # The connection may be reset, or end.
            with contextlib.suppress(ConnectionError):
                assert not killed.read().complete
            running.process.wait_for_output([re.compile(r"\(pid:%d\) was sent SIGKILL" % pid)])
            second.open()
            received = other.read()
            assert received.complete
            assert received.body.split()[0] != b"%d" % pid
        check_trace(running.the_transaction(request_id), "completed", "ok")
        after = uuid.uuid4().hex
        assert ask(running, "/stream/", after).answer is not None
        check_trace(running.the_transaction(after), "completed", "ok")
        assert transactions(running.sink, killed_id) == []
