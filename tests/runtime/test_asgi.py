"""ASGI: how a connection ended, as the ingest is told."""

import asyncio
import gc
import tempfile
import time
import warnings

import pytest
import sentry_sdk
from asgi_server import (
    ASYNC_BODIES,
    DJANGO_LISTENS,
    HANG_UPS,
    KINDS,
    Connection,
    django_app,
    hang_up_after,
    plain_app,
    read,
    streaming_app,
)
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from harness import TRACE_HEAD, start_span, static_status
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from test_outcomes import TIMES
from views import serve_asgi

from vendored_integration import DjangoIntegration
from vendored_integration.asgi import SentryMiddleware

both = pytest.mark.parametrize("kind", KINDS)
async_bodies = pytest.mark.skipif(not ASYNC_BODIES, reason="Django has no async bodies yet")
START = {"type": "http.response.start", "status": 200, "headers": []}


async def three_chunks():
    for number, chunk in enumerate((b"a", b"bc", b"def")):
        with start_span(f"chunk {number}"):
            await asyncio.sleep(0)
        yield chunk


@both
def test_completed(sentry, lifecycle, kind):
    """A stream that was read to its end: all spans, all data, status from HTTP."""
    began = time.perf_counter()
    connection = asyncio.run(read(streaming_app(kind, three_chunks), "/export"))
    elapsed = time.perf_counter() - began
    assert (connection.chunks, connection.error) == ([b"a", b"bc", b"def"], None)
    root = sentry.root()
    assert root.op == "http.server"
    assert (root.outcome, root.status) == ("completed", "ok")
    assert root.data["http.response.stream.chunks"] == 3
    assert root.data["http.response.body.size"] == 6
    for number in range(3):
        assert root.parent_of(f"chunk {number}") is None
    for name in TIMES:
        assert 0 <= root.data[name] <= elapsed * 1000
    assert (
        root.data["http.response.stream.time_to_first_chunk"]
        >= root.data["http.server.return_time"]
    )
    assert not sentry.errors()


@both
def test_http_error_status_is_kept(sentry, lifecycle, kind):
    """The outcome says how the stream ended, the status what HTTP said."""
    asyncio.run(read(streaming_app(kind, three_chunks, status=404)))
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.status == ("not_found" if lifecycle == "static" else "error")


@both
@pytest.mark.parametrize("how", HANG_UPS)
def test_cancelled(sentry, lifecycle, kind, how):
    """The client hangs up in mid-stream, however the server tells: no error event."""
    if kind == "django" and how == "message" and not DJANGO_LISTENS:
        pytest.skip("this Django does not notice")

    async def body():
        number = 0
        while True:
            with start_span(f"chunk {number}"):
                yield b"event"
            number += 1
            await asyncio.sleep(0.001)  # 1,000 spans would be sent at once

    error = asyncio.run(hang_up_after(streaming_app(kind, body), 2, how))
    if how == "error":
        assert isinstance(error, ConnectionResetError)
    else:
        assert isinstance(error, asyncio.CancelledError if how == "cancel" else type(None))
    # (Django 5 does not pass a cancellation on: its task streams until it ends)
    (root,) = (root for root in sentry.roots() if root.op == "http.server")
    assert root.outcome == "cancelled"
    assert root.status == static_status(lifecycle, "cancelled")
    assert root.data["http.response.stream.chunks"] >= 2
    assert "chunk 0" in root.names()
    assert not sentry.errors()


@async_bodies
@pytest.mark.skipif(not DJANGO_LISTENS, reason="this Django does not notice")
def test_hang_up_before_the_response(sentry, lifecycle):
    """The client goes while the view still works: cancelled, though nothing has streamed."""

    async def main():
        at_work = asyncio.Event()

        async def view(request):
            at_work.set()
            await asyncio.Event().wait()

        connection = Connection(serve_asgi(view))
        await at_work.wait()
        connection.hang_up("message")
        return await connection.end()

    assert asyncio.run(main()) is None
    root = sentry.root()
    assert root.status == (static_status(lifecycle, "cancelled"))
    assert root.outcome is None
    assert not sentry.errors()


