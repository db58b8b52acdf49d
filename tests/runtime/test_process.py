"""Threads, forks and the end of a process, each in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from harness import HAS_STREAM_LIFECYCLE, LIFECYCLES

HERE = Path(__file__).parent

PRELUDE = f"""
import sys
sys.path[:0] = [{str(HERE.parent)!r}, {str(HERE)!r}]
import importlib.util
for name in ({str(HERE.parent / "conftest.py")!r}, {str(HERE / "conftest.py")!r}):
    spec = importlib.util.spec_from_file_location("conftest_" + str(len(name)), name)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
import os, threading, time
import sentry_sdk
from django.http import HttpResponse, StreamingHttpResponse
from harness import Exchange, Received, start_span
from views import serve
from vendored_integration import DjangoIntegration

def init(integration=None, **options):
    transport = options.pop("transport", None) or Received()
    sentry_sdk.init(
        dsn="http://a@127.0.0.1:9/1", transport=transport, traces_sample_rate=1.0,
        integrations=[integration or DjangoIntegration()], **options,
    )
    return transport

# Prints how each transaction has ended: outcome, part, spans.
class Printing(Received):
    def capture_envelope(self, envelope):
        super().capture_envelope(envelope)
        for item in envelope.items:
            if item.type == "transaction":
                event = item.payload.json
                contexts = event["contexts"]
                data = contexts.get("http.response.stream") or contexts["trace"]["data"]
                spans = [s["description"] for s in event["spans"] if s["op"] == "test"]
                part = data.get("http.response.stream.part")
                print(data["http.response.stream.outcome"], part, *spans)
    def flush(self, timeout, callback=None):
        print("flush")

def view(request):
    return StreamingHttpResponse(iter([b"a", b"b"]))

app = serve(view)
"""


def run(code, timeout=60):
    """Run code after the prelude in a fresh interpreter, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def test_500_open_responses_add_at_most_4_threads():
    """The older third-party package adds 500. (The SDK's own monitor is counted, too.)"""
    (before, added, opened) = run(
        """
        import vendored_integration
        sentry = init()
        print(vendored_integration.stats().threads)
        before = threading.active_count()
        open_ones = [Exchange(app) for _ in range(500)]
        for exchange in open_ones:
            next(iter(exchange.response))
        print(threading.active_count() - before)
        print(vendored_integration.stats().open_responses)
        for exchange in open_ones:
            exchange.close()
        """
    )
    assert (before, opened) == ("0", "500")
    assert int(added) <= 4


def test_open_responses_are_finished_at_process_exit():
    """Before the SDK flushes: what is finished then must still be sent."""
    lines = run(
        """
        sentry = init(transport=Printing())
        exchange = Exchange(app, "/open")
        """
    )
    assert lines == ["abandoned None", "flush"]


def test_open_parts_are_finished_at_process_exit():
    """The part that runs at the end of the process is sent, with the spans of it alone."""
    lines = run(
        """
        from vendored_integration.wsgi import SentryWsgiMiddleware
        sentry = init(transport=Printing(), _experiments={"max_spans": 2})
        def app(environ, start_response):
            start_response("200 OK", [])
            def body():
                for name in "abc":
                    with start_span(name):
                        pass
                    yield b"chunk"
            return body()
        exchange = Exchange(SentryWsgiMiddleware(app, on_timeout="continue"))
        steps = iter(exchange.response)
        next(steps), next(steps), next(steps)
        """
    )
    assert lines == ["continued 1 a b", "abandoned 2 c", "flush"]


@pytest.mark.fault(
    "`before_send_transaction` hangs at the end of the process",
    client="—",
    log="nothing",
    sink="all but this transaction; the process ends after `shutdown_timeout`",
)
def test_hanging_hook_does_not_hold_up_process_exit():
    """before_send_transaction that never returns costs at most shutdown_timeout."""
    run(
        """
        def before_send_transaction(event, hint):
            threading.Event().wait()
        sentry = init(before_send_transaction=before_send_transaction, shutdown_timeout=0.2)
        exchange = Exchange(app)
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
        hung = threading.Semaphore(0)
        def before_send_transaction(event, hint):
            if event["request"]["url"].endswith("/hang"):
                hung.release()
                threading.Event().wait()
            return event
        class Counting(Received):
            def flush(self, timeout, callback=None):
                print("flush", len(self.transactions()))
        sentry = init(
            DjangoIntegration(response_timeout=0.1), transport=Counting(), shutdown_timeout=0.2,
            before_send_transaction=before_send_transaction,
        )
        print(Exchange(app).read())
        hanging = [Exchange(app, "/hang") for _ in range(3)]
        for _ in hanging:
            assert hung.acquire(timeout=20)
        waiting = [Exchange(app) for _ in range(100)]
        """,
        timeout=30,
    )
    assert lines == ["b'ab'", "flush 1"]


