"""The root span of the static lifecycle: a transaction, sent at once or in parts.

A transaction that is sent in parts (``on_timeout="continue"``) goes on after each: it gets a
new span id and start time, and keeps the spans that are still open. Open spans, scopes and
outgoing requests need not be told. The parts are one trace; each but the first is a child of
the first, and links to the one before it.
"""

from contextvars import Context
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Optional

import sentry_sdk
import sentry_sdk.scope
from sentry_sdk.consts import OP
from sentry_sdk.tracing import Span, Transaction, _SpanRecorder

from .process import lock
from .sdk import RELEASE

#: Transaction status by outcome; outcomes that are missing keep the HTTP status.
#: ``failed`` is missing too: upstream's own ``__exit__`` sets ``internal_error``.
STATUS_BY_OUTCOME = {
    "cancelled": "cancelled",
    "timed_out": "deadline_exceeded",
    "abandoned": "aborted",
    "evicted": "aborted",
}

#: Attributes that a span gets anew when it is started.
_NEW = ("span_id", "start_timestamp", "_start_timestamp_monotonic_ns")


class StaticRoot:
    """The transaction of a request. The same methods as :class:`.spans.StreamRoot`."""

    __slots__ = ("span", "part", "_first_span_id", "_links")

    def __init__(self, span: Transaction, part: int = 0) -> None:
        self.span: Any = span
        #: The number of this part; 0: the transaction is sent as a whole.
        self.part = part
        self._first_span_id = ""
        self._links: "Optional[_Links]" = None

    @property
    def sampled(self) -> bool:
        return bool(self.span.sampled)

    @property
    def looks_up_user(self) -> bool:
        return self.sampled

    @property
    def collects_spans(self) -> bool:
        return self.span._span_recorder is not None

    def annotate(self, data: "Dict[str, Any]", outcome: str, op: "Optional[str]") -> None:
        """Set data, the status that goes with an outcome, and the op, if it is not ``None``."""
        if not self.sampled:
            return
        if op is not None:
            self.span.op = op
        if self.part:
            data["http.response.stream.part"] = self.part
        if RELEASE < (2, 12):  # such an SDK keeps a transaction's data to itself
            self.span.set_context("http.response.stream", data)
        for key, value in data.items():
            self.span.set_data(key, value)
        if outcome in STATUS_BY_OUTCOME:
            self.span.set_status(STATUS_BY_OUTCOME[outcome])

    def set_status(self, status: str) -> None:
        """Set the status of a transaction that is going to be sent."""
        if self.sampled:
            self.span.set_status(status)

    def stop_profile(self) -> None:
        for name in ("_profile", "_continuous_profile"):
            profile = getattr(self.span, name, None)  # depends on the release
            if profile is not None:
                profile.stop()

    # -- early sending -----------------------------------------------------------

    def detach(self) -> "StaticRoot":
        from .spans import copy_span

        copied = copy_span(self.span)
        if self.span._span_recorder is not None:
            self.span._span_recorder = LateSpans()
        self.span._profile = None
        self.span.timestamp = datetime.now(timezone.utc)
        return StaticRoot(copied, self.part)

    def late_spans(self) -> int:
        recorder = self.span._span_recorder
        return recorder.count if isinstance(recorder, LateSpans) else 0

    def send(self, context: Context) -> None:
        context.copy().run(self.span.finish)

    # -- parts -------------------------------------------------------------------

    def watch(self, make_room: "Callable[[], bool]") -> None:
        """Before a span would be lost to the SDK's limit, call ``make_room``.

        :param make_room: returns whether the span can be kept.
        """
        self.span._span_recorder = PartRecorder(self.span._span_recorder, make_room)

    @property
    def is_full(self) -> bool:
        """Whether the SDK would drop the next span."""
        return bool(self.span._span_recorder.is_full)

    @property
    def is_worth_sending(self) -> bool:
        """Whether at least half of the spans have ended, and would make room."""
        return bool(self.span._span_recorder.is_worth_sending)

    def begin_next(self, isolation_scope: Any) -> "StaticRoot":
        """Return a part with the spans that have ended, to be sent; the root goes on."""
        from .spans import copy_span

        root = self.span
        if not self.part:
            self.part, self._first_span_id = 1, root.span_id
            self._links = _Links(isolation_scope)
        sent = StaticRoot(copy_span(root), self.part)
        sent.span._span_recorder = root._span_recorder.take_ended()
        fresh = Span(trace_id=root.trace_id)
        for name in _NEW:
            setattr(root, name, getattr(fresh, name))
        root.parent_span_id = self._first_span_id
        root._profile = None
        if self._links is not None:
            self._links.add(root.span_id, sent.span.span_id)
        self.part += 1
        return sent


class LateSpans(_SpanRecorder):
    """Stands in for the recorder of a transaction that was sent: it only counts."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        super().__init__(0)
        self.count = 0

    def add(self, span: Any) -> None:
        """Count a span that comes too late. It is sent nowhere."""
        # Django sends signals at each close(): nobody misses the spans of these.
        if span.op != OP.EVENT_DJANGO:
            with lock:
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
        if self.is_full and not self._make_room():
            super().add(span)  # drops it, and counts that
        else:
            # Not by super(): threads that look at the same time exceed the limit by one
            # span each, and none is lost.
            self.spans.append(span)

    @property
    def is_full(self) -> bool:
        return len(self.spans) > self.maxlen

    @property
    def is_worth_sending(self) -> bool:
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


class _Links:
    """An event processor that links each part to the one before it."""

    def __init__(self, isolation_scope: Any) -> None:
        self._previous: "Dict[str, str]" = {}
        isolation_scope.add_event_processor(self)

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


def start_child(name: str, op: str, attributes: "Dict[str, Any]") -> Any:
    """Start a child of the active span, and make it the active one."""
    span = sentry_sdk.start_span(op=op)
    span.description = name  # the argument has had two names
    for key, value in attributes.items():
        span.set_data(key, value)
    return span.__enter__()
