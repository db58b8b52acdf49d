"""ASGI: what is otherwise than in WSGI. How streams end is in test_outcomes.py."""

import asyncio
import gc

import pytest
import sentry_sdk
from django.http import HttpResponse
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from support.apps import ASGI_WAYS, DJANGO_LISTENS, as_async, asgi_app, serve_asgi, streaming_app
from support.asgi import Connection, hang_up_after, read
from support.sdk import start_span, status_of

from vendored_integration.asgi import SentryMiddleware

every_way = pytest.mark.parametrize("way", ASGI_WAYS)
START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"abc", "more_body": True}


def three_chunks():
    for number, chunk in enumerate((b"a", b"bc", b"def")):
        with start_span(f"chunk {number}"):
            yield chunk


plain_app = asgi_app(as_async(three_chunks))


def sends(*messages, then=None):
    """An application that sends these, and then awaits something."""

    async def app(scope, receive, send):
        for message in messages:
            await send(message)
        if then is not None:
            await then()

    return app


async def for_ever():
    await asyncio.Event().wait()


# -- hanging up ------------------------------------------------------------------------


@pytest.mark.skipif(not DJANGO_LISTENS, reason="this Django does not notice")
def test_hang_up_before_the_response(sentry, lifecycle):
    """The client goes while the view still works: cancelled, though nothing has streamed."""

    async def main():
        at_work = asyncio.Event()

        async def view(request):
            at_work.set()
            await for_ever()

        connection = Connection(serve_asgi(view))
        await at_work.wait()
        await connection.hang_up("message")
        return await connection.end()

    assert asyncio.run(main()) is None
    root = sentry.root()
    assert (root.status, root.outcome) == (status_of(lifecycle, "cancelled"), None)
    assert not sentry.errors()


def test_returns_without_finishing(sentry):
    """The last message never comes: not completed, whatever the server makes of it."""
    asyncio.run(read(SentryMiddleware(sends(START, PART))))
    assert sentry.root().outcome == "cancelled"


def test_hang_up_before_the_first_chunk(sentry):
    """A response that had begun, and whose body had not."""
    app = SentryMiddleware(sends(START, then=for_ever))
    error = asyncio.run(hang_up_after(app, 0, "cancel"))
    assert isinstance(error, asyncio.CancelledError)
    assert sentry.root().outcome == "cancelled"


# In another context than its own, older SDKs cannot reset their scopes.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_dropped_with_its_loop(sentry):
    """The event loop is closed in mid-stream, and the task dropped: abandoned, no error."""
    loop = asyncio.new_event_loop()
    connection = []

    async def main():
        connection.append(Connection(SentryMiddleware(sends(START, PART, then=for_ever))))
        await connection[0].sent(1)

    loop.run_until_complete(main())
    loop.close()
    connection[0].task._log_destroy_pending = False
    connection.clear()
    gc.collect()
    assert sentry.root().outcome == "abandoned"
    assert not sentry.errors()


# -- responses that do not stream ------------------------------------------------------


def test_plain_response(sentry):
    """One message is no stream; one of Django's in several is none either."""
    for content, messages in ((b"x", 1), (b"x" * 200_000, 4)):
        response = HttpResponse(content)
        app = serve_asgi(lambda request: response)  # noqa: B023
        assert len(asyncio.run(read(app)).chunks) == messages
    body = {"type": "http.response.body", "body": b"all"}
    asyncio.run(read(SentryMiddleware(sends(START, body))))
    for root in sentry.wait_for_roots(3):
        assert root.outcome is None
        assert not [name for name in root.data if name.startswith("http.response.stream")]


# -- bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [None, 5])
def test_file_that_the_server_reads(sentry, length):
    """pathsend: complete; as many bytes as the header says, or nobody knows how many."""
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    app = sends(
        {**START, "headers": headers},
        {"type": "http.response.pathsend", "path": "/etc/hostname"},
    )
    asyncio.run(read(SentryMiddleware(app)))
    root = sentry.root()
    assert (root.outcome, root.data.get("http.response.body.size")) == ("completed", length)


def test_background_work(sentry):
    """What is done after the last message belongs to the transaction, and to no outcome."""

    async def main():
        at_work = asyncio.Event()

        async def app(scope, receive, send):
            await plain_app(scope, receive, send)
            with start_span("in the background"):
                at_work.set()
                await for_ever()

        connection = Connection(SentryMiddleware(app))
        await at_work.wait()
        await connection.hang_up("cancel")
        await connection.end()

    asyncio.run(main())
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.parent_of("in the background") is None
    assert not sentry.errors()


# -- other protocols -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancel", "error"])
def test_websocket(sentry, lifecycle, how):
    """A transaction until the end; cancelled if the client has gone; no stream data, no event."""

    async def talk(scope, receive, send):
        with start_span("talk"):
            await send({"type": "websocket.accept"})
            if how == "cancel":
                await for_ever()
            while True:
                await send({"type": "websocket.send", "text": "event"})

    error = asyncio.run(hang_up_after(SentryMiddleware(talk), 0, how, type="websocket"))
    assert isinstance(error, (asyncio.CancelledError, ConnectionResetError))
    root = sentry.root()
    assert (root.op, root.outcome, root.names()) == ("websocket.server", None, ["talk"])
    if lifecycle == "static":
        assert root.status == "cancelled"
    assert not sentry.errors()


def test_lifespan_that_django_does_not_know(sentry):
    """Django raises: that is how it says so, and no error. The server gets to see it."""
    connection = asyncio.run(read(serve_asgi(None), type="lifespan"))
    assert isinstance(connection.error, ValueError)
    assert "lifespan" in str(connection.error)
    assert not sentry.errors()
    assert not sentry.roots()


# -- how the middleware is put on ------------------------------------------------------

OURS, STOCK = SentryMiddleware, SentryAsgiMiddleware


@every_way
@pytest.mark.parametrize(
    ("nest", "outcome"),
    [
        (lambda app: OURS(app), "completed"),
        (lambda app: OURS(STOCK(app)), "completed"),
        (lambda app: STOCK(app), None),
    ],
)
def test_nested(sentry, way, nest, outcome):
    """Around ours, or Django: one transaction, whoever is outside; with our data, if we are."""
    asyncio.run(read(nest(streaming_app(way, three_chunks))))
    root = sentry.root()
    names = [name for name in root.names() if name.startswith("chunk")]
    assert (root.outcome, len(names)) == (outcome, 3)


@pytest.mark.parametrize("kind", ["asgi2", "by name"])
def test_how_it_is_called(sentry, kind):
    """An application of two callables, which upstream's middleware serves, too; by daphne."""

    class TwoCallables:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await plain_app(self.scope, receive, send)

    async def called(scope, receive, send):
        if kind == "asgi2":
            await SentryMiddleware(TwoCallables)(scope)(receive, send)
        else:
            await SentryMiddleware(plain_app)(scope=scope, receive=receive, send=send)

    assert asyncio.run(read(called)).chunks == [b"a", b"bc", b"def"]
    assert sentry.root().outcome == "completed"


def test_no_client(init):
    """Without a DSN everything passes through."""
    init()
    sentry_sdk.init()
    connection = asyncio.run(read(SentryMiddleware(plain_app)))
    assert connection.chunks == [b"a", b"bc", b"def"]
