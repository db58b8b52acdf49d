"""What else follows a request: profiles, and the headers of outgoing requests."""

import threading

import pytest
import sentry_sdk
from support.apps import DJANGO_WAYS, open_stream, streaming_app
from support.sdk import HAS_CONTINUOUS_PROFILER, start_span

every_way = pytest.mark.parametrize("way", DJANGO_WAYS)


def serve_steps(way, step, steps=2, view=lambda: None, **request):
    """Serve a view, and then a body that calls a function at each step; to the end."""

    def body():
        for number in range(steps):
            step(number)
            yield b"x"

    assert open_stream(way, streaming_app(way, body, view), **request).read() == b"x" * steps


# -- outgoing requests -------------------------------------------------------------------


@pytest.mark.parametrize("incoming", [False, True])
@every_way
def test_headers_for_outgoing_requests_of_a_body(init, lifecycle, way, incoming):
    """sentry-trace and baggage: the request's trace, and the span that is active in the body.

    A trace that the client has begun goes on.
    """
    sentry = init(lifecycle)
    caller = "0123456789abcdef0123456789abcdef", "0123456789abcdef"
    seen = []

    def step(number):
        with start_span(f"step {number}"):
            seen.append(dict(sentry_sdk.Scope.get_current_scope().iter_trace_propagation_headers()))

    serve_steps(way, step, headers=[("sentry-trace", "-".join([*caller, "1"]))] * incoming)
    root = sentry.root()
    assert ((root.trace_id, root.parent_span_id) == caller) == incoming
    spans = [root.named("step 0"), root.named("step 1")]
    for headers, span in zip(seen, spans):
        assert headers["sentry-trace"] == f"{root.trace_id}-{span.span_id}-1"
        # (a caller that sends no baggage has frozen it)
        assert incoming or f"sentry-trace_id={root.trace_id}" in headers["baggage"]


# -- profiles ----------------------------------------------------------------------------


def seen_in_the_view():
    threading.Event().wait(0.2)  # a profiler looks at 101 Hz


def not_seen_in_the_body(number=0):
    threading.Event().wait(0.2)


def functions_of(frames):
    return {frame["function"] for frame in frames}


@pytest.mark.filterwarnings("ignore:Transaction-based profiling is deprecated")
@every_way
def test_transaction_profile(init, profilers, way):
    """One profile, of the transaction, that ends where stock's does: when the view returns.

    A stream that only waits was profiled for as long as it was open, at 55 kB a second.
    """
    sentry = init(profiles_sample_rate=1.0)
    serve_steps(way, not_seen_in_the_body, view=seen_in_the_view)
    root = sentry.root()
    (profile,) = sentry.items("profile")
    (transaction,) = profile["transactions"]
    assert transaction["trace_id"] == root.trace_id
    functions = functions_of(profile["profile"]["frames"])
    assert "seen_in_the_view" in functions
    assert "not_seen_in_the_body" not in functions


@pytest.mark.skipif(not HAS_CONTINUOUS_PROFILER, reason="older SDK")
@every_way
def test_continuous_profile(init, profilers, lifecycle, way):
    """The same of the profiler that runs while there is something to profile."""
    sentry = init(lifecycle, profile_session_sample_rate=1.0, profile_lifecycle="trace")
    scheduler = sentry_sdk.profiler.continuous_profiler._scheduler

    def step(number):
        if number:
            sentry.wait_for(lambda: not scheduler.running)  # it looks once in 10 ms
            not_seen_in_the_body()

    serve_steps(way, step, view=seen_in_the_view)
    sentry.wait_for(lambda: sentry.items("profile_chunk"))  # sent when it has stopped
    chunks = sentry.items("profile_chunk")
    functions = set().union(*(functions_of(chunk["profile"]["frames"]) for chunk in chunks))
    assert "seen_in_the_view" in functions
    assert "not_seen_in_the_body" not in functions
    assert len({chunk["profiler_id"] for chunk in chunks}) == 1
    assert sentry.root().outcome == "completed"
