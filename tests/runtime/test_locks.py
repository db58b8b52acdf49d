"""Nothing waits for good where the garbage collector runs within a lock.

What it finalizes may be a generator that closes a response: that is how many a WSGI
middleware is written. The collector's part is played by the lock itself: a real collection
at such a place makes CPython 3.11's decimal module crash.
"""

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


class Interrupted:
    """A lock; whoever has just got it closes a response that it knows nothing of."""

    def __init__(self, lock, responses):
        self._lock = lock
        self.responses = responses

    def __enter__(self):
        self._lock.acquire()
        if self.responses:
            self.responses.pop().close()

    def __exit__(self, *exc_info):
        self._lock.release()

    def __getattr__(self, name):
        return getattr(self._lock, name)


def app(environ, start_response):
    start_response("200 OK", [])
    return iter([b"a", b"b"])


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("early", [None, "expire", "evict"])
def test_response_that_is_closed_within_a_lock(sentry, monkeypatch, lock, early):
    """By the thread that holds the lock: every request is seen, once."""
    traced = SentryWsgiMiddleware(app, response_timeout=3600)
    Exchange(traced).read()  # threads have started by now
    others = [Exchange(traced) for _ in range(3)]
    for other in others:
        next(iter(other.response))

    def serve():
        exchange = Exchange(traced)
        record = next(reversed(registry._open))
        if early == "expire":
            record.expire()
        elif early == "evict":
            assert registry.take(record, "evicted")
            record.evict()
        exchange.read()

    owner, name = LOCKS[lock]
    interrupted = Interrupted(getattr(owner, name), others)
    monkeypatch.setattr(owner, name, interrupted)
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    monkeypatch.undo()
    assert not interrupted.responses
    sentry.wait_for(lambda: len(sentry.roots()) == 5)
    assert len({root.span_id for root in sentry.roots()}) == 5
