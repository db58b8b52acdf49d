"""Bindings of context variables: seen where they should be, and nowhere else."""

import asyncio
import contextlib
import contextvars
import copy
import decimal
import gc
import pickle

import asgiref
import pytest
import sentry_sdk
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.http import StreamingHttpResponse
from django.utils import timezone, translation
from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars
from support.apps import (
    ASYNC_BODIES,
    DJANGO_LISTENS,
    DJANGO_STREAMS_APART,
    WAYS,
    at_close,
    open_stream,
    serve,
    serve_asgi,
    streaming_app,
)
from support.asgi import HANG_UPS, hang_up_after, read
from support.sdk import start_span
from support.wsgi import WsgiClient

request_id = contextvars.ContextVar("request_id")

needs_async_bodies = pytest.mark.skipif(not ASYNC_BODIES, reason="Django has no async bodies yet")

# Before 3.9.1 (the newest for Python 3.8 is 3.8.1) contexts share a dict of a Local's
# attributes: to delete one is to delete it everywhere, with or without us.
LOCALS_FOLLOW_CONTEXTS = tuple(map(int, asgiref.__version__.split("."))) >= (3, 9, 1)


def report():
    """What a body sees, as bytes."""
    return f"{get_contextvars().get('id', '-')} {request_id.get('-')};".encode()


def traced_report():
    with start_span("in the body"):
        yield report()


@contextlib.contextmanager
def bound(value):
    """Bind things, and leave them again, as a middleware or a view does."""
    with bound_contextvars(id=value):
        token = request_id.set(value)
        try:
            yield
        finally:
            request_id.reset(token)


def bound_response(value, body):
    with bound(value):
        return StreamingHttpResponse(body())


def in_new_context(function):
    return contextvars.Context().run(function)


# -- what a body sees ------------------------------------------------------------------


def sync_middleware(get_response):
    """It does not know async: Django runs it in a thread, and an async view below it."""
    return lambda request: get_response(request)


@needs_async_bodies
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
@pytest.mark.parametrize("view_kind", ["sync", "async"])
@pytest.mark.parametrize("body_kind", ["sync", "async"])
@pytest.mark.parametrize("server", ["wsgi", "asgi"])
@pytest.mark.parametrize("middleware", ["none", "sync"])
def test_body_sees_the_bindings_of_its_creation(
    init, monkeypatch, middleware, server, view_kind, body_kind
):
    """structlog's and a plain ContextVar's, of a block that was left; also in sync work.

    asgiref finds a thread for that: not that of the call in which the response was created.
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
            yield report()

    class AsyncBody(Body):
        async def __aiter__(self):
            yield await sync_to_async(work)("first")
            yield await sync_to_async(work)("second")
            await asyncio.sleep(0)
            yield report()

    def respond():
        return bound_response("A", AsyncBody if body_kind == "async" else SyncBody)

    async def async_view(request):
        return respond()

    view = async_view if view_kind == "async" else lambda request: respond()
    middlewares = [] if middleware == "none" else [__name__ + ".sync_middleware"]
    monkeypatch.setattr(settings, "MIDDLEWARE", middlewares)
    if server == "wsgi":
        sent = WsgiClient(serve(view)).read()
    else:
        sent = b"".join(asyncio.run(read(serve_asgi(view))).chunks)
    assert sent == b"A A;" * 3
    assert closed == [b"- -;"]  # as without us: the body has ended
    root = sentry.root()
    assert root.outcome == "completed"
    assert {"first", "second", "close"} <= set(root.names())
    assert report() == b"- -;"


def test_scope_of_the_view_is_the_body_s(sentry):
    """A body that is made within new_scope() keeps that scope's tags, in the same trace."""

    def view(request):
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("tenant", "A")
            return StreamingHttpResponse(body())

    def body():
        sentry_sdk.capture_message("from the body")
        yield b"a"

    WsgiClient(serve(view)).read()
    assert sentry.one_error(sentry.root())["tags"]["tenant"] == "A"


def made_elsewhere(request):
    """A response that a bare thread has made, say, has no scopes of the request."""

    def make():
        request_id.set("thread")
        return StreamingHttpResponse(traced_report())

    return in_new_context(make)


def content_replaced(request):
    """By a middleware (gzip does that): the context is not lost."""
    response = bound_response("A", lambda: iter(()))
    response.streaming_content = traced_report()
    return response


