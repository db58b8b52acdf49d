"""``response_timeout``: what expires when, and which threads send it, whatever hooks do."""

import threading

import pytest
import sentry_sdk
from support.apps import streaming_app
from support.program import run
from support.wsgi import WsgiClient


def opened(path, timeout, body=lambda: iter([b"a"])):
    def view():
        sentry_sdk.Scope.get_current_scope().set_transaction_name(path)

    app = streaming_app("wsgi-plain", body, view, response_timeout=timeout)
    return WsgiClient(app, path)


def test_different_timeouts(sentry):
    """The earlier deadline comes first, and never too early; one that is closed has none."""
    late = opened("/late", 3600)
    clients = [opened(f"/{timeout}", timeout) for timeout in (0.4, 0.1, 0.2)]
    opened("/closed", 0.1).read()
    closed, *roots = sentry.wait_for_roots(4)
    assert closed.outcome == "completed"
    names = [root.name.rsplit("/")[-1] for root in roots]
    assert names == ["0.1", "0.2", "0.4"]
    for name, root in zip(names, roots):
        assert root.outcome == "timed_out"
        assert root.duration >= float(name)
    for client in (late, *clients):
        client.close()
    assert sentry.wait_for_roots(5)[-1].name.endswith("/late")


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
class PrintingHandler(logging.Handler):
    def emit(self, record):
        print(record.getMessage()[:21])
logging.getLogger("vendored_integration").addHandler(PrintingHandler())
class AtExit(Received):
    def flush(self, timeout, callback=None):
        if "left" in globals():
            print("exit", len(self.ended()))
sentry = init(DjangoIntegration(response_timeout=0.1), transport=AtExit())
with start_span("starts the SDK's own thread"):
    pass
sentry.roots()
sentry.clear()
"""
        + NO_THREADS[why]
        + """
late, dropped = WsgiClient(app), WsgiClient(app)
dropped.take()
dropped.drop()
time.sleep(0.2)
print(sentry.roots())
WsgiClient(app).read()
print(sorted(root.outcome for root in sentry.roots()))
print(vendored_integration.stats().threads, vendored_integration.stats().waiting_jobs)
late.close()
sentry.clear()
left = WsgiClient(app)
"""
    )
    assert lines[0] == warning
    assert [line for line in lines if line != warning] == [
        "[]",
        "['abandoned', 'completed', 'timed_out']",
        "0 0",
        "exit 1",
    ]


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

    def body():
        yield b"a"
        sentry_sdk.set_context("slow", {"value": Slow()})
        sentry_sdk.capture_message("in the body")

    client = opened("/", 0.2, body)
    thread = threading.Thread(target=client.read)
    thread.start()
    assert serialising.wait(10)
    outcome = sentry.root().outcome
    go_on.set()
    thread.join()
    assert outcome == "timed_out"
    assert len(sentry.errors()) == 1


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
    client = opened("/", 0.05)
    assert sentry.root().outcome == "timed_out"
    assert "internal error in the timer thread" in caplog.text
    client.close()
