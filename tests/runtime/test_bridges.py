"""What is between the application and the server: adapters, bridges, other tools."""

import asyncio
import contextvars
import gc
from io import BytesIO, StringIO

import pytest
import sentry_sdk
from asgiref.wsgi import WsgiToAsgi
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import Client
from support.apps import plain, serve, stream
from support.asgi import read
from support.sdk import log_in_server, start_span
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

variable = contextvars.ContextVar("variable")


def bound(request):
    """Its body sees what was bound when it was made."""
    token = variable.set(b"ab")
    try:
        return StreamingHttpResponse(variable.get() for _ in range(1))
    finally:
        variable.reset(token)


def file(request):
    """It has a Content-Length: who counts along does not ask for the end."""
    return FileResponse(BytesIO(b"ab"))


def failing(request):
    def body():
        yield b"a"
        raise ValueError("half-way")

    return StreamingHttpResponse(body())


@pytest.fixture(params=["return", "close"])
def finish_on(request):
    return request.param


@pytest.fixture
def closing(init, lifecycle, finish_on):
    """What the SDK sends, with each ``finish_on``."""
    return init(lifecycle, DjangoIntegration(finish_on=finish_on))


def check_complete(sentry, view, flush=False):
    if flush:  # it has been sent by now, and not by a worker
        sentry_sdk.flush()
        assert sentry.roots()
    root = sentry.root()
    assert (root.status, root.outcome) == ("ok", None if view is plain else "completed")
    assert not sentry.errors()


# -- adapters that never call close() ------------------------------------------------------


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("view", [plain, stream])
def test_read_to_the_end_and_dropped(closing, view, cycle):
    """It has been sent when it is dropped: the flush() with which a Lambda ends finds it.

    In a cycle the collector finds it: another thread sends it then, for this one may hold any
    lock.
    """
    client = WsgiClient(serve(view))
    assert b"".join(client.response) == b"ab"
    if cycle:
        holder = [client.response]
        holder.append(holder)
        del holder
    client.drop()
    gc.collect()
    check_complete(closing, view, flush=not cycle)


def asgiref_adapter(app):
    return WsgiToAsgi(app)


def starlette_adapter(app):
    return pytest.importorskip("starlette.middleware.wsgi").WSGIMiddleware(app)


def a2wsgi_adapter(app):
    return pytest.importorskip("a2wsgi").WSGIMiddleware(app)


adapters = pytest.mark.parametrize("adapter", [asgiref_adapter, starlette_adapter, a2wsgi_adapter])


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
@pytest.mark.parametrize("view", [plain, stream, file])
@adapters
def test_asgi_adapter(closing, adapter, view):
    """asgiref's and Starlette's never call close()."""
    assert b"".join(asyncio.run(read(adapter(serve(view)))).chunks) == b"ab"
    gc.collect()
    check_complete(closing, view)


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
@adapters
@pytest.mark.parametrize("mounted", [False, True])
def test_error_in_an_asgi_adapter(sentry, adapter, mounted):
    """The server logs it, in another context and another thread: one event.

    Also where the adapter is mounted in an ASGI application that is traced by itself.
    """
    app = adapter(serve(failing))
    error = asyncio.run(read(SentryMiddleware(app) if mounted else app)).error
    if hasattr(error, "exceptions"):
        pytest.skip("this Starlette raises a group, which is another error")
    assert isinstance(error, ValueError)
    log_in_server(error)
    assert "failed" in [root.outcome for root in sentry.roots() if root.name == "/"]
    (event,) = sentry.errors()
    assert event["transaction"] == "/"


@pytest.mark.parametrize("view", [plain, stream])
def test_lambda(closing, view):
    """It is sent when the handler returns."""
    serverless_wsgi = pytest.importorskip("serverless_wsgi")
    event = {"httpMethod": "GET", "path": "/", "headers": {}, "requestContext": {}}
    answer = serverless_wsgi.handle_request(serve(view), event, None)
    assert (answer["statusCode"], answer["body"]) == (200, "ab")
    check_complete(closing, view, flush=True)


# -- wrappers that are generators ----------------------------------------------------------


def debugged(app):
    """Werkzeug's debugger is a generator: its close() closes our iterator, and nothing else."""
    from werkzeug.debug import DebuggedApplication

    return DebuggedApplication(app, evalex=False)


@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_generator_around_the_application(sentry, read):
    """Nobody calls our close() if it is closed in mid-stream: the client has gone."""

    def view(request):
        def body():
            try:
                yield b"a"
                yield b"b"
            finally:
                with start_span("clean up"):
                    pass

        return StreamingHttpResponse(body())

    client = WsgiClient(debugged(serve(view)))
    if read:
        assert client.read() == b"ab"
    else:
        client.take()
        client.close()
        client.drop()
    root = sentry.root()
    assert root.outcome == ("completed" if read else "cancelled")
    assert root.parent_of("clean up") is None
    assert not sentry.errors()


def test_error_behind_the_debugger(sentry):
    """It renders the error, and the server sees none: one event."""
    client = WsgiClient(debugged(serve(failing)), **{"wsgi.errors": StringIO()})
    assert client.read().startswith(b"a")
    assert sentry.root().outcome == "failed"
    assert len(sentry.errors()) == 1


# -- other tools ---------------------------------------------------------------------------


class Wrapped:
    """What another monitoring tool hands out in place of a response."""

    def __init__(self, response):
        self.response = response

    def __iter__(self):
        yield from self.response

    def close(self):
        self.response.close()


@pytest.fixture
def other_tool(monkeypatch):
    """A tool that has patched WSGIHandler before sentry_sdk.init().

    What comes out of it says nothing of Django any more: every page was a stream.
    """
    patched = WSGIHandler.__call__

    def call(self, environ, start_response):
        return Wrapped(patched(self, environ, start_response))

    monkeypatch.setattr(WSGIHandler, "__call__", call)
    return SentryWsgiMiddleware


@pytest.mark.parametrize("view", [plain, stream, bound])
def test_tool_that_wraps_responses(init, lifecycle, other_tool, view, finish_on):
    """A plain response ends as with stock, a stream at its close()."""
    sentry = init(lifecycle)
    client = WsgiClient(other_tool(serve(view), finish_on=finish_on))
    assert len(sentry.roots()) == (view is plain and finish_on == "return")
    assert client.read() == b"ab"
    check_complete(sentry, view)


@pytest.mark.parametrize(("outer", "inner"), [(plain, stream), (stream, plain)])
def test_request_within_a_request(sentry, other_tool, outer, inner):
    """A view that calls another one, by the test client: its answer is its own."""
    kept = []

    def view(request):
        if request.path == "/inner":
            return inner(request)
        kept.append(Client().get("/inner"))
        assert b"".join(kept[0]) == b"ab"
        return outer(request)

    assert WsgiClient(other_tool(serve(view)), "/outer").read() == b"ab"
    check_complete(sentry, outer)


def buffering(get_response):
    return lambda request: HttpResponse(b"".join(get_response(request)))


def test_response_of_middleware_counts(sentry, other_tool, monkeypatch):
    """A middleware of Django's that answers with another response than the view's."""
    monkeypatch.setattr(settings, "MIDDLEWARE", [f"{__name__}.buffering"])
    client = WsgiClient(other_tool(serve(stream)))
    assert sentry.root().outcome is None
    assert client.read() == b"ab"
