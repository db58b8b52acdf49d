"""The Django project that the live tests run, in one file, and what is served around it:
`application` for WSGI servers, `asgi_application` for ASGI servers.

Set up by environment variables, so that every server can run it the same way:

    DSN               where Sentry is; empty: the SDK is not started at all
    INTEGRATION       ours | stock | none
    LIFECYCLE         static | stream
    OPTIONS           JSON: arguments of the integration; for `ours` only
    QUEUE_SIZE        transport_queue_size
    SHUTDOWN_TIMEOUT  shutdown_timeout, in seconds
    LOGS              log records are sent, too
    MAX_SPANS         the SDK's limit of spans in a transaction; then Django's own are off
    DATABASE          path of the SQLite file
    FILE              path of the file that /file/ serves
    MIDDLEWARE        sync: the middleware does not know async, so Django adapts it
    ROUTER            channels: ASGI requests come through a ProtocolTypeRouter; of WebSockets, too
    AT_SHUTDOWN       flush: the ASGI application is in flush_at_shutdown()

A request may ask for what is done around Django, with the header `X-Around`: see `application`
and `asgi_application`.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import io
import json
import logging
import os
import socket
import sys
import threading
import time
from collections import defaultdict
from urllib.parse import parse_qs

import django
import sentry_sdk
import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, re_path
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.django import DjangoIntegration as Stock
from sentry_sdk.integrations.logging import LoggingIntegration

try:
    from sentry_sdk.tracing import Span
except ImportError:  # from 3.0 on there is only the stream lifecycle
    Span = None

INTEGRATION = os.environ["INTEGRATION"]
STREAMED_SPANS = os.environ.get("LIFECYCLE") == "stream"


def start_sentry():
    integration, options = Stock, {}
    if INTEGRATION == "ours":
        from vendored_integration import DjangoIntegration as integration

        options = json.loads(os.environ.get("OPTIONS", "{}"))
    # HEAD is not captured unless asked for; up to 2.14 every method is.
    if "http_methods_to_capture" in inspect.signature(Stock).parameters:
        options["http_methods_to_capture"] = ("GET", "HEAD", "POST")
    more, experiments = {}, {}
    if os.environ.get("QUEUE_SIZE"):
        more["transport_queue_size"] = int(os.environ["QUEUE_SIZE"])
    if os.environ.get("SHUTDOWN_TIMEOUT"):
        more["shutdown_timeout"] = float(os.environ["SHUTDOWN_TIMEOUT"])
    if os.environ.get("LOGS") and "enable_logs" in DEFAULT_OPTIONS:  # always, from 3.0 on
        more["enable_logs"] = True
    if os.environ.get("MAX_SPANS"):
        experiments["max_spans"] = int(os.environ["MAX_SPANS"])
        options.update(middleware_spans=False, signals_spans=False)
    integrations = [integration(**options)]
    if STREAMED_SPANS:
        from sentry_sdk._span_batcher import SpanBatcher

        # Up to 2.67 a segment is sent up to 5 s after its end: each test would wait for it.
        SpanBatcher.FLUSH_WAIT_TIME = 0.05  # seconds
        experiments["trace_lifecycle"] = "stream"
    if Span is None:
        # A logged error is no event by default.
        integrations.append(LoggingIntegration(event_level=logging.ERROR))
    else:
        more["_experiments"] = experiments
    sentry_sdk.init(
        dsn=os.environ["DSN"],
        release="live@1",
        traces_sample_rate=1.0,
        auto_session_tracking=True,
        integrations=integrations,
        **more,
    )


def span(name):
    """A span, in either lifecycle."""
    if STREAMED_SPANS:
        return sentry_sdk.traces.start_span(name=name)
    # Up to 2.14 a span had no name, only a description.
    key = "name" if "name" in inspect.signature(Span).parameters else "description"
    return sentry_sdk.start_span(op="test", **{key: name})


# -- what a body waits for


def block_at(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as gate:
        gate.recv(1)


class Blocking:
    """Waits as a sync body does: these coroutines never suspend."""

    released = defaultdict(threading.Event)

    async def at_port(self, port):
        """Tell the test that we are here, and wait until it lets us go on.

        A connection and not a lock file: neither side has to poll, and under gevent other
        requests run meanwhile.
        """
        block_at(port)

    async def release(self, batch):
        """Wait for `/-/release?<batch>`."""
        self.released[batch].wait()

    async def sleep(self, seconds):
        time.sleep(seconds)  # noqa: ASYNC251  (that is what it is for)


class Suspending:
    """Waits as an async body does."""

    # Up to Python 3.9 an asyncio.Event belongs to the loop that it was made in.
    released = defaultdict(asyncio.Event)

    async def at_port(self, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    async def release(self, batch):
        await self.released[batch].wait()

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


async def at_gate(request, wait):
    if "gate" in request.GET:
        await wait.at_port(int(request.GET["gate"]))


def run_sync(body, request):
    """Run an async generator, which never suspends, as a generator."""
    chunks = body(request, Blocking())
    step = chunks.__anext__()
    while True:
        try:
            step.send(None)
        except StopIteration as stop:
            chunk = stop.value
        except StopAsyncIteration:
            return
        try:
            yield chunk
        except BaseException as error:
            step = chunks.athrow(error)
        else:
            step = chunks.__anext__()


def run_async(body, request):
    return body(request, Suspending())


def as_async(view):
    """The same as an async view."""

    async def async_view(request, **arguments):
        await asyncio.sleep(0)
        return view(request, **arguments)

    return async_view


def views_of(name, body):
    """Yield the paths of a body: sync and async views, each with a sync and an async body."""

    def respond(request, run):
        BEFORE.get(body, lambda request: None)(request)
        return StreamingHttpResponse(run(body, request), content_type="text/plain")

    yield path(f"{name}/", respond, {"run": run_sync})
    yield path(f"{name}-async/", respond, {"run": run_async})
    yield path(f"{name}-async-view/", as_async(respond), {"run": run_async})
    yield path(f"{name}-async-view-sync-body/", as_async(respond), {"run": run_sync})


# -- bodies


async def stream(request, wait):
    """`n` chunks with a span each; at a gate before the last, if there is one."""
    count = int(request.GET.get("n", 3))
    for index in range(count):
        if index == count - 1:
            await at_gate(request, wait)
        with span(f"chunk {index}"):
            chunk = b"chunk %d\n" % index
        await wait.sleep(0)
        yield chunk


async def stream_many_spans(request, wait):
    """`n` chunks, each after `spans` spans; at a gate after each. A chunk is the process id."""
    for index in range(int(request.GET["n"])):
        for number in range(int(request.GET["spans"])):
            with span(f"span {index}.{number}"):
                pass
        yield b"%d\n" % os.getpid()
        await at_gate(request, wait)


async def stream_held(request, wait):
    yield b"first\n"
    await wait.release(request.GET["batch"])
    with span("after the release"):
        yield b"last\n"


def label(request):
    """Give an error something to carry: body, user, tag, breadcrumb."""
    sentry_sdk.set_tag("posted", len(request.body))
    sentry_sdk.set_user({"id": "user of " + request.headers["X-Request-Id"]})
    sentry_sdk.set_tag("tagged", "in the view")
    sentry_sdk.add_breadcrumb(message="in the view")


async def stream_fails(request, wait):
    yield b"chunk 0\n"
    sentry_sdk.add_breadcrumb(message="in the body")
    await wait.sleep(0)
    with span("fails"):
        try:
            raise LookupError("cause in " + request.headers["X-Request-Id"])
        except LookupError as error:
            raise RuntimeError("in mid-stream of " + request.headers["X-Request-Id"]) from error


async def stream_endless(request, wait):
    """Chunks until the server notices that nobody reads them, for at most 20 seconds."""
    ended_by = "its end"
    # Small, and not an event: what is waited for happens in the server's socket.
    pause = 0.005
    try:
        yield b"first\n"
        await at_gate(request, wait)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            yield b"x" * 65536
            await wait.sleep(pause)
    except BaseException as error:
        ended_by = type(error).__name__
        raise
    finally:
        # A clean-up that takes more than one turn of the loop.
        await wait.sleep(pause)
        with span("clean up after " + ended_by):
            pass
        await wait.sleep(pause)


async def stream_log_context(request, wait):
    """What a log line written by the view, and those written by the generator, would carry."""
    yield request.log_context
    for step in range(2):
        if step:
            await at_gate(request, wait)
        with span("in " + request_id.get()):
            yield log_context()


async def echo(request, wait):
    """The request's body, as a stream."""
    yield b"%d bytes\n" % len(request.body)
    yield request.body


