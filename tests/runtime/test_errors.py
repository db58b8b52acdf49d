"""Errors of the application, WSGI and ASGI: one event, complete; and nothing else changed."""

import asyncio
import contextlib
import gc
import logging
import weakref

import django
import pytest
import sentry_sdk
from asgi_server import ASYNC_BODIES, KINDS, Connection, django_app, read, streaming_app
from django.http import StreamingHttpResponse
from harness import Exchange, start_span
from views import serve, serve_asgi

import vendored_integration
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

WAYS = ["wsgi", "asgi"] if ASYNC_BODIES else ["wsgi"]
HOW = ["silent", "captured", "logged", "logged by the server"]
log = logging.getLogger("app")


class User:
    pk = 7
    is_authenticated = True
    email = "ada@example.com"

    def get_username(self):
        return "ada"


def failing(how):
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


def serve_failing(way, how):
    """Serve a view whose body fails at its second chunk; return the error the server gets."""

    def respond(request, body):
        request.user = User()
        sentry_sdk.set_tag("tenant", "acme")
        sentry_sdk.add_breadcrumb(message="in the view")
        return StreamingHttpResponse(body())

    def wsgi_body():
        yield b"a"
        with start_span("step"):
            failing(how)

    async def asgi_body():
        yield b"a"
        with start_span("step"):
            failing(how)

    async def async_view(request):
        return respond(request, asgi_body)

    def log_in_server(error):
        if how == "logged by the server":
            logging.getLogger("server").error("in the application", exc_info=error)

    app = serve_asgi(async_view)

    async def server(scope, receive, send):
        try:
            await app(scope, receive, send)
        except ValueError as error:
            log_in_server(error)
            raise

    if way == "asgi":
        return asyncio.run(read(server, "/report")).error
    with pytest.raises(ValueError, match="half-way") as caught:
        Exchange(serve(lambda request: respond(request, wsgi_body)), "/report").read()
    log_in_server(caught.value)
    return caught.value


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", WAYS)
def test_one_event(init, lifecycle, way, how):
    """However often an error is reported, Sentry gets it once, with all that it belongs to."""
    sentry = init(lifecycle, send_default_pii=True)
    error = serve_failing(way, how)
    assert isinstance(error.__cause__, KeyError)
    assert error.__suppress_context__
    root = sentry.root()
    (event,) = sentry.errors()
    trace = event["contexts"]["trace"]
    assert trace["trace_id"] == root.trace_id
    assert trace["span_id"] in root.span_ids
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
    if how in ("silent", "logged by the server"):  # else it was reported from deeper
        assert functions[-2] == way + "_body"
    assert not [frame for frame in frames if "vendored_integration" in frame["module"]]
    assert root.outcome == "failed"


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
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        try:
            await SentryMiddleware(app)(scope, None, None)
        except BaseException as raised:
            logging.getLogger("server").error("in the application", exc_info=raised)

    asyncio.run(server())
    sentry.root()
    # A cancellation in clean-up is a hang-up.
    expected = 0 if cancels and isinstance(error, GeneratorExit) else 1
    assert len(sentry.errors()) == expected


def test_error_in_finally_of_a_body_that_is_closed(sentry):
    """An error of clean-up, when the client has gone, is the event loop's; no response breaks."""
    if not ASYNC_BODIES:
        pytest.skip("Django has no async bodies yet")
    contexts = []

    async def body():
        try:
            while True:
                yield b"event"
        finally:
            raise ValueError("while cleaning up")

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: contexts.append(context["exception"])
        )
        connection = Connection(streaming_app("django", body))
        await connection.sent(2)
        connection.hang_up("error")
        return await connection.end()

    assert isinstance(asyncio.run(main()), ConnectionResetError)
    (error,) = contexts
    assert isinstance(error, ValueError)
    assert sentry.root().outcome == "cancelled"
    assert not sentry.errors()


# -- transparency ----------------------------------------------------------------------


