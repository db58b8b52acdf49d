"""ASGI: a body runs where it was made, within its task, and is closed when it is left."""

import asyncio
import collections.abc
import contextvars
import gc
import sys

import pytest
import sentry_sdk
from asgiref.sync import sync_to_async
from django.http import StreamingHttpResponse
from support.apps import (
    ASYNC_BODIES,
    DJANGO_LISTENS,
    DJANGO_STREAMS_APART,
    serve_asgi,
    streaming_app,
)
from support.asgi import HANG_UPS, hang_up_after, read
from support.sdk import start_span
from test_context import bound_response, report, request_id

from vendored_integration.asgi import SentryMiddleware

pytestmark = pytest.mark.skipif(not ASYNC_BODIES, reason="Django has no async bodies yet")


def serve_content(wrap, body):
    """An async view that streams this, with another ``streaming_content`` made of it."""

    async def view(request):
        response = StreamingHttpResponse(body())
        response.streaming_content = wrap(response.streaming_content)
        return response

    return serve_asgi(view)


def serve_body(body):
    return streaming_app("asgi-django", body)


# -- what the server sees --------------------------------------------------------------


def test_server_sees_nothing_of_the_bindings(init):
    """Neither while it sends, in a header or a log, nor when the application has returned."""
    init()
    seen = []

    async def body():
        yield report()
        request_id.set("by the body")
        yield report()

    async def view(request):
        return bound_response("A", body)

    app = serve_asgi(view)

    async def outer(scope, receive, send):
        async def observed(message):
            seen.append(report())
            await send(message)

        await app(scope, receive, observed)
        seen.append((request_id.get("-"), sentry_sdk.get_current_span()))

    assert asyncio.run(read(outer)).chunks == [b"A A;", b"A by the body;"]
    with_us = seen[:]
    assert with_us[0] == b"- -;"
    seen.clear()
    sentry_sdk.init()
    asyncio.run(read(outer))
    assert seen == with_us  # what the body sets gets to it, with and without us


def test_plain_application_keeps_its_context(init):
    """Around any other application no context is exchanged: what it sets, the server sees."""
    init()
    variable = contextvars.ContextVar("variable", default="-")

    async def app(scope, receive, send):
        variable.set("by the application")

    async def server(*args):
        await SentryMiddleware(app)(*args)
        assert variable.get() == "by the application"

    assert asyncio.run(read(server)).error is None


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


# -- the task --------------------------------------------------------------------------


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
    assert sentry.root().parent_of("in the thread") == "in the loop"
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

    async def main():
        await hang_up_after(serve_body(body), 2, how)
        return list(closed)

    gc.disable()
    try:
        assert asyncio.run(main()) == ["body"]
    finally:
        gc.enable()
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

    assert isinstance(asyncio.run(read(serve_content(failing, body))).error, ValueError)
    gc.collect()
    assert closed == ["body"]
    assert sentry.root().outcome == "failed"
    assert len(sentry.errors()) == 1


class Numbers:
    """An async iterator of an application's own, which may be read again by the next response."""

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


class GeneratorNumbers(ClosableNumbers, collections.abc.AsyncGenerator):
    async def asend(self, value):
        return await self.__anext__()

    async def athrow(self, *error):
        raise StopAsyncIteration


@pytest.mark.parametrize("read_it", [True, False])
@pytest.mark.parametrize("numbers", [Numbers, ClosableNumbers, GeneratorNumbers])
def test_iterators_of_the_applications_own(sentry, numbers, read_it):
    """They are iterated like any other, and not closed: Django does not either."""
    made = numbers()

    async def view(request):
        return StreamingHttpResponse(made)

    app = serve_asgi(view)
    if read_it:
        assert asyncio.run(read(app)).chunks == [b"1", b"2", b"3"]
    else:
        asyncio.run(hang_up_after(app, 1))
    assert made.closed == 0
    assert sentry.root().outcome == ("completed" if read_it else "cancelled")


def test_a_response_that_is_read_by_the_view(sentry):
    """A response that a view reads itself is not the one that is sent."""
    closed, kept = [], []

    async def inner():
        try:
            with start_span("inner"):
                await asyncio.sleep(0)
            yield b"1"
            yield b"2"
        finally:
            closed.append("inner")

    async def view(request):
        response = StreamingHttpResponse(inner())
        steps = response.__aiter__()
        kept.append((response, steps))
        first = await steps.__anext__()

        async def outer():
            yield first
            yield b"3"

        return StreamingHttpResponse(outer())

    async def main():
        connection = await read(serve_asgi(view))
        return connection.chunks, list(closed)

    assert asyncio.run(main()) == ([b"1", b"3"], [])
    assert "inner" in sentry.root().names()


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

    asyncio.run(hang_up_after(serve_content(heartbeat, body), 4))
    assert sentry.root().outcome == "cancelled"
    assert not sentry.errors()
    assert not caplog.records


def test_source_that_somebody_goes_on_to_read(sentry):
    """A middleware that fills a cache though the client has gone: it is not cut short."""
    cached, tasks = [], []

    async def body():
        for number in range(100):
            yield b"%d" % number

    async def fill(parts, queue):
        async for part in parts:
            cached.append(part)
            await queue.put(part)
            await asyncio.sleep(0)

    def caching(parts):
        queue = asyncio.Queue()
        tasks.append(asyncio.ensure_future(fill(parts, queue)))

        async def relay():
            while True:
                yield await queue.get()

        return relay()

    async def main():
        await hang_up_after(serve_content(caching, body), 3)
        await tasks[0]

    asyncio.run(main())
    assert len(cached) == 100
    assert sentry.root().outcome == "cancelled"