CLOCK = """
import datetime as module
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
"""


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
        CLOCK
        + f"""
from vendored_integration.wsgi import SentryWsgiMiddleware
sentry = init()
def plain(environ, start_response):
    start_response("200 OK", [])
    return iter([b"a", b"b"])
long = Exchange(SentryWsgiMiddleware(plain, response_timeout=3600), "/long")
short = Exchange(SentryWsgiMiddleware(plain, response_timeout=0.3), "/short")
Clock.ahead = module.timedelta(days={days})
print(sentry.root().outcome)
print(long.read())
short.close()
sentry.wait_for(lambda: len(sentry.roots()) == 2)
print([root.outcome for root in sentry.roots()])
print([0 <= root.duration < 3600 for root in sentry.roots()])
"""
    )
    assert lines == ["timed_out", "b'ab'", "['timed_out', 'completed']", "[True, True]"]


@pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="needs the stream lifecycle")
def test_clock_is_set_back_while_a_generator_is_traced():
    """The span of one that is dropped does not end before it has started."""
    lines = run(
        CLOCK
        + """
import gc
from vendored_integration import trace_stream
sentry = init(_experiments={"trace_lifecycle": "stream"})
@trace_stream(name="dropped")
def numbers():
    yield 1
with sentry_sdk.traces.start_span(name="root"):
    generator = numbers()
    next(generator)
    Clock.ahead = module.timedelta(days=-1)
    del generator
    gc.collect()
ended = []
def dropped():
    ended[:] = [span for span in sentry.spans() if span["name"] == "dropped"]
    return ended
sentry.wait_for(dropped)
print(0 <= ended[0]["end_timestamp"] - ended[0]["start_timestamp"] < 3600)
"""
    )
    assert lines == ["True"]


@pytest.mark.fault(
    "`before_send_transaction` hangs at a deadline",
    client="no delay; others are served",
    log="nothing",
    sink="the other transactions",
)
def test_hanging_hook_delays_no_deadline_and_no_request():
    """One response's before_send_transaction hangs in its deadline; the others go on.

    Also those that are due at the same look of the timer, without a request that would help.
    """
    lines = run(
        """
        from vendored_integration.runtime.process import lock
        def before_send_transaction(event, hint):
            if event["request"]["url"].endswith("/hang"):
                threading.Event().wait()
            return event
        sentry = init(
            DjangoIntegration(response_timeout=0.2), shutdown_timeout=0.1,
            before_send_transaction=before_send_transaction,
        )
        exchanges = [Exchange(app, path) for path in ["/hang"] + 20 * ["/other"]]
        with lock:
            time.sleep(0.4)
        sentry.wait_for(lambda: len(sentry.transactions()) == 20)
        for exchange in exchanges:
            exchange.close()  # not even the first one waits
        print({root.outcome for root in sentry.roots()})
        """
    )
    assert lines == ["{'timed_out'}"]


def test_raising_hook_is_survived():
    """before_send_transaction that raises loses its transaction, and nothing else."""
    lines = run(
        """
        def before_send_transaction(event, hint):
            if event["request"]["url"].endswith("/raise"):
                raise SystemExit("no")
            return event
        sentry = init(
            DjangoIntegration(response_timeout=0.1),
            before_send_transaction=before_send_transaction,
        )
        raising = [Exchange(app, "/raise") for _ in range(5)]
        other = Exchange(app, "/other")
        print(sentry.root().outcome)
        print(b"".join(exchange.read() for exchange in raising))
        print(other.read())
        """,
    )
    assert lines == ["timed_out", "b'" + "ab" * 5 + "'", "b'ab'"]


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")

FORK = """
import vendored_integration, warnings
from vendored_integration.runtime.process import lock
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
def fork_while_a_thread_holds_the_lock():
    held = threading.Event()
    def hold():
        with lock:
            held.set()
            time.sleep(0.2)
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    return os.fork()
"""


