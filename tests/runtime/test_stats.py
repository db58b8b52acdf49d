"""``stats()``: what the process has done, and nothing lost."""

import asyncio
import gc
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.apps import WAYS, open_stream, plain, serve, serve_asgi, stream, streaming_app
from support.asgi import read
from support.sdk import start_span
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration, stats
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

every_way = pytest.mark.parametrize("way", WAYS)


class Seen:
    """What has been counted since this was made."""

    def __init__(self):
        self._before = stats()

    def __getattr__(self, name):
        before, now = (getattr(numbers, name) for numbers in (self._before, stats()))
        if isinstance(now, dict):
            return {key: now[key] - before[key] for key in now if now[key] != before[key]}
        return now - before


@pytest.fixture
def seen():
    gc.collect()  # what other tests have dropped
    return Seen()


def body():
    yield b"a"
    yield b"b"


def failing():
    yield b"a"
    raise ValueError("no paper")


# -- how responses end ------------------------------------------------------------------


@every_way
def test_streaming(sentry, seen, way):
    """Each is counted once, by its outcome."""
    open_stream(way, streaming_app(way, body)).read()
    assert (seen.streaming, seen.plain) == ({"completed": 1}, {})
    client = open_stream(way, streaming_app(way, body))
    client.take()
    assert seen.open_responses == 1
    client.hang_up()
    assert seen.streaming == {"completed": 1, "cancelled": 1}
    with pytest.raises(ValueError, match="no paper"):
        open_stream(way, streaming_app(way, failing)).read()
    assert seen.streaming == {"completed": 1, "cancelled": 1, "failed": 1}
    assert (seen.plain, seen.open_responses) == ({}, 0)


@every_way
def test_timed_out(init, lifecycle, seen, way):
    """Once, and as what it was first; open until the server closes it."""
    options = {"response_timeout": 0.05}
    sentry = init(lifecycle, DjangoIntegration(**options))
    client = open_stream(way, streaming_app(way, body, **options))
    assert sentry.root().outcome == "timed_out"
    assert seen.streaming == {"timed_out": 1}
    assert (seen.open_responses, seen.left_open) == (0, 1)
    client.read()
    assert (seen.streaming, seen.left_open) == ({"timed_out": 1}, 0)


def test_evicted(init, lifecycle, seen):
    """The oldest of them, whether streaming or not."""
    sentry = init(lifecycle, DjangoIntegration(max_open_responses=1, finish_on="close"))
    clients = [WsgiClient(serve(each)) for each in (stream, plain, stream)]
    sentry.wait_for_roots(2)
    assert (seen.streaming, seen.plain) == ({"evicted": 1}, {"evicted": 1})
    assert (seen.open_responses, seen.left_open) == (1, 2)
    for client in clients:
        client.read()
    assert (seen.streaming, seen.plain) == ({"evicted": 1, "completed": 1}, {"evicted": 1})


def test_continued(init, seen):
    """The parts, and the end of the stream."""

    def body():
        for number in range(25):
            with start_span(f"span {number}"):
                pass
        yield b"a"

    init("static", _experiments={"max_spans": 10})
    client = WsgiClient(streaming_app("wsgi-plain", body, on_timeout="continue"))
    client.take()
    assert seen.streaming == {"continued": 2}
    client.read()
    assert seen.streaming == {"continued": 2, "completed": 1}


@pytest.mark.parametrize("finish_on", ["close", "return"])
def test_plain(init, lifecycle, seen, finish_on):
    init(lifecycle, DjangoIntegration(finish_on=finish_on))
    WsgiClient(serve(plain)).read()
    asyncio.run(read(serve_asgi(plain)))
    assert (seen.streaming, seen.plain) == ({}, {"completed": 2})


def test_application_that_raises(sentry, seen):
    """Under both interfaces, though there is no response then."""

    def app(environ, start_response):
        raise ValueError("no paper")

    async def asgi_app(scope, receive, send):
        raise ValueError("no paper")

    with pytest.raises(ValueError, match="no paper"):
        WsgiClient(SentryWsgiMiddleware(app))
    assert (seen.streaming, seen.plain) == ({}, {"failed": 1})
    asyncio.run(read(SentryMiddleware(asgi_app)))
    assert (seen.streaming, seen.plain) == ({}, {"failed": 2})


def test_sdk_that_is_not_initialised(seen):
    """Counting does not depend on what is sent."""
    WsgiClient(streaming_app("wsgi-plain", body)).read()
    assert (seen.streaming, seen.plain) == ({"completed": 1}, {})


# -- the rest ---------------------------------------------------------------------------


def test_open_responses_and_their_deadlines(sentry, seen):
    clients = [WsgiClient(serve(stream)) for _ in range(3)]
    now = stats()
    assert seen.open_responses == seen.pending_deadlines == 3
    assert now.peak_open_responses >= now.open_responses
    assert "wsgi" in now.interfaces
    assert 2 <= now.threads <= 4
    for client in clients:
        client.close()
    assert seen.open_responses == seen.pending_deadlines == 0
    assert stats().peak_open_responses == now.peak_open_responses


def test_shape():
    """A copy, which can be printed for machines."""
    now = stats()
    assert json.loads(json.dumps(now.as_dict())) == now.as_dict()
    assert now.pid == os.getpid()
    now.streaming["completed"] += 1
    assert stats().streaming["completed"] == now.streaming["completed"] - 1


def test_many_threads_at_once(init, seen):
    """Every response is counted, whoever ends it, and no deadline is left."""
    sentry = init(integration=DjangoIntegration(max_open_responses=6, response_timeout=0.001))
    app = serve(stream)

    def work(thread):
        for number in range(50):
            client = WsgiClient(app)
            if number % 2:
                client.take()
            if number % 3:
                client.close()
            else:
                client.drop()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [None] * 8
    sentry.wait_for(lambda: sum(seen.streaming.values()) == len(sentry.roots()) == 8 * 50)
    for name in ("open_responses", "left_open", "pending_deadlines", "waiting_jobs"):
        assert getattr(seen, name) == 0
