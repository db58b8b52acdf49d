"""What is between the application and the server: adapters, bridges, other tools."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time
from io import BytesIO, StringIO

import pytest
import sentry_sdk
from asgi_server import ASYNC_BODIES, hang_up_after, read
from asgiref.wsgi import WsgiToAsgi
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import Client
from harness import Exchange, start_span
from views import serve, serve_asgi

from vendored_integration import DjangoIntegration, stats
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.runtime.bindings import Bindings
from vendored_integration.runtime.registry import registry
from vendored_integration.wsgi import SentryWsgiMiddleware


def plain(request):
    return HttpResponse(b"ab")


def stream(request):
    return StreamingHttpResponse(iter([b"a", b"b"]))


def file(request):
    """It has a Content-Length: who counts along does not ask for the end."""
    return FileResponse(BytesIO(b"ab"))


def failing(request):
    def body():
        yield b"a"
        raise ValueError("half-way")

    return StreamingHttpResponse(body())


def environ(**more):
    return {**Exchange(lambda environ, start_response: []).environ, **more}


def start_response(status, headers, exc_info=None):
    return lambda data: None


# -- adapters that never call close() ----------------------------------------------------------


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("view", [plain, stream])
def test_read_to_the_end_and_dropped(init, lifecycle, view, finish_on):
    """It has been sent when it is dropped: the flush() with which a Lambda ends finds it."""
    sentry = init(lifecycle, DjangoIntegration(finish_on=finish_on))
    app = serve(view)
    assert b"".join(app(environ(), start_response)) == b"ab"
    sentry_sdk.flush()
    (root,) = sentry.roots()
    assert (root.status, root.outcome) == ("ok", "completed" if view is stream else None)


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("view", [plain, stream])
def test_found_by_the_collector(init, lifecycle, view, finish_on):
    """In a cycle; another thread sends it, for this one may hold any lock."""
    sentry = init(lifecycle, DjangoIntegration(finish_on=finish_on))
    response = serve(view)(environ(), start_response)
    assert b"".join(response) == b"ab"
    cycle = [response]
    cycle.append(cycle)
    del response, cycle
    gc.collect()
    root = sentry.root()
    assert (root.status, root.outcome) == ("ok", "completed" if view is stream else None)


def test_dropped_in_mid_stream(sentry):
    """Nobody has closed the iterator, and nobody has read it to its end."""
    for _ in serve(stream)(environ(), start_response):
        break
    gc.collect()
    assert sentry.root().outcome == "abandoned"


def test_dropped_at_its_content_length(sentry):
    """Who counts along (asgiref's adapter) does not ask for the chunk after the last."""
    chunks = iter(serve(file)(environ(), start_response))
    assert next(chunks) == b"ab"
    del chunks
    sentry_sdk.flush()
    (root,) = sentry.roots()
    assert root.outcome == "completed"


def asgiref_adapter(app):
    return WsgiToAsgi(app)


def starlette_adapter(app):
    middleware = pytest.importorskip("starlette.middleware.wsgi")
    return middleware.WSGIMiddleware(app)


def a2wsgi_adapter(app):
    return pytest.importorskip("a2wsgi").WSGIMiddleware(app)


ADAPTERS = [asgiref_adapter, starlette_adapter, a2wsgi_adapter]


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("view", [plain, stream, file])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_asgi_adapter(init, lifecycle, adapter, view, finish_on):
    """asgiref's and Starlette's never call close()."""
    sentry = init(lifecycle, DjangoIntegration(finish_on=finish_on))
    connection = asyncio.run(read(adapter(serve(view))))
    assert b"".join(connection.chunks) == b"ab"
    gc.collect()
    root = sentry.root()
    assert (root.status, root.outcome) == ("ok", None if view is plain else "completed")
    assert not sentry.errors()


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")
@pytest.mark.parametrize("adapter", ADAPTERS)
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
    log_elsewhere(error)
    assert "failed" in [root.outcome for root in sentry.roots() if root.name == "/"]
    (event,) = sentry.errors()
    assert event["transaction"] == "/"


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("view", [plain, stream])
def test_lambda(init, lifecycle, view, finish_on):
    """It is sent when the handler returns."""
    serverless_wsgi = pytest.importorskip("serverless_wsgi")
    sentry = init(lifecycle, DjangoIntegration(finish_on=finish_on))
    event = {"httpMethod": "GET", "path": "/", "headers": {}, "requestContext": {}}
    answer = serverless_wsgi.handle_request(serve(view), event, None)
    assert (answer["statusCode"], answer["body"]) == (200, "ab")
    sentry_sdk.flush()
    (root,) = sentry.roots()
    assert (root.status, root.outcome) == ("ok", "completed" if view is stream else None)


# -- wrappers that are generators ----------------------------------------------------------------


def yielding_from(app):
    """As Werkzeug's debugger does: its close() closes the iterator, and nothing else."""

    def wrapped(environ, start_response):
        response = app(environ, start_response)
        yield from response
        response.close()

    return wrapped


def debugged(app):
    from werkzeug.debug import DebuggedApplication

    return DebuggedApplication(app, evalex=False)


@pytest.mark.parametrize("wrapper", [yielding_from, debugged])
@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_generator_around_the_application(sentry, wrapper, read):
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

    exchange = Exchange(wrapper(serve(view)))
    if read:
        assert exchange.read() == b"ab"
    else:
        next(exchange.response)
        exchange.close()
        exchange.response = None
    root = sentry.root()
    assert root.outcome == ("completed" if read else "cancelled")
    assert root.parent_of("clean up") is None
    assert not sentry.errors()


def test_error_behind_the_debugger(sentry):
    """It renders the error, and the server sees none: one event."""
    exchange = Exchange(debugged(serve(failing)), **{"wsgi.errors": StringIO()})
    assert exchange.read().startswith(b"a")
    assert sentry.root().outcome == "failed"
    assert len(sentry.errors()) == 1


# -- one error, one event ------------------------------------------------------------------------


def log_elsewhere(error):
    """Log an error as a server does: in a context that has never seen the request."""
    logger = logging.getLogger("server")
    thread = threading.Thread(
        target=contextvars.Context().run,
        args=(logger.error, "Exception in application"),
        kwargs={"exc_info": error},
    )
    thread.start()
    thread.join()


class Response:
    def __init__(self, raise_in):
        self.raise_in = raise_in

    def __iter__(self):
        yield b"a"
        if self.raise_in == "body":
            raise ValueError("in the body")

    def close(self):
        if self.raise_in == "close":
            raise ValueError("in close()")


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("where", ["application", "body", "close"])
@pytest.mark.parametrize("traces_sample_rate", [1.0, 0.0, None])
def test_error_that_the_server_logs(
    init, lifecycle, where, streaming, finish_on, traces_sample_rate
):
    """Wherever it is raised. A second request with the same error has an event as well."""
    sentry = init(lifecycle, traces_sample_rate=traces_sample_rate)

    def app(environ, start_response):
        start_response("200 OK", [])
        if where == "application":
            raise ValueError("in the application")
        response = Response(where)
        response.streaming = streaming
        return response

    app = SentryWsgiMiddleware(app, finish_on=finish_on)
    for number in (1, 2):
        with pytest.raises(ValueError, match="in ") as caught:
            Exchange(app).read()
        log_elsewhere(caught.value)
        assert len(sentry.errors()) == number


def test_error_after_the_deadline_that_the_server_logs(init, lifecycle):
    """The transaction has been sent before."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.05))
    exchange = Exchange(serve(failing))
    chunks = iter(exchange.response)
    next(chunks)
    sentry.root()
    with pytest.raises(ValueError, match="half-way") as caught:
        next(chunks)
    exchange.close()
    log_elsewhere(caught.value)
    assert len(sentry.errors()) == 1


@pytest.mark.parametrize("kind", ["plain", *(["django"] if ASYNC_BODIES else [])])
def test_error_that_an_asgi_server_logs(sentry, kind):
    """uvicorn's protocol does, which has begun before the request."""

    async def body():
        yield b"a"
        raise ValueError("half-way")

    async def view(request):
        return StreamingHttpResponse(body())

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    connection = asyncio.run(read(SentryMiddleware(app) if kind == "plain" else serve_asgi(view)))
    assert isinstance(connection.error, ValueError)
    log_elsewhere(connection.error)
    assert len(sentry.errors()) == 1


def test_errors_that_are_not_ours_are_logged(sentry):
    """What has not come out of the application, and what is logged as a text."""
    Exchange(serve(stream)).read()
    try:
        raise BrokenPipeError("the client has gone")
    except BrokenPipeError as error:
        log_elsewhere(error)
    log_elsewhere(None)
    assert len(sentry.errors()) == 2


def test_one_error_object_in_two_requests(sentry):
    """A module's constant that is raised again: each request has its event."""
    error = ValueError("in the application")

    def app(environ, start_response):
        raise error

    for number in (1, 2):
        with pytest.raises(ValueError, match="in the application"):
            contextvars.Context().run(Exchange, SentryWsgiMiddleware(app))
        assert len(sentry.errors()) == number


# -- other tools -------------------------------------------------------------------------------


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
    """A tool that has patched WSGIHandler before sentry_sdk.init()."""
    patched = WSGIHandler.__call__

    def call(self, environ, start_response):
        return Wrapped(patched(self, environ, start_response))

    monkeypatch.setattr(WSGIHandler, "__call__", call)
    return SentryWsgiMiddleware


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("view", [plain, stream])
def test_tool_that_wraps_responses(init, lifecycle, other_tool, view, finish_on):
    """What comes out of it says nothing of Django any more: every page was a stream."""
    sentry = init(lifecycle)
    exchange = Exchange(other_tool(serve(view), finish_on=finish_on))
    ends_at_close = view is stream or finish_on == "close"
    assert len(sentry.roots()) == (0 if ends_at_close else 1)
    assert exchange.read() == b"ab"
    root = sentry.root()
    assert (root.status, root.outcome) == ("ok", "completed" if view is stream else None)


def test_tool_that_wraps_responses_and_bindings(sentry, other_tool):
    """The body sees what it sees without the tool."""
    variable = contextvars.ContextVar("variable")

    def view(request):
        token = variable.set(b"bound")
        try:
            return StreamingHttpResponse(variable.get() for _ in range(1))
        finally:
            variable.reset(token)

    assert Exchange(other_tool(serve(view))).read() == b"bound"


@pytest.mark.parametrize(("outer", "inner"), [(plain, stream), (stream, plain)])
def test_request_within_a_request(sentry, other_tool, outer, inner):
    """A view that calls another one, by the test client: its answer is its own."""

    def view(request):
        if request.path == "/inner":
            return inner(request)
        answer = Client().get("/inner")
        assert b"".join(answer) == b"ab"
        kept.append(answer)
        return outer(request)

    kept = []
    exchange = Exchange(other_tool(serve(view)), "/outer")
    assert exchange.read() == b"ab"
    root = sentry.root()
    assert root.outcome == ("completed" if outer is stream else None)


def test_response_of_middleware_counts(sentry, other_tool, monkeypatch):
    """A middleware of Django's that answers with another response than the view's."""
    from django.conf import settings

    monkeypatch.setattr(settings, "MIDDLEWARE", [f"{__name__}.buffering"])
    exchange = Exchange(other_tool(serve(stream)))
    assert sentry.root().outcome is None
    assert exchange.read() == b"ab"


def buffering(get_response):
    return lambda request: HttpResponse(b"".join(get_response(request)))


# -- a fault of our own ------------------------------------------------------------------------


@pytest.fixture
def fault(request, monkeypatch):
    """Something of ours breaks from the view's return on, until it is mended."""
    broken = []

    def breaking(function):
        def call(*args, **kwargs):
            if broken:
                broken.append(None)
                raise RuntimeError("broken on purpose")
            return function(*args, **kwargs)

        return call

    if request.param == "registry":
        monkeypatch.setattr(registry, "add", breaking(registry.add))
    elif request.param == "bindings":
        monkeypatch.setattr(Bindings, "find", breaking(Bindings.find))
    else:
        for name, module in list(sys.modules.items()):
            if name.startswith("vendored_integration.runtime") and hasattr(module, "perf_counter"):
                monkeypatch.setattr(module, "perf_counter", breaking(time.perf_counter))
    return broken


@pytest.mark.parametrize(
    ("fault", "way"),
    [
        ("clock", "wsgi"),
        ("registry", "wsgi"),
        ("bindings", "wsgi"),
        *([("registry", "asgi"), ("bindings", "asgi")] if ASYNC_BODIES else []),
    ],
    indirect=["fault"],
)
@pytest.mark.parametrize("fails", [True, False])
def test_internal_fault(sentry, fault, way, fails):
    """The response is sent, and its request traced as in stock, its errors included."""

    def sync_body():
        fault.clear()
        yield b"a"
        if fails:
            raise ValueError("half-way")

    async def async_body():
        for chunk in sync_body():
            yield chunk

    def view(request):
        fault.append(None)
        return StreamingHttpResponse(sync_body())

    async def async_view(request):
        fault.append(None)
        return StreamingHttpResponse(async_body())

    if way == "asgi":
        connection = asyncio.run(read(serve_asgi(async_view)))
        error, chunks = connection.error, connection.chunks
    else:
        exchange, error, chunks = Exchange(serve(view)), None, []
        try:
            chunks.extend(exchange.response)
        except ValueError as raised:
            error = raised
        exchange.close()
    assert chunks == [b"a"]
    assert type(error) is (ValueError if fails else type(None))
    root = sentry.root()
    for event in sentry.errors():
        assert event["exception"]["values"][-1]["value"] == "half-way"
        assert event["contexts"]["trace"]["trace_id"] == root.trace_id
    assert len(sentry.errors()) == fails
    if way == "wsgi":
        assert (root.status, root.outcome) in (("ok", None), ("ok", "completed"))
    assert stats().open_responses == 0


# -- X-Accel-Redirect, X-Sendfile --------------------------------------------------------------


def way_wsgi(headers):
    def view(request):
        return StreamingHttpResponse((b"x" for _ in range(9)), headers=headers)

    exchange = Exchange(serve(view))
    next(iter(exchange.response))
    exchange.close()


def way_asgi(headers):
    async def body():
        while True:
            yield b"x"
            await asyncio.sleep(0)

    async def view(request):
        return StreamingHttpResponse(body(), headers=headers)

    asyncio.run(hang_up_after(serve_asgi(view), 1))


WAYS = [way_wsgi, *([way_asgi] if ASYNC_BODIES else [])]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("header", "outcome"),
    [
        ("X-Accel-Redirect", "completed"),
        ("x-accel-redirect", "completed"),
        ("X-Sendfile", "completed"),
        ("X-Accel-Buffering", "cancelled"),
    ],
)
def test_proxy_that_sends_a_file_instead(sentry, way, header, outcome):
    """nginx and Apache close our response then; nobody has hung up."""
    way({header: "/protected/file"})
    assert sentry.root().outcome == outcome


