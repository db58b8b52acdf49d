"""What there is only under ASGI: cancelled tasks, asyncio's own context, `lifespan`."""

import contextlib
import signal
import uuid
from typing import Optional

import pytest
from client import Gate
from running import Live
from seen import transactions
from test_scenarios import STREAMS, check_one_error, check_status


@pytest.fixture(autouse=True)
def _asgi(live: Live) -> None:
    if live.server.interface != "asgi":
        pytest.skip("a WSGI server")


def test_lifespan(live: Live, request_id: str) -> None:
    """A server's start is no error: Django does not know the `lifespan` protocol.

    Its way to say so is an exception, of which stock makes an event at every start.
    """
    with live.fresh() as running:
        running.fetch("/plain/", request_id)
        running.the_transaction(request_id)
        assert running.sink.errors() == []
        running.check()


def test_client_hangs_up_while_the_generator_waits(live: Live, request_id: str) -> None:
    """The task is cancelled in the generator's `await`: it cleans up, and that is no error."""
    with Gate() as gate, live.main.open(
        f"/stream-endless-async/?gate={gate.port}", request_id
    ) as response:
        response.read_headers()
        gate.wait_until_reached()
        response.hang_up()
        # Nothing is asked of the server that would make it collect garbage.
        trace = live.main.wait_for_transaction(request_id)
    assert trace.named("clean up after CancelledError").parent_span_id == trace.span_id
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "cancelled")
    assert trace.outcome == "cancelled"
    assert trace.data["http.response.stream.chunks"] == 1
    assert trace.data["http.response.body.size"] == len(b"first\n")
    assert live.main.sink.errors() == []


def test_client_hangs_up_while_a_chunk_is_sent(live: Live, request_id: str) -> None:
    """The generator waits at a `yield`: it is closed before the transaction ends.

    Without us it is closed by the garbage collector, some time after that.
    """
    with Gate() as gate, Gate() as stuck, live.main.open(
        f"/stream-endless-async/?gate={gate.port}&stuck={stuck.port}",
        request_id,
        headers={"X-Around": "stuck"},
    ) as response:
        response.read_headers()
        gate.open()
        stuck.wait_until_reached()
        response.hang_up()
        trace = live.main.wait_for_transaction(request_id)
    assert trace.named("clean up after GeneratorExit").parent_span_id == trace.span_id
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "cancelled")
    assert trace.outcome == "cancelled"
    assert live.main.sink.errors() == []


@pytest.mark.parametrize(
    ("method", "path", "read", "static", "outcome"),
    [
        # Django runs such a body in a thread, which cannot be cancelled: it goes to its end.
        # Nobody gets to see that.
        ("GET", "/stream/", None, "cancelled", "cancelled"),
        # Content-Length has been sent; a client that leaves then has not hung up.
        ("GET", "/stream-sized/", b"first\nlast\n", "ok", "completed"),
        # The server sends nothing of a body that the application makes for HEAD.
        ("HEAD", "/stream-endless-async/", b"", "ok", "completed"),
    ],
)
def test_client_leaves(
    live: Live,
    request_id: str,
    method: str,
    path: str,
    read: Optional[bytes],
    static: str,
    outcome: str,
) -> None:
    """Whether that is a hang-up depends on what it has got, and was to get."""
    with Gate() as gate, Gate() as gone, live.main.open(
        f"{path}?gate={gate.port}&gone={gone.port}",
        request_id,
        method=method,
        headers={"X-Around": "disconnect"},
    ) as response:
        if read:
            assert response.read().body == read
        elif read is not None:
            response.read_headers()
        gate.wait_until_reached()
        if read is None:
            response.hang_up()
        else:
            response.close()
        gone.wait_until_reached()
        if read is None:
            gate.open()
        trace = live.main.the_transaction(request_id)
    check_status(live, trace, static)
    assert trace.outcome == outcome
    assert live.main.sink.errors() == []


def test_client_hangs_up_before_the_response(live: Live, request_id: str) -> None:
    """The view gets asyncio's CancelledError, and can clean up; it is no error."""
    with Gate() as gate, live.main.open(f"/wait/?gate={gate.port}", request_id) as response:
        gate.wait_until_reached()
        response.hang_up()
        trace = live.main.the_transaction(request_id)
    assert "cancelled" in [span.name for span in trace.spans]
    assert trace.outcome is None
    assert live.main.sink.errors() == []


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_server_ends_with_open_streams(live: Live, signal_name: str) -> None:
    """Each is sent, once, which is no error; and the server ends.

    uvicorn ends by the signal itself, when nothing of atexit is run.
    """
    if not live.server.ends_with_streams:
        pytest.skip("it does not end while a stream is open")
    request_ids = [uuid.uuid4().hex for _ in range(3)]
    with live.fresh(AT_SHUTDOWN="flush") as running, contextlib.ExitStack() as stack:
        for request_id in request_ids:
            gate = stack.enter_context(Gate())
            response = running.open(f"/stream-endless-async/?gate={gate.port}", request_id)
            stack.enter_context(response).read_headers()
            gate.wait_until_reached()
        running.process.stop(signal.Signals[signal_name])
        for request_id in request_ids:
            (trace,) = transactions(running.sink, request_id)
            # The latter where the server takes longer than shutdown_timeout after SIGTERM.
            assert trace.outcome in ("cancelled", "abandoned")
            check_status(live, trace, {"abandoned": "aborted"}.get(trace.outcome, "cancelled"))
            assert trace.data["http.response.stream.chunks"] == 1
        # uvicorn logs how many there were, as an error; that has no exception.
        errors = [event for event in running.sink.errors() if "exception" in event]
        # What asyncio logs of generators that hypercorn leaves open, not of a request.
        assert [event for event in errors if event.get("logger") != "asyncio"] == []
        running.check()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/stream-fails/", "in mid-stream of "),
        ("/stream-fails-async/", "in mid-stream of "),
        ("/stream-labelled-fails-async/", "labelled in "),
    ],
)
def test_error_that_the_server_logs(live: Live, request_id: str, path: str, message: str) -> None:
    """It logs the error, some time later and in another context: there is still one event.

    The error gets to the server as the application has raised it, with its cause. The SDK's
    own middleware raises it `from None`.
    """
    with live.logging() as running:
        running.fetch_failing_until_logged(path, request_id, f"RuntimeError: {message}{request_id}")
        if "labelled" in path:
            assert "LookupError: cause in " + request_id in running.process.output
        check_one_error(running, running.the_transaction(request_id), message + request_id)


@pytest.mark.parametrize("path", STREAMS)
def test_requests_on_one_connection(live: Live, path: str) -> None:
    """A connection's requests have what was current when it was made; each has its own trace."""
    request_ids = [uuid.uuid4().hex for _ in range(3)]
    assert (
        live.main.fetch_on_one_connection(path, request_ids) == [b"chunk 0\nchunk 1\nchunk 2\n"] * 3
    )
    traces = [live.main.the_transaction(request_id) for request_id in request_ids]
    assert len({trace.trace_id for trace in traces}) == 3
    for trace in traces:
        assert [str(span.name) for span in trace.spans if str(span.name).startswith("chunk")] == [
            "chunk 0",
            "chunk 1",
            "chunk 2",
        ]
