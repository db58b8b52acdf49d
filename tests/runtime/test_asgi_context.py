"""ASGI: a body runs where it was made, within its task, and is closed when it is left."""

import asyncio
import collections.abc
import contextvars
import gc
import sys

import pytest
import sentry_sdk
from asgi_server import (
    ASYNC_BODIES,
    DJANGO_LISTENS,
    DJANGO_STREAMS_APART,
    HANG_UPS,
    Connection,
    hang_up_after,
    read,
)
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.http import StreamingHttpResponse
from harness import Exchange, start_span
from structlog.contextvars import bound_contextvars, clear_contextvars, get_contextvars
from test_context import report, request_id
from views import serve, serve_asgi

from vendored_integration.asgi import SentryMiddleware

pytestmark = pytest.mark.skipif(not ASYNC_BODIES, reason="Django has no async bodies yet")


@pytest.fixture(autouse=True)
def in_a_context_of_its_own():
    """What a test leaves in its thread's context must not reach the next test."""
    clear_contextvars()
    yield
    clear_contextvars()


def serve_body(body):
    """An async view that streams this."""

    async def view(request):
        return StreamingHttpResponse(body())

    return serve_asgi(view)


def bound(value, body):
    """Make a response where things are bound that are unbound again when it is sent."""
    with bound_contextvars(id=value):
        token = request_id.set(value)
        try:
            return StreamingHttpResponse(body())
        finally:
            request_id.reset(token)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("view_kind", ["sync", "async"])
@pytest.mark.parametrize("body_kind", ["sync", "async"])
@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_body_sees_the_bindings_of_its_creation(init, server, view_kind, body_kind):
    """structlog's and a plain ContextVar's, of a block that was left."""
    init()
    closed = []

    def sync_body():
        try:
            yield report()
            yield report()
        finally:
            closed.append(report())

    async def async_body():
        yield report()
        await asyncio.sleep(0)
        yield report() + await sync_to_async(report)()
        closed.append(report())

    body = async_body if body_kind == "async" else sync_body

    def sync_view(request):
        return bound("A", body)

    async def async_view(request):
        return bound("A", body)

    view = async_view if view_kind == "async" else sync_view
    if server == "wsgi":
        sent = Exchange(serve(view)).read()
    else:
        sent = b"".join(asyncio.run(read(serve_asgi(view))).chunks)
    assert closed == [b"A A;"]
    assert sent == b"A A;" * (3 if body_kind == "async" else 2)
    assert report() == b"- -;"


def sync_middleware(get_response):
    """It does not know async: Django runs it in a thread, and an async view below it."""

    def middleware(request):
        return get_response(request)

    return middleware


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("view_kind", ["sync", "async"])
@pytest.mark.parametrize("body_kind", ["sync", "async"])
@pytest.mark.parametrize("server", ["wsgi", "asgi"])
@pytest.mark.parametrize("middleware", ["none", "sync"])
def test_sync_work_of_a_body(init, monkeypatch, middleware, server, view_kind, body_kind):
    """asgiref finds a thread for it: not that of the call in which the response was created.

    With a sync middleware that call has returned before the body begins: "CurrentThreadExecutor
    already quit or is broken", and nothing was sent.
    """
    sentry = init()
    closed = []

    def work(step):
        with start_span(step):
            return report()

    class Body:
        """With a close() of its own, which Django calls in a thread."""

        def close(self):
            closed.append(async_to_sync(sync_to_async(work))("close"))

    class SyncBody(Body):
        def __iter__(self):
            yield work("first")
            yield async_to_sync(sync_to_async(work))("second")

    class AsyncBody(Body):
        async def __aiter__(self):
            yield await sync_to_async(work)("first")
            yield await sync_to_async(work)("second")

    body = AsyncBody if body_kind == "async" else SyncBody

    def sync_view(request):
        return bound("A", body)

    async def async_view(request):
        return bound("A", body)

    view = async_view if view_kind == "async" else sync_view
    middlewares = [] if middleware == "none" else [__name__ + ".sync_middleware"]
    monkeypatch.setattr(settings, "MIDDLEWARE", middlewares)
    app = serve(view) if server == "wsgi" else serve_asgi(view)
    sent = Exchange(app).read() if server == "wsgi" else b"".join(asyncio.run(read(app)).chunks)
    assert sent == b"A A;" * 2
    assert closed == [b"- -;"]  # as without us: the body has ended
    root = sentry.root()
    assert {"first", "second", "close"} <= set(root.names())