BODIES = {
    "stream": stream,
    "stream-many-spans": stream_many_spans,
    "stream-held": stream_held,
    "stream-fails": stream_fails,
    "stream-endless": stream_endless,
    "stream-log-context": stream_log_context,
    "echo": echo,
}
#: What a view does before it makes a response with a body.
BEFORE = {
    stream_fails: label,
    stream_log_context: lambda request: setattr(request, "log_context", log_context()),
    echo: lambda request: request.body,
}


# -- views


def plain(request):
    return HttpResponse(b"plain\n")


def error(request):
    raise RuntimeError("in the view of " + request.headers["X-Request-Id"])


async def wait(request):
    """The client has time to hang up before there is a response."""
    try:
        await at_gate(request, Suspending())
    except asyncio.CancelledError:
        with span("cancelled"):
            raise
    return HttpResponse(b"waited\n")


def stream_sized(request):
    """Announces its length, and goes on when that is sent."""

    async def body():
        yield b"first\n"
        yield b"last\n"
        await at_gate(request, Suspending())

    headers = {"Content-Length": "11"}
    return StreamingHttpResponse(body(), content_type="text/plain", headers=headers)


def stream_not_modified(request):
    return StreamingHttpResponse(iter([]), status=304)


def query():
    with span("generator"), connection.cursor() as cursor:
        cursor.execute("SELECT 42")
        (value,) = cursor.fetchone()
    return b"%d\n" % value


