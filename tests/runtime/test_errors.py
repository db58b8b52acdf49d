"""Errors of the application, WSGI and ASGI: one event, complete; and nothing else changed."""

import asyncio
import contextlib
import contextvars
import logging
import weakref

import django
import pytest
import sentry_sdk
from django.core.exceptions import RequestAborted
from sentry_sdk.integrations.dedupe import DedupeIntegration
from support.apps import ASGI_WAYS, ASYNC_BODIES, DJANGO_WAYS, WAYS, open_stream, streaming_app
from support.asgi import HANG_UPS, Connection, make_scope, read
from support.sdk import HAS_STATIC_LIFECYCLE, log_in_server, start_span, status_of
from support.wsgi import WsgiClient

from vendored_integration import stats
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

every_way = pytest.mark.parametrize("way", WAYS)
log = logging.getLogger("app")


def failing(how="silent"):
    """Raise an error with a cause, having reported it or not."""
    try:
        try:
            raise KeyError("no such row")
        except KeyError as cause:
            raise ValueError("half-way") from cause
    except ValueError as error:
        if how == "captured":
            sentry_sdk.capture_exception(error)
        elif how == "logged":
            log.exception("it went wrong")
        raise


# -- one error, one event ----------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize(
    ("way", "how"),
    # (where the body runs in a task of its own, an error that is captured there has two)
    [(way, "silent") for way in WAYS]
    + [(way, how) for way in DJANGO_WAYS for how in ("captured", "logged")],
)
def test_one_event(init, lifecycle, way, how):
    """However often an error is reported, Sentry gets it once, with all that it belongs to."""
    sentry = init(lifecycle, send_default_pii=True)

    def view():
        sentry_sdk.set_user({"id": "7"})
        sentry_sdk.set_tag("tenant", "acme")
        sentry_sdk.add_breadcrumb(message="in the view")

    def the_body():
        yield b"a"
        with start_span("step"):
            failing(how)

    client = open_stream(way, streaming_app(way, the_body, view), "/report")
    with pytest.raises(ValueError, match="half-way") as caught:
        client.read()
    log_in_server(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)
    root = sentry.root()
    event = sentry.one_error(root)
    assert event["contexts"]["trace"]["span_id"] in root.span_ids
    assert event["transaction"] == root.name
    assert event["request"]["url"].endswith("/report")
    assert event["user"]["id"] == "7"
    assert event["tags"]["tenant"] == "acme"
    assert "in the view" in [crumb["message"] for crumb in event["breadcrumbs"]["values"]]
    cause, raised = event["exception"]["values"]
    assert (cause["type"], raised["type"]) == ("KeyError", "ValueError")
    frames = raised["stacktrace"]["frames"]
    functions = [frame["function"] for frame in frames]
    assert functions[-1] == "failing"
    if how == "silent":  # else it was reported from deeper
        assert functions[-2] == "the_body"
        assert raised["mechanism"]["handled"] is False
    assert not [frame for frame in frames if "vendored_integration" in frame["module"]]
    assert (root.outcome, root.status) == ("failed", status_of(lifecycle, "internal_error"))


class Response:
    def __init__(self, fails_in, streaming):
        self.fails_in = fails_in
        self.streaming = streaming

    def __iter__(self):
        yield b"a"
        if "body" in self.fails_in:
            raise ValueError("in body")

    def close(self):
        if "close" in self.fails_in:
            raise ValueError("in close")


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("fails_in", [["application"], ["body"], ["close"], ["body", "close"]])
@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_error_that_the_server_logs(init, lifecycle, fails_in, streaming, finish_on, rate):
    """Wherever it is raised. A second request with the same error has an event as well."""
    sentry = init(lifecycle, traces_sample_rate=rate)

    def app(environ, start_response):
        start_response("200 OK", [])
        if fails_in == ["application"]:
            raise ValueError("in application")
        return Response(fails_in, streaming)

    app = SentryWsgiMiddleware(app, finish_on=finish_on)
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"in {fails_in[-1]}") as caught:
            WsgiClient(app).read()
        log_in_server(caught.value)
        assert sentry.messages() == [f"in {place}" for place in fails_in] * number
    assert {event["request"]["url"] for event in sentry.errors()} == {"http://localhost/"}
    roots = sentry.roots()
    assert len(roots) == 2 * rate
    traces = [event["contexts"]["trace"]["trace_id"] for event in sentry.errors()]
    assert {root.trace_id for root in roots} == set(traces if rate else [])
    if streaming or finish_on == "close" or fails_in == ["application"]:
        assert {root.status for root in roots} <= {status_of(lifecycle, "internal_error")}