def test_two_requests_interleaved_in_one_loop(sentry):
    """Each body sees its own bindings and its own trace, chunk by chunk."""
    turns = {}

    async def main():
        async def body():
            mine = get_contextvars()["id"]
            for number in range(3):
                await turns[mine].acquire()
                with start_span(f"{mine}{number}"):
                    yield report()

        async def view(request):
            return bound(request.path[1:], body)

        app = serve_asgi(view)
        turns.update(A=asyncio.Semaphore(0), B=asyncio.Semaphore(0))
        connections = [Connection(app, "/A"), Connection(app, "/B")]
        for number in range(3):
            for name, connection in zip("AB", connections):
                turns[name].release()
                await connection.sent(number + 1)
        assert report() == b"- -;"
        return [(await connection.end(), connection.chunks) for connection in connections]

    assert asyncio.run(main()) == [(None, [b"A A;"] * 3), (None, [b"B B;"] * 3)]
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    seen = sorted([name for name in root.names() if name[0] in "AB"] for root in sentry.roots())
    assert seen == [["A0", "A1", "A2"], ["B0", "B1", "B2"]]
    assert len({root.trace_id for root in sentry.roots()}) == 2


def test_bindings_do_not_reach_the_server(init):
    """What middleware, view and body bind is gone where the server goes on."""
    init()
    after = []

    async def body():
        request_id.set("by the body")
        yield b"a"

    async def view(request):
        request_id.set("by the view")
        return StreamingHttpResponse(body())

    app = serve_asgi(view)

    async def server(scope, receive, send):
        await app(scope, receive, send)
        after.append((request_id.get("-"), sentry_sdk.get_current_span()))

    def without_us():
        sentry_sdk.init()
        asyncio.run(read(server))
        return after.pop()

    asyncio.run(read(server))
    with_us = after.pop()
    assert with_us == without_us()
    assert report() == b"- -;"


def test_open_telemetry(init):
    """OpenTelemetry's current span, attached while the response was made."""
    context = pytest.importorskip("opentelemetry.context")
    init()

    async def body():
        yield context.get_value("key")
        await asyncio.sleep(0)
        token = context.attach(context.set_value("key", b"of the body"))
        try:
            yield context.get_value("key")
        finally:
            context.detach(token)
        yield context.get_value("key")

    async def view(request):
        token = context.attach(context.set_value("key", b"of the view"))
        try:
            return StreamingHttpResponse(body())
        finally:
            context.detach(token)

    connection = asyncio.run(read(serve_asgi(view)))
    assert connection.chunks == [b"of the view", b"of the body", b"of the view"]
    assert context.get_value("key") is None


# -- the task -------------------------------------------------------------------------


def test_one_task(sentry):
    """current_task() in a body is one task from beginning to end, and the one that sends."""
    seen = set()

    async def body():
        try:
            for _ in range(3):
                seen.add(asyncio.current_task())
                await asyncio.sleep(0)
                yield b"a"
        finally:
            seen.add(asyncio.current_task())

    app = serve_body(body)

    async def watching(scope, receive, send):
        async def send_and_see(message):
            seen.add(asyncio.current_task())
            await send(message)

        await app(scope, receive, send_and_see)

    asyncio.run(read(watching))
    assert len(seen) == 1


def test_wait_for_and_timeouts(sentry):
    """Time limits within a body end what they are for, and nothing else."""

    async def body():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        yield b"wait_for "
        if sys.version_info >= (3, 11):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            async with asyncio.timeout(60):
                yield b"timeout "
            async with asyncio.TaskGroup() as group:
                task = group.create_task(in_a_task())
            yield task.result()

    async def in_a_task():
        with start_span("in a task"):
            return b"task group"

    connection = asyncio.run(read(serve_body(body)))
    assert connection.error is None
    if sys.version_info >= (3, 11):
        assert b"".join(connection.chunks) == b"wait_for timeout task group"
        assert sentry.root().parent_of("in a task") is None
    assert sentry.root().outcome == "completed"