def test_failed_before_the_response(sentry, lifecycle):
    """An application that raises at once: one event, an error status, no stream data."""

    async def app(scope, receive, send):
        raise ValueError("at once")

    connection = asyncio.run(read(SentryMiddleware(app)))
    assert isinstance(connection.error, ValueError)
    root = sentry.root()
    assert (root.status, root.outcome) == (static_status(lifecycle, "internal_error"), None)
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id


def test_failing_view(sentry, lifecycle):
    """Django answers an error of a view with 500, reports it once, and raises nothing."""

    def view(request):
        raise ValueError("in the view")

    connection = asyncio.run(read(serve_asgi(view)))
    assert (connection.status, connection.error) == (500, None)
    root = sentry.root()
    assert root.status == static_status(lifecycle, "internal_error")
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id


def test_returns_without_finishing(sentry, lifecycle):
    """The last message never comes: not completed, whatever the server makes of it."""

    async def app(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})

    asyncio.run(read(SentryMiddleware(app)))
    assert sentry.root().outcome == "cancelled"


def never_ending(*messages, waits=None):
    """An application that sends these and then waits for ever; says when it does."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        if waits is not None:
            waits.set()
        await asyncio.Event().wait()

    return app


PART = {"type": "http.response.body", "body": b"abc", "more_body": True}
SIZED = {**START, "headers": [(b"Content-Length", b"6")]}


@pytest.mark.parametrize(
    ("method", "messages", "outcome"),
    [
        ("GET", [SIZED, PART, PART], "completed"),
        ("GET", [SIZED, PART], "cancelled"),
        ("GET", [START, PART], "cancelled"),
        ("GET", [START], "cancelled"),
        ("GET", [{**START, "status": 304}, PART], "completed"),
        ("HEAD", [START, PART], "completed"),
        ("GET", [{**START, "headers": [(b"content-length", b"many")]}, PART], "cancelled"),
    ],
)
def test_what_was_to_be_sent(sentry, method, messages, outcome):
    """A client that has got all it was to get may leave at any time: HEAD, 304, Content-Length."""

    async def main():
        waits = asyncio.Event()
        connection = Connection(
            SentryMiddleware(never_ending(*messages, waits=waits), **TRACE_HEAD), method=method
        )
        await waits.wait()
        connection.hang_up("cancel")
        return await connection.end()

    assert isinstance(asyncio.run(main()), asyncio.CancelledError)
    assert sentry.root().outcome == outcome


def test_plain_response(sentry):
    """A response in one message is no stream; one of Django's in several is none either."""
    assert len(asyncio.run(read(serve_asgi(lambda request: HttpResponse(b"x")))).chunks) == 1
    assert sentry.root().outcome is None
    big = HttpResponse(b"x" * 200_000)
    assert len(asyncio.run(read(serve_asgi(lambda request: big))).chunks) == 4
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    assert [root.outcome for root in sentry.roots()] == [None, None]


