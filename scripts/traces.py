"""What Sentry has received about requests, in one form for both trace lifecycles.

sink.wait_for(lambda sink: traces(sink))[0].named("a span of the body").duration
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Dict, List, Optional, Protocol, Set

from sink import attributes

Json = Dict[str, Any]

_HEADER = "http.request.header."


class Source(Protocol):
    """An `EnvelopeSink`, or what is like it."""

    def transactions(self) -> List[Json]: ...
    def spans(self) -> List[Json]: ...


@dataclass(frozen=True)
class Span:
    name: str
    op: str
    span_id: str
    parent_span_id: Optional[str]
    start: float  # seconds since the epoch
    end: float
    status: str
    data: Json  # stream lifecycle: the attributes

    @property
    def duration(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Trace(Span):
    """A transaction, or a segment span, with the spans that belong to it."""

    trace_id: str
    headers: Dict[str, str]  # of the HTTP request, as far as they were sent; names in lower case
    spans: List[Span]

    @property
    def outcome(self) -> Optional[str]:
        return self.data.get("http.response.stream.outcome")

    @property
    def span_ids(self) -> Set[str]:
        return {self.span_id, *(span.span_id for span in self.spans)}

    def names(self) -> List[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> Span:
        """The one span of this name. Errors: `LookupError`."""
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} spans named {name!r} in {self.names()}")
        return found[0]

    def parent_of(self, name: str) -> Optional[str]:
        """The name of a span's parent; `None` if that is the root."""
        parent_id = self.named(name).parent_span_id
        by_id = {span.span_id: span.name for span in self.spans}
        return None if parent_id == self.span_id else by_id[parent_id or ""]


def traces(source: Source) -> List[Trace]:
    """All that have arrived; of the stream lifecycle those whose segment span has."""
    spans = source.spans()
    return [_of_transaction(event) for event in source.transactions()] + [
        _of_segment(span, spans) for span in spans if span.get("is_segment")
    ]


def _of_transaction(event: Json) -> Trace:
    trace = event["contexts"]["trace"]
    headers = (event.get("request") or {}).get("headers") or {}
    # Up to 2.11 the SDK sends no data of a transaction.
    data = event["contexts"].get("http.response.stream") or trace.get("data")
    named = {"description": event.get("transaction"), "data": data, "tags": None}
    return Trace(
        **_span({**event, **trace, **named}),
        trace_id=trace["trace_id"],
        headers={name.lower(): value for name, value in headers.items()},
        spans=[
            Span(**_span(span)) for span in event["spans"] if span["trace_id"] == trace["trace_id"]
        ],
    )


def _of_segment(segment: Json, spans: List[Json]) -> Trace:
    data = attributes(segment)
    names = [name for name in data if name.startswith(_HEADER)]
    return Trace(
        **_span(segment),
        trace_id=segment["trace_id"],
        headers={name[len(_HEADER) :]: _text(data[name]) for name in names},
        spans=[
            Span(**_span(span))
            for span in spans
            if not span.get("is_segment")
            and span["trace_id"] == segment["trace_id"]
            and attributes(span).get("sentry.segment.id") == segment["span_id"]
        ],
    )


def _text(header: Any) -> str:
    """From SDK 3.0 on a header is a list of its values."""
    return ", ".join(header) if isinstance(header, list) else str(header)


def _span(span: Json) -> Json:
    """The fields of a `Span`; the two lifecycles name some differently."""
    return {
        "name": span.get("description") or span.get("name") or "",
        "op": span.get("op") or attributes(span).get("sentry.op") or "",
        "span_id": span["span_id"],
        "parent_span_id": span.get("parent_span_id"),
        "start": seconds(span["start_timestamp"]),
        "end": seconds(span.get("timestamp") or span["end_timestamp"]),
        # Up to 2.33 the status of a span that is no transaction is a tag.
        "status": span.get("status") or (span.get("tags") or {}).get("status") or "",
        "data": span.get("data") or attributes(span),
    }


def seconds(timestamp: Any) -> float:
    """Since the epoch: events have a number or a text, as the SDK's release likes."""
    if isinstance(timestamp, (int, float)):
        return float(timestamp)
    # Before Python 3.11 fromisoformat() does not know the Z.
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()