def bound_later(request):
    """By a middleware outside of the view, say."""
    bind_contextvars(id="before")
    response = StreamingHttpResponse(traced_report())
    bind_contextvars(id="later")
    request_id.set("later")
    return response


@pytest.mark.parametrize(
    ("view", "seen"),
    [(made_elsewhere, b"- thread;"), (content_replaced, b"A A;"), (bound_later, b"later later;")],
)
def test_body_is_traced_in_its_request(sentry, view, seen):
    """Whoever has made the response, and whatever has been bound since."""
    assert in_new_context(lambda: WsgiClient(serve(view)).read()) == seen
    root = sentry.root()
    assert (root.outcome, root.parent_of("in the body")) == ("completed", None)


def test_response_that_is_served_twice(init):
    """The second request sees nothing of the first."""
    init()

    class Again(StreamingHttpResponse):
        def __iter__(self):
            yield get_contextvars().get("id", "-").encode()

    made = []

    def view(request):
        with bound_contextvars(id="alice"):
            made.append(made[0] if made else Again([]))
        return made[-1]

    assert [WsgiClient(serve(view)).read() for _ in range(2)] == [b"alice", b"-"]


@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_bindings_of_the_body_end_with_it(init, read):
    """What was set again for the body is nobody else's, and the body may change it.

    A body that is cut short ends in close(), which therefore sees what it sees.
    """
    init()
    seen = []

    def body():
        yield report()
        with bound("B"):
            yield report()
        seen.append(report())

    with at_close(lambda: seen.append(report())):
        client = WsgiClient(serve(lambda request: bound_response("A", body)))
        client.take(2)
        assert client.chunks == [b"A A;", b"B B;"]
        assert report() == b"- -;"
        if read:
            client.read()
        else:
            client.close()
    assert seen == ([b"A A;", b"- -;"] if read else [b"A A;"])
    assert report() == b"- -;"


# -- what decides about the bytes is as without us -------------------------------------


@pytest.mark.skipif(not LOCALS_FOLLOW_CONTEXTS, reason="asgiref is too old")
def test_what_decides_about_the_bytes_is_as_without_us(init):
    """Language and time zone of Django's, and a context of decimals, of a block that was left."""
    init()

    def formatted():
        zone = timezone.get_current_timezone_name()
        return f"{translation.get_language()} {zone} {decimal.Decimal(1) / 7}"

    def view(request):
        de, zone = translation.override("de"), timezone.override(timezone.get_fixed_timezone(60))
        with translation.override("fr"), de, zone, decimal.localcontext() as context:
            context.prec = 3
            assert formatted() == "de +0100 0.143"
            return StreamingHttpResponse(formatted() for _ in range(1))

    for _ in range(2):  # the second finds what the first has left in this thread
        sent = WsgiClient(serve(view)).read().decode()
        assert sent == formatted()
        assert not set(sent.split()) & {"de", "+0100", "0.143"}


def test_streaming_response_can_still_be_copied(init):
    """A context can be neither copied nor pickled, and must not stand in the way."""
    init()
    response = StreamingHttpResponse([b"a", b"b"])
    for copied in (copy.deepcopy(response), pickle.loads(pickle.dumps(response))):
        assert b"".join(copied) == b"ab"
    assert b"".join(copy.copy(response)) == b"ab"


# -- tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
@pytest.mark.parametrize("whose", ["the view's", "the body's"])
def test_body_resets_a_token(sentry, way, read, whose):
    """In its clean-up. It was "created in a different Context", and the stream failed."""
    tokens = []

    def view():
        if whose == "the view's":
            tokens.append(request_id.set("alice"))

    def body():
        if whose == "the body's":
            tokens.append(request_id.set("alice"))
        try:
            for _ in range(3):
                yield request_id.get().encode()
        finally:
            request_id.reset(tokens[0])
            tokens.clear()

    client = open_stream(way, streaming_app(way, body, view))
    client.take()
    if read:
        assert client.read() == b"alice" * 3
    else:
        client.hang_up()
    assert not tokens
    assert request_id.get("-") == "-"
    assert sentry.root().outcome == ("completed" if read else "cancelled")
    assert not sentry.errors()