def test_anyio(sentry):
    """Cancel scopes and task groups, also around a yield."""
    anyio = pytest.importorskip("anyio")

    async def body():
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        yield b"moved on " if scope.cancelled_caught else b"?"
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            yield b"in a group "
            group.cancel_scope.cancel()
        yield b"out of it"

    connection = asyncio.run(read(serve_body(body)))
    assert connection.error is None
    assert b"".join(connection.chunks) == b"moved on in a group out of it"
    assert sentry.root().outcome == "completed"


def test_sync_work_in_a_body(sentry):
    """Spans and bindings of sync_to_async() belong where they are awaited."""

    def work():
        request_id.set("by the thread")
        with start_span("in the thread"):
            pass

    async def body():
        with start_span("in the loop"):
            await sync_to_async(work)()
        yield request_id.get("-").encode()

    connection = asyncio.run(read(serve_body(body)))
    assert connection.chunks == [b"by the thread"]
    root = sentry.root()
    assert root.parent_of("in the thread") == "in the loop"
    assert request_id.get("-") == "-"


# -- closing ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", HANG_UPS)
def test_closed_at_once(sentry, how):
    """The client goes: the generator's clean-up is done before the application has returned."""
    if how == "message" and not DJANGO_LISTENS:
        pytest.skip("this Django does not notice")
    if how == "cancel" and DJANGO_STREAMS_APART:
        pytest.skip("this Django does not pass it on to the task that streams")
    closed = []

    async def body():
        token = request_id.set("of the body")
        try:
            while True:
                await asyncio.sleep(0)
                yield b"event" * 100
        finally:
            request_id.reset(token)  # raises in any other context
            await asyncio.sleep(0)
            with start_span("clean up"):
                closed.append("body")

    async def view(request):
        return StreamingHttpResponse(body())

    async def main():
        await hang_up_after(serve_asgi(view), 2, how)
        return list(closed)

    gc.disable()
    try:
        closed_by_then = asyncio.run(main())
    finally:
        gc.enable()
    assert closed_by_then == ["body"]
    root = sentry.root()
    assert root.parent_of("clean up") is None
    assert root.outcome == "cancelled"


def test_error_of_a_wrapper(sentry):
    """Its traceback holds the generator below it, which is closed when that is gone."""
    closed = []

    async def body():
        try:
            while True:
                yield b"event"
        finally:
            closed.append("body")

    async def failing(content):
        async for part in content:
            yield part
            raise ValueError("in the wrapper")

    async def view(request):
        response = StreamingHttpResponse(body())
        response.streaming_content = failing(response.streaming_content)
        return response

    async def main():
        return (await read(serve_asgi(view))).error

    error = asyncio.run(main())
    assert isinstance(error, ValueError)
    del error
    gc.collect()
    assert closed == ["body"]
    assert sentry.root().outcome == "failed"
    assert len(sentry.errors()) == 1


class Numbers:
    """An async iterator of an application's own."""

    def __init__(self):
        self.number = 0
        self.closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.number += 1
        if self.number > 3:
            raise StopAsyncIteration
        return b"%d" % self.number


class ClosableNumbers(Numbers):
    async def aclose(self):
        self.closed += 1


@pytest.mark.parametrize("numbers", [Numbers, ClosableNumbers])
def test_iterators_of_the_applications_own(sentry, numbers):
    """They are iterated like any other, and not closed: Django does not either."""
    made = numbers()
    connection = asyncio.run(read(serve_body(lambda: made)))
    assert connection.chunks == [b"1", b"2", b"3"]
    assert made.closed == 0
    assert sentry.root().outcome == "completed"


def test_a_response_that_is_read_by_the_view(sentry):
    """A response that a view reads itself is not the one that is sent."""
    closed = []

    async def inner():
        try:
            with start_span("inner"):
                await asyncio.sleep(0)
            yield b"1"
            yield b"2"
        finally:
            closed.append("inner")

    async def outer():
        yield b"3"

    kept = []

    async def view(request):
        response = StreamingHttpResponse(inner())
        steps = response.__aiter__()
        kept.append((response, steps))
        first = await steps.__anext__()
        closed.append("view")

        async def both():
            yield first
            async for part in outer():
                yield part

        return StreamingHttpResponse(both())

    async def main():
        connection = await read(serve_asgi(view))
        return connection.chunks, list(closed)

    assert asyncio.run(main()) == ([b"1", b"3"], ["view"])
    assert "inner" in sentry.root().names()


