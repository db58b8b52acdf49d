"""SIGTERM while responses are open, each in a process of its own.

What servers make of it is in tests/live/test_faults.py.
"""

import signal
import subprocess
import sys

import pytest
from harness import LIFECYCLES
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


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
def test_open_responses_are_finished_though_the_process_goes_on(lifecycle):
    """After shutdown_timeout, not before: whoever has not ended by then may be killed.

    What the server's handler is told is the same, and the rest of each response, too.
    """
    lines = run(
        HANDLE
        + f"""
sentry = init(shutdown_timeout=0.5, _experiments={{"trace_lifecycle": {lifecycle!r}}})
exchange, in_time = Exchange(app), Exchange(app)
steps = iter(exchange.response)
next(steps)
os.kill(os.getpid(), signal.SIGTERM)
print(seen == [(signal.SIGTERM, True)], in_time.read())
# (without a look at the spans, which would flush them)
sentry.wait_for(lambda: "abandoned" in str(sentry.items("transaction", "span")), 4)
print([(root.outcome, root.data["http.response.stream.chunks"]) for root in sentry.roots()])
print(list(steps))
exchange.close()
print(Exchange(app).read())  # whoever takes no end of it is traced as before
print([root.outcome for root in sentry.roots()])
"""
    )
    assert lines == [
        "True b'ab'",
        "[('completed', 2), ('abandoned', 1)]",
        "[b'b']",
        "b'ab'",
        "['completed', 'abandoned', 'completed']",
    ]


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


@pytest.mark.parametrize(
    ("handler", "printed", "status"),
    [
        # A server's `sys.exit()` in its handler ends it as without us.
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", "abandoned None\nflush\n", 7),
        # Where nothing handles it, the parent sees that a signal has ended the process.
        ("", "", -signal.SIGTERM),
    ],
)
def test_process_that_ends(handler, printed, status):
    code = f"""
import signal
{handler}
init(transport=Printing())
exchange = Exchange(app)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], stdout=subprocess.PIPE, text=True, timeout=50
    )
    assert (done.stdout, done.returncode) == (printed, status)


def test_a_later_handler_is_noticed_as_well():
    """Set when requests had been served already: by a server that loads applications lazily."""
    lines = run(
        HANDLE
        + """
sentry = init(shutdown_timeout=0.2)
Exchange(app).read()
signal.signal(signal.SIGTERM, lambda *args: seen.append("the second"))
Exchange(app).read()
sentry.clear()
exchange = Exchange(app)
os.kill(os.getpid(), signal.SIGTERM)
print(sentry.root().outcome, seen)
exchange.close()
"""
    )
    assert lines == ["abandoned ['the second']"]