# -- empty chunks ------------------------------------------------------------------------------


def serve_chunks(way, chunks):
    """Serve a stream with a pause before its last chunk."""

    def wait(number):
        if number == len(chunks) - 1:
            threading.Event().wait(0.1)

    def sync_body():
        for number, chunk in enumerate(chunks):
            wait(number)
            yield chunk

    async def async_body():
        for number, chunk in enumerate(chunks):
            wait(number)
            yield chunk

    async def async_view(request):
        return StreamingHttpResponse(async_body())

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in async_body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    if way == "wsgi":
        Exchange(serve(lambda request: StreamingHttpResponse(sync_body()))).read()
    else:
        asyncio.run(read(serve_asgi(async_view) if way == "django" else SentryMiddleware(app)))


STREAMS = ["wsgi", "plain", *(["django"] if ASYNC_BODIES else [])]


@pytest.mark.parametrize("way", STREAMS)
def test_empty_chunks(sentry, way):
    """Servers send nothing for them: what counts is the first byte."""
    serve_chunks(way, [b"", b"", b"", b"ab"])
    data = sentry.root().data
    assert data["http.response.stream.chunks"] == 1
    assert data["http.response.body.size"] == 2
    assert data["http.response.stream.time_to_first_chunk"] >= 100


@pytest.mark.parametrize("way", STREAMS)
def test_only_empty_chunks(sentry, way):
    """Then there was no first byte."""
    serve_chunks(way, [b"", b""])
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.stream.chunks"] == 0
    assert root.data["http.response.body.size"] == 0
    assert "http.response.stream.time_to_first_chunk" not in root.data
