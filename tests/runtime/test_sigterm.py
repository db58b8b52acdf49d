"""SIGTERM while responses are open, each in a process of its own.

What servers make of it is in tests/live/test_faults.py.
"""

import signal
import subprocess
import sys
import textwrap

import pytest
from test_process import PRELUDE, run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals there")

HANDLE = """
import signal
seen = []
def handler(signum, frame):
    seen.append((signum, frame is not None))
    return "ignored"
signal.signal(signal.SIGTERM, handler)
"""


def test_open_responses_are_finished_though_the_process_goes_on():
    """After shutdown_timeout: whoever has not ended by then may be killed."""
    lines = run(
        HANDLE
        + """
sentry = init(shutdown_timeout=0.2)
exchange = Exchange(app)
steps = iter(exchange.response)
next(steps)
os.kill(os.getpid(), signal.SIGTERM)
print(seen == [(signal.SIGTERM, True)])
root = sentry.root()
print(root.outcome, root.status, root.data["http.response.stream.chunks"])
print(list(steps))
exchange.close()
print(len(sentry.transactions()), sentry.root().outcome)
# Whoever takes no end of it is traced as before.
print(Exchange(app).read())
sentry.wait_for(lambda: len(sentry.transactions()) == 2)
print(sentry.roots()[1].outcome)
"""
    )
    assert lines == [
        "True",
        "abandoned aborted 1",
        "[b'b']",
        "1 abandoned",
        "b'ab'",
        "completed",
    ]


def test_response_that_ends_in_time_is_completed():
    """Nothing is finished early that needs no longer than shutdown_timeout."""
    lines = run(
        HANDLE
        + """
sentry = init(shutdown_timeout=3)
late, exchange = Exchange(app), Exchange(app)
os.kill(os.getpid(), signal.SIGTERM)
print(exchange.read())
sentry.wait_for(lambda: len(sentry.transactions()) == 2)
print([root.outcome for root in sentry.roots()])
late.close()
"""
    )
    assert lines == ["b'ab'", "['completed', 'abandoned']"]


def test_a_hook_that_hangs_does_not_hold_up_the_others():
    """No request comes any more that would start a second worker."""
    lines = run(
        HANDLE
        + """
def before_send_transaction(event, hint):
    if event["request"]["url"].endswith("/hang"):
        threading.Event().wait()
    return event
sentry = init(shutdown_timeout=0.2, before_send_transaction=before_send_transaction)
open_ones = [Exchange(app, path) for path in ("/hang", "/1", "/2")]
os.kill(os.getpid(), signal.SIGTERM)
sentry.wait_for(lambda: len(sentry.transactions()) == 2)
print({root.outcome for root in sentry.roots()})
sys.stdout.flush()
os._exit(0)
"""
    )
    assert lines == ["{'abandoned'}"]


def test_an_error_of_the_handler_comes_out():
    """A server's `sys.exit()` in its handler ends it as without us."""
    lines = run(
        """
        import signal
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        sentry = init()
        exchange = Exchange(app)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):
                time.sleep(0.01)
        except SystemExit as error:
            print("exit", error.code)
        """
    )
    assert lines == ["exit 0"]


def test_where_nothing_handles_it_the_process_ends_at_once():
    """Its parent sees that a signal has ended it."""
    code = """
init()
exchange = Exchange(app)
import signal
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("True\n", -signal.SIGTERM)


def test_a_later_handler_is_noticed_as_well():
    """Set when requests had been served already: by a server that loads applications lazily."""
    lines = run(
        HANDLE
        + """
sentry = init(shutdown_timeout=0.2)
Exchange(app).read()
sentry.clear()
signal.signal(signal.SIGTERM, lambda *args: seen.append("the second"))
Exchange(app).read()
sentry.wait_for(sentry.roots)
sentry.clear()
exchange = Exchange(app)
os.kill(os.getpid(), signal.SIGTERM)
print(sentry.root().outcome, seen)
exchange.close()
"""
    )
    assert lines == ["abandoned ['the second']"]
