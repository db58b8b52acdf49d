"""SIGTERM while responses are open, each in a process of its own.

What servers make of it is in tests/live/test_faults.py.
"""

import signal
import sys

import pytest
from support.program import run
from support.sdk import LIFECYCLES

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
sentry = init(lifecycle={lifecycle!r}, shutdown_timeout=0.5)
client, in_time = WsgiClient(app), WsgiClient(app)
client.take()
os.kill(os.getpid(), signal.SIGTERM)
print(seen == [(signal.SIGTERM, True)], in_time.read())
# (without a look at the spans, which would flush them)
sentry.wait_for(lambda: "abandoned" in str(sentry.items("transaction", "span")), 4)
print(sorted((root.outcome, root.data["http.response.stream.chunks"]) for root in sentry.roots()))
print(client.read(), WsgiClient(app).read())  # whoever takes no end of it is traced as before
print(sorted(root.outcome for root in sentry.roots()))
"""
    )
    assert lines == [
        "True b'ab'",
        "[('abandoned', 1), ('completed', 2)]",
        "b'ab' b'ab'",
        "['abandoned', 'completed', 'completed']",
    ]


def test_a_hook_that_hangs_does_not_hold_up_the_others():
    """No request comes any more that would start a second worker.

    The handler is set when requests have been served: by a server that loads lazily.
    """
    lines = run(
        f"""
def hook(url):
    if url.endswith("/hang"):
        threading.Event().wait()
sentry = init(shutdown_timeout=0.2, **when_sent(hook))
WsgiClient(app).read()
sentry.roots()
sentry.clear()
{HANDLE}
open_ones = [WsgiClient(app, path) for path in ("/hang", "/1", "/2")]
os.kill(os.getpid(), signal.SIGTERM)
print({{root.outcome for root in sentry.wait_for_roots(2)}}, len(seen), flush=True)
os._exit(0)
"""
    )
    assert lines == ["{'abandoned'} 1"]


@pytest.mark.parametrize(
    ("handler", "printed", "status"),
    [
        # A server's `sys.exit()` in its handler ends it as without us.
        ("signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))", ["abandoned None", "flush"], 7),
        # Where nothing handles it, the parent sees that a signal has ended the process.
        ("", [], -signal.SIGTERM),
    ],
)
def test_process_that_ends(handler, printed, status):
    lines = run(
        f"""
        import signal
        {handler}
        init(transport=Printing())
        client = WsgiClient(app)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
        status=status,
    )
    assert lines == printed
