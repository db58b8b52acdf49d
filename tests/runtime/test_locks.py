"""The garbage collector may run while the lock is held, and close or fill another response.

What it finalizes may be a generator that closes a response, or that ends in a span. Its part
is played by a profile function, which sees each call that is made with the lock held.
"""

import random
import sys
import threading

import pytest
import sentry_sdk
from support.apps import wsgi_app
from support.sdk import start_child
from support.wsgi import WsgiClient

import vendored_integration
from vendored_integration.runtime.process import lock
from vendored_integration.runtime.registry import registry
from vendored_integration.wsgi import SentryWsgiMiddleware


def in_thread(function, in_lock):
    """Call a function in a thread of its own; in_lock, now and then while that holds the lock."""
    chance = random.Random(1)

    def profile(frame, event, arg):
        if lock._is_owned() and chance.random() < 0.2:
            in_lock()

    def target():
        sys.setprofile(profile)
        try:
            function()
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for its own thread"


app = wsgi_app(lambda: iter([b"a", b"b"]))


@pytest.mark.parametrize("early", [None, "expire", "evict"])
def test_response_that_is_closed_within_the_lock(sentry, early):
    """By the thread that holds it: every request is seen, once."""
    before = vendored_integration.stats().internal_errors
    traced = SentryWsgiMiddleware(app, response_timeout=3600)
    WsgiClient(traced).read()  # threads have started by now
    others = [WsgiClient(traced) for _ in range(20)]
    for other in others:
        next(iter(other.response))
    served = 1 + len(others)

    def serve():
        nonlocal served
        while others:
            client = WsgiClient(traced)
            served += 1
            opened = next(reversed(registry.open))
            if early == "expire":
                opened.expire()
            elif early == "evict":
                opened.detach("evicted", in_background=True)
            client.read()

    in_thread(serve, lambda: others and others.pop().close())
    sentry.wait_for(lambda: len(sentry.roots()) == served)
    assert len({root.span_id for root in sentry.roots()}) == served
    assert vendored_integration.stats().internal_errors == before


def test_span_that_is_made_within_the_lock(init):
    """Of a transaction that is full just then, and begins its next part: nothing is lost."""
    sentry = init(_experiments={"max_spans": 10})
    made = []

    def make():
        made.append(f"span {len(made)}")
        start_child(root, made[-1]).finish()

    def spans():
        for _ in range(300):
            make()

    def full_app(environ, start_response):
        nonlocal root
        root = sentry_sdk.Scope.get_current_scope().transaction
        return app(environ, start_response)

    root = None
    client = WsgiClient(SentryWsgiMiddleware(full_app, on_timeout="continue"))
    in_thread(spans, lambda: len(made) < 2000 and make())
    client.read()
    names = [name for sent in sentry.roots() for name in sent.names()]
    assert sorted(names) == sorted(made)
