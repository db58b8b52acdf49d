"""Threads, forks and the end of a process, each in a process of its own."""

import os

import pytest
from support.program import run  # other tests import it from here, too
from support.sdk import HAS_STATIC_LIFECYCLE, LIFECYCLES


def test_threads_keep_nothing_alive():
    """The SDK hands a thread the scopes of whoever starts it: here, those of the first request."""
    lines = run(
        """
        import gc, weakref
        class Held:
            pass
        init()
        with start_span("starts the SDK's own thread"):
            pass
        held = Held()
        gone = weakref.ref(held)
        sentry_sdk.Scope.get_isolation_scope().set_context("held", {"value": held})
        WsgiClient(app).read()
        sentry_sdk.Scope.get_isolation_scope().remove_context("held")
        del held
        gc.collect()
        print(gone())
        """
    )
    assert lines == ["None"]


# -- the end of the process --------------------------------------------------------------


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("on_timeout", ["finish", "continue"])
def test_open_responses_are_finished_at_process_exit(lifecycle, on_timeout):
    """Before the SDK flushes: what is finished then must still be sent; of parts the last."""
    parts = lifecycle == "static" and on_timeout == "continue"
    options = {"_experiments": {"max_spans": 2}} if parts else {}
    lines = run(
        f"""
        from support.apps import streaming_app
        init(lifecycle={lifecycle!r}, transport=Printing(), **{options!r})
        def body():
            for name in "abcd":
                with start_span(name):
                    pass
                yield b"chunk"
        client = WsgiClient(streaming_app("wsgi-plain", body, on_timeout={on_timeout!r}))
        client.take(3)
        """
    )
    ended = ["continued 1 a b", "abandoned 2 c"] if parts else ["abandoned None a b c"]
    assert lines == [*ended, "flush"]


@pytest.mark.fault(
    "`before_send_transaction` (SDK 3: `before_send_span`) hangs at the end of the process",
    client="—",
    log="nothing",
    sink="all but this transaction; the process ends after `shutdown_timeout`",
)
def test_hanging_hook_does_not_hold_up_process_exit():
    """A hook that never returns costs at most shutdown_timeout."""
    run(
        """
        def hook(url):
            threading.Event().wait()
        init(shutdown_timeout=0.2, **when_sent(hook))
        client = WsgiClient(app)
        """,
        timeout=30,
    )


@pytest.mark.fault(
    "interpreter shutdown with the pool busy",
    client="—",
    log="nothing",
    sink="what was captured before; the process ends after `shutdown_timeout`",
)
def test_process_exit_with_all_workers_busy():
    """Three hooks hang, no more threads are made: the rest is given up after shutdown_timeout."""
    lines = run(
        """
        from vendored_integration import stats
        hung = threading.Semaphore(0)
        def hook(url):
            if url.endswith("/hang"):
                hung.release()
                threading.Event().wait()
        class Counting(Received):
            def flush(self, timeout, callback=None):
                print("flush", len(self.ended()))
        init(
            DjangoIntegration(response_timeout=0.1), transport=Counting(), shutdown_timeout=0.2,
            **when_sent(hook),
        )
        print(WsgiClient(app).read())
        hanging = [WsgiClient(app, "/hang") for _ in range(3)]
        for _ in hanging:
            assert hung.acquire(timeout=20)
        waiting = [WsgiClient(app) for _ in range(100)]
        while not stats().waiting_jobs:
            time.sleep(0.01)
        print(stats().threads)
        """,
        timeout=30,
    )
    assert lines == ["b'ab'", "4", "flush 1"]


def test_response_is_held_until_the_process_has_ended():
    """By a global of the project's URLs, which are dropped when half of the modules are gone."""
    run(
        """
        import sentry_sdk
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import StreamingHttpResponse
        from django.test import RequestFactory
        from django.urls import path
        from vendored_integration import DjangoIntegration
        sentry_sdk.init(integrations=[DjangoIntegration()])
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])
        urlpatterns = [path("", lambda request: StreamingHttpResponse([b"a"]))]
        environ = RequestFactory().get("/").environ
        held = [get_wsgi_application()(environ, lambda *args: None) for _ in range(2)]
        held[0].close()
        """,
        prelude="",
    )


# -- the clock ---------------------------------------------------------------------------


@pytest.mark.fault(
    "the clock is set back, and forward, by a day",
    client="the whole response",
    log="nothing",
    sink="deadlines and durations as if it had not been",
)
@pytest.mark.parametrize("days", [-1, 1])
def test_clock_is_set(days):
    """Deadlines and durations go by the monotonic clock, whatever is done to the time of day."""
    lines = run(
        f"""
import datetime as module
from support.apps import streaming_app
real = module.datetime
class Kind(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, real)
class Clock(real, metaclass=Kind):
    ahead = module.timedelta()
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) + cls.ahead
for name, loaded in list(sys.modules.items()):
    if getattr(loaded, "datetime", None) is real:
        loaded.datetime = Clock
real_time = time.time
time.time = lambda: real_time() + Clock.ahead.total_seconds()
sentry = init()
def served(timeout):
    return WsgiClient(streaming_app("wsgi-plain", lambda: iter([b"a", b"b"]), response_timeout=timeout))
late, early = served(3600), served(0.3)
Clock.ahead = module.timedelta(days={days})
print(sentry.root().outcome, late.read())
early.close()
roots = sentry.wait_for_roots(2)
print([root.outcome for root in roots], [0 <= root.duration < 3600 for root in roots])
"""
    )
    assert lines == ["timed_out b'ab'", "['timed_out', 'completed'] [True, True]"]