async def query_in_thread():
    """Async code that needs something that is sync, such as the ORM."""
    yield await sync_to_async(query, thread_sensitive=True)()


def stream_database(request):
    connection.ensure_connection()
    return StreamingHttpResponse((query() for _ in range(1)), content_type="text/plain")


def stream_database_async(request):
    connection.ensure_connection()
    return stream_query_in_thread(request)


def stream_query_in_thread(request):
    return StreamingHttpResponse(query_in_thread(), content_type="text/plain")


def file(request):
    return FileResponse(open(os.environ["FILE"], "rb"), content_type="application/octet-stream")


def file_in_memory(request):
    return FileResponse(io.BytesIO(b"in memory" * 1000), content_type="application/octet-stream")


def state(request):
    """What the integration says of this process."""
    from vendored_integration import checks, stats

    found = [finding.id for finding in checks.findings()]
    return JsonResponse({"findings": found, "stats": stats().as_dict()})


urlpatterns = [
    path("plain/", plain),
    path("plain-async/", as_async(plain)),
    path("error/", error),
    path("error-async/", as_async(error)),
    path("wait/", wait),
    path("stream-sized/", stream_sized),
    path("stream-not-modified/", stream_not_modified),
    path("stream-database/", stream_database),
    path("stream-database-async/", stream_database_async),
    path("stream-database-async-view/", as_async(stream_query_in_thread)),
    path("file/", file),
    path("file-in-memory/", file_in_memory),
    path("state/", state),
]
for _name, _body in BODIES.items():
    urlpatterns += views_of(_name, _body)


# -- what a middleware binds for log lines

request_id = contextvars.ContextVar("request_id", default="-")


def log_context():
    """What is bound here, by structlog and in a context variable; one JSON line."""
    seen = {
        "structlog": structlog.contextvars.get_contextvars().get("request_id", "-"),
        "contextvars": request_id.get(),
    }
    return json.dumps(seen).encode() + b"\n"


@contextlib.contextmanager
def bound(name):
    """Bind a request's id in each way that log lines get it, and undo that."""
    token = request_id.set(name)
    try:
        with structlog.contextvars.bound_contextvars(request_id=name):
            yield
    finally:
        request_id.reset(token)


class BindLogContext:
    """What most logging middleware does: bind around the view. A generator runs after that."""

    async_capable = os.environ.get("MIDDLEWARE") != "sync"

    def __init__(self, get_response):
        self.get_response = get_response
        if self.async_capable and iscoroutinefunction(get_response):
            markcoroutinefunction(self)
            self.respond = self.respond_async

    def __call__(self, request):
        name = request.headers.get("X-Log-Context")
        return self.respond(request, bound(name) if name else contextlib.nullcontext())

    def respond(self, request, binding):
        with binding:
            return self.get_response(request)

    async def respond_async(self, request, binding):
        with binding:
            return await self.get_response(request)


