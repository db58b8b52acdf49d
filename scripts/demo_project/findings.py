"""What became of the streams, as rows that the terminal and the page show, and as counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from rich.filesize import decimal

from sink import EnvelopeSink
from traces import Span, Trace, seconds, traces

if TYPE_CHECKING:
    from streams import Served

NAMES = {"stock": "stock", "ours": "vendored_integration"}
Json = Dict[str, Any]
Spans = List[Tuple[str, str]]  # the op and the name of each


class Row(NamedTuple):
    """Times are in seconds since the epoch; without them it is a line of text."""

    depth: int
    kind: str  # client, root, app, db, error; of a line of text: note, good, bad
    op: str
    name: str
    start: float = 0.0
    end: float = 0.0

    @property
    def duration(self) -> str:
        return milliseconds(self.end - self.start) if self.end > self.start else ""


class Finding(NamedTuple):
    """One stream with one of the integrations."""

    served: Served
    rows: List[Row]  # the first one is the client's
    counts: Dict[str, Tuple[int, int]]  # found, of how many
    duration: float  # of the transaction, in seconds


class Side(NamedTuple):
    """All streams with one of the integrations."""

    title: str
    findings: List[Finding]
    sums: List[Row]

    @property
    def clean(self) -> bool:
        return not any(row.kind == "bad" for row in self.sums)


def compare(title: str, all_served: List[Served], journal: List[Json], sink: EnvelopeSink) -> Side:
    """What the sink has received of the streams, beside what the journal says of their bodies."""
    arrived = traces(sink)
    findings = []
    for served in all_served:
        entries = [entry for entry in journal if entry["stream"] == served.stream.name]
        trace = next((trace for trace in arrived if trace.trace_id == served.trace_id), None)
        findings.append(_examine(served, trace, entries, sink.errors()))
    ids = {served.trace_id for served in all_served}
    others = [trace for trace in arrived if trace.trace_id not in ids]
    strays = [span for trace in others for span in [trace, *trace.spans]]
    return Side(title, findings, _sums(findings, _common(strays, _made(journal))))


def _made(journal: List[Json]) -> Spans:
    """The spans and queries of the bodies."""
    return [(entry["op"], entry["name"]) for entry in journal if entry["event"] == "span"]


def _sums(findings: List[Finding], strays: int) -> List[Row]:
    """The rows of the summary."""
    rows = []
    for title in findings[0].counts:
        found, of = map(sum, zip(*(finding.counts[title] for finding in findings)))
        rows.append(Row(0, "good" if found == of else "bad", title, f"{found} of {of}"))
    traced = sum(one.duration for one in findings)
    seen = sum(one.served.ended - one.served.started for one in findings)
    return [
        *rows,
        Row(0, "note", "spans of the bodies in traces of their own", str(strays)),
        Row(0, "note", "duration of the transactions", milliseconds(traced)),
        Row(0, "note", "duration that the client saw", milliseconds(seen)),
    ]


def _examine(
    served: Served, trace: Optional[Trace], journal: List[Json], events: List[Json]
) -> Finding:
    made = _made(journal)
    raised = [entry["value"] for entry in journal if entry["event"] == "error"]
    errors = [event for event in events if _exception(event).get("value") in raised]
    found = _common(trace.spans if trace else [], made)
    known = trace.span_ids if trace else set()
    lost = [event for event in errors if event["contexts"]["trace"]["span_id"] not in known]
    attached = len(errors) - len(lost)
    ends = {trace.status, trace.outcome} if trace else set()
    failed, cancelled = bool(ends & {"internal_error", "error"}), "cancelled" in ends
    hung_up = served.ending == "hung up"
    bound = [entry for entry in journal if entry["request_id"]]
    counts = {
        "spans of the bodies in their request's transaction": (found, len(made)),
        # A second event about an error is no better than none.
        "errors of the bodies at a span of that transaction": (
            len(raised) - abs(len(raised) - attached),
            len(raised),
        ),
        "failed streams whose transaction has failed": (len(raised) * failed, len(raised)),
        "hang-ups whose transaction is cancelled": (hung_up * cancelled, int(hung_up)),
        "log lines of the bodies with their request_id": (len(bound), len(journal)),
    }

    seen = f"{served.status}, {decimal(served.size)}, {served.ending}"
    rows = [Row(0, "client", "client:", seen, served.started, served.ended)]
    if trace is None:
        rows.append(Row(0, "bad", "", "no transaction has arrived"))
    else:
        title = f"{trace.name}  {trace.status}"
        rows.append(Row(0, "root", trace.op, title, trace.start, trace.end))
        if trace.outcome:
            rows.append(Row(0, "note", "", _outcome(trace)))
        rows += _below(trace, trace.span_id, errors)
    for event in lost:
        here = event["contexts"]["trace"]["trace_id"] == served.trace_id
        where = "this trace, but at a span that nobody has" if here else "another trace"
        rows += [Row(0, "bad", "", f"in {where}:"), _error(1, event)]
    if found < len(made):
        missing = f"{len(made) - found} of {len(made)} spans of the body are missing"
        rows.append(Row(0, "bad", "", missing))
    elif made:
        rows.append(Row(0, "good", "", f"all {len(made)} spans of the body are here"))
    return Finding(served, rows, counts, trace.duration if trace else 0.0)


def _below(trace: Trace, above: str, errors: List[Json], depth: int = 1) -> Iterator[Row]:
    """The spans and errors below a span; a span whose parent is missing is below the root."""
    for span in sorted(trace.spans, key=lambda one: one.start):
        parent = span.parent_span_id
        if (parent if parent in trace.span_ids else trace.span_id) == above:
            kind = "db" if span.op.startswith("db") else "app"
            yield Row(depth, kind, span.op, span.name, span.start, span.end)
            yield from _below(trace, span.span_id, errors, depth + 1)
    for event in errors:
        if event["contexts"]["trace"]["span_id"] == above:
            yield _error(depth, event)


def _error(depth: int, event: Json) -> Row:
    time, value = seconds(event["timestamp"]), _exception(event)
    return Row(depth, "error", f"! {value['type']}:", value["value"], time, time)


def _exception(event: Json) -> Json:
    values: List[Json] = (event.get("exception") or {}).get("values") or [{}]
    return values[-1]


def _outcome(trace: Trace) -> str:
    first = trace.data.get("http.response.stream.time_to_first_chunk")
    chunks = trace.data.get("http.response.stream.chunks")
    if not chunks or first is None:
        return f"stream {trace.outcome}"
    return f"stream {trace.outcome}, {chunks} chunks, first at {milliseconds(first / 1000)}"


def _common(spans: Sequence[Span], made: Spans) -> int:
    """How many of these spans a body has made."""
    return sum((Counter((span.op, span.name) for span in spans) & Counter(made)).values())


def milliseconds(duration: float) -> str:
    """:param duration: seconds"""
    value = duration * 1000
    return f"{value:,.{0 if value >= 9.95 else 1}f} ms"
