"""What became of the streams: counted in what the client and the sink have received, and in the
journal that the project kept. The terminal and the page show the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from sink import EnvelopeSink
from traces import Span, Trace, seconds, traces

if TYPE_CHECKING:
    from run import Served

NAMES = {"stock": "stock", "ours": "vendored_integration"}


class Count(NamedTuple):
    found: int
    total: int

    @property
    def all(self) -> bool:
        return self.found == self.total

    def __str__(self) -> str:
        return f"{self.found} of {self.total}"

    @classmethod
    def sum(cls, counts: List[Count]) -> Count:
        return cls(sum(one.found for one in counts), sum(one.total for one in counts))


@dataclass
class Node:
    """A span or an error, with what is below it. Times are in seconds since the epoch."""

    kind: str  # root, app, db, error, missing
    op: str
    name: str
    start: float
    end: float
    children: List[Node] = field(default_factory=list)


@dataclass
class Finding:
    """One stream: what its body did, and what Sentry was told of it."""

    served: Served
    request: Optional[Trace]
    tree: Optional[Node]  # the transaction, with its spans and the body's errors
    attached: int  # events of the body's errors that are at a span of the transaction
    detached: List[Node]  # the body's errors that are at no span of the transaction
    whereabouts: str  # of these
    made: List[Node]  # spans and queries of the body, in order of time
    missing: List[Node]  # those that are not in the transaction, nested

    @property
    def spans(self) -> Count:
        return Count(_common(self.request.spans if self.request else [], self.made), len(self.made))

    @property
    def raised(self) -> int:
        return sum(entry["event"] == "error" for entry in self.served.journal)

    @property
    def errors(self) -> Count:
        # A second event about an error is no better than none.
        return Count(self.raised - abs(self.raised - self.attached), self.raised)

    @property
    def log_lines(self) -> Count:
        journal = self.served.journal
        return Count(sum("request_id" in entry for entry in journal), len(journal))

    @property
    def unseen(self) -> str:
        """What the transaction's status does not say; empty: it says what happened."""
        status = self.request.status if self.request else ""
        if self.raised and status not in ("internal_error", "error"):
            return "the body failed"
        outcome = self.request.outcome if self.request else ""
        if self.served.ending == "hung up" and "cancelled" not in (status, outcome):
            return "the client hung up"
        return ""

    @property
    def of_client(self) -> str:
        return f"{self.served.status}, {size(self.served.size)}, {self.served.ending}"

    @property
    def of_stream(self) -> str:
        """The outcome, with the chunks; empty: the transaction has none."""
        if self.request is None or self.request.outcome is None:
            return ""
        text = f"stream {self.request.outcome}"
        first = self.request.data.get("http.response.stream.time_to_first_chunk")
        chunks = self.request.data.get("http.response.stream.chunks")
        if chunks and first is not None:
            text += f", {chunks} chunks, first at {milliseconds(first / 1000)}"
        return text

    @property
    def of_spans(self) -> str:
        found, total = self.spans
        if found == total:
            return f"all {total} spans of the body are here"
        return f"{total - found} of {total} spans of the body are missing"


def examine(served: Served, sink: EnvelopeSink) -> Finding:
    request = next((one for one in traces(sink) if one.trace_id == served.trace_id), None)
    errors: Dict[str, List[Node]] = {}  # by span
    detached, whereabouts = [], ""
    raised = [entry["value"] for entry in served.journal if entry["event"] == "error"]
    for event in sink.errors():
        node = _error(event)
        if node.name not in raised:
            continue
        trace = event["contexts"]["trace"]
        if (
            request
            and trace["trace_id"] == served.trace_id
            and trace["span_id"] in request.span_ids
        ):
            errors.setdefault(trace["span_id"], []).append(node)
        else:
            detached.append(node)
            whereabouts = "in another trace:"
            if trace["trace_id"] == served.trace_id:
                whereabouts = "in this trace, but at a span that nobody has:"
    made = _made(served.journal)
    tree = _grow(request, request, errors) if request else None
    attached = sum(map(len, errors.values()))
    missing = _missing(made, request)
    return Finding(served, request, tree, attached, detached, whereabouts, made, missing)


def _error(event: Dict[str, Any]) -> Node:
    (*_, value) = (event.get("exception") or {}).get("values") or [{}]
    time = seconds(event["timestamp"])
    return Node("error", value.get("type") or "", value.get("value") or "", time, time)


