"""What there is only under ASGI: cancelled tasks, asyncio's own context, `lifespan`."""

import contextlib
import signal
import uuid

import pytest
from client import Gate


@pytest.fixture(autouse=True)
def _asgi(live):
    if live.server.interface != "asgi":
        pytest.skip("a WSGI server")


@pytest.mark.parametrize(
    ("around", "error"),
    [
        # The task is cancelled in the generator's `await`.
        (None, "CancelledError"),
        # The generator waits at a `yield`: without us it is closed by the garbage collector,
        # some time after the transaction has ended.
        ("stuck", "GeneratorExit"),
    ],
)
def test_client_hangs_up(live, request_id, around, error):
    """The generator cleans up before the transaction ends, and that is no error."""
    with Gate() as stuck, live.main.held(
        f"/stream-endless-async/?stuck={stuck.port}",
        request_id,
        headers={"X-Around": around} if around else None,
    ) as (response, gate):
        response.read_headers()
        if around:
            gate.open()
            stuck.wait_until_reached()
        response.hang_up()
        # Nothing is asked of the server that would make it collect garbage.
        trace = live.main.wait_for_transaction(request_id)
    assert trace.named("clean up after " + error).parent_span_id == trace.span_id
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, "cancelled", "cancelled")
    if not around:
        assert trace.data["http.response.stream.chunks"] == 1
        assert trace.data["http.response.body.size"] == len(b"first\n")
    assert live.main.sink.errors() == []


@pytest.mark.parametrize(
    ("method", "path", "read", "outcome"),
    [
        # Django runs such a body in a thread, which cannot be cancelled: it goes to its end.
        # Nobody gets to see that.
        ("GET", "/stream/", None, "cancelled"),
        # Content-Length has been sent; a client that leaves then has not hung up.
        ("GET", "/stream-sized/", b"first\nlast\n", "completed"),
        # The server sends nothing of a body that the application makes for HEAD.
        ("HEAD", "/stream-endless-async/", b"", "completed"),
    ],
)
def test_client_leaves(live, request_id, method, path, read, outcome):
    """Whether that is a hang-up depends on what it has got, and was to get."""
    with Gate() as gone, Gate() as gate, live.main.open(
        f"{path}?gate={gate.port}&gone={gone.port}",
        request_id,
        method=method,
        headers={"X-Around": "disconnect"},
    ) as response:
        if read is not None:
            assert response.read().body == read
        gate.wait_until_reached()
        response.hang_up()
        gone.wait_until_reached()
        if read is None:
            gate.open()
        trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, outcome, {"completed": "ok"}.get(outcome, outcome))
    assert live.main.sink.errors() == []


def test_client_hangs_up_before_the_response(live, request_id):
    """The view gets asyncio's CancelledError, and can clean up; it is no error."""
    with live.main.held("/wait/", request_id) as (response, _):
        response.hang_up()
        trace = live.main.the_transaction(request_id)
    assert "cancelled" in trace.names()
    assert trace.outcome is None
    assert live.main.sink.errors() == []


@pytest.mark.fault(
    "SIGTERM, and the server cancels its streams (ASGI)",
    client="the chunks before, and a cut-off, as without",
    log="what the event loop says of what is left, as without",
    sink="`cancelled`",
)
@pytest.mark.parametrize(
    ("signal_name", "at_shutdown"), [("SIGTERM", "flush"), ("SIGINT", "flush"), ("SIGTERM", "")]
)
def test_server_ends_with_open_streams(live, signal_name, at_shutdown):
    """Each is sent, once, which is no error; and the server ends."""
    if not live.server.ends_with_streams:
        pytest.skip("it does not end while a stream is open")
    if not at_shutdown and live.server.needs.startswith("uvicorn"):
        pytest.skip("it ends by the signal itself, when nothing of atexit is run")
    request_ids = [uuid.uuid4().hex for _ in range(3)]
    with live.fresh(AT_SHUTDOWN=at_shutdown) as running, contextlib.ExitStack() as stack:
        responses = []
        for request_id in request_ids:
            response, _ = stack.enter_context(running.held("/stream-endless-async/", request_id))
            response.read_headers()
            responses.append(response)
        running.process.stop(signal.Signals[signal_name])
        for request_id, response in zip(request_ids, responses):
            received = response.read()
            assert (received.body, received.complete) == (b"first\n", False)
            (trace,) = running.transactions(request_id)
            # The latter where the server takes longer than shutdown_timeout after SIGTERM.
            status = {"cancelled": "cancelled", "abandoned": "aborted"}[trace.outcome]
            running.check_outcome(trace, trace.outcome, status)
            assert trace.data["http.response.stream.chunks"] == 1
        # uvicorn logs how many there were, as an error; that has no exception.
        errors = [event for event in running.sink.errors() if "exception" in event]
        # What asyncio logs of generators that hypercorn leaves open, not of a request.
        assert [event for event in errors if event.get("logger") != "asyncio"] == []
        assert "internal error" not in running.process.output
        running.check()


@pytest.mark.parametrize("path", ["/stream-fails/", "/stream-fails-async/"])
def test_error_that_the_server_logs(live, request_id, path):
    """It logs the error, some time later and in another context: there is still one event.

    The error gets to the server as the application has raised it, with its cause. The SDK's
    own middleware raises it `from None`. Nor is the server's start an event: Django raises
    an error to say that it does not know the `lifespan` protocol, and stock reports that.
    """
    message = "in mid-stream of " + request_id
    # Not the main one: see Server.ends_failed.
    with live.fresh() as running:
        with running.open(path, request_id) as response:
            if live.server.ends_failed:
                response.read()
            running.process.wait_for_output("RuntimeError: " + message)
        assert "LookupError: cause in " + request_id in running.process.output
        trace = running.the_transaction(request_id)
        running.check_one_error(trace, "RuntimeError", message)
        running.check()
