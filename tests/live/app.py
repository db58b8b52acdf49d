"""The Django project that the live tests run, in one file, and the WSGI application around it.

Set up by environment variables, so that every server can run it the same way:

    DSN               where Sentry is; empty: the SDK is not started at all
    INTEGRATION       ours | stock | none
    LIFECYCLE         static | stream
    RESPONSE_TIMEOUT  seconds, `none` for never; for `ours` only
    MAX_OPEN          max_open_responses; for `ours` only
    ON_TIMEOUT        on_timeout; for `ours` only
    MAX_SPANS         the SDK's limit of spans in a transaction; then Django's own are off
    DATABASE          path of the SQLite file
    FILE              path of the file that /file/ serves

A request may ask for what is done around Django, with the header `X-Around`: see `application`.
"""

import asyncio
import gc
import inspect
import io
import json
import os
import socket
import time

import django
import sentry_sdk
import structlog
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path
from sentry_sdk.integrations.django import DjangoIntegration as Stock
from sentry_sdk.tracing import Span

INTEGRATION = os.environ["INTEGRATION"]
STREAMED_SPANS = os.environ.get("LIFECYCLE") == "stream"


def start_sentry():
    # HEAD is not captured unless asked for; up to 2.14 every method is.
    options = {}
    if "http_methods_to_capture" in inspect.signature(Stock).parameters:
        options["http_methods_to_capture"] = ("GET", "HEAD", "POST")
    if INTEGRATION == "ours":
        from vendored_integration import DjangoIntegration

        timeout = os.environ.get("RESPONSE_TIMEOUT")
        if timeout:
            options["response_timeout"] = None if timeout == "none" else float(timeout)
        if os.environ.get("MAX_OPEN"):
            options["max_open_responses"] = int(os.environ["MAX_OPEN"])
        if os.environ.get("ON_TIMEOUT"):
            options["on_timeout"] = os.environ["ON_TIMEOUT"]
    else:
        from sentry_sdk.integrations.django import DjangoIntegration
    if STREAMED_SPANS:
        from sentry_sdk._span_batcher import SpanBatcher

        # Up to 2.67 a segment is sent up to 5 s after its end: each test would wait for it.
        SpanBatcher.FLUSH_WAIT_TIME = 0.05  # seconds
    experiments = {"trace_lifecycle": "stream"} if STREAMED_SPANS else {}
    if os.environ.get("MAX_SPANS"):
        experiments["max_spans"] = int(os.environ["MAX_SPANS"])
        options.update(middleware_spans=False, signals_spans=False)
    sentry_sdk.init(
        dsn=os.environ["DSN"],
        release="live@1",
        traces_sample_rate=1.0,
        auto_session_tracking=True,
        integrations=[DjangoIntegration(**options)],
        _experiments=experiments,
    )


def span(name):
    """A span, in either lifecycle."""
    if STREAMED_SPANS:
        return sentry_sdk.traces.start_span(name=name)
    # Up to 2.14 a span had no name, only a description.
    key = "name" if "name" in inspect.signature(Span).parameters else "description"
    return sentry_sdk.start_span(op="test", **{key: name})


# -- gates: a generator that waits for the test


def at_gate(request):
    """Tell the test that we are here, and wait until it lets us go on.

    A connection and not a lock file: neither side has to poll, and under gevent other requests
    run meanwhile.
    """
    if "gate" in request.GET:
        with socket.create_connection(("127.0.0.1", int(request.GET["gate"])), timeout=30) as gate:
            gate.recv(1)


async def at_gate_async(request):
    if "gate" in request.GET:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(request.GET["gate"]))
        await reader.read(1)
        writer.close()
        await writer.wait_closed()


# -- views


def plain(request):
    return HttpResponse(b"plain\n")


def error(request):
    raise RuntimeError("in the view of " + request.headers["X-Request-Id"])


