"""The test app of app.py, and what goes wrong in it; for test_faults.py.

    SHUTDOWN_TIMEOUT  the SDK's option, in seconds

A request asks for a fault of what Sentry calls by the header `X-Fault`, and for one of the body
or the view by its path.
"""

import asyncio
import os
import sys
from urllib.parse import parse_qs

import app
import sentry_sdk
from app import application as served
from app import asgi_application as asgi_served
from app import at_gate, at_port, span
from django.http import StreamingHttpResponse
from django.urls import path

# -- what Sentry calls


def fault_of(event):
    headers = (event.get("request") or {}).get("headers") or {}
    return {name.lower(): value for name, value in headers.items()}.get("x-fault", "")


def before_send_transaction(event, hint):
    fault = fault_of(event)
    if fault == "before_send_transaction raises":
        raise LookupError(fault)
    if fault == "before_send_transaction hangs":
        # A hook like any other: it knows of the request what the event says.
        at_port(int(parse_qs(event["request"]["query_string"])["hang"][0]))
    return event


def event_processor(event, hint):
    fault = fault_of(event)
    if fault == "event processor raises":
        raise LookupError(fault)
    return event


def failing_transport(capture_envelope):
    def capture(envelope):
        for item in envelope.items:
            if fault_of(item.payload.json or {}) == "transport raises":
                raise LookupError("transport raises")
        return capture_envelope(envelope)

    return capture


client = sentry_sdk.get_client()
if client.is_active():
    client.options["before_send_transaction"] = before_send_transaction
    client.options["shutdown_timeout"] = float(os.environ.get("SHUTDOWN_TIMEOUT", "2"))
    client.transport.capture_envelope = failing_transport(client.transport.capture_envelope)
    sentry_sdk.Scope.get_global_scope().add_event_processor(event_processor)


# -- the application's faults


def fail(name):
    if name == "gevent.Timeout":
        import gevent

        with gevent.Timeout(0.01):
            gevent.sleep(20)
    if name == "GreenletExit":
        import gevent

        gevent.getcurrent().throw(gevent.GreenletExit)
    raise {
        "SystemExit": SystemExit(1),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
    }[name]


def stream_raises(request, name):
    def body():
        yield b"before\n"
        with span("raises"):
            fail(name)

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_async_raises(request, name):
    async def body():
        yield b"before\n"
        await asyncio.sleep(0)
        with span("raises"):
            fail(name)

    return StreamingHttpResponse(body(), content_type="text/plain")


def raises(request, name):
    fail(name)


def stream_close_raises(request):
    response = StreamingHttpResponse([b"all\n"], content_type="text/plain")
    close = response.close

    def raising_close():
        close()
        raise LookupError("close raises")

    response.close = raising_close
    return response


def forked():
    """Fork; return in the parent, when the child has ended, with its exit status."""
    pid = os.fork()
    if pid:
        return b"%d\n" % os.waitpid(pid, 0)[1]
    try:
        with span("child"):
            sentry_sdk.capture_message("from the child")
        sentry_sdk.flush()
    finally:
        os._exit(0)


def fork(request):
    seen = forked()

    def body():
        with span("parent"):
            yield seen

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_forks(request):
    def body():
        yield b"before\n"
        seen = forked()
        with span("parent"):
            yield seen

    return StreamingHttpResponse(body(), content_type="text/plain")


def stream_pid(request):
    def body():
        yield b"%d\n" % os.getpid()
        at_gate(request)
        yield b"end\n"

    return StreamingHttpResponse(body(), content_type="text/plain")


app.urlpatterns += [
    path("stream-raises/<name>/", stream_raises),
    path("stream-async-raises/<name>/", stream_async_raises),
    path("raises/<name>/", raises),
    path("stream-close-raises/", stream_close_raises),
    path("fork/", fork),
    path("stream-forks/", stream_forks),
    path("stream-pid/", stream_pid),
]


# -- around Django


def mark(query):
    """Write to the log: what has been written before stands before it."""
    print("mark " + parse_qs(query)["mark"][0], file=sys.stderr, flush=True)


def application(environ, start_response):
    if environ["PATH_INFO"] == "/-/mark":
        mark(environ["QUERY_STRING"])
        start_response("204 No Content", [])
        return []
    return served(environ, start_response)


async def asgi_application(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/-/mark":
        mark(scope["query_string"].decode())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})
        return
    await asgi_served(scope, receive, send)
