"""Sends a request's transaction while the request goes on.

A root span stands in a ``with`` block of upstream's middleware, and is current in
scopes that the application may have forked: it cannot be exchanged for another
one. What can be sent is a double of it, and the original

* takes no more part in anything (:func:`take_over`): its ``with`` block finds it
  finished, and spans that are made in it from then on are only counted; or
* becomes the next transaction of the same trace (:func:`begin_next`): a new span
  id and start time, and the spans that are still open. Open spans, scopes and
  outgoing requests need not be told.

Neither runs foreign code, nor takes long. :func:`send` runs the user's hooks.
"""

import copy
from contextvars import Context
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List

from sentry_sdk.consts import OP
from sentry_sdk.tracing import Span, Transaction, _SpanRecorder

from .counters import counters
from .frames import hidden
from .resources import ending_early

#: Dictionaries of a root span (of either lifecycle) that go on being changed.
_OWN = ("_data", "_tags", "_contexts", "_measurements", "_flags", "_attributes")
#: Attributes that a span gets anew when it is started.
_NEW = ("span_id", "start_timestamp", "_start_timestamp_monotonic_ns")


class LateSpans(_SpanRecorder):
    """Stands in for the recorder of a transaction that has been sent: only counts."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__(0)
        self.count = 0

    def add(self, span: Any) -> None:
        """Count a span that comes too late. It is sent nowhere."""
        # Django sends a signal at each close(): nobody misses the spans of these.
        if span.op != OP.EVENT_DJANGO:
            with counters.lock:
                self.count += 1


class PartRecorder(_SpanRecorder):
    """A transaction's recorder that asks for room when it is full, before a span is lost."""

    __slots__ = ("_make_room",)

    def __init__(self, before: _SpanRecorder, make_room: "Callable[[], bool]") -> None:
        super().__init__(before.maxlen + 1)
        self.spans = before.spans
        if hasattr(before, "dropped_spans"):  # since 2.21
            self.dropped_spans = before.dropped_spans
        self._make_room = make_room

    def add(self, span: Any) -> None:
        """Record a span, as the SDK does."""
        if self.full and not self._make_room():
            super().add(span)  # drops it, and counts that
        else:
            # Not by super(): with threads that look at the same time, the limit is
            # exceeded by one span each, and none is lost.
            self.spans.append(span)

    @property
    def full(self) -> bool:
        """Whether the SDK would drop the next span."""
        return len(self.spans) > self.maxlen

    @property
    def worth_sending(self) -> bool:
        """Whether at least half of the spans have ended, and would make room."""
        known = self.spans[:]  # other threads go on
        return 2 * sum(span.timestamp is not None for span in known) >= len(known)

    def take_ended(self) -> _SpanRecorder:
        """Take the spans that have ended. Others may be appended meanwhile, and stay."""
        spans = self.spans
        known = spans[:]
        ended = _SpanRecorder(self.maxlen + 1)
        still_open: "List[Any]" = []
        for span in known:
            (still_open if span.timestamp is None else ended.spans).append(span)
        spans[: len(known)] = still_open
        if hasattr(ended, "dropped_spans"):  # since 2.21
            ended.dropped_spans, self.dropped_spans = self.dropped_spans, 0
        return ended


def records_spans(root: Any) -> bool:
    """Whether spans are collected until the root is sent: static lifecycle, sampled."""
    return isinstance(root, Transaction) and root._span_recorder is not None


def watch(root: Any, make_room: "Callable[[], bool]") -> None:
    """Before a span would be lost to the SDK's limit, call ``make_room``.

    :param make_room: returns whether the span can be kept.
    """
    root._span_recorder = PartRecorder(root._span_recorder, make_room)


def take_over(root: Any) -> Any:
    """Return a double of a root span, to be sent; the original counts as finished."""
    double = _double(root)
    now = datetime.now(timezone.utc)
    if isinstance(root, Transaction):
        if root._span_recorder is not None:
            root._span_recorder = LateSpans()
        root._profile = None
        root.timestamp = now
    elif hasattr(root, "_finished"):  # stream lifecycle, not sampled
        double._scope = None  # leaves the scope alone
        root._finished = True
    else:
        double._segment = double
        double._active = False  # leaves the scope alone
        root._end_timestamp = now
    return double


def late_spans(root: Any) -> int:
    """Return how many spans were made after :func:`take_over`."""
    recorder = getattr(root, "_span_recorder", None)
    return recorder.count if isinstance(recorder, LateSpans) else 0


def begin_next(root: Any, first_span_id: str) -> Any:
    """Return a double with the spans that have ended, to be sent; the root goes on.

    :param first_span_id: the root's span id in its first part, to which all
        others are children.
    """
    double = _double(root)
    double._span_recorder = root._span_recorder.take_ended()
    fresh = Span(trace_id=root.trace_id)
    for name in _NEW:
        setattr(root, name, getattr(fresh, name))
    root.parent_span_id = first_span_id
    root._profile = None
    if hasattr(double, "_continuous_profile"):  # depends on the release
        double._continuous_profile = None  # it goes on
    return double


def _double(root: Any) -> Any:
    double = copy.copy(root)
    for name in _OWN:
        if hasattr(root, name):  # depends on the release
            setattr(double, name, dict(getattr(root, name)))
    return double


class Links:
    """An event processor that links each part to the one before it."""

    def __init__(self, scope: Any) -> None:
        """Take effect in a scope: the request's isolation scope."""
        self._previous: "Dict[str, str]" = {}
        scope.add_event_processor(self)

    def add(self, span_id: str, previous: str) -> None:
        """The transaction with this span id continues the previous one."""
        self._previous[span_id] = previous

    def __call__(self, event: Any, hint: Any) -> Any:
        if event.get("type") == "transaction":
            trace = event.get("contexts", {}).get("trace", {})
            previous = self._previous.pop(trace.get("span_id"), None)
            if previous is not None:
                trace["links"] = [
                    {
                        "trace_id": trace["trace_id"],
                        "span_id": previous,
                        "sampled": True,
                        "attributes": {"sentry.link.type": "previous_part"},
                    }
                ]
        return event


def send(double: Any, context: Context) -> None:
    """Finish a double, in a copy of its request's context. Runs the user's hooks."""
    context.copy().run(_finish, double)


def _finish(double: Any) -> None:
    ending_early.set(True)
    if not isinstance(double, Transaction):
        double.end()
        return
    profile = double._profile
    if profile is not None:
        profile.__exit__(None, None, None)
    continuous_profile = getattr(double, "_continuous_profile", None)
    if continuous_profile is not None:
        continuous_profile.stop()
    double.finish()


__name__ = hidden(__name__)