def with_channels(django_application):
    """Django with what Channels' documentation puts beside it: SSE, and a WebSocket at /talk/."""
    from channels.generic.http import AsyncHttpConsumer
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter

    class Events(AsyncHttpConsumer):
        async def handle(self, body):
            await self.send_headers(headers=[(b"Content-Type", b"text/event-stream")])
            for number in range(3):
                with span(f"event {number}"):
                    await asyncio.sleep(0)
                await self.send_body(b"data: event\n\n", more_body=True)
            await self.send_body(b"")

    class Talk(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            with span("received " + text_data):
                await asyncio.sleep(0)
            if text_data.startswith("fail"):
                raise RuntimeError(text_data) from LookupError("cause")
            await self.send(text_data="answer")

    events, talk = Events.as_asgi(), URLRouter([path("talk/", Talk.as_asgi())])
    if INTEGRATION == "ours":
        from vendored_integration.asgi import SentryMiddleware

        events, talk = SentryMiddleware(events), SentryMiddleware(talk)
    http_routes = [path("events/", events), re_path("", django_application)]
    return ProtocolTypeRouter({"http": URLRouter(http_routes), "websocket": talk})


settings.configure(
    SECRET_KEY="live",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[__name__ + ".BindLogContext"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["DATABASE"],
        }
    },
)

if os.environ.get("DSN") and INTEGRATION != "none":
    start_sentry()

django.setup()

django_application = get_wsgi_application()
django_asgi_application = get_asgi_application()
if os.environ.get("ROUTER") == "channels":
    django_asgi_application = with_channels(django_asgi_application)


# -- around Django


def serve_test(path, query, waits):
    """What is for the tests, and neither Django's nor traced; whether this was it.

    /-/flush            what Sentry was given has been sent when it answers: the caller does that
    /-/mark?<text>      is in the log; what was written before stands before it
    /-/release?<batch>  the held streams of the batch go on
    """
    if path == "/-/flush":
        gc.collect()
    elif path == "/-/mark":
        print("mark " + query, file=sys.stderr, flush=True)
    elif path == "/-/release":
        waits.released[query].set()
    return path.startswith("/-/")


def application(environ, start_response):
    """Django, and what the `X-Around` header asks for around it:

    drop          a middleware that forgets the response, unread and unclosed
    drop-started  the same, after it has read one chunk
    """
    if serve_test(environ["PATH_INFO"], environ["QUERY_STRING"], Blocking):
        if environ["PATH_INFO"] == "/-/flush":
            sentry_sdk.flush(5)
        start_response("204 No Content", [])
        return []
    around = environ.get("HTTP_X_AROUND")
    if around:
        return _drop(environ, start_response, started=around == "drop-started")
    return django_application(environ, start_response)


def _drop(environ, start_response, started):
    response = django_application(environ, lambda status, headers, exc_info=None: None)
    if started:
        next(iter(response))
    del response
    # Django's responses may be part of a cycle; this is not about when the collector runs.
    gc.collect()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
    return [b"dropped\n"]


async def asgi_application(scope, receive, send):
    """Django, and what the `X-Around` header asks for around it:

    stuck         a server whose send() of the second chunk never returns; it tells the gate
    disconnect    a server that tells the gate when the application knows that the client has gone
    """
    if scope["type"] != "http":
        await django_asgi_application(scope, receive, send)
        return
    query = scope["query_string"].decode()
    if serve_test(scope["path"], query, Suspending):
        if scope["path"] == "/-/flush":
            await asyncio.get_running_loop().run_in_executor(None, sentry_sdk.flush, 5)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    around = dict(scope["headers"]).get(b"x-around")
    if around == b"stuck":
        send = _stuck(send, int(parse_qs(query)["stuck"][0]))
    elif around == b"disconnect":
        receive = _disconnect(receive, int(parse_qs(query)["gone"][0]))
    await django_asgi_application(scope, receive, send)


def _stuck(send, gate):
    chunks = 0

    async def stuck(message):
        nonlocal chunks
        if message["type"] == "http.response.body":
            chunks += 1
            if chunks == 2:
                _, writer = await asyncio.open_connection("127.0.0.1", gate)
                try:
                    await asyncio.Event().wait()
                finally:
                    writer.close()
        await send(message)

    return stuck


def _disconnect(receive, gate):
    async def tell():
        # Until the application has heard of it, and cancelled what it has to.
        for _ in range(20):
            await asyncio.sleep(0)
        _, writer = await asyncio.open_connection("127.0.0.1", gate)
        writer.close()

    async def receive_and_tell():
        message = await receive()
        if message["type"] == "http.disconnect":
            telling.append(asyncio.ensure_future(tell()))
        return message

    telling = []
    return receive_and_tell


if os.environ.get("AT_SHUTDOWN") == "flush":
    from vendored_integration.asgi import flush_at_shutdown

    asgi_application = flush_at_shutdown(asgi_application)
