"""Django beside consumers of Channels: WebSockets, and server-sent events."""

import pytest

pytest.importorskip("channels")
client = pytest.importorskip("websockets.sync.client")


@pytest.fixture(autouse=True)
def _asgi(live):
    if live.server.interface != "asgi":
        pytest.skip("a WSGI server")


@pytest.fixture
def running(live):
    """Django beside consumers."""
    return live.get("channels", ROUTER="channels")


def talk(running, request_id):
    return client.connect(
        f"ws://127.0.0.1:{running.port}/talk/", additional_headers={"X-Request-Id": request_id}
    )


def check_talk(trace, received):
    assert trace.op == "websocket.server"
    assert trace.name.endswith("/talk/")
    assert trace.named("received " + received).parent_span_id == trace.span_id
    # These are of HTTP responses.
    assert [name for name in trace.data if "response" in name] == []


def test_events(running, request_id):
    """The response of an AsyncHttpConsumer is a stream like any other."""
    received = running.fetch("/events/", request_id)
    assert received.body == b"data: event\n\n" * 3
    trace = running.the_transaction(request_id)
    assert (trace.op, trace.outcome) == ("http.server", "completed")
    assert trace.data["http.response.stream.chunks"] == 3
    for number in range(3):
        assert trace.named(f"event {number}").parent_span_id == trace.span_id


@pytest.mark.parametrize("how", ["close", "hang up"])
def test_websocket(running, request_id, how):
    """One transaction, until the client leaves: that is no error, however it does so."""
    with talk(running, request_id) as connection:
        connection.send("hello")
        assert connection.recv() == "answer"
        if how == "hang up":
            connection.socket.close()
    trace = running.the_transaction(request_id)
    check_talk(trace, "hello")
    assert trace.status not in ("internal_error", "error")
    assert running.sink.errors() == []


def test_websocket_that_fails(live, request_id):
    """An error of a consumer is one event, in the transaction; also when the server logs it."""
    message = "fail in " + request_id
    with live.fresh(ROUTER="channels") as running:
        with talk(running, request_id) as connection:
            connection.send(message)
            running.process.wait_for_output("RuntimeError: " + message)
        trace = running.the_transaction(request_id)
        check_talk(trace, message)
        running.check_outcome(trace, None, "internal_error")
        running.check_one_error(trace, "RuntimeError", message)


def test_server_ends_with_an_open_websocket(live, request_id):
    """Its transaction is sent, once, and that is no error."""
    if live.server.needs.startswith("daphne"):
        pytest.skip("it does not wait for the consumers that it has cancelled")
    if not live.server.ends_with_streams:
        pytest.skip("it does not end while a stream is open")
    with live.fresh(ROUTER="channels", AT_SHUTDOWN="flush") as running:
        with talk(running, request_id) as connection:
            connection.send("hello")
            assert connection.recv() == "answer"
            running.process.stop()
        (trace,) = running.transactions(request_id)
        check_talk(trace, "hello")
        assert [event for event in running.sink.errors() if "exception" in event] == []
        running.check()
