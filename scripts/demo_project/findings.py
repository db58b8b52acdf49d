"""What became of the streams. Every number is counted in what the sink and the client
received, and in the journal that the project kept; the terminal's report and the page show
the same ones."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, List, NamedTuple, Optional, Tuple, Union

import seen
from units import milliseconds, size

from sink import EnvelopeSink
from traces import Trace

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


class Made(NamedTuple):
    """A span or a query of the body, as the journal has it."""

    op: str
    name: str
    start: float  # seconds since the epoch
    end: float
    depth: int  # how many others were open


class Detached(NamedTuple):
    """An error of the body that is at no span of the request's transaction."""

    error: seen.Error
    whereabouts: str


class Finding(NamedTuple):
    """One stream: what the body did, and what Sentry was told of it."""

    served: Served
    request: Optional[Trace]
    attached: List[seen.Error]  # raised by the body, at a span of this transaction
    detached: List[Detached]
    made: List[Made]  # in order of time
    missing: List[Made]  # those that are not in the request's transaction

    @property
    def spans(self) -> Count:
        return Count(len(self.made) - len(self.missing), len(self.made))

    @property
    def raised(self) -> int:
        return sum(entry["event"] == "error" for entry in self.served.journal)

    @property
    def errors(self) -> Count:
        """Errors that are at their place; a second event about one is no gain."""
        return Count(min(self.raised, len(self.attached)), self.raised)

    @property
    def log_lines(self) -> Count:
        journal = self.served.journal
        return Count(sum("request_id" in entry for entry in journal), len(journal))

    @property
    def failure_seen(self) -> bool:
        return self.request is not None and self.request.status in ("internal_error", "error")

    @property
    def hung_up(self) -> bool:
        return self.served.ending == "hung up"

    @property
    def hang_up_seen(self) -> bool:
        request = self.request
        return request is not None and "cancelled" in (request.status, request.outcome)

    @property
    def duration(self) -> float:
        return self.request.duration if self.request else 0.0

    # -- in words

    @property
    def of_client(self) -> str:
        return f"{self.served.status}, {size(self.served.size)}, {self.served.ending}"

    @property
    def of_spans(self) -> str:
        found, total = self.spans
        if found == total:
            return f"all {total} spans of the body are here"
        return f"{total - found} of {total} spans of the body are missing"


def examine(served: Served, sink: EnvelopeSink) -> Finding:
    raised = [
        (entry["type"], entry["value"]) for entry in served.journal if entry["event"] == "error"
    ]
    request = seen.request(sink, served.trace_id)
    attached: List[seen.Error] = []
    detached: List[Detached] = []
    for error in seen.errors(sink):
        if (error.type, error.value) not in raised:
            continue
        if request is not None and error.is_in(request):
            attached.append(error)
        else:
            detached.append(Detached(error, _whereabouts(error, served, sink)))
    made = _made(served.journal)
    return Finding(served, request, attached, detached, made, _missing(made, request))


def _made(journal: List[Dict[str, Any]]) -> List[Made]:
    """The body's spans and queries, which are written down when they end."""
    made = [
        Made(
            op="db" if entry["event"] == "query" else entry["op"],
            name=entry["sql"] if entry["event"] == "query" else entry["name"],
            start=entry["time"] - entry["seconds"],
            end=entry["time"],
            depth=entry["depth"],
        )
        for entry in journal
        if entry["event"] in ("span", "query")
    ]
    return sorted(made, key=lambda one: (one.start, one.depth))


def _missing(made: List[Made], request: Optional[Trace]) -> List[Made]:
    here = Counter((span.op, span.name) for span in request.spans) if request else Counter()
    missing = []
    for one in made:
        if here[one.op, one.name]:
            here[one.op, one.name] -= 1
        else:
            missing.append(one)
    return missing


def _whereabouts(error: seen.Error, served: Served, sink: EnvelopeSink) -> str:
    if error.trace_id == served.trace_id:
        return "in this trace, but at a span that nobody has:"
    known = error.trace_id and seen.request(sink, error.trace_id)
    return f"in another trace, {'with' if known else 'without'} a transaction:"


class Side(NamedTuple):
    """All streams with one of the integrations."""

    name: str  # a key of NAMES
    findings: List[Finding]
    strays: int  # spans of the bodies in traces of their own

    @property
    def title(self) -> str:
        return NAMES[self.name]

    @property
    def spans(self) -> Count:
        return _sum([one.spans for one in self.findings])

    @property
    def errors(self) -> Count:
        return _sum([one.errors for one in self.findings])

    @property
    def error_events(self) -> int:
        return sum(len(one.attached) + len(one.detached) for one in self.findings)

    @property
    def clean(self) -> bool:
        """Whether nothing is lost, and nothing told twice."""
        return self.spans.all and self.errors.all and self.error_events == self.errors.total

    @property
    def verdict(self) -> str:
        spans, errors = self.spans, self.errors
        parts = [f"{spans.total - spans.found - self.strays} of {spans.total} spans lost"]
        if self.strays:
            parts.append(f"{self.strays} in traces of their own")
        parts.append(
            f"{errors.total - errors.found} of {errors.total} errors without its transaction"
        )
        if self.error_events != errors.total:
            parts.append(f"{self.error_events} events for them")
        return ", ".join(parts) + "."

    @property
    def sums(self) -> List[Tuple[str, Union[Count, str]]]:
        """The rows of the summary."""
        failed = [one.failure_seen for one in self.findings if one.raised]
        left = [one.hang_up_seen for one in self.findings if one.hung_up]
        return [
            ("spans of the bodies in their request's transaction", self.spans),
            ("errors of the bodies at a span of that transaction", self.errors),
            ("failed streams whose transaction has failed", Count(sum(failed), len(failed))),
            ("hang-ups whose transaction is cancelled", Count(sum(left), len(left))),
            (
                "log lines of the bodies with their request_id",
                _sum([one.log_lines for one in self.findings]),
            ),
            (
                "duration of the transactions",
                milliseconds(sum(one.duration for one in self.findings)),
            ),
            (
                "duration that the client saw",
                milliseconds(sum(one.served.seconds for one in self.findings)),
            ),
        ]


def compare(runs: Dict[str, List[Served]], sinks: Dict[str, EnvelopeSink]) -> List[Side]:
    return [_side(name, served, sinks[name]) for name, served in runs.items()]


def _side(name: str, all_served: List[Served], sink: EnvelopeSink) -> Side:
    findings = [examine(served, sink) for served in all_served]
    trace_ids = [served.trace_id for served in all_served]
    made = Counter((one.op, one.name) for finding in findings for one in finding.made)
    return Side(name, findings, seen.strays(sink, trace_ids, made))


def _sum(counts: List[Count]) -> Count:
    return Count(sum(one.found for one in counts), sum(one.total for one in counts))
