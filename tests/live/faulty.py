"""The test app of app.py, and what goes wrong in it; for test_faults.py.

A request asks for a fault of what Sentry calls by the header `X-Fault`, and for one of the body
or the view by its path.
"""

import os
from urllib.parse import parse_qs

import app
import sentry_sdk
from app import application, asgi_application  # noqa: F401  (servers look them up here)
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
        app.block_at(int(parse_qs(event["request"]["query_string"])["hang"][0]))
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
    client.transport.capture_envelope = failing_transport(client.transport.capture_envelope)
    sentry_sdk.Scope.get_global_scope().add_event_processor(event_processor)


# -- the application's faults


def fail(request):
    kind = request.GET["kind"]
    if kind == "Timeout":
        import gevent

        with gevent.Timeout(0.01):
            gevent.sleep(20)
    if kind == "GreenletExit":
        import gevent

        gevent.getcurrent().throw(gevent.GreenletExit)
    raise {
        "SystemExit": SystemExit(1),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
    }[kind]


async def stream_raises(request, wait):
    yield b"before\n"
    await wait.sleep(0)
    with app.span("raises"):
        fail(request)


def stream_close_raises(request):
    response = StreamingHttpResponse([b"all\n"], content_type="text/plain")
    close = response.close

    def raising_close():
        close()
        raise LookupError("close raises")

    response.close = raising_close
    return response


def fork():
    """Fork; return in the parent, when the child has ended, with its exit status."""
    pid = os.fork()
    if pid:
        return b"%d\n" % os.waitpid(pid, 0)[1]
    try:
        with app.span("child"):
            sentry_sdk.capture_message("from the child")
        sentry_sdk.flush()
    finally:
        os._exit(0)


async def stream_forks(request, wait):
    yield b"before\n"
    status = fork()
    with app.span("parent"):
        yield status


app.urlpatterns += [
    *app.views_of("stream-raises", stream_raises),
    *app.views_of("stream-forks", stream_forks),
    path("raises/", fail),
    path("stream-close-raises/", stream_close_raises),
    path("fork/", lambda request: StreamingHttpResponse([fork()], content_type="text/plain")),
]
