"""Tests of the runtime in one process, judged by the envelopes that the SDK would send.

The test is the server, so that it can do what servers do at the worst moment.
"""

import gc
import time

import hypothesis
import pytest
import sentry_sdk
import support.apps  # noqa: F401  (configures Django)
from structlog.contextvars import clear_contextvars
from support.sdk import LIFECYCLES, Received, Seen, assert_accepted, start_sdk, tear_down_profilers

from vendored_integration import stats
from vendored_integration.runtime.registry import registry

# --hypothesis-profile chooses another one.
hypothesis.settings.register_profile("quick", max_examples=15)
hypothesis.settings.register_profile("thorough", max_examples=5_000)
hypothesis.settings.load_profile("quick")


@pytest.fixture(params=LIFECYCLES)
def lifecycle(request):
    return request.param


@pytest.fixture
def init():
    """Initialise the SDK with our integration; what it sends comes back.

    Every transaction is shown to Relay's normaliser afterwards: Sentry must take it.
    """
    received = []

    def init(lifecycle=LIFECYCLES[0], integration=None, **options):
        received.append(start_sdk(Received(), lifecycle, integration, **options))
        return received[-1]

    yield init
    for transport in received:
        for event in transport.transactions():
            assert_accepted(event)
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.init(default_integrations=False)


@pytest.fixture
def sentry(init, lifecycle):
    """What the SDK sends, in one lifecycle after the other."""
    return init(lifecycle)


@pytest.fixture
def seen():
    gc.collect()  # what other tests have dropped
    return Seen()


@pytest.fixture
def no_collector():
    """What is free then is so without the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def profilers(no_collector):
    """Profilers that no other test has set up.

    Python may wait for ever if the garbage collector runs while a profiler asks for the
    frames of all threads: https://github.com/python/cpython/issues/106883
    """
    tear_down_profilers()
    yield
    tear_down_profilers()


@pytest.fixture(autouse=True)
def nothing_left_open():
    """No test leaves a response open, or a binding: the next one would find it."""
    yield
    clear_contextvars()
    # Only then: it takes long, and most tests leave nothing.
    if stats().open_responses:
        gc.collect()
    deadline = time.monotonic() + 10
    while stats().open_responses and time.monotonic() < deadline:
        time.sleep(0.01)
    left = list(registry.open)
    registry.open.clear()  # this test's fault, and not the next one's
    assert not left
