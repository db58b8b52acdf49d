"""Tests of the runtime in one process, judged by the envelopes that the SDK would send.

A transport keeps the envelopes as the bytes that an ingest would get; the WSGI
server is the test itself, so that it can do what servers do at the worst moment.
"""

import gc
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import django_project  # noqa: E402, F401
import hypothesis  # noqa: E402
import sentry_sdk  # noqa: E402
from harness import LIFECYCLES, Received, assert_accepted  # noqa: E402
from sentry_sdk.sessions import SessionFlusher  # noqa: E402

from vendored_integration import DjangoIntegration  # noqa: E402
from vendored_integration.runtime.registry import registry  # noqa: E402

# The sessions are flushed along with the client; its thread would sleep for a minute.
SessionFlusher._ensure_running = lambda self: None

# --hypothesis-profile chooses: for the many combinations that the matrix runs, and for
# the one that is to find what the others have not.
hypothesis.settings.register_profile("quick", max_examples=15)
hypothesis.settings.register_profile("thorough", max_examples=5_000)


@pytest.fixture(params=LIFECYCLES)
def lifecycle(request):
    return request.param


@pytest.fixture
def init():
    """Initialise the SDK with our integration; what it sends comes back.

    Every transaction is shown to Relay's normaliser afterwards: Sentry must take it.
    """
    received = []

    def init(lifecycle="static", integration=None, **options):
        experiments = options.pop("_experiments", {})
        if lifecycle == "stream":
            experiments["trace_lifecycle"] = "stream"
        transport = Received()
        received.append(transport)
        options.setdefault("traces_sample_rate", 1.0)
        # Each client would leave threads that sleep for up to a minute after its end:
        # a thousand by the time that a profiler wants to look at all of them.
        options.setdefault("enable_backpressure_handling", False)
        sentry_sdk.init(
            dsn="http://public@127.0.0.1:9/1",
            transport=transport,
            integrations=[integration or DjangoIntegration()],
            _experiments=experiments,
            release="test@1",
            **options,
        )
        return transport

    yield init
    for transport in received:
        for event in transport.transactions():
            assert_accepted(event)
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.init()


@pytest.fixture
def sentry(init, lifecycle):
    """What the SDK sends, in one lifecycle after the other."""
    return init(lifecycle)


@pytest.fixture(autouse=True)
def nothing_left_open():
    """No test leaves a response open: the next one would find it."""
    yield
    # Only then: it takes long, and most tests leave nothing.
    if len(registry.open):
        gc.collect()
    deadline = time.monotonic() + 10
    while len(registry.open) and time.monotonic() < deadline:
        time.sleep(0.01)
    left = list(registry.open)
    registry.open.clear()  # this test's fault, and not the next one's
    assert not left