@pytest.mark.parametrize("where", ["close", "body"])
def test_variable_that_is_reset_is_unset_for_the_next_request(init, where):
    """The user of one request was that of the next one in this thread."""
    init()
    seen, tokens = [], []

    class Body:
        def __iter__(self):
            yield b"a"
            if where == "body":
                request_id.reset(tokens.pop())

        def close(self):
            if where == "close":
                request_id.reset(tokens.pop())

    def view():
        seen.append(request_id.get("-"))
        tokens.append(request_id.set("alice"))

    app = streaming_app("wsgi-plain", Body, view)
    for _ in range(2):
        client = WsgiClient(app)
        assert request_id.get("-") == "alice"  # as without us, until it is reset
        client.read()
        assert request_id.get("-") == "-"
    assert seen == ["-", "-"]


# -- what gets to the server -----------------------------------------------------------


@pytest.mark.parametrize("way", WAYS[:2])
def test_server_sees_what_the_application_has_set(init, way):
    """An outer middleware or an access log reads variables after the application.

    And close() sees what the body has set: Django closes caches in there, which it finds in
    a context variable.
    """
    init()
    closing = []

    def body():
        yield b"a"
        request_id.set("from the body")

    def run():
        client = WsgiClient(streaming_app(way, body, lambda: request_id.set("from the view")))
        assert request_id.get() == "from the view"
        client.take()
        assert list(client._steps) == []
        assert request_id.get() == "from the body"
        client.close()

    with at_close(lambda: closing.append(request_id.get())):
        in_new_context(run)
    assert closing == ["from the body"] * ("django" in way)


def test_what_the_body_sets_in_place_of_a_binding_is_kept(init):
    """For close(), as without us."""
    init()
    own = contextvars.ContextVar("own", default="-")
    seen = []

    def view(request):
        token = own.set("view")
        try:
            return StreamingHttpResponse(body())
        finally:
            own.reset(token)

    def body():
        yield own.get().encode()
        own.set("body")

    with at_close(lambda: seen.append(own.get())):
        assert WsgiClient(serve(view)).read() == b"view"
    assert seen == ["body"]


def test_late_close_does_not_bring_back_old_bindings(init):
    """uWSGI may close a file response after the next request has begun."""
    init()

    def body():
        yield b"a"
        request_id.set("first request")

    def run():
        client = WsgiClient(streaming_app("wsgi-plain", body))
        assert list(client.response) == [b"a"]
        request_id.set("second request")
        client.close()
        assert request_id.get() == "second request"

    in_new_context(run)


@pytest.mark.parametrize("way", WAYS[:2])
@pytest.mark.parametrize("chunks_first", [True, False])
def test_dropped_body_is_cleaned_up_in_its_own_context(init, way, chunks_first):
    """A response that nobody closes may be dropped while another request runs."""
    init()
    variable = contextvars.ContextVar("variable", default="the server's")
    seen = []

    def body():
        try:
            yield b"a"
            yield b"b"
        finally:
            seen.append(variable.get())

    def serve_one():
        client = WsgiClient(streaming_app(way, body, lambda: variable.set("the request's")))
        variable.set("the server's")
        client.take()
        if chunks_first:
            client._steps = None
        client.drop()

    contextvars.copy_context().run(serve_one)
    gc.collect()
    assert seen == ["the request's"]


# -- async bodies ----------------------------------------------------------------------


@needs_async_bodies
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


@needs_async_bodies
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


@needs_async_bodies
@pytest.mark.parametrize("how", HANG_UPS)
def test_closed_at_once(sentry, no_collector, how):
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

    assert asyncio.run(main()) == ["closed"] + ["in the clean-up"] * (how == "error")
    root = sentry.root()
    assert root.parent_of("clean up") is None
    assert root.outcome == "cancelled"
    assert not sentry.errors()


class Numbers:
    """An iterator of an application's own, which may be read again by the next response."""

    number = closed = 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.number += 1
        return b"%d" % self.number

    async def aclose(self):
        self.closed += 1


@needs_async_bodies
def test_iterator_of_the_application_s_own(sentry):
    """It is iterated like any other, and not closed: Django does not either."""
    numbers = Numbers()

    async def view(request):
        return StreamingHttpResponse(numbers)

    asyncio.run(hang_up_after(serve_asgi(view), 3))
    assert (numbers.number >= 3, numbers.closed) == (True, 0)
    assert sentry.root().outcome == "cancelled"