def chained():
    """Errors in all the ways that they can be chained."""
    cause, context = KeyError("cause"), IndexError("context")

    def from_cause():
        raise ValueError("x") from cause

    def from_none():
        try:
            raise context
        except IndexError:
            raise ValueError("x") from None

    def in_handler():
        try:
            raise context
        except IndexError:
            raise ValueError("x")  # noqa: B904

    def both():
        try:
            raise context
        except IndexError:
            raise ValueError("x") from cause

    def bare():
        raise ValueError("x")

    return {
        function.__name__: function for function in (from_cause, from_none, in_handler, both, bare)
    }


@pytest.mark.parametrize("chain", chained())
@pytest.mark.parametrize("type", ["http", "websocket", "lifespan"])
@pytest.mark.parametrize("middlewares", [1, 2])
def test_chain_of_an_error(sentry, chain, type, middlewares):
    """Upstream raises ``from None``: the cause is lost to whoever is outside."""
    raised = []

    async def app(scope, receive, send):
        await receive()
        try:
            chained()[chain]()
        except ValueError as error:
            raised.append((error, error.__cause__, error.__context__, error.__suppress_context__))
            raise

    served = app
    for _ in range(middlewares):
        served = SentryMiddleware(served)
    error = asyncio.run(read(served, type=type)).error
    assert raised == [(error, error.__cause__, error.__context__, error.__suppress_context__)]
    (event,) = sentry.errors()
    expected = {"from_none": 1, "bare": 1}.get(chain, 2)
    assert len(event["exception"]["values"]) == expected


def test_cancellation_is_untouched(init):
    """The same CancelledError, once, and the task counts its cancellations as without us."""

    def outcome(wrap):
        seen = []

        async def app(scope, receive, send):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                seen.append(error)
                raise

        async def main():
            async def server(*args):
                try:
                    await wrap(app)(*args)
                except asyncio.CancelledError as error:
                    seen.append(error)
                    if hasattr(asyncio.current_task(), "cancelling"):  # from 3.11 on
                        seen.append(asyncio.current_task().cancelling())
                    raise

            connection = Connection(server)
            await asyncio.sleep(0)
            connection.hang_up("cancel")
            return await connection.end()

        error = asyncio.run(main())
        assert isinstance(error, asyncio.CancelledError)
        assert seen[0] is seen[1]
        return error.args, error.__cause__, repr(error.__context__), seen[2:]

    sentry = init()
    assert outcome(SentryMiddleware) == outcome(lambda app: app)
    assert not sentry.errors()


# -- faults of what is around us ---------------------------------------------------------


def broken(*args, **kwargs):
    raise ZeroDivisionError("not the application's")


class BrokenHandler(logging.Handler):
    emit = broken


def break_transport(sentry, monkeypatch):
    monkeypatch.setattr(sentry, "capture_envelope", broken)


