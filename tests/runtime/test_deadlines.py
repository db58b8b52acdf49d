"""``response_timeout``: what expires when, and which threads send it, whatever hooks do."""

import gc
import sys
import threading
import types

import pytest
import sentry_sdk
from harness import Exchange
from test_process import run

import vendored_integration
from vendored_integration.runtime import workers
from vendored_integration.runtime.open_response import OpenResponse
from vendored_integration.wsgi import SentryWsgiMiddleware


def app(environ, start_response):
    sentry_sdk.Scope.get_current_scope().set_transaction_name(environ["PATH_INFO"])
    start_response("200 OK", [])
    return iter([b"a"])


def opened(path, timeout):
    return Exchange(SentryWsgiMiddleware(app, response_timeout=timeout), path)


def test_different_timeouts(sentry):
    """The earlier deadline comes first, and never too early; one that is closed has none."""
    late = opened("/late", 3600)
    exchanges = [opened(f"/{timeout}", timeout) for timeout in (0.4, 0.1, 0.2)]
    opened("/closed", 0.1).read()
    sentry.wait_for(lambda: len(sentry.roots()) == 4)
    roots = sentry.roots()
    assert [(root.name, root.outcome) for root in roots] == [
        ("/closed", "completed"),
        ("/0.1", "timed_out"),
        ("/0.2", "timed_out"),
        ("/0.4", "timed_out"),
    ]
    for root in roots[1:]:
        assert root.duration >= float(root.name[1:])
    for exchange in (late, *exchanges):
        exchange.close()
    sentry.wait_for(lambda: len(sentry.roots()) == 5)
    assert sentry.roots()[-1].name == "/late"


def live_responses():
    gc.collect()
    return sum(type(found) is OpenResponse for found in gc.get_objects())


def test_nothing_is_left_behind(init):
    """However many responses were open at the same time."""
    init()
    live, pending = live_responses(), vendored_integration.stats().pending_deadlines
    exchanges = [opened("/", 3600 + number % 3) for number in range(1000)]
    assert vendored_integration.stats().pending_deadlines == pending + 1000
    for exchange in exchanges:
        exchange.read()
    assert vendored_integration.stats().pending_deadlines == pending
    del exchange, exchanges
    assert live_responses() == live


def test_hooks_that_hang():
    """Each takes a worker away; there are no more than three, and what is due waits."""
    lines = run(
        """
        import vendored_integration
        go_on = threading.Event()
        def before_send_transaction(event, hint):
            go_on.wait(60)
            return event
        sentry = init(
            DjangoIntegration(response_timeout=0.2),
            before_send_transaction=before_send_transaction,
        )
        exchanges = [Exchange(app) for number in range(5)]
        sentry.wait_for(lambda: vendored_integration.stats().waiting_jobs == 2)
        print(vendored_integration.stats().threads)
        go_on.set()
        sentry.wait_for(lambda: len(sentry.transactions()) == 5)
        print({root.outcome for root in sentry.roots()})
        for exchange in exchanges:
            exchange.close()
        """
    )
    assert lines == ["4", "{'timed_out'}"]


NO_THREADS = {
    "uwsgi": """
import types
sys.modules["uwsgi"] = types.ModuleType("uwsgi")
sys.modules["uwsgi"].opt = {"http": b":80"}
""",
    "limit": """
def start(self):
    raise RuntimeError("can't start new thread")
threading.Thread.start = start
""",
}


@pytest.mark.parametrize(
    ("why", "warning"), [("uwsgi", "uWSGI runs no threads"), ("limit", "cannot start a thread")]
)
def test_where_no_thread_runs(why, warning):
    """The next request sends what has expired or was dropped, and the log says so."""
    lines = run(
        """
import logging, vendored_integration
class Printing(logging.Handler):
    def emit(self, record):
        print(record.getMessage()[:21])
logging.getLogger("vendored_integration").addHandler(Printing())
class AtExit(Received):
    def flush(self, timeout, callback=None):
        if "left" in globals():
            print("exit", len(self.transactions()))
sentry = init(
    DjangoIntegration(response_timeout=0.1), transport=AtExit(),
    enable_backpressure_handling=False,
)
"""
        + NO_THREADS[why]
        + """
late, dropped = Exchange(app), Exchange(app)
next(iter(dropped.response))
dropped.response = None
time.sleep(0.2)
print(sentry.roots())
Exchange(app).read()
print(sorted(root.outcome for root in sentry.roots()))
print(vendored_integration.stats().threads, vendored_integration.stats().waiting_jobs)
late.close()
sentry.clear()
left = Exchange(app)
"""
    )
    assert lines[0] == warning
    assert [line for line in lines if line != warning] == [
        "[]",
        "['abandoned', 'completed', 'timed_out']",
        "0 0",
        "exit 1",
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, True),  # not uWSGI
        ({"http": b":80"}, False),
        ({"http": b":80", "enable-threads": True}, True),
        ({"http": b":80", "threads": b"4"}, True),
        ({b"http": b":80", b"enable-threads": b"true"}, True),
    ],
)
def test_threads_under_uwsgi(monkeypatch, options, expected):
    """uWSGI says in uwsgi.opt how it was started."""
    uwsgi = types.ModuleType("uwsgi")
    uwsgi.opt = options
    monkeypatch.setitem(sys.modules, "uwsgi", uwsgi)
    assert workers.threads_can_run() is expected


def test_nothing_ends_the_timer_thread(sentry, monkeypatch, caplog):
    """Not even an error of our own: here its clock fails once."""
    from vendored_integration.runtime import registry

    failed = threading.Event()
    monotonic = registry.monotonic

    def clock():
        if threading.current_thread().name == "vendored_integration.timer" and not failed.is_set():
            failed.set()
            raise RuntimeError("clock")
        return monotonic()

    monkeypatch.setattr(registry, "monotonic", clock)
    exchange = opened("/", 0.05)
    assert sentry.root().outcome == "timed_out"
    assert "internal error in the timer thread" in caplog.text
    exchange.close()


def test_deadline_while_an_event_is_serialised(init, lifecycle):
    """The SDK sends nothing else in a context that does: the transaction is sent in another."""
    sentry = init(lifecycle)
    serialising, go_on = threading.Event(), threading.Event()

    class Slow:
        def __repr__(self):
            if not serialising.is_set():
                serialising.set()
                assert go_on.wait(20)
            return "slow"

    def slow_app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        sentry_sdk.set_context("slow", {"value": Slow()})
        sentry_sdk.capture_message("in the body")

    exchange = Exchange(SentryWsgiMiddleware(slow_app, response_timeout=0.2))
    thread = threading.Thread(target=exchange.read)
    thread.start()
    assert serialising.wait(10)
    outcome = sentry.root().outcome
    go_on.set()
    thread.join()
    assert outcome == "timed_out"
    assert len(sentry.errors()) == 1


def test_threads_keep_nothing_alive():
    """The SDK hands a thread the scopes of whoever starts it: here, those of the first request."""
    lines = run(
        """
        import gc, weakref
        class Held:
            pass
        init(enable_backpressure_handling=False)  # or the SDK's own thread does
        held = Held()
        gone = weakref.ref(held)
        sentry_sdk.Scope.get_isolation_scope().set_context("held", {"value": held})
        Exchange(app).read()
        sentry_sdk.Scope.get_isolation_scope().remove_context("held")
        del held
        gc.collect()
        print(gone())
        """
    )
    assert lines == ["None"]
