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
from test_process import run
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


def streaming(*chunks):
    def view(request):
        def body():
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

        return StreamingHttpResponse(body())

    return serve(view)


# -- how responses end ------------------------------------------------------------------


def test_completed(sentry, seen):
    Exchange(streaming(b"a", b"b")).read()
    assert (seen.streaming, seen.plain) == ({"completed": 1}, {})


def test_cancelled(sentry, seen):
    exchange = Exchange(streaming(b"a", b"b"))
    next(iter(exchange.response))
    exchange.close()
    exchange.close()
    assert (seen.streaming, seen.plain) == ({"cancelled": 1}, {})


def test_failed(sentry, seen):
    """Once, although the server closes the response after the error."""
    with pytest.raises(ValueError, match="no paper"):
        Exchange(streaming(b"a", ValueError("no paper"))).read()
    assert (seen.streaming, seen.plain) == ({"failed": 1}, {})


def test_timed_out(init, lifecycle, seen):
    """Once, and as what it was first; open until the server closes it."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.05))
    exchange = Exchange(streaming(b"a"))
    assert sentry.root().outcome == "timed_out"
    assert seen.streaming == {"timed_out": 1}
    assert (seen.number("open_responses"), seen.number("left_open")) == (0, 1)
    exchange.read()
    assert (seen.streaming, seen.number("left_open")) == ({"timed_out": 1}, 0)


def test_evicted(init, lifecycle, seen):
    """The oldest of them, whether streaming or not."""
    sentry = init(lifecycle, DjangoIntegration(max_open_responses=1))
    stream = Exchange(streaming(b"a"))
    plain = Exchange(serve(lambda request: HttpResponse("a")))
    last = Exchange(streaming(b"b"))
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    assert (seen.streaming, seen.plain) == ({"evicted": 1}, {"evicted": 1})
    assert (seen.number("open_responses"), seen.number("left_open")) == (1, 2)
    for exchange in (stream, plain, last):
        exchange.read()
    assert (seen.streaming, seen.plain) == ({"evicted": 1, "completed": 1}, {"evicted": 1})


def test_abandoned(sentry, seen):
    exchange = Exchange(streaming(b"a"))
    del exchange
    gc.collect()
    assert sentry.root().outcome == "abandoned"
    assert (seen.streaming, seen.plain) == ({"abandoned": 1}, {})


def test_continued(init, seen):
    """The parts, and the end of the stream."""
    init(_experiments=FULL)
    stream = Stream()
    stream.span(*numbered(25))
    assert seen.streaming == {"continued": 2}
    stream.finish()
    stream.exchange.close()
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
    exchanges = [Exchange(streaming(b"a")) for _ in range(3)]
    now = vendored_integration.stats()
    assert seen.number("open_responses") == seen.number("pending_deadlines") == 3
    assert now.peak_open_responses >= now.open_responses
    assert "wsgi" in now.interfaces
    assert 2 <= now.threads <= 4
    for exchange in exchanges:
        exchange.close()
    assert seen.number("open_responses") == seen.number("pending_deadlines") == 0
    assert vendored_integration.stats().peak_open_responses == now.peak_open_responses


def test_spans_that_come_too_late(init, seen):
    init()
    stream = Stream(on_timeout="finish")
    stream.deadline()
    stream.span(*numbered(7))
    stream.finish()
    stream.exchange.close()
    assert seen.number("lost_spans") == 7


def test_fault_of_ours(init, seen, monkeypatch):
    """Also where another one than the response's end is at fault."""
    from vendored_integration.runtime import sdk

    def broken(*args):
        raise ZeroDivisionError("a bug")

    init()
    monkeypatch.setattr(sdk, "annotate", broken)
    Exchange(streaming(b"a")).read()
    assert (seen.streaming, seen.number("internal_errors")) == ({"completed": 1}, 1)
    monkeypatch.setattr(sdk, "root_span", broken)
    Exchange(streaming(b"a")).read()
    assert seen.number("internal_errors") == 2


def test_hook_that_hangs(init, seen):
    """Its threads are taken, so what is due waits."""
    hanging = threading.Event()

    def before_send_transaction(event, hint):
        hanging.wait(60)
        return event

    sentry = init(
        integration=DjangoIntegration(response_timeout=0.05),
        before_send_transaction=before_send_transaction,
    )
    exchanges = [Exchange(streaming(b"a")) for _ in range(5)]
    sentry.wait_for(lambda: seen.number("waiting_jobs") == 2)
    assert vendored_integration.stats().threads == 4
    hanging.set()
    sentry.wait_for(lambda: len(sentry.roots()) == 5)
    assert seen.number("waiting_jobs") == 0
    for exchange in exchanges:
        exchange.close()


def test_shape():
    """A copy, which can be printed for machines."""
    now = vendored_integration.stats()
    assert json.loads(json.dumps(now.as_dict())) == now.as_dict()
    assert list(now.as_dict()) == list(now._fields)
    assert list(now.streaming) == list(OUTCOMES)
    assert now.pid == os.getpid()
    now.streaming["completed"] += 1
    assert vendored_integration.stats().streaming["completed"] == now.streaming["completed"] - 1


def test_many_threads_at_once(init, seen):
    """Every response is counted, streaming or not, whoever ends it."""
    init(integration=DjangoIntegration(max_open_responses=3))
    view = streaming(b"a", b"b")

    def work():
        for number in range(50):
            exchange = Exchange(view)
            if number % 2:
                next(iter(exchange.response))
            exchange.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen.streaming) <= {"completed", "cancelled", "evicted"}
    assert sum(seen.streaming.values()) == 8 * 50
    assert (seen.number("open_responses"), seen.number("left_open")) == (0, 0)


class Yielding(dict):
    """Numbers that are slow to read: other threads run between reading and writing."""

    def __getitem__(self, key):
        number = super().__getitem__(key)
        threading.Event().wait(1e-4)
        return number


def test_no_increment_is_lost():
    """Not even where a thread is interrupted at the worst moment."""
    counters = Counters()
    counters.streaming = Yielding(counters.streaming)

    def work():
        for _ in range(20):
            counters.ended(True, "completed")
            counters.part_sent()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counters.streaming["completed"], counters.streaming["continued"]) == (160, 160)


def test_finalizer_that_counts():
    """A generator may be collected, and its span end, while its thread is counting."""
    counters = Counters()
    with counters.lock:
        counters.part_sent()
    assert counters.streaming["continued"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_child_of_a_fork_begins_at_zero():
    """Also where another thread of the parent was counting; and the parent goes on."""
    lines = run(
        """
        import vendored_integration
        from vendored_integration.runtime.counters import counters
        def show(who):
            stats = vendored_integration.stats()
            print(
                who, stats.pid == os.getpid(), stats.interfaces, stats.open_responses,
                stats.peak_open_responses, sum(stats.streaming.values()), stats.threads > 0,
            )
            sys.stdout.flush()
        sentry = init()
        exchange = Exchange(app)
        Exchange(app).read()
        show("before")
        held, forked = threading.Event(), threading.Event()
        def hold():
            with counters.lock:
                held.set()
                forked.wait(60)
        thread = threading.Thread(target=hold)
        thread.start()
        held.wait(60)
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
        if not pid:
            show("child")
            exchange.close()
            Exchange(app).read()
            show("child")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        forked.set()
        thread.join()
        exchange.close()
        show("parent")
        """
    )
    assert lines == [
        "before True ('wsgi',) 1 2 1 True",
        "child True () 0 0 0 False",
        "child True ('wsgi',) 0 1 1 True",
        "parent True ('wsgi',) 0 2 2 True",
    ]
