"""What the sink received about one request of the demo."""

from __future__ import annotations

from collections import Counter
from typing import Container, Iterator, List, NamedTuple, Optional, Tuple

from sink import EnvelopeSink, attributes
from traces import Span, Trace, seconds, traces


class Error(NamedTuple):
    type: str
    value: str
    trace_id: Optional[str]
    span_id: Optional[str]
    time: float  # seconds since the epoch

    def is_in(self, trace: Trace) -> bool:
        """Whether it is shown at one of these spans."""
        return self.trace_id == trace.trace_id and self.span_id in trace.span_ids


def request(sink: EnvelopeSink, trace_id: str) -> Optional[Trace]:
    """The transaction or the segment of this trace, once it has arrived."""
    return next((trace for trace in traces(sink) if trace.trace_id == trace_id), None)


def errors(sink: EnvelopeSink) -> Iterator[Error]:
    for event in sink.errors():
        trace = event.get("contexts", {}).get("trace", {})
        values = (event.get("exception") or {}).get("values") or [{}]
        yield Error(
            type=values[-1].get("type") or "",
            value=values[-1].get("value") or "",
            trace_id=trace.get("trace_id"),
            span_id=trace.get("span_id"),
            time=seconds(event["timestamp"]),
        )


def children(trace: Trace, span_id: str) -> List[Span]:
    """Those of a span, in order of time; a span whose parent is missing is the root's."""
    known = trace.span_ids
    return sorted(
        (
            span
            for span in trace.spans
            if (span.parent_span_id if span.parent_span_id in known else trace.span_id) == span_id
        ),
        key=lambda span: span.start,
    )


def strays(
    sink: EnvelopeSink, trace_ids: Container[str], expected: Counter[Tuple[str, str]]
) -> int:
    """How many of these (op, name) came as spans of other traces (stream lifecycle only)."""
    others = Counter(
        (attributes(span).get("sentry.op") or "", span.get("name") or "")
        for span in sink.spans()
        if span["trace_id"] not in trace_ids
    )
    return sum((others & expected).values())
