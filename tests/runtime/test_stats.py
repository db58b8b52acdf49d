"""``vendored_integration.stats()``: what the process has done, and nothing lost."""

import asyncio
import gc
import json
import os
import threading

import pytest
from asgi_server import ASYNC_BODIES, KINDS, Connection, read, streaming_app
from django.http import HttpResponse, StreamingHttpResponse
from harness import Exchange
from test_parts import FULL, Stream, numbered
from views import serve, serve_asgi

import vendored_integration
from vendored_integration import DjangoIntegration
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.runtime.stats import OUTCOMES
from vendored_integration.wsgi import SentryWsgiMiddleware


class Seen:
    """What has been counted since this was made."""

    def __init__(self):
        self._before = vendored_integration.stats()

    def _grown(self, name):
        before, now = (getattr(s, name) for s in (self._before, vendored_integration.stats()))
        return {key: now[key] - before[key] for key in now if now[key] != before[key]}

    @property
    def streaming(self):
        return self._grown("streaming")

    @property
    def plain(self):
        return self._grown("plain")

    def number(self, name):
        return getattr(vendored_integration.stats(), name) - getattr(self._before, name)


@pytest.fixture
def seen():
    gc.collect()  # what other tests have dropped
    return Seen()


def view(request):
    def body():
        yield b"a"
        if request.path == "/failed":
            raise ValueError("no paper")
        yield b"b"

    return StreamingHttpResponse(body())


# -- how responses end ------------------------------------------------------------------


def hang_up(exchange):
    next(iter(exchange.response))
    exchange.close()


def fail(exchange):
    with pytest.raises(ValueError, match="no paper"):
        exchange.read()


def drop(exchange):
    exchange.response = None


@pytest.mark.parametrize(
    ("outcome", "end"),
    [("completed", Exchange.read), ("cancelled", hang_up), ("failed", fail), ("abandoned", drop)],
)
def test_streaming(sentry, seen, outcome, end):
    """Each is counted once, however often it is closed."""
    exchange = Exchange(serve(view), "/" + outcome)
    end(exchange)
    sentry.wait_for(sentry.roots)
    exchange.close()
    assert (seen.streaming, seen.plain) == ({outcome: 1}, {})
    assert sentry.root().outcome == outcome


