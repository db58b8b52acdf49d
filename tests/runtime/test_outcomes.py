"""How a streaming response ended, as the ingest is told: WSGI and ASGI, Django and not."""

import threading
import time

import pytest
import sentry_sdk
from django.db import connections
from django.http import HttpResponse, StreamingHttpResponse
from support.apps import (
    ASGI_WAYS,
    DJANGO_LISTENS,
    DJANGO_STREAMS_APART,
    DJANGO_WAYS,
    WAYS,
    open_stream,
    serve,
    serve_asgi,
    streaming_app,
)
from support.asgi import HANG_UPS
from support.sdk import TRACE_HEAD, log_in_server, start_span, status_of
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration

every_way = pytest.mark.parametrize("way", WAYS)
TIMES = (
    "http.response.stream.time_to_first_chunk",
    "http.response.stream.produce_time",
    "http.response.stream.send_time",
    "http.server.return_time",
)


def body_of(*chunks):
    """A body that makes a span for each chunk, and another when it is left."""

    def body():
        try:
            for number, chunk in enumerate(chunks):
                with start_span(f"chunk {number}"):
                    if isinstance(chunk, BaseException):
                        raise chunk
                yield chunk
        finally:
            with start_span("clean up"):
                pass

    return body


@pytest.fixture
def opened(init, lifecycle, seen):
    """Send a request to a new streaming application; return the ingest and the client.

    What arrives is counted by stats(), too: once, by its outcome.
    """
    received = []

    def opened(way, *chunks, path="/", request=(), sdk=(), status=200, headers=(), **options):
        sentry = init(lifecycle, DjangoIntegration(**options), **dict(sdk))
        app = streaming_app(way, body_of(*chunks), status=status, headers=headers, **options)
        received.append(sentry)
        return sentry, open_stream(way, app, path, **dict(request))

    yield opened
    for sentry in received:
        outcomes = [root.outcome for root in sentry.roots() if root.op == "http.server"]
        assert not outcomes or seen.streaming == dict.fromkeys(outcomes, 1)
        assert (seen.plain, seen.open_responses, seen.left_open) == ({}, 0, 0)


@every_way
@pytest.mark.parametrize(("http_status", "status"), [(200, "ok"), (404, "not_found")])
def test_completed(opened, lifecycle, way, http_status, status):
    """Read to its end: all spans, all data, status from HTTP."""
    began = time.perf_counter()
    sentry, client = opened(way, b"a", b"bc", b"def", status=http_status)
    assert client.read() == b"abcdef"
    elapsed = time.perf_counter() - began
    root = sentry.root()
    assert (root.op, root.outcome) == ("http.server", "completed")
    assert root.status == status_of(lifecycle, status)
    assert root.data["http.response.stream.chunks"] == 3
    assert root.data["http.response.body.size"] == 6
    # Up to 2.11 the SDK itself does not send it.
    assert root.data.get("http.response.status_code", http_status) == http_status
    for name in ("chunk 0", "chunk 1", "chunk 2", "clean up"):
        assert root.parent_of(name) is None
    for name in TIMES:
        assert 0 <= root.data[name] <= elapsed * 1000
    assert root.data[TIMES[0]] >= root.data["http.server.return_time"]
    assert not sentry.errors()


@every_way
@pytest.mark.parametrize("streaming", [True, False])
def test_stream_op(init, lifecycle, way, streaming):
    """It is the op of streams alone: percentiles of requests are not theirs."""
    sentry = init(lifecycle, DjangoIntegration(stream_op="http.server.stream"))
    if streaming:
        app = streaming_app(way, body_of(b"a"), stream_op="http.server.stream")
    elif way in DJANGO_WAYS:
        app = (serve if way == "wsgi-django" else serve_asgi)(lambda request: HttpResponse(b"x"))
    else:
        pytest.skip("Django's")
    open_stream(way, app).read()
    assert sentry.root().op == ("http.server.stream" if streaming else "http.server")


@pytest.fixture
def no_connection():
    """No database connection. Django leaves one to a database in memory open."""

    def close():
        database = connections["default"]
        if database.connection is not None:
            database.connection.close()
            database.connection = None

    close()
    yield
    close()


@pytest.mark.parametrize("is_open", [True, False])
def test_open_database_connections(init, lifecycle, no_connection, is_open):
    """A stream keeps the connection that its view has opened; 0 is not told."""
    sentry = init(lifecycle)

    def view(request):
        if is_open:
            connections["default"].ensure_connection()
        return StreamingHttpResponse([b"a"])

    WsgiClient(serve(view)).read()
    data = sentry.root().data
    assert data.get("http.response.stream.open_db_connections") == (1 if is_open else None)