def test_plain_asgi_response_in_one_message(sentry):
    """Of an application that says nothing else, the first message of the body tells."""

    async def app(scope, receive, send):
        await send(START)
        await send({"type": "http.response.body", "body": b"all"})

    asyncio.run(read(SentryMiddleware(app)))
    root = sentry.root()
    assert root.outcome is None
    assert not [name for name in root.data if name.startswith("http.response.stream")]


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_file_response(sentry):
    """A file: all its bytes, and closed; its transaction lasts until it was sent."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(b"x" * 100_000)
    file.seek(0)
    connection = asyncio.run(read(serve_asgi(lambda request: FileResponse(file))))
    assert b"".join(connection.chunks) == b"x" * 100_000
    assert file.closed
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.body.size"] == 100_000


@pytest.mark.parametrize("length", [None, 5])
def test_file_that_the_server_reads(sentry, length):
    """pathsend: complete; as many bytes as the header says, or nobody knows how many."""

    async def app(scope, receive, send):
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        await send({**START, "headers": headers})
        await send({"type": "http.response.pathsend", "path": "/etc/hostname"})

    asyncio.run(read(SentryMiddleware(app)))
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data.get("http.response.body.size") == length


def test_background_work(sentry):
    """What is done after the last message belongs to the transaction, and to no outcome."""

    async def app(scope, receive, send):
        await plain_app(three_chunks)(scope, receive, send)
        with start_span("in the background"):
            await asyncio.Event().wait()

    async def main():
        connection = Connection(SentryMiddleware(app))
        await connection.sent(3)
        for _ in range(20):
            await asyncio.sleep(0)
        connection.hang_up("cancel")
        await connection.end()

    asyncio.run(main())
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.parent_of("in the background") is None
    assert not sentry.errors()


# In another context than its own, older SDKs cannot reset their scopes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_dropped_with_its_loop(sentry):
    """The event loop is closed in mid-stream, and the task dropped: abandoned, no error."""

    async def body():
        while True:
            yield b"event"

    loop = asyncio.new_event_loop()
    connection = []

    async def main():
        app = SentryMiddleware(never_ending(START, PART))
        connection.append(Connection(app))
        await connection[0].sent(1)

    loop.run_until_complete(main())
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed"
    loop.close()
    connection[0].task._log_destroy_pending = False
    connection.clear()
    gc.collect()
    root = sentry.root()
    assert root.outcome == "abandoned"
    assert not sentry.errors()


def test_websocket(sentry, lifecycle):
    """A transaction until the end; cancelled if the server cancels it; no stream data."""

    async def app(scope, receive, send):
        with start_span("talk"):
            await send({"type": "websocket.accept"})
            await asyncio.Event().wait()

    async def main():
        connection = Connection(SentryMiddleware(app), type="websocket")
        while not connection.messages:
            await asyncio.sleep(0)
        connection.hang_up("cancel")
        return await connection.end()

    assert isinstance(asyncio.run(main()), asyncio.CancelledError)
    root = sentry.root()
    assert (root.op, root.outcome) == ("websocket.server", None)
    if lifecycle == "static":
        assert root.status == "cancelled"
    assert root.names() == ["talk"]
    assert not sentry.errors()


def test_websocket_whose_client_has_gone(sentry, lifecycle):
    """A server may tell that by an error of send(): no event."""

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "event"})

    async def main():
        connection = Connection(SentryMiddleware(app), type="websocket")
        while not connection.messages:
            await asyncio.sleep(0)
        connection.hang_up("error")
        return await connection.end()

    assert isinstance(asyncio.run(main()), ConnectionResetError)
    root = sentry.root()
    if lifecycle == "static":
        assert root.status == "cancelled"
    assert not sentry.errors()


# -- lifespan --------------------------------------------------------------------------


def test_lifespan_that_django_does_not_know(sentry):
    """Django raises: that is how it says so, and no error. The server gets to see it."""
    connection = asyncio.run(read(serve_asgi(None), type="lifespan"))
    assert isinstance(connection.error, ValueError)
    assert "lifespan" in str(connection.error)
    assert not sentry.errors()
    assert not sentry.roots()


def test_lifespan_whose_startup_fails(sentry):
    """An application that knows the protocol, and fails: that is an error."""

    async def app(scope, receive, send):
        await receive()
        try:
            raise ValueError("no database")
        except ValueError:
            await send({"type": "lifespan.startup.failed", "message": "no database"})
            raise

    connection = asyncio.run(read(SentryMiddleware(app), type="lifespan"))
    assert isinstance(connection.error, ValueError)
    assert connection.messages == [{"type": "lifespan.startup.failed", "message": "no database"}]
    (event,) = sentry.errors()
    assert event["exception"]["values"][-1]["value"] == "no database"


# -- more than one middleware ----------------------------------------------------------


def nestings():
    ours = SentryMiddleware
    yield "ours in ours", lambda app: ours(ours(app)), True
    yield "stock in ours", lambda app: ours(SentryAsgiMiddleware(app)), True
    yield "ours in stock", lambda app: SentryAsgiMiddleware(ours(app)), False


NESTINGS = {name: (nest, complete) for name, nest, complete in nestings()}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_nested(sentry, nesting):
    """One transaction, whoever is outside; with our data, if we are."""
    nest, complete = NESTINGS[nesting]
    asyncio.run(read(nest(plain_app(three_chunks))))
    root = sentry.root()
    assert root.outcome == ("completed" if complete else None)
    assert len(root.names()) == 3


@both
def test_around_django(sentry, kind):
    """SentryMiddleware around Django, whose own middleware is within it: one transaction."""
    asyncio.run(read(SentryMiddleware(streaming_app(kind, three_chunks))))
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.stream.chunks"] == 3
    assert {"chunk 0", "chunk 1", "chunk 2"} <= set(root.names())


def test_asgi2(sentry):
    """An application of two callables, which upstream's middleware serves, too."""

    class App:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await plain_app(three_chunks)(self.scope, receive, send)

    connection = asyncio.run(read(SentryMiddleware(App), asgi_version=2))
    assert connection.error is None
    assert connection.chunks == [b"a", b"bc", b"def"]
    assert sentry.root().outcome == "completed"


