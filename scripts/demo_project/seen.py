"""What the sink received about one request, in one form for both trace lifecycles."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Container, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from sink import EnvelopeSink, attributes

Json = Dict[str, Any]


class Error(NamedTuple):
    type: str
    value: str
    trace_id: Optional[str]
    span_id: Optional[str]


class Span(NamedTuple):
    op: str
    name: str
    span_id: str
    parent_id: Optional[str]
    start: float  # seconds since the epoch
    end: float

    @property
    def duration(self) -> float:
        return self.end - self.start


class Request(NamedTuple):
    """A transaction, or a segment with its spans."""

    root: Span
    trace_id: str
    status: str
    data: Json
    spans: List[Span]

    @property
    def outcome(self) -> Optional[str]:
        return self.data.get("http.response.stream.outcome")

    @property
    def span_ids(self) -> Set[str]:
        return {self.root.span_id, *(span.span_id for span in self.spans)}

    def holds(self, error: Error) -> bool:
        """Whether an error is shown at one of these spans."""
        return error.trace_id == self.trace_id and error.span_id in self.span_ids

    def children(self, span_id: str) -> List[Span]:
        """Those of a span, in order of time; a span whose parent is missing is the root's."""
        known = self.span_ids
        return sorted(
            (
                span
                for span in self.spans
                if (span.parent_id if span.parent_id in known else self.root.span_id) == span_id
            ),
            key=lambda span: span.start,
        )

    def found(self, expected: Counter[Tuple[str, str]]) -> int:
        """How many of these (op, name) are among the spans."""
        mine = Counter((span.op, span.name) for span in self.spans)
        return sum((mine & expected).values())


def request(sink: EnvelopeSink, trace_id: str) -> Optional[Request]:
    """The transaction or the segment of this trace, once it has arrived."""
    for event in sink.transactions():
        if event["contexts"]["trace"]["trace_id"] == trace_id:
            return _from_transaction(event)
    spans = [span for span in sink.spans() if span["trace_id"] == trace_id]
    for span in spans:
        if span.get("is_segment"):
            return _from_segment(span, spans)
    return None


def errors(sink: EnvelopeSink) -> Iterator[Error]:
    for event in sink.errors():
        trace = event.get("contexts", {}).get("trace", {})
        values = (event.get("exception") or {}).get("values") or [{}]
        yield Error(
            type=values[-1].get("type") or "",
            value=values[-1].get("value") or "",
            trace_id=trace.get("trace_id"),
            span_id=trace.get("span_id"),
        )


def strays(
    sink: EnvelopeSink, trace_ids: Container[str], expected: Counter[Tuple[str, str]]
) -> int:
    """How many of these (op, name) came as spans of other traces (stream lifecycle only)."""
    others = Counter(_name(span) for span in sink.spans() if span["trace_id"] not in trace_ids)
    return sum((others & expected).values())


def _name(span: Json) -> Tuple[str, str]:
    return attributes(span).get("sentry.op") or "", span.get("name") or ""


def _from_transaction(event: Json) -> Request:
    trace = event["contexts"]["trace"]
    return Request(
        root=Span(
            trace.get("op") or "",
            event.get("transaction") or "",
            trace["span_id"],
            None,
            _seconds(event["start_timestamp"]),
            _seconds(event["timestamp"]),
        ),
        trace_id=trace["trace_id"],
        status=trace.get("status") or "",
        data=trace.get("data") or {},
        spans=[
            Span(
                span.get("op") or "",
                span.get("description") or "",
                span["span_id"],
                span.get("parent_span_id"),
                _seconds(span["start_timestamp"]),
                _seconds(span["timestamp"]),
            )
            for span in event["spans"]
            if span["trace_id"] == trace["trace_id"]
        ],
    )


def _from_segment(segment: Json, spans: List[Json]) -> Request:
    def convert(span: Json) -> Span:
        return Span(
            *_name(span),
            span["span_id"],
            span.get("parent_span_id"),
            _seconds(span["start_timestamp"]),
            _seconds(span["end_timestamp"]),
        )

    return Request(
        root=convert(segment),
        trace_id=segment["trace_id"],
        status=segment.get("status") or "",
        data=attributes(segment),
        spans=[convert(span) for span in spans if not span.get("is_segment")],
    )


def _seconds(timestamp: Any) -> float:
    if isinstance(timestamp, (int, float)):
        return float(timestamp)
    # Before Python 3.11 fromisoformat() does not know the Z.
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
