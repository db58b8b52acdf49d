"""Nothing waits for good, though the garbage collector runs anywhere, also within a lock.

What it finalizes may be a generator that closes a response: that is how many a WSGI
middleware is written.
"""

import gc
import threading

import pytest
from harness import Exchange

import vendored_integration.runtime.record
from vendored_integration.runtime.registry import registry
from vendored_integration.runtime.scheduler import scheduler
from vendored_integration.wsgi import SentryWsgiMiddleware

LOCKS = {
    "registry": (registry, "_lock"),
    "scheduler": (scheduler, "_lock"),
    "record": (vendored_integration.runtime.record, "lock"),
}


class Collecting:
    """A lock within which the garbage collector runs."""

    def __init__(self, lock):
        self._lock = lock
        self.collected = 0

    def __enter__(self):
        self._lock.acquire()
        self.collected += bool(gc.collect())

    def __exit__(self, *exc_info):
        self._lock.release()

    def __getattr__(self, name):
        return getattr(self._lock, name)


def app(environ, start_response):
    start_response("200 OK", [])
    return iter([b"a", b"b"])


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("early", [None, "expire", "evict"])
def test_response_that_is_closed_by_the_collector(sentry, monkeypatch, lock, early):
    """Within a lock that the collecting thread holds; every request is seen, once."""
    traced = SentryWsgiMiddleware(app, response_timeout=3600)

    def middleware(environ, start_response):
        response = traced(environ, start_response)
        try:
            yield from response
        finally:
            response.close()

    def leave_garbage():
        cycle = [Exchange(middleware)]
        cycle.append(cycle)
        next(cycle[0].response)

    def serve():
        leave_garbage()
        exchange = Exchange(traced)
        record = next(reversed(registry._open), None)
        leave_garbage()
        if early == "expire":
            record.expire()
        elif early == "evict" and registry.take(record, "evicted"):
            record.evict()
        leave_garbage()
        exchange.read()

    leave_garbage()  # threads have started by now
    owner, name = LOCKS[lock]
    collecting = Collecting(getattr(owner, name))
    monkeypatch.setattr(owner, name, collecting)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    monkeypatch.undo()
    gc.collect()
    assert collecting.collected
    sentry.wait_for(lambda: len(sentry.roots()) == 5)
    assert len({root.span_id for root in sentry.roots()}) == 5
