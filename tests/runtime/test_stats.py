"""``stats()``: what the process has done, and nothing lost.

Tests of outcomes and of parts look at it, too.
"""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.apps import plain, serve, serve_asgi, stream, streaming_app
from support.asgi import read
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration, stats
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware


def body():
    yield b"a"
    yield b"b"


# -- how responses end ------------------------------------------------------------------


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