def stream(request):
    """`n` chunks with a span each; at a gate before the last, if there is one."""
    count = int(request.GET.get("n", 3))

    def body():
        for index in range(count):
            if index == count - 1:
                at_gate(request)
            with span("chunk %d" % index):
                chunk = b"chunk %d\n" % index
            yield chunk

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_many_spans(request):
    """`n` chunks, each after `spans` spans; at a gate after each. A chunk is the process id."""

    def body():
        for index in range(int(request.GET["n"])):
            for number in range(int(request.GET["spans"])):
                with span("span %d.%d" % (index, number)):
                    pass
            yield b"%d\n" % os.getpid()
            at_gate(request)

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_async(request):
    count = int(request.GET.get("n", 3))

    async def body():
        for index in range(count):
            if index == count - 1:
                await at_gate_async(request)
            with span("chunk %d" % index):
                await asyncio.sleep(0)
            yield b"chunk %d\n" % index

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_fails(request):
    def body():
        yield b"chunk 0\n"
        with span("fails"):
            raise RuntimeError("in mid-stream of " + request.headers["X-Request-Id"])
        yield b"never\n"

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_async_fails(request):
    """Django runs the whole generator before the first chunk, when it asks for the iterator."""

    async def body():
        yield b"chunk 0\n"
        with span("fails"):
            raise RuntimeError("in mid-stream of " + request.headers["X-Request-Id"])
        yield b"never\n"

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_endless(request):
    """Chunks until the server notices that nobody reads them, for at most 20 seconds."""

    def body():
        try:
            yield b"first\n"
            at_gate(request)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                yield b"x" * 65536
                # Small, and not an event: what is waited for happens in the server's socket.
                time.sleep(0.005)
        finally:
            with span("clean up"):
                pass

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_not_modified(request):
    return StreamingHttpResponse(iter([]), status=304)


def stream_database(request):
    def body():
        with span("generator"), connection.cursor() as cursor:
            cursor.execute("SELECT 42")
            (value,) = cursor.fetchone()
        yield b"%d\n" % value

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_log_context(request):
    """What a log line written by the view, and one written by the generator, would carry."""
    in_view = structlog.contextvars.get_contextvars()

    def body():
        yield json.dumps(in_view).encode() + b"\n"
        yield json.dumps(structlog.contextvars.get_contextvars()).encode() + b"\n"

    async def body_async():
        for chunk in body():
            yield chunk

    chosen = body_async if "async" in request.GET else body
    return StreamingHttpResponse(chosen(), content_type="text/plain")


def file(request):
    return FileResponse(open(os.environ["FILE"], "rb"), content_type="application/octet-stream")


def file_in_memory(request):
    return FileResponse(io.BytesIO(b"in memory" * 1000), content_type="application/octet-stream")


urlpatterns = [
    path("plain/", plain),
    path("error/", error),
    path("stream/", stream),
    path("stream-many-spans/", stream_many_spans),
    path("stream-async/", stream_async),
    path("stream-fails/", stream_fails),
    path("stream-async-fails/", stream_async_fails),
    path("stream-endless/", stream_endless),
    path("stream-not-modified/", stream_not_modified),
    path("stream-database/", stream_database),
    path("stream-log-context/", stream_log_context),
    path("file/", file),
    path("file-in-memory/", file_in_memory),
]


class BindLogContext:
    """What most structlog middleware does: bind around the view. A generator runs after that."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        name = request.headers.get("X-Log-Context")
        if not name:
            return self.get_response(request)
        with structlog.contextvars.bound_contextvars(request_id=name):
            return self.get_response(request)


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


# -- around Django


def application(environ, start_response):
    """Django, and what the `X-Around` header asks for around it:

    stock         sentry_sdk's own SentryWsgiMiddleware
    ours          vendored_integration's SentryWsgiMiddleware
    drop          a middleware that forgets the response, unread and unclosed
    drop-started  the same, after it has read one chunk

    `/-/flush` is for the tests: not Django, not traced; what Sentry was given has been sent when
    it answers.
    """
    if environ["PATH_INFO"] == "/-/flush":
        gc.collect()
        sentry_sdk.flush(timeout=5)
        start_response("204 No Content", [])
        return []
    around = environ.get("HTTP_X_AROUND")
    if not around:
        return django_application(environ, start_response)
    if around == "stock":
        from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

        return SentryWsgiMiddleware(django_application)(environ, start_response)
    if around == "ours":
        from vendored_integration.wsgi import SentryWsgiMiddleware

        return SentryWsgiMiddleware(django_application)(environ, start_response)
    assert around in ("drop", "drop-started"), around
    return _drop(environ, start_response, started=around == "drop-started")


def _drop(environ, start_response, started):
    response = django_application(environ, lambda status, headers, exc_info=None: None)
    if started:
        next(iter(response))
    del response
    # Django's responses may be part of a cycle; this is not about when the collector runs.
    gc.collect()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
    return [b"dropped\n"]