@pytest.mark.fault(
    "fork in mid-stream, and the child goes on with the response",
    client="the whole response, from the parent",
    log="nothing",
    sink="one transaction, the parent's",
)
@fork
@pytest.mark.parametrize("lifecycle", LIFECYCLES)
def test_fork_in_mid_stream_ends_in_the_parent_alone(lifecycle):
    """A child goes on with an open response, but does not trace it; it begins anew for its own.

    With no responses, no threads, and all numbers at zero.
    """
    lines = run(
        FORK
        + f"""
sentry = init(_experiments={{"trace_lifecycle": {lifecycle!r}}})
def show(who):
    stats = vendored_integration.stats()
    outcomes = [root.outcome for root in sentry.roots()]
    print(
        who, stats.pid == os.getpid(), stats.interfaces, stats.open_responses,
        stats.peak_open_responses, sum(stats.streaming.values()), stats.threads, outcomes,
    )
    sys.stdout.flush()
exchange, dropped = Exchange(app), Exchange(app)
steps = iter(exchange.response)
next(steps)
show("before")
pid = fork_while_a_thread_holds_the_lock()
if not pid:
    print(list(steps))
    exchange.close()
    exchange.response = dropped.response = steps = None
    import gc
    gc.collect()
    show("child")
    from vendored_integration.wsgi import SentryWsgiMiddleware
    def plain(environ, start_response):
        start_response("200 OK", [])
        return iter([b"a"])
    expired = Exchange(SentryWsgiMiddleware(plain, response_timeout=0.1))
    sentry.wait_for(sentry.roots)
    show("child")
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
print(list(steps))
exchange.close()
dropped.close()
show("parent")
"""
    )
    assert lines == [
        "before True ('wsgi',) 2 2 0 2 []",
        "[b'b']",
        "child True () 0 0 0 0 []",
        "child True ('wsgi',) 0 1 1 2 ['timed_out']",
        "[b'b']",
        "parent True ('wsgi',) 0 2 2 2 ['completed', 'completed']",
    ]


@fork
def test_fork_in_mid_stream_leaves_the_parts_to_the_parent():
    """The child's spans are not the parent's, and fill no part; the parent goes on with its own."""
    lines = run(
        """
        sentry = init(
            DjangoIntegration(on_timeout="continue", response_timeout=3600),
            _experiments={"max_spans": 10},
        )
        def view(request):
            def body():
                while True:
                    for _ in range(25):
                        with start_span(where):
                            pass
                    yield b"chunk"
            return StreamingHttpResponse(body())
        where = "before"
        exchange = Exchange(serve(view))
        steps = iter(exchange.response)
        next(steps)
        sent = len(sentry.transactions())
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
        if not pid:
            where = "child"
            next(steps)
            exchange.close()
            print(len(sentry.transactions()) - sent)
            sys.stdout.flush()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        where = "parent"
        next(steps)
        exchange.close()
        names = [name for root in sentry.roots() for name in root.names()]
        print(names.count("before"), names.count("child"), names.count("parent"))
        print({root.outcome for root in sentry.roots()} == {"continued", "cancelled"})
        """
    )
    assert lines == ["0", "25 0 25", "True"]


def test_other_sdk_is_refused():
    """ImportError names both releases and the commands that fix it."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sentry_sdk.consts; sentry_sdk.consts.VERSION = '1.2.3'; "
            "import vendored_integration",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    from sentry_sdk.consts import VERSION

    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: vendored-integration")
    assert f"was built for sentry-sdk {VERSION}" in last
    assert "but sentry-sdk 1.2.3 is installed" in last
    assert '"vendored-integration==1.2.3.*"' in last
    assert "SENTRY_SDK_VERSION=1.2.3 pip install ." in last


def test_wsgi_alone_does_not_import_django():
    """A Flask application need not pay for more of Django than the SDK itself imports."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, vendored_integration.wsgi; print('django.core.handlers' in sys.modules)",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout.strip() == "False"


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
        exchange = Exchange(app)
        with gevent.Timeout(20):
            while not sentry.transactions():
                gevent.sleep(0.01)
        print(sentry.roots()[0].outcome)
        print(exchange.read())
        """
    )
    assert lines == ["timed_out", "b'ab'"]