def test_timed_out(init, lifecycle, seen):
    """Once, and as what it was first; open until the server closes it."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.05))
    exchange = Exchange(serve(view))
    assert sentry.root().outcome == "timed_out"
    assert seen.streaming == {"timed_out": 1}
    assert (seen.number("open_responses"), seen.number("left_open")) == (0, 1)
    exchange.read()
    assert (seen.streaming, seen.number("left_open")) == ({"timed_out": 1}, 0)


def test_evicted(init, lifecycle, seen):
    """The oldest of them, whether streaming or not."""
    sentry = init(lifecycle, DjangoIntegration(max_open_responses=1, finish_on="close"))
    exchanges = [
        Exchange(serve(view)),
        Exchange(serve(lambda request: HttpResponse("a"))),
        Exchange(serve(view)),
    ]
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    assert (seen.streaming, seen.plain) == ({"evicted": 1}, {"evicted": 1})
    assert (seen.number("open_responses"), seen.number("left_open")) == (1, 2)
    for exchange in exchanges:
        exchange.read()
    assert (seen.streaming, seen.plain) == ({"evicted": 1, "completed": 1}, {"evicted": 1})


def test_continued(init, seen):
    """The parts, and the end of the stream."""
    init(_experiments=FULL)
    stream = Stream()
    stream.span(*numbered(25))
    assert seen.streaming == {"continued": 2}
    stream.finish()
    assert seen.streaming == {"continued": 2, "completed": 1}


@pytest.mark.parametrize("finish_on", ["close", "return"])
def test_plain(init, lifecycle, seen, finish_on):
    init(lifecycle, DjangoIntegration(finish_on=finish_on))
    Exchange(serve(lambda request: HttpResponse("a"))).read()
    assert (seen.streaming, seen.plain) == ({}, {"completed": 1})


def test_application_that_raises(sentry, seen):
    """Under both interfaces, though there is no response then."""

    def app(environ, start_response):
        raise ValueError("no paper")

    async def asgi_app(scope, receive, send):
        raise ValueError("no paper")

    with pytest.raises(ValueError, match="no paper"):
        Exchange(SentryWsgiMiddleware(app))
    assert (seen.streaming, seen.plain) == ({}, {"failed": 1})
    asyncio.run(read(SentryMiddleware(asgi_app)))
    assert (seen.streaming, seen.plain) == ({}, {"failed": 2})


def test_sdk_that_is_not_initialised(seen):
    """Counting does not depend on what is sent."""
    app = SentryWsgiMiddleware(lambda environ, start_response: iter([b"a"]))
    Exchange(app).read()
    assert (seen.streaming, seen.plain) == ({"completed": 1}, {})


# -- ASGI -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_asgi(sentry, lifecycle, seen, kind):
    """Streams by their outcomes, and what is not streaming apart from them."""

    async def body():
        yield b"a"
        if how == "failed":
            raise ValueError("no paper")
        if how == "cancelled":
            await asyncio.Event().wait()
        yield b"b"

    async def cancelled():
        connection = Connection(streaming_app(kind, body))
        await connection.sent(1)
        assert vendored_integration.stats().open_responses == before + 1
        connection.hang_up("cancel")
        await connection.end()

    before, how = vendored_integration.stats().open_responses, "completed"
    asyncio.run(read(streaming_app(kind, body)))
    assert (seen.streaming, seen.plain) == ({"completed": 1}, {})
    how = "cancelled"
    asyncio.run(cancelled())
    assert (seen.streaming, seen.plain) == ({"completed": 1, "cancelled": 1}, {})
    how = "failed"
    asyncio.run(read(streaming_app(kind, body)))
    assert seen.streaming == {"completed": 1, "cancelled": 1, "failed": 1}
    assert (seen.plain, seen.number("open_responses")) == ({}, 0)


@pytest.mark.skipif(not ASYNC_BODIES, reason="Django has no async bodies yet")
def test_asgi_timed_out(init, lifecycle, seen):
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.05))

    async def body():
        yield b"a"
        await asyncio.get_running_loop().run_in_executor(None, sentry.root)
        yield b"b"

    connection = asyncio.run(read(streaming_app("django", body)))
    assert connection.chunks == [b"a", b"b"]
    assert (seen.streaming, seen.plain) == ({"timed_out": 1}, {})
    assert seen.number("left_open") == 0


def test_asgi_plain(sentry, seen):
    async def plain(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a"})

    asyncio.run(read(serve_asgi(lambda request: HttpResponse("a"))))
    assert (seen.streaming, seen.plain) == ({}, {"completed": 1})
    asyncio.run(read(SentryMiddleware(plain)))
    assert (seen.streaming, seen.plain) == ({}, {"completed": 2})


# -- the rest ---------------------------------------------------------------------------


def test_open_responses_and_their_deadlines(sentry, seen):
    exchanges = [Exchange(serve(view)) for _ in range(3)]
    now = vendored_integration.stats()
    assert seen.number("open_responses") == seen.number("pending_deadlines") == 3
    assert now.peak_open_responses >= now.open_responses
    assert "wsgi" in now.interfaces
    assert 2 <= now.threads <= 4
    for exchange in exchanges:
        exchange.close()
    assert seen.number("open_responses") == seen.number("pending_deadlines") == 0
    assert vendored_integration.stats().peak_open_responses == now.peak_open_responses


def test_shape():
    """A copy, which can be printed for machines."""
    now = vendored_integration.stats()
    assert json.loads(json.dumps(now.as_dict())) == now.as_dict()
    assert list(now.streaming) == list(OUTCOMES)
    assert now.pid == os.getpid()
    now.streaming["completed"] += 1
    assert vendored_integration.stats().streaming["completed"] == now.streaming["completed"] - 1


def test_many_threads_at_once(init, seen):
    """Every response is counted, whoever ends it, and no deadline is left."""
    sentry = init(integration=DjangoIntegration(max_open_responses=6, response_timeout=0.001))
    app = serve(view)

    def work():
        for number in range(50):
            exchange = Exchange(app)
            if number % 2:
                next(iter(exchange.response))
            if number % 3:
                exchange.close()
            else:
                exchange.response = None

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sentry.wait_for(lambda: sum(seen.streaming.values()) == len(sentry.roots()) == 8 * 50)
    for name in ("open_responses", "left_open", "pending_deadlines", "waiting_jobs"):
        assert seen.number(name) == 0