@pytest.mark.parametrize(
    ("logger", "error", "events"),
    [
        ("server", BrokenPipeError("the client has gone"), 1),
        ("server", None, 1),
        ("asyncio", asyncio.CancelledError(), 0),
        ("asyncio", RequestAborted(), 0),
        ("asyncio", ValueError("a failing task"), 1),
        ("app", asyncio.CancelledError(), 1),
        ("app", RequestAborted(), 1),
    ],
)
def test_what_has_not_come_out_of_the_application(sentry, logger, error, events):
    """If it is logged it is an event, but for hang-ups that nobody was left to catch.

    Django's task that listens to the client is left behind when its request is cancelled.
    """
    WsgiClient(streaming_app("wsgi-django", lambda: iter([b"a"]))).read()
    log_in_server(error, logger)
    assert len(sentry.errors()) == events


@pytest.mark.skipif(
    not hasattr(DedupeIntegration, "reset_last_seen"), reason="the SDK marks the object as reported"
)
def test_one_error_object_in_two_requests(sentry):
    """A module's constant that is raised again: each request has its event."""
    error = ValueError("in the application")

    def app(environ, start_response):
        raise error

    for number in (1, 2):
        with pytest.raises(ValueError, match="in the application"):
            contextvars.Context().run(WsgiClient, SentryWsgiMiddleware(app))
        assert len(sentry.errors()) == number


@pytest.mark.parametrize("cancels", [False, True])
@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_what_upstream_lets_pass_is_the_server_s_to_report(sentry, error, cancels):
    """Upstream's ASGI middleware reports no `sys.exit()`, so what the server logs is the event."""

    async def app(scope, receive, send):
        try:
            raise error
        except BaseException:
            if cancels:
                raise asyncio.CancelledError from None
            raise

    async def server():
        # No task of its own: that would end the event loop.
        try:
            await SentryMiddleware(app)(make_scope(), None, None)
        except BaseException as raised:
            logging.getLogger("server").error("in the application", exc_info=raised)

    asyncio.run(server())
    sentry.root()
    # A cancellation in clean-up is a hang-up.
    expected = 0 if cancels and isinstance(error, GeneratorExit) else 1
    assert len(sentry.errors()) == expected


# -- transparency ------------------------------------------------------------------------


def raise_chained(in_handler, **cause):
    """Raise an error in one of the ways that errors can be chained."""
    error = ValueError("x")
    if cause:
        error.__cause__ = cause["cause"]
    try:
        if in_handler:
            raise IndexError("context")
    except IndexError:
        raise error  # noqa: B904
    raise error


def links(error):
    return error, error.__cause__, error.__context__, error.__suppress_context__


@pytest.mark.parametrize("in_handler", [True, False])
@pytest.mark.parametrize("cause", [{}, {"cause": None}, {"cause": KeyError("cause")}])
@pytest.mark.parametrize("type", ["http", "websocket", "lifespan"])
@pytest.mark.parametrize("middlewares", [1, 2])
def test_chain_of_an_error(sentry, lifecycle, in_handler, cause, type, middlewares):
    """Upstream raises ``from None``: the cause is lost to whoever is outside."""
    raised = []

    async def app(scope, receive, send):
        await receive()
        try:
            raise_chained(in_handler, **cause)
        except ValueError as error:
            raised.append(links(error))
            raise

    served = app
    for _ in range(middlewares):
        served = SentryMiddleware(served)
    error = asyncio.run(read(served, type=type)).error
    assert raised == [links(error)]
    if type == "http":
        root = sentry.root()
        assert (root.status, root.outcome) == (status_of(lifecycle, "internal_error"), None)
    (event,) = sentry.errors()
    is_chained = cause.get("cause") or (in_handler and not cause)
    assert len(event["exception"]["values"]) == (2 if is_chained else 1)


# -- faults of what is around us, and of our own -----------------------------------------


def broken(*args, **kwargs):
    raise ZeroDivisionError("not the application's")


class BrokenHandler(logging.Handler):
    emit = broken


def break_transport(sentry, monkeypatch):
    monkeypatch.setattr(sentry, "capture_envelope", broken)


