"""One response, and everything that can happen to it, in any order.

Invariants: one finish; the response's own close() as often as the server's, no
more, no less; no context left entered; outcome and status of the first ending win;
with ``on_timeout="continue"`` a part for each deadline, and every span in one of them.
"""

import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sentry_sdk
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.apps import streaming_app
from support.sdk import LIFECYCLES, Received, assert_accepted, start_sdk, start_span, status_of
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration
from vendored_integration.runtime.registry import registry

STATUS = {
    "completed": "ok",
    "cancelled": "cancelled",
    "failed": "internal_error",
    "timed_out": "deadline_exceeded",
    "abandoned": "aborted",
    "evicted": "aborted",
}


class Body:
    """An endless body that does as it is told, and counts its close() calls."""

    def __init__(self):
        self.closed = 0
        self.spans = 0
        self.what_next = "chunk"
        self.in_next = threading.Event()
        self.go_on = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        if self.what_next == "block":
            self.in_next.set()
            assert self.go_on.wait(10)
        if self.what_next == "error":
            raise ValueError("told to")
        if self.what_next == "end":
            raise StopIteration
        with start_span(f"span {self.spans}"):
            self.spans += 1
        return b"chunk"

    def close(self):
        self.closed += 1


class ResponseMachine(RuleBasedStateMachine):
    """The server's side of one response, with a model of how it has ended."""

    @initialize(
        lifecycle=st.sampled_from(LIFECYCLES), django=st.booleans(), continues=st.booleans()
    )
    def open(self, lifecycle, django, continues):
        self.lifecycle = lifecycle
        self.in_parts = continues and lifecycle == "static"
        options = {
            "response_timeout": 3600 if continues else None,
            "on_timeout": "continue" if continues else "finish",
        }
        self.sentry = start_sdk(Received(), lifecycle, DjangoIntegration(**options))
        self.body = body = Body()
        self.outside = sentry_sdk.Scope.get_isolation_scope()
        self.django = django
        # (the application must not know the machine, which holds the response)
        way = "wsgi-django" if django else "wsgi-plain"
        self.response = WsgiClient(streaming_app(way, lambda: body, **options)).response
        self.opened = next(reversed(registry.open))
        self.steps = None
        self.ended = None
        self.parts = 1
        self.chunks = 0
        self.exhausted = self.cut_short = False
        self.server_closes = 0
        self.errors = 0

    def end(self, outcome):
        """The model: the first ending wins."""
        if self.ended is None:
            self.ended = outcome
            self.chunks_at_end = self.chunks
            self.spans_at_end = self.body.spans

    @property
    def closed_outcome(self):
        return "completed" if self.exhausted or not self.chunks else "cancelled"

    alive = precondition(lambda self: self.response is not None)
    iterating = precondition(lambda self: self.response is not None and self.steps)

    @rule()
    def go_on(self):
        """There is always something that can be done, even without a response."""

    @alive
    @rule()
    def iterate(self):
        self.steps = iter(self.response)

    @iterating
    @rule()
    def take_a_chunk(self):
        self.body.what_next = "chunk"
        assert next(self.steps) == b"chunk"
        self.chunks += 1

    @iterating
    @rule()
    def reach_the_end(self):
        self.body.what_next = "end"
        assert next(self.steps, None) is None
        assert next(self.steps, None) is None
        self.exhausted = True
        self.steps = None

    @iterating
    @rule()
    def fail(self):
        self.body.what_next = "error"
        with pytest.raises(ValueError, match="told to"):
            next(self.steps)
        self.steps = None
        self.errors += 1
        self.end("failed")

    @alive
    @rule()
    def close(self):
        self.response.close()
        self.server_closes += 1
        self.end(self.closed_outcome)

    @contextlib.contextmanager
    def in_mid_next(self):
        """Another thread takes a chunk meanwhile."""
        self.body.what_next = "block"
        self.body.in_next.clear()
        self.body.go_on.clear()
        with ThreadPoolExecutor() as thread:
            taken = thread.submit(next, self.steps)
            assert self.body.in_next.wait(10)
            yield
            self.body.go_on.set()
            assert taken.result(10) == b"chunk"
        self.chunks += 1

    @iterating
    @rule()
    def close_in_mid_next(self):
        with self.in_mid_next():
            self.close()

    @alive
    @rule()
    def deadline(self):
        if self.lifecycle == "stream" and self.opened.options.on_timeout == "continue":
            return  # has none
        with ThreadPoolExecutor() as thread:
            thread.submit(self.opened.expire).result(10)
        if not self.in_parts:
            self.end("timed_out")
        elif self.ended is None:
            self.parts += 1

    @iterating
    @rule()
    def deadline_in_mid_next(self):
        with self.in_mid_next():
            self.deadline()

    @alive
    @rule()
    def evict(self):
        # What the request that is one too many has done to the oldest.
        self.opened.detach("evicted", in_background=True)
        self.end("evicted")

    @iterating
    @rule()
    def close_the_iterator(self):
        """As a wrapper does that is closed in mid-stream, and only reads this one."""
        self.steps.close()
        self.steps = None
        self.cut_short = self.cut_short or not self.exhausted

    @alive
    @rule(in_a_cycle=st.booleans())
    def drop(self, in_a_cycle):
        self.end("completed" if self.exhausted else "cancelled" if self.cut_short else "abandoned")
        cycle = [self.response, self.steps]
        self.response = self.steps = None
        if in_a_cycle:
            cycle.append(cycle)
        del cycle
        gc.collect()

    def requests(self):
        # In the stream lifecycle a span that a step makes when the response has been
        # closed meanwhile is a segment of its own.
        return [root for root in self.sentry.roots() if root.op == "http.server"]

    @invariant()
    def one_finish(self):
        if self.ended is None:
            assert [root.outcome for root in self.requests()] == ["continued"] * (self.parts - 1)
            return
        self.sentry.wait_for(lambda: len(self.requests()) == self.parts)
        *continued, root = self.requests()
        assert {root.outcome for root in continued} <= {"continued"}
        assert root.outcome == self.ended
        assert root.data["http.response.stream.chunks"] == self.chunks_at_end
        assert root.status == status_of(self.lifecycle, STATUS[self.ended])
        if self.lifecycle == "static":
            names = [name for sent in (*continued, root) for name in sent.names()]
            made = [name for name in names if name.startswith("span ")]
            assert made == [f"span {number}" for number in range(self.spans_at_end)]

    @invariant()
    def closes_are_the_server_s(self):
        # Django's own close() closes a body once, however often it is called.
        expected = min(self.server_closes, 1) if self.django else self.server_closes
        assert self.body.closed == expected

    @invariant()
    def errors_are_the_body_s(self):
        assert len(self.sentry.errors()) == self.errors

    @invariant()
    def no_context_is_left_entered(self):
        assert sentry_sdk.Scope.get_isolation_scope() is self.outside

    def teardown(self):
        if self.response is not None:
            self.close()  # one that has ended early is open still
        self.one_finish()
        for event in self.sentry.transactions():
            assert_accepted(event)


TestResponse = ResponseMachine.TestCase
# How many examples is the profile's.
TestResponse.settings = settings(
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