# -- hooks -------------------------------------------------------------------------------


@pytest.mark.fault(
    "`before_send_transaction` (SDK 3: `before_send_span`) hangs at a deadline",
    client="no delay; others are served",
    log="nothing",
    sink="the other transactions",
)
def test_hanging_hook_delays_no_deadline_and_no_request():
    """One response's hook hangs in its deadline; the others go on."""
    lines = run(
        """
        def hook(url):
            if url.endswith("/hang"):
                threading.Event().wait()
        sentry = init(
            DjangoIntegration(response_timeout=0.2), shutdown_timeout=0.1, **when_sent(hook)
        )
        clients = [WsgiClient(app, path) for path in ["/hang"] + 20 * ["/other"]]
        sentry.wait_for_roots(20)
        for client in clients:
            client.close()  # not even the first one waits
        print({root.outcome for root in sentry.roots()})
        """
    )
    assert lines == ["{'timed_out'}"]


def test_raising_hook_is_survived():
    """A hook that raises loses its transaction, and nothing else. A span is sent all the same."""
    expected = 1 if HAS_STATIC_LIFECYCLE else 6
    lines = run(
        f"""
        def hook(url):
            if url.endswith("/raise"):
                raise SystemExit("no")
        sentry = init(DjangoIntegration(response_timeout=0.1), **when_sent(hook))
        clients = [WsgiClient(app, path) for path in [*["/raise"] * 5, "/other"]]
        print([root.outcome for root in sentry.wait_for_roots({expected})])
        print(b"".join(client.read() for client in clients))
        """,
    )
    assert lines == [str(["timed_out"] * expected), "b'" + "ab" * 6 + "'"]


# -- fork --------------------------------------------------------------------------------


@pytest.mark.fault(
    "fork in mid-stream, and the child goes on with the response",
    client="the whole response, from the parent",
    log="nothing",
    sink="one transaction, the parent's",
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("lifecycle", LIFECYCLES)
@pytest.mark.parametrize("on_timeout", ["finish", "continue"])
def test_fork_in_mid_stream_ends_in_the_parent_alone(lifecycle, on_timeout):
    """A child goes on with an open response, but does not trace it; it begins anew for its own.

    With no responses, no threads, and all numbers at zero; though other threads were busy.
    """
    parts = lifecycle == "static" and on_timeout == "continue"
    options = {"_experiments": {"max_spans": 10}} if parts else {}
    lines = run(
        f"""
        import gc, warnings
        from support.apps import streaming_app
        from vendored_integration import stats
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
        sentry = init(DjangoIntegration(on_timeout={on_timeout!r}), {lifecycle!r}, **{options!r})
        def body():
            for chunk in (b"a", b"b"):
                for _ in range(25):
                    with start_span(where):
                        pass
                yield chunk
        def busy():
            while not over:
                WsgiClient(other_app).read()
        where, over = "before", []
        open_app = serve(lambda request: StreamingHttpResponse(body()))
        client, dropped = WsgiClient(open_app), WsgiClient(open_app)
        client.take()
        other_app = streaming_app("wsgi-plain", lambda: iter([b"a"]))
        thread = threading.Thread(target=busy, daemon=True)
        thread.start()
        sentry.wait_for(lambda: len(sentry.ended()) > 5 or {lifecycle!r} == "stream")
        pid = os.fork()
        if not pid:
            sentry.clear()
            where = "child"
            print(client.read())
            client.drop()
            dropped.drop()
            gc.collect()
            now = stats()
            print(len(sentry.roots()), now.pid == os.getpid(), now.open_responses)
            print(now.peak_open_responses, sum(now.streaming.values()), now.threads)
            late = streaming_app("wsgi-plain", lambda: iter([b"a"]), response_timeout=0.1)
            expired = WsgiClient(late)
            print(sentry.root().outcome, flush=True)
            sys.exit()
        assert os.waitpid(pid, 0)[1] == 0
        over.append(True)
        thread.join()
        where = "parent"
        print(client.read())
        dropped.close()
        names = [name for root in sentry.roots() for name in root.names()]
        print(names.count("before"), names.count("child"), names.count("parent"))
        """
    )
    assert lines == ["b'ab'", "0 True 0", "0 0 0", "timed_out", "b'ab'", "25 0 25"]


# -- imports -----------------------------------------------------------------------------


def test_wsgi_alone_does_not_import_django():
    """A Flask application need not pay for more of Django than the SDK itself imports."""
    code = "import sys, vendored_integration.wsgi; print('django.core.handlers' in sys.modules)"
    assert run(code, prelude="") == ["False"]


def test_under_gevent_imported_before_monkey_patching():
    """gunicorn --preload with gevent: nothing that blocks is taken at import."""
    pytest.importorskip("gevent")
    lines = run(
        """
        import warnings
        warnings.simplefilter("ignore")
        from gevent import monkey
        monkey.patch_all()
        import gevent
        sentry = init(DjangoIntegration(response_timeout=0.1))
        client = WsgiClient(app)
        with gevent.Timeout(20):
            while not sentry.roots():
                gevent.sleep(0.01)
        print(sentry.roots()[0].outcome)
        print(client.read())
        """
    )
    assert lines == ["timed_out", "b'ab'"]