@pytest.mark.parametrize(
    ("way", "how"),
    [(way, None) for way in WAYS[:2]] + [(way, how) for way in ASGI_WAYS for how in HANG_UPS],
)
def test_cancelled(opened, lifecycle, way, how):
    """The client hangs up in mid-stream: no error. Clean-up of the body is still traced."""
    if way == "asgi-django" and how == "message" and not DJANGO_LISTENS:
        pytest.skip("this Django does not notice")
    sentry, client = opened(way, *[b"event"] * 9)
    client.take(2)
    client.hang_up(how)
    (root,) = (root for root in sentry.roots() if root.op == "http.server")
    assert (root.outcome, root.status) == ("cancelled", status_of(lifecycle, "cancelled"))
    # (under ASGI there may be one more, which the server refused)
    assert root.data["http.response.stream.chunks"] == 2 + (how == "error")
    if not (DJANGO_STREAMS_APART and (way, how) == ("asgi-django", "cancel")):
        assert root.parent_of("clean up") is None
    assert not sentry.errors()


@every_way
def test_timed_out(opened, seen, lifecycle, way):
    """At response_timeout the transaction is sent; the stream goes on, and tells nothing new."""
    sentry, client = opened(way, b"a", b"b", b"c", response_timeout=0.2)
    client.take(1)
    root = sentry.root()
    assert (root.outcome, root.status) == ("timed_out", status_of(lifecycle, "deadline_exceeded"))
    assert root.data["http.response.stream.chunks"] == 1
    assert root.duration >= 0.2
    assert (seen.open_responses, seen.left_open) == (0, 1)
    assert client.read() == b"abc"
    again = sentry.root()
    assert (again.span_id, again.outcome) == (root.span_id, "timed_out")
    assert again.data["http.response.stream.chunks"] == 1
    # Later spans are lost in the static lifecycle, and are of the trace in the other.
    assert ("chunk 2" in again.names()) == (lifecycle == "stream")


@every_way
def test_error_after_the_deadline_is_in_the_trace(opened, way):
    """The transaction is gone by then, but not its trace, nor the request's data."""
    sentry, client = opened(way, b"a", ValueError("late"), path="/late", response_timeout=0.1)
    client.take(1)
    root = sentry.root()
    with pytest.raises(ValueError, match="late") as caught:
        client.read()
    log_in_server(caught.value)
    assert sentry.one_error(root)["request"]["url"].endswith("/late")
    assert sentry.root().outcome == "timed_out"


@every_way
def test_response_timeout_none_never_ends_it(opened, way):
    """None: no deadline at all."""
    sentry, client = opened(way, b"a", b"b", response_timeout=None)
    client.take(1)
    with pytest.raises(TimeoutError):
        sentry.root(timeout=0.2)
    client.hang_up()
    assert sentry.root().outcome == "cancelled"


def test_deadline_counts_from_the_return(init):
    """However long the view has taken: its stream has the whole response_timeout."""
    sentry = init(integration=DjangoIntegration(response_timeout=1.0))

    def view(request):
        threading.Event().wait(1.0)
        return StreamingHttpResponse(iter([b"a"]))

    client = WsgiClient(serve(view))
    with pytest.raises(TimeoutError):
        sentry.root(timeout=0.2)
    assert client.read() == b"a"
    assert sentry.root().outcome == "completed"


@every_way
def test_evicted(init, lifecycle, way):
    """At more than max_open_responses open, the oldest is finished at once, and lives on."""
    options = {"max_open_responses": 2}
    sentry = init(lifecycle, DjangoIntegration(**options))
    app = streaming_app(way, body_of(b"a", b"b"), **options)
    clients = [open_stream(way, app, f"/{number}") for number in range(3)]
    root = sentry.root()
    assert (root.outcome, root.status) == ("evicted", status_of(lifecycle, "aborted"))
    assert [client.read() for client in clients] == [b"ab"] * 3
    outcomes = sorted(root.outcome for root in sentry.wait_for_roots(3))
    assert outcomes == ["completed", "completed", "evicted"]


@pytest.mark.fault(
    "`close()` comes twice",
    client="what it had got by then",
    log="nothing",
    sink="one transaction, with the outcome of the first",
)
def test_second_close_changes_nothing(opened, caplog):
    """Outcome, status and counters are those of the first ending."""
    sentry, client = opened("wsgi-django", b"a", b"b")
    client.take(1)
    client.close()
    client.close()
    root = sentry.root()
    assert root.outcome == "cancelled"
    assert root.data["http.response.stream.chunks"] == 1
    assert not caplog.records


@every_way
@pytest.mark.parametrize("rate", [0.0, None])
def test_not_sampled(opened, seen, way, rate):
    """Nothing is sent of the request, but its errors are, with its data."""
    sentry, client = opened(
        way, b"a", ValueError("seen"), path="/path", sdk={"traces_sample_rate": rate}
    )
    with pytest.raises(ValueError, match="seen"):
        client.read()
    assert not sentry.roots()
    assert seen.streaming == {"failed": 1}
    (event,) = sentry.errors()
    assert event["request"]["url"].endswith("/path")