def test_called_by_name(sentry):
    """daphne names the arguments."""

    async def main():
        served = SentryMiddleware(plain_app(three_chunks))
        return await read(lambda *args: served(**dict(zip(("scope", "receive", "send"), args))))

    assert asyncio.run(main()).chunks == [b"a", b"bc", b"def"]
    assert sentry.root().outcome == "completed"


def test_name_of_the_endpoint(sentry):
    """Frameworks put their endpoint into the scope: it names the transaction."""

    async def app(scope, receive, send):
        scope["endpoint"] = three_chunks
        await plain_app(three_chunks)(scope, receive, send)

    asyncio.run(read(SentryMiddleware(app)))
    assert sentry.root().name.endswith("three_chunks")


# -- deadlines, limits, many -----------------------------------------------------------


async def until(predicate):
    while not predicate():
        await asyncio.sleep(0.01)


def held(release):
    """A body that sends one chunk, and the next when it may."""

    async def body():
        with start_span("before"):
            yield b"a"
        await release.wait()
        with start_span("after"):
            yield b"b"

    return body


@both
def test_timed_out(init, lifecycle, kind):
    """At response_timeout the transaction is sent, and the stream goes on untouched."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.2))

    async def main():
        release = asyncio.Event()
        body = held(release)
        app = (
            django_app(body)
            if kind == "django"
            else SentryMiddleware(plain_app(body), response_timeout=0.2)
        )
        connection = Connection(app)
        await connection.sent(1)
        await until(lambda: sentry.items("transaction", "span") and sentry.roots())
        open_still = not connection.task.done()
        release.set()
        assert await connection.end() is None
        return open_still, connection.chunks

    open_still, chunks = asyncio.run(main())
    assert open_still
    assert chunks == [b"a", b"b"]
    root = sentry.root()
    assert root.outcome == "timed_out"
    assert root.status == static_status(lifecycle, "deadline_exceeded")
    assert root.data["http.response.stream.chunks"] == 1
    # Later spans are lost in the static lifecycle, and are still of the trace in the other.
    assert ("after" in root.names()) == (lifecycle == "stream")


def test_continued(init):
    """on_timeout="continue": the parts are of one trace, and lose nothing."""
    sentry = init()

    async def main():
        release = asyncio.Event()
        app = SentryMiddleware(
            plain_app(held(release)), response_timeout=0.2, on_timeout="continue"
        )
        connection = Connection(app)
        await connection.sent(1)
        await until(sentry.roots)
        release.set()
        assert await connection.end() is None

    asyncio.run(main())
    roots = sentry.roots()
    assert len({root.trace_id for root in roots}) == 1
    assert {root.outcome for root in roots[:-1]} == {"continued"}
    assert roots[-1].outcome == "completed"
    assert sorted(name for root in roots for name in root.names()) == ["after", "before"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"response_timeout": 0}, ValueError),
        ({"max_open_responses": "many"}, TypeError),
        ({"on_timeout": "explode"}, ValueError),
    ],
)
def test_options_are_checked(options, error):
    """SentryMiddleware refuses what DjangoIntegration refuses."""
    with pytest.raises(error):
        SentryMiddleware(plain_app(three_chunks), **options)


def test_evicted(init, lifecycle):
    """More than max_open_responses: the oldest is sent at once, and streams on."""
    sentry = init(lifecycle)

    async def main():
        release = asyncio.Event()
        app = SentryMiddleware(plain_app(held(release)), max_open_responses=2)
        connections = []
        for number in range(3):
            connections.append(Connection(app, f"/{number}"))
            await connections[-1].sent(1)
        await until(lambda: sentry.items("transaction", "span") and sentry.roots())
        (evicted,) = sentry.roots()
        release.set()
        for connection in connections:
            assert await connection.end() is None
            assert connection.chunks == [b"a", b"b"]
        return evicted

    evicted = asyncio.run(main())
    assert evicted.outcome == "evicted"
    assert evicted.name.endswith("/0")
    sentry.wait_for(lambda: len(sentry.roots()) == 3)
    assert sorted(root.outcome for root in sentry.roots()) == ["completed", "completed", "evicted"]


@both
def test_many_at_once(sentry, kind):
    """50 streams interleaved chunk by chunk: each has its own spans, and nothing else."""

    async def body():
        number = numbers.pop()
        for _ in range(3):
            with start_span(f"of {number}"):
                await asyncio.sleep(0)
            yield b"x"

    async def main():
        app = streaming_app(kind, body)
        connections = [Connection(app, f"/{number}") for number in range(50)]
        return [await connection.end() for connection in connections]

    numbers = list(range(50))
    assert asyncio.run(main()) == [None] * 50
    sentry.wait_for(lambda: len(sentry.roots()) == 50)
    seen = [{name for name in root.names() if name.startswith("of ")} for root in sentry.roots()]
    assert sorted(len(names) for names in seen) == [1] * 50
    assert len(set.union(*seen)) == 50
    assert len({root.trace_id for root in sentry.roots()}) == 50


def test_unsampled(init, lifecycle):
    """Nothing is sent of a request that is not sampled; its errors are."""
    sentry = init(lifecycle, traces_sample_rate=0.0)

    async def body():
        yield b"a"
        raise ValueError("half-way")

    connection = asyncio.run(read(SentryMiddleware(plain_app(body))))
    assert isinstance(connection.error, ValueError)
    assert len(sentry.errors()) == 1
    assert not sentry.roots()


def test_sync_body(sentry):
    """A sync body of a sync view: Django makes all of it at once, or in the loop (before 4.2)."""

    def view(request):
        def body():
            for number in range(3):
                with start_span(f"chunk {number}"):
                    yield b"%d" % number

        return StreamingHttpResponse(body())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connection = asyncio.run(read(serve_asgi(view)))
    assert connection.chunks == [b"0", b"1", b"2"]
    root = sentry.root()
    assert root.outcome == "completed"
    assert {"chunk 0", "chunk 1", "chunk 2"} <= set(root.names())


def test_no_client(init):
    """Without a DSN everything passes through."""
    init()
    sentry_sdk.init()
    connection = asyncio.run(read(SentryMiddleware(plain_app(three_chunks))))
    assert connection.chunks == [b"a", b"bc", b"def"]