def test_plain_application_keeps_its_context(init):
    """Around any other application no context is exchanged: what it sets, the server sees."""
    init()
    variable = contextvars.ContextVar("variable", default="-")

    async def app(scope, receive, send):
        variable.set("by the application")

    async def main():
        await SentryMiddleware(app)(
            {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""},
            None,
            None,
        )
        return variable.get()

    assert asyncio.run(main()) == "by the application"


# -- as without us ---------------------------------------------------------------------


def test_body_resets_a_token_of_the_view(sentry):
    """It was "created in a different Context" there, and the stream failed."""

    async def body(token):
        yield request_id.get().encode()
        request_id.reset(token)
        yield request_id.get("-").encode()

    async def view(request):
        return StreamingHttpResponse(body(request_id.set("alice")))

    connection = asyncio.run(read(serve_asgi(view)))
    assert connection.error is None
    assert connection.chunks == [b"alice", b"-"]
    assert sentry.root().outcome == "completed"


def test_heartbeat(sentry, caplog):
    """A wrapper that waits for the next part in a task, and cancels it: nothing is wrong."""

    async def body():
        for _ in range(100):
            yield b"event"
            await asyncio.sleep(0.01)

    async def heartbeat(parts):
        task = asyncio.ensure_future(parts.__anext__())
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=0.001)
                if done:
                    yield task.result()
                    task = asyncio.ensure_future(parts.__anext__())
                else:
                    yield b":"
        finally:
            task.cancel()

    async def view(request):
        response = StreamingHttpResponse(body())
        response.streaming_content = heartbeat(response.streaming_content)
        return response

    asyncio.run(hang_up_after(serve_asgi(view), 4))
    assert sentry.root().outcome == "cancelled"
    assert not sentry.errors()
    assert not caplog.records


def test_source_that_somebody_goes_on_to_read(sentry):
    """A middleware that fills a cache though the client has gone: it is not cut short."""
    cached = []

    async def body():
        for number in range(100):
            yield b"%d" % number

    async def fill(parts, queue):
        async for part in parts:
            cached.append(part)
            await queue.put(part)
            await asyncio.sleep(0)

    async def relay(queue):
        while True:
            yield await queue.get()

    tasks = []

    async def view(request):
        response = StreamingHttpResponse(body())
        queue = asyncio.Queue()
        tasks.append(asyncio.ensure_future(fill(response.streaming_content, queue)))
        response.streaming_content = relay(queue)
        return response

    async def main():
        await hang_up_after(serve_asgi(view), 3)
        await tasks[0]

    asyncio.run(main())
    assert len(cached) == 100
    assert sentry.root().outcome == "cancelled"


def test_server_sees_nothing_of_what_the_body_sees(init):
    """A middleware outside of Django that writes a variable into a header, or logs it."""
    init()
    seen = []

    async def body():
        yield report()
        yield report()

    async def view(request):
        return bound("A", body)

    async def main():
        application = serve_asgi(view)

        async def outer(scope, receive, send):
            async def observed(message):
                seen.append(report())
                await send(message)

            await application(scope, receive, observed)

        return await read(outer)

    assert asyncio.run(main()).chunks == [b"A A;"] * 2
    assert set(seen) == {b"- -;"}


def test_class_of_the_application_s_own_with_aclose(init):
    """It may be read again, by the next response."""
    init()

    class Subscription(collections.abc.AsyncGenerator):
        closed = 0

        async def asend(self, value):
            return b"event"

        async def athrow(self, *error):
            raise StopAsyncIteration

        async def aclose(self):
            self.closed += 1

    subscription = Subscription()

    async def view(request):
        return StreamingHttpResponse(subscription)

    asyncio.run(hang_up_after(serve_asgi(view), 2))
    assert subscription.closed == 0
