"""What Sentry has been told about one request, in one form for both lifecycles."""

from datetime import datetime
from typing import Any, Dict, List, NamedTuple, Optional

from sink import EnvelopeSink, attributes

Json = Dict[str, Any]


class Span(NamedTuple):
    name: Optional[str]
    op: Optional[str]
    span_id: str
    parent_span_id: Optional[str]
    start: float  # seconds since the epoch
    end: float


class Trace(NamedTuple):
    """A request's transaction, or its segment span, with the spans that belong to it."""

    name: str
    trace_id: str
    span_id: str
    status: Optional[str]
    data: Json  # static lifecycle: the span data of the transaction; stream lifecycle: attributes
    start: float
    end: float
    spans: List[Span]

    def named(self, name: str) -> Span:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, "%d spans named %r in %r" % (
            len(found),
            name,
            [span.name for span in self.spans],
        )
        return found[0]

    @property
    def outcome(self) -> Optional[str]:
        return self.data.get("http.response.stream.outcome")


def transactions(sink: EnvelopeSink, request_id: str) -> List[Trace]:
    """Those of the request with this `X-Request-Id`, in either lifecycle."""
    return [
        _from_event(event)
        for event in sink.transactions()
        if _header(event.get("request", {}).get("headers", {}), "x-request-id") == request_id
    ] + [
        _from_segment(segment, sink.spans())
        for segment in sink.segments()
        if attributes(segment).get("http.request.header.x-request-id") == request_id
    ]


def errors(sink: EnvelopeSink, message: str) -> List[Json]:
    """The error events of exceptions with this message, whichever request they name."""
    return [
        event
        for event in sink.errors()
        if any(
            value.get("value") == message
            for value in (event.get("exception") or {}).get("values", [])
        )
    ]


def _header(headers: Json, name: str) -> Optional[str]:
    return next((value for key, value in headers.items() if key.lower() == name), None)


def _from_event(event: Json) -> Trace:
    trace = event["contexts"]["trace"]
    return Trace(
        name=event["transaction"],
        trace_id=trace["trace_id"],
        span_id=trace["span_id"],
        status=trace.get("status"),
        # Up to 2.11 the SDK sends no data of a transaction.
        data=event["contexts"].get("http.response.stream") or trace.get("data", {}),
        start=_seconds(event["start_timestamp"]),
        end=_seconds(event["timestamp"]),
        spans=[
            Span(
                span.get("description"),
                span.get("op"),
                span["span_id"],
                span.get("parent_span_id"),
                _seconds(span["start_timestamp"]),
                _seconds(span["timestamp"]),
            )
            for span in event["spans"]
            if span["trace_id"] == trace["trace_id"]
        ],
    )


def _from_segment(segment: Json, spans: List[Json]) -> Trace:
    return Trace(
        name=segment["name"],
        trace_id=segment["trace_id"],
        span_id=segment["span_id"],
        status=segment.get("status"),
        data=attributes(segment),
        start=segment["start_timestamp"],
        end=segment["end_timestamp"],
        spans=[
            Span(
                span.get("name"),
                attributes(span).get("sentry.op"),
                span["span_id"],
                span.get("parent_span_id"),
                span["start_timestamp"],
                span["end_timestamp"],
            )
            for span in spans
            if not span["is_segment"]
            and span["trace_id"] == segment["trace_id"]
            and attributes(span).get("sentry.segment.id") == segment["span_id"]
        ],
    )


def _seconds(timestamp: Any) -> float:
    if isinstance(timestamp, (int, float)):
        return float(timestamp)
    # Before Python 3.11 fromisoformat() does not know the Z.
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