# -- a client that has got all it was to get ---------------------------------------------


@every_way
@pytest.mark.parametrize(
    ("method", "status", "headers", "outcome"),
    [
        ("GET", 200, [("Content-Length", "2")], "completed"),
        ("GET", 200, [("content-length", "2")], "completed"),
        ("GET", 200, [("Content-Length", "3")], "cancelled"),
        ("GET", 200, [("Content-Length", "x")], "cancelled"),
        ("GET", 304, [], "completed"),
        ("HEAD", 200, [], "completed"),
        # nginx and Apache send another file then, and close our response.
        ("GET", 200, [("X-Accel-Redirect", "/protected/file")], "completed"),
        ("GET", 200, [("x-sendfile", "/protected/file")], "completed"),
        ("GET", 200, [("X-Accel-Buffering", "no")], "cancelled"),
    ],
)
def test_what_was_to_be_sent(init, way, method, status, headers, outcome):
    """It may leave at any time: servers stop at Content-Length, without asking for the end."""
    sentry = init(integration=DjangoIntegration(**TRACE_HEAD))
    options = {} if "django" in way else TRACE_HEAD
    app = streaming_app(way, body_of(b"a", b"b", b""), status=status, headers=headers, **options)
    client = open_stream(way, app, method=method)
    if status != 304 and method != "HEAD":  # servers read nothing of it
        client.take(2)
    client.hang_up()
    assert sentry.root().outcome == outcome


# -- times and sizes -----------------------------------------------------------------------


def test_times_tell_a_slow_client_from_a_slow_generator(opened):
    """produce_time is inside next(), send_time between two of them; in milliseconds."""
    sentry, client = opened("wsgi-django", b"a", b"b")
    client.take(1)
    threading.Event().wait(0.05)  # the client is slow here
    client.take(1)
    client.close()
    data = sentry.root().data
    assert data["http.response.stream.send_time"] >= 50
    assert data["http.response.stream.produce_time"] < data["http.response.stream.send_time"]


@every_way
def test_times_between_chunks(init, lifecycle, way):
    """Of those with bytes: servers send nothing for the others."""
    sentry = init(lifecycle)

    def body():
        yield b""
        time.sleep(0.03)
        yield b"a"
        yield b"b"
        time.sleep(0.03)
        yield b""
        time.sleep(0.03)
        yield b"c"
        yield b"d"

    began = time.perf_counter()
    open_stream(way, streaming_app(way, body)).read()
    elapsed = (time.perf_counter() - began) * 1000
    data = sentry.root().data
    assert 30 <= data["http.response.stream.time_to_first_chunk"] <= elapsed - 60
    assert 60 <= data["http.response.stream.longest_gap"] <= elapsed - 30
    assert data["http.response.stream.chunks"] == data["http.response.body.size"] == 4


@every_way
def test_no_bytes(opened, way):
    """A stream of nothing is complete, and has no first chunk and no gap."""
    sentry, client = opened(way, b"", b"")
    client.read()
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.stream.chunks"] == root.data["http.response.body.size"] == 0
    for name in "time_to_first_chunk", "longest_gap":
        assert f"http.response.stream.{name}" not in root.data


# -- other things of the SDK's ---------------------------------------------------------------


def test_transaction_of_the_view_is_left_alone(init, lifecycle):
    """One that is open when the view returns is neither the request's nor ended with it."""
    sentry = init(lifecycle)

    def view(request):
        if lifecycle == "static":
            mine = sentry_sdk.start_transaction(op="export", name="export")
        else:
            mine = sentry_sdk.traces.start_span("export", parent_span=None)
        mine.__enter__()
        return StreamingHttpResponse(body(mine))

    def body(mine):
        yield b"a"
        mine.__exit__(None, None, None)
        yield b"b"

    client = WsgiClient(serve(view), "/path")
    client.take(1)
    client.close()
    root = sentry.root()
    assert (root.op, root.outcome) == ("http.server", "cancelled")


@pytest.mark.parametrize("way", ["wsgi-django", ASGI_WAYS[-1]])
def test_session_ends_with_the_response(init, way):
    """Release health: one session a request, errored if the stream fails."""
    sentry = init(auto_session_tracking=True)

    def ends():
        sentry_sdk.get_client().session_flusher.flush()
        aggregates = [one for session in sentry.sessions() for one in session["aggregates"]]
        return [sum(one.get(end, 0) for one in aggregates) for end in ("exited", "errored")]

    open_stream(way, streaming_app(way, body_of(b"a"))).read()
    failing = open_stream(way, streaming_app(way, body_of(b"a", ValueError("no"))))
    assert ends() == [1, 0]
    with pytest.raises(ValueError, match="no"):
        failing.read()
    assert ends() in ([1, 1], [1, 0])
