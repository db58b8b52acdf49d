"""ASGI: a body runs where it was made, within its task, and is closed when it is left."""

import asyncio
import collections.abc
import contextvars
import gc

import pytest
import sentry_sdk
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


def test_anyio(sentry):
    """Cancel scopes and task groups, also around a yield: a body runs in one task."""
    anyio = pytest.importorskip("anyio")

    async def in_a_task():
        with start_span("in a task"):
            await anyio.sleep_forever()

    async def body():
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep_forever()
        yield b"moved on " if scope.cancelled_caught else b"?"
        async with anyio.create_task_group() as group:
            group.start_soon(in_a_task)
            yield b"in a group "
            group.cancel_scope.cancel()
        yield b"out of it"

    connection = asyncio.run(read(streaming_app("asgi-django", body)))
    assert connection.error is None
    assert b"".join(connection.chunks) == b"moved on in a group out of it"
    root = sentry.root()
    assert (root.outcome, root.parent_of("in a task")) == ("completed", None)


@pytest.mark.parametrize("how", HANG_UPS)
def test_closed_at_once(sentry, how):
    """The client goes: the generator's clean-up is done before the application has returned.

    An error of it is the event loop's, which learns of it.
    """
    if how == "message" and not DJANGO_LISTENS:
        pytest.skip("this Django does not notice")
    if how == "cancel" and DJANGO_STREAMS_APART:
        pytest.skip("this Django does not pass it on to the task that streams")
    seen = []

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
                seen.append("closed")
            if how == "error":
                raise ValueError("in the clean-up")

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: seen.append(str(context["exception"]))
        )
        await hang_up_after(streaming_app("asgi-django", body), 2, how)
        return list(seen)

    gc.disable()
    try:
        assert asyncio.run(main()) == ["closed"] + ["in the clean-up"] * (how == "error")
    finally:
        gc.enable()
    root = sentry.root()
    assert root.parent_of("clean up") is None
    assert root.outcome == "cancelled"
    assert not sentry.errors()


class Numbers(collections.abc.AsyncGenerator):
    """An iterator of an application's own, which may be read again by the next response."""

    def __init__(self):
        self.number = self.closed = 0

    async def asend(self, value):
        self.number += 1
        return b"%d" % self.number

    async def athrow(self, *error):
        raise StopAsyncIteration

    async def aclose(self):
        self.closed += 1


def test_iterator_of_the_application_s_own(sentry):
    """It is iterated like any other, and not closed: Django does not either."""
    numbers = Numbers()

    async def view(request):
        return StreamingHttpResponse(numbers)

    asyncio.run(hang_up_after(serve_asgi(view), 3))
    assert (numbers.number >= 3, numbers.closed) == (True, 0)
    assert sentry.root().outcome == "cancelled"


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
        return StreamingHttpResponse(heartbeat(body()))

    asyncio.run(hang_up_after(serve_asgi(view), 4))
    assert sentry.root().outcome == "cancelled"
    assert not sentry.errors()
    assert not caplog.records