def _grow(request: Trace, span: Span, errors: Dict[str, List[Node]]) -> Node:
    """The spans below each other; a span whose parent is missing is below the root."""
    node = _node(span, "root" if span is request else "")
    for child in sorted(request.spans, key=lambda one: one.start):
        parent = child.parent_span_id
        if (parent if parent in request.span_ids else request.span_id) == span.span_id:
            node.children.append(_grow(request, child, errors))
    node.children += errors.get(span.span_id, [])
    return node


def _node(span: Span, kind: str) -> Node:
    kind = kind or ("db" if span.op.startswith("db") else "app")
    return Node(kind, span.op or "-", span.name, span.start, span.end)


def _made(journal: List[Dict[str, Any]]) -> List[Node]:
    """The body's spans and queries, which are written down when they end, nested."""
    made: List[Tuple[int, Node]] = []
    for entry in journal:
        if entry["event"] in ("span", "query"):
            start = entry["time"] - entry["seconds"]
            op, name = entry.get("op", "db"), entry.get("name") or entry["sql"]
            made.append((entry["depth"], Node("missing", op, name, start, entry["time"])))
    made.sort(key=lambda one: (one[1].start, one[0]))
    opened: List[Tuple[int, Node]] = []
    for depth, node in made:
        while opened and opened[-1][0] >= depth:
            opened.pop()
        if opened:
            opened[-1][1].children.append(node)
        opened.append((depth, node))
    return [node for _, node in made]


def _missing(made: List[Node], request: Optional[Trace]) -> List[Node]:
    """Those that are not in the transaction. A body loses none of its spans, or all."""
    known = {(span.op, span.name) for span in request.spans} if request else set()
    below = {id(child) for node in made for child in node.children}
    return [node for node in made if (node.op, node.name) not in known and id(node) not in below]


@dataclass
class Side:
    """All streams with one of the integrations."""

    name: str  # a key of NAMES
    findings: List[Finding]
    strays: int  # spans of the bodies in traces of their own (stream lifecycle)

    @property
    def title(self) -> str:
        return NAMES[self.name]

    @property
    def spans(self) -> Count:
        return Count.sum([one.spans for one in self.findings])

    @property
    def errors(self) -> Count:
        return Count.sum([one.errors for one in self.findings])

    @property
    def clean(self) -> bool:
        return self.spans.all and self.errors.all

    @property
    def verdict(self) -> str:
        spans, errors = self.spans, self.errors
        strays = f", {self.strays} in traces of their own" if self.strays else ""
        return (
            f"{spans.total - spans.found - self.strays} of {spans.total} spans lost{strays}, "
            f"{errors.total - errors.found} of {errors.total} errors without its transaction."
        )

    @property
    def sums(self) -> List[Tuple[str, Union[Count, str]]]:
        """The rows of the summary."""
        failed = [not one.unseen for one in self.findings if one.raised]
        left = [not one.unseen for one in self.findings if one.served.ending == "hung up"]
        duration = sum(one.request.duration for one in self.findings if one.request)
        seen = sum(one.served.seconds for one in self.findings)
        lines = Count.sum([one.log_lines for one in self.findings])
        return [
            ("spans of the bodies in their request's transaction", self.spans),
            ("errors of the bodies at a span of that transaction", self.errors),
            ("failed streams whose transaction has failed", Count(sum(failed), len(failed))),
            ("hang-ups whose transaction is cancelled", Count(sum(left), len(left))),
            ("log lines of the bodies with their request_id", lines),
            ("duration of the transactions", milliseconds(duration)),
            ("duration that the client saw", milliseconds(seen)),
        ]


def compare(runs: Dict[str, List[Served]], sinks: Dict[str, EnvelopeSink]) -> List[Side]:
    sides = []
    for name, all_served in runs.items():
        findings = [examine(served, sinks[name]) for served in all_served]
        ours = {served.trace_id for served in all_served}
        others = [trace for trace in traces(sinks[name]) if trace.trace_id not in ours]
        strays = [span for one in others for span in [one, *one.spans]]
        made = [node for one in findings for node in one.made]
        sides.append(Side(name, findings, _common(strays, made)))
    return sides


def _common(spans: Sequence[Span], made: List[Node]) -> int:
    """How many of these spans a body has made."""
    wanted = Counter((node.op, node.name) for node in made)
    return sum((Counter((span.op, span.name) for span in spans) & wanted).values())


# -- numbers and names


def milliseconds(duration: float) -> str:
    """:param duration: seconds"""
    value = duration * 1000
    return f"{value:,.{0 if value >= 9.95 else 1}f} ms"


def size(count: float) -> str:
    """:param count: bytes"""
    if count < 1000:
        return f"{count:.0f} bytes"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def label(node: Node) -> str:
    """The name on one line."""
    return " ".join(node.name.replace('"', "" if node.op == "db" else '"').split())