def break_log(sentry, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vendored_integration"), "handlers", [BrokenHandler()])


def break_ours(name):
    """Break what our own modules use."""
    return lambda sentry, monkeypatch: monkeypatch.setattr(
        f"vendored_integration.runtime.{name}", broken
    )


#: By name: options of the SDK; what a server tells of a request; what is broken.
FAULTS = {
    "sampler": ({"traces_sampler": broken}, {}, None),
    "header": ({}, {"HTTP_X_FORWARDED_FOR": 7}, None),
    "transport": ({}, {}, break_transport),
    "log": ({"traces_sampler": broken}, {}, break_log),
    "clock": ({}, {}, break_ours("registry.monotonic")),
    "timer": ({}, {}, break_ours("body_stats.perf_counter")),
    "registry": ({}, {}, break_ours("registry.Registry.add")),
    "bindings": ({}, {}, break_ours("bindings.Bindings.find")),
}
OF_OUR_OWN = ("clock", "timer", "registry", "bindings")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
@every_way
def test_faults_around_us(init, lifecycle, monkeypatch, caplog, way, fault, fails):
    """The response goes on as it would; its error is reported, and nothing gets to another one."""
    options, request, break_it = FAULTS[fault]
    if (fault, way) == ("header", "asgi-django"):
        pytest.skip("Django refuses it")
    if way in ASGI_WAYS:
        if fault == "timer":
            pytest.skip("WSGI's")
        request = {}
    sentry = init(lifecycle, **options)
    before = stats()

    def body():
        if fault in OF_OUR_OWN:
            monkeypatch.undo()
        yield b"a"
        sentry_sdk.set_tag("request", "this one")
        yield b"b"
        if fails:
            failing()

    def view():
        if break_it is not None:
            break_it(sentry, monkeypatch)

    if fault == "clock":
        view()
    app = streaming_app(way, body, view)
    if (fault, way) == ("header", "asgi-plain"):
        traced = app

        async def app(scope, *both):
            await traced({**scope, "headers": [("x-forwarded-for", "text")]}, *both)

    client = open_stream(way, app, **request)
    with pytest.raises(ValueError, match="half-way") if fails else contextlib.nullcontext():
        client.read()
    monkeypatch.undo()
    assert client.chunks == [b"a", b"b"]
    if fault != "transport":
        assert [event["tags"]["request"] for event in sentry.errors()] == ["this one"] * fails
    assert "request" not in sentry_sdk.Scope.get_isolation_scope()._tags
    # (some releases of the SDK look after a sampler themselves)
    assert {record.name for record in caplog.records} <= {"vendored_integration"}
    after = stats()
    assert after.open_responses == 0
    ended = [sum(s.streaming.values()) + sum(s.plain.values()) for s in (before, after)]
    assert ended[1] - ended[0] <= 1
    if fault in OF_OUR_OWN:  # it is counted, and the request traced as in stock, at least
        if fault != "bindings" or "django" in way:  # others have none
            assert after.internal_errors > before.internal_errors
        (root,) = sentry.roots()
        for event in sentry.errors():
            assert event["contexts"]["trace"]["trace_id"] == root.trace_id


# -- memory ------------------------------------------------------------------------------


ENDINGS = [("asgi-plain", ending) for ending in ("complete", "fail", "cancel", "error")]
if not HAS_STATIC_LIFECYCLE:
    ENDINGS.remove(("asgi-plain", "fail"))  # SDK 3 itself keeps the error in a local variable
# Django's handler makes a cycle of an error and the task that raised it; from 6.0 on, of
# each request.
if ASYNC_BODIES and django.VERSION < (6, 0):
    ENDINGS += [("asgi-django", ending) for ending in ("complete", "cancel")]


@pytest.mark.parametrize(("way", "ending"), ENDINGS)
def test_nothing_waits_for_the_garbage_collector(init, no_collector, way, ending):
    """What a request held is free as soon as it is over: no cycle of ours goes around it."""
    init(max_breadcrumbs=0)
    held = []

    class Held:
        def __init__(self):
            held.append(weakref.ref(self))

    async def body():
        mine = Held()  # noqa: F841
        for number in range(3 if ending in ("complete", "fail") else 10_000):
            yield b"%d" % number
        if ending == "fail":
            failing()

    async def plain_app(scope, receive, send):
        # Not asgi_app(): its tasks and their errors are in a cycle.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def main():
        connection = Connection(app)
        held.append(weakref.ref(connection))
        if ending in HANG_UPS:
            await connection.sent(2)
            await connection.hang_up(ending)
        await connection.end()
        connection.task = None  # its error holds the connection
        # Tasks that Django has left behind end with the loop.

    app = SentryMiddleware(plain_app) if way == "asgi-plain" else streaming_app(way, body)
    asyncio.run(main())
    assert [reference() for reference in held] == [None, None]