def break_log(sentry, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vendored_integration"), "handlers", [BrokenHandler()])


def break_clock(sentry, monkeypatch):
    monkeypatch.setattr("vendored_integration.runtime.registry.monotonic", broken)


#: By name: options of the SDK; what a server tells of a request, WSGI and ASGI; what is broken.
FAULTS = {
    "sampler": ({"traces_sampler": broken}, {}, {}, None),
    "header": ({}, {"HTTP_X_FORWARDED_FOR": 7}, {"headers": [("x-forwarded-for", "text")]}, None),
    "transport": ({}, {}, {}, break_transport),
    "log": ({"traces_sampler": broken}, {}, {}, break_log),
    "clock": ({}, {}, {}, break_clock),
}


def respond(kind, fails, environ, scope):
    """Serve a stream of two chunks; return what the server has got: chunks, and the error."""

    def body():
        yield b"a"
        sentry_sdk.set_tag("request", "this one")
        yield b"b"
        if fails:
            raise ValueError("half-way")

    async def async_body():
        for chunk in body():
            yield chunk

    def app(environ, start_response):
        start_response("200 OK", [])
        return body()

    if kind.startswith("asgi"):
        connection = asyncio.run(read(streaming_app(kind[5:], async_body), **scope))
        return connection.chunks, connection.error
    if kind == "wsgi-django":
        app = serve(lambda request: StreamingHttpResponse(body()))
    else:
        app = SentryWsgiMiddleware(app)
    exchange, chunks, raised = Exchange(app, **environ), [], None
    try:
        chunks.extend(exchange.response)
    except ValueError as error:
        raised = error
    exchange.close()
    return chunks, raised


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (kind, fault)
        for kind in ("wsgi-plain", "wsgi-django", *(f"asgi-{kind}" for kind in KINDS))
        for fault in FAULTS
        if (kind, fault) != ("asgi-django", "header")  # Django refuses it
    ],
)
def test_faults_around_us(init, lifecycle, monkeypatch, caplog, kind, fault, fails):
    """The response goes on as it would; its error is reported, and nothing gets to another one."""
    options, environ, scope, break_it = FAULTS[fault]
    sentry = init(lifecycle, **options)
    before = vendored_integration.stats()
    if break_it is not None:
        break_it(sentry, monkeypatch)
    chunks, error = respond(kind, fails, environ, scope)
    monkeypatch.undo()
    assert chunks == [b"a", b"b"]
    assert repr(error) == ("ValueError('half-way')" if fails else "None")
    if fault != "transport":
        assert [event["tags"]["request"] for event in sentry.errors()] == ["this one"] * fails
    assert "request" not in sentry_sdk.Scope.get_isolation_scope()._tags
    # (some releases of the SDK look after a sampler themselves)
    assert {record.name for record in caplog.records} <= {"vendored_integration"}
    after = vendored_integration.stats()
    assert after.open_responses == 0
    ended = [sum(s.streaming.values()) + sum(s.plain.values()) for s in (before, after)]
    assert ended[1] - ended[0] <= 1


# -- memory ----------------------------------------------------------------------------


class Held:
    """What a request holds, to be seen when it is freed."""


@contextlib.contextmanager
def no_garbage_collection():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


ENDINGS = [("plain", way) for way in ("complete", "fail", "cancel", "refuse")]
# Django's handler makes a cycle of an error and the task that raised it; from 6.0 on, of
# each request.
if ASYNC_BODIES and django.VERSION < (6, 0):
    ENDINGS += [("django", way) for way in ("complete", "cancel")]


@pytest.mark.parametrize(("kind", "way"), ENDINGS)
def test_nothing_waits_for_the_garbage_collector(init, kind, way):
    """What a request held is free as soon as it is over: no cycle of ours goes around it."""
    init(max_breadcrumbs=0)
    held = []

    async def body():
        mine = Held()
        held.append(weakref.ref(mine))
        for number in range(3 if way in ("complete", "fail") else 10_000):
            await asyncio.sleep(0)
            yield b"%d" % number
        if way == "fail":
            failing("silent")

    async def main(app):
        sent = 0
        mine = Held()
        held.append(weakref.ref(mine))

        async def send(message, mine=mine):
            nonlocal sent
            sent += 1
            if way == "refuse" and sent == 3:
                raise ConnectionResetError("the client has gone")
            await asyncio.sleep(0)

        async def receive(mine=mine):
            if not requests:
                await asyncio.Event().wait()
            return requests.pop()

        requests = [{"type": "http.request"}]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
        task = asyncio.ensure_future(app(scope, receive, send))
        while way == "cancel" and sent < 3:
            await asyncio.sleep(0)
        if way == "cancel":
            task.cancel()
        await asyncio.wait({task}, timeout=60)
        if not task.cancelled():
            task.exception()  # has been seen
        # Tasks that Django has left behind end with the loop.

    async def direct_app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for chunk in body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    app = django_app(body) if kind == "django" else SentryMiddleware(direct_app)
    with no_garbage_collection():
        asyncio.run(main(app))
        assert [reference() for reference in held] == [None, None]
