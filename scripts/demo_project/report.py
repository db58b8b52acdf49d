"""What the demo prints. Every number is counted in what the sink and the client received,
and in the journal that the project kept."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections import Counter
from importlib import metadata
from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional, Tuple

import seen
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sink import EnvelopeSink
from traces import Span, Trace

if TYPE_CHECKING:
    from run import Served

NAMES = {"stock": "stock", "ours": "vendored_integration"}

PIPE_WIDTH = 100  # columns, where there is no terminal to ask
MOST_WIDTH = 140
# Below this, two trees beside each other cannot be read.
BESIDE_WIDTH = 80

# More siblings than this of one kind are cut short.
MOST_SIBLINGS = 6


def sdk_streams_spans() -> bool:
    return importlib.util.find_spec("sentry_sdk.traces") is not None


class Finding(NamedTuple):
    """One stream: what the body did, and what Sentry was told of it."""

    served: Served
    request: Optional[Trace]
    attached: List[seen.Error]  # raised by the body, at a span of this transaction
    detached: List[seen.Error]  # raised by the body, anywhere else
    expected: Counter[Tuple[str, str]]  # the spans and queries of the body: (op, name)

    @property
    def found(self) -> int:
        return seen.found(self.request, self.expected) if self.request else 0

    @property
    def spans(self) -> int:
        return sum(self.expected.values())

    @property
    def raised(self) -> int:
        return sum(entry["event"] == "error" for entry in self.served.journal)

    @property
    def reported(self) -> int:
        """Errors that are at their place; a second event about one is no gain."""
        return min(self.raised, len(self.attached))

    @property
    def failure_seen(self) -> bool:
        return self.request is not None and self.request.status in ("internal_error", "error")

    @property
    def hang_up_seen(self) -> bool:
        request = self.request
        return request is not None and "cancelled" in (request.status, request.outcome)

    @property
    def duration(self) -> float:
        return self.request.duration if self.request else 0.0


def examine(served: Served, sink: EnvelopeSink) -> Finding:
    expected: Counter[Tuple[str, str]] = Counter()
    raised = []
    for entry in served.journal:
        if entry["event"] == "span":
            expected[entry["op"], entry["name"]] += 1
        elif entry["event"] == "query":
            expected["db", entry["sql"]] += 1
        elif entry["event"] == "error":
            raised.append((entry["type"], entry["value"]))
    request = seen.request(sink, served.trace_id)
    attached: List[seen.Error] = []
    detached: List[seen.Error] = []
    for error in seen.errors(sink):
        if (error.type, error.value) in raised:
            place = attached if request is not None and error.is_in(request) else detached
            place.append(error)
    return Finding(served, request, attached, detached, expected)


class Screen:
    """The terminal, or the file, that the report goes to."""

    def __init__(self, width: Optional[int] = None, color: bool = True) -> None:
        terminal = sys.stdout.isatty()
        color = color and terminal and not os.environ.get("NO_COLOR")
        # What the encoding cannot show must not end the demo; box characters are rich's.
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")
        if width is None and not terminal:
            width = PIPE_WIDTH
        self.console = Console(
            width=width,
            color_system="auto" if color else None,
            force_terminal=terminal,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        if width is None and self.console.width > MOST_WIDTH:
            self.console.width = MOST_WIDTH

    # -- on the way

    def versions(self) -> None:
        names = ("sentry-sdk", "vendored-integration", "Django", "gunicorn")
        text = ", ".join(f"{name} {metadata.version(name)}" for name in names)
        self.console.print(Text(f"{text}, Python {platform.python_version()}", "dim"))

    def served(self, integration: str, served: List[Served], seconds: float) -> None:
        size = sum(one.size for one in served)
        self.console.print(
            f"{NAMES[integration]}: {len(served)} streams, {_size(size)}, served in {seconds:.1f} s"
        )

    # -- with a real Sentry

    def sent(self, runs: Dict[str, List[Served]], host: str) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("stream", no_wrap=True)
        for integration in runs:
            table.add_column(f"trace with {NAMES[integration]}", no_wrap=True)
        for both in zip(*runs.values()):
            table.add_row(both[0].stream.target, *(one.trace_id for one in both))
        self.console.print()
        self.console.print(table)
        self.console.print()
        self.console.print(
            f"The SDK was given {host} to send to. Look there for these trace ids, or for the "
            f"environments {' and '.join('demo-' + name for name in runs)}."
        )

    # -- with the sink

    def compare(self, runs: Dict[str, List[Served]], sinks: Dict[str, EnvelopeSink]) -> bool:
        """Print both sides of every stream, then the sums; whether ours lost nothing."""
        findings = {name: [examine(served, sinks[name]) for served in runs[name]] for name in runs}
        for both in zip(*findings.values()):
            stream = both[0].served.stream
            self.console.print()
            self.console.print(Text.assemble((stream.title, "bold"), f"  GET {stream.target}"))
            self._beside(list(findings), list(both), sinks)
        self.console.print()
        return self._sums(findings, sinks)

    def _beside(
        self, names: List[str], both: List[Finding], sinks: Dict[str, EnvelopeSink]
    ) -> None:
        cells = [Group(*_account(finding, sinks[name])) for name, finding in zip(names, both)]
        table = Table(box=box.ROUNDED, expand=True)
        if self.console.width >= BESIDE_WIDTH:
            for name in names:
                table.add_column(NAMES[name], ratio=1)
            table.add_row(*cells)
            self.console.print(table)
            return
        for name, cell in zip(names, cells):
            table = Table(box=box.ROUNDED, expand=True)
            table.add_column(NAMES[name])
            table.add_row(cell)
            self.console.print(table)

    def _sums(self, findings: Dict[str, List[Finding]], sinks: Dict[str, EnvelopeSink]) -> bool:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("All streams")
        for name in findings:
            table.add_column(NAMES[name], justify="right", no_wrap=True)

        def row(title: str, *counts: Tuple[int, int]) -> None:
            table.add_row(title, *(_of(found, total) for found, total in counts))

        sides = list(findings.values())
        spans = [(sum(one.found for one in side), sum(one.spans for one in side)) for side in sides]
        errors = [
            (sum(one.reported for one in side), sum(one.raised for one in side)) for side in sides
        ]
        row("spans of the bodies in their request's transaction", *spans)
        row("errors of the bodies at a span of that transaction", *errors)
        failed = [[one for one in side if one.raised] for side in sides]
        row(
            "failed streams whose transaction has failed",
            *((sum(one.failure_seen for one in side), len(side)) for side in failed),
        )
        left = [[one for one in side if one.served.ending == "hung up"] for side in sides]
        row(
            "hang-ups whose transaction is cancelled",
            *((sum(one.hang_up_seen for one in side), len(side)) for side in left),
        )
        lines = [[entry for one in side for entry in one.served.journal] for side in sides]
        row(
            "log lines of the bodies with their request_id",
            *((sum("request_id" in line for line in side), len(side)) for side in lines),
        )
        table.add_row(
            "duration of the transactions",
            *(_ms(sum(one.duration for one in side)) for side in sides),
        )
        table.add_row(
            "duration that the client saw",
            *(_ms(sum(one.served.seconds for one in side)) for side in sides),
        )
        self.console.print(table)
        self.console.print()

        clean = True
        for name, (found, total), (reported, raised) in zip(findings, spans, errors):
            events = sum(len(one.attached) + len(one.detached) for one in findings[name])
            # The last one is ours.
            clean = found == total and reported == raised == events
            strays = seen.strays(
                sinks[name],
                [one.served.trace_id for one in findings[name]],
                sum((one.expected for one in findings[name]), Counter()),
            )
            parts = [f"{total - found - strays} of {total} spans lost"]
            if strays:
                parts.append(f"{strays} in traces of their own")
            parts.append(f"{raised - reported} of {raised} errors without its transaction")
            if events != raised:
                parts.append(f"{events} events for them")
            text = Text(f"{NAMES[name]}: ", "bold green" if clean else "bold red")
            text.append(", ".join(parts) + ".")
            self.console.print(text)
        return clean


def _account(finding: Finding, sink: EnvelopeSink) -> Iterator[RenderableType]:
    """One side of one stream."""
    served, request = finding.served, finding.request
    yield _line(
        Text(f"client: {served.status}, {_size(served.size)}, {served.ending}"),
        _ms(served.seconds),
    )
    if request is None:
        yield Text("no transaction has arrived", "red")
    else:
        yield _tree(request, finding.attached)
    for error in finding.detached:
        tree = Tree(Text(_whereabouts(error, served, sink), "red"), guide_style="dim")
        tree.add(_error(error))
        yield tree
    if finding.spans:
        lost = finding.spans - finding.found
        yield Text(
            f"{lost} of {finding.spans} spans of the body are missing"
            if lost
            else f"all {finding.spans} spans of the body are here",
            "red" if lost else "green",
        )


def _whereabouts(error: seen.Error, served: Served, sink: EnvelopeSink) -> str:
    """Where an error is that is not at a span of its request's transaction."""
    if error.trace_id == served.trace_id:
        return "in this trace, but at a span that nobody has:"
    known = error.trace_id and seen.request(sink, error.trace_id)
    return f"in another trace, {'with' if known else 'without'} a transaction:"


def _tree(request: Trace, errors: List[seen.Error]) -> Tree:
    """The spans below each other, each error at the span that was open when it was raised."""

    def grow(tree: Tree, span: Span) -> None:
        siblings = seen.children(request, span.span_id)
        seen_of: Counter[str] = Counter()
        total = Counter(child.op for child in siblings)
        for child in siblings:
            seen_of[child.op] += 1
            # The last one is shown: it is where a failed stream ends.
            if total[child.op] > MOST_SIBLINGS and (
                MOST_SIBLINGS - 1 <= seen_of[child.op] < total[child.op]
            ):
                if seen_of[child.op] == MOST_SIBLINGS - 1:
                    cut = total[child.op] - MOST_SIBLINGS + 1
                    tree.add(Text(f"... {cut} more of {child.op}", "dim"))
                continue
            grow(tree.add(_line(_name(child), _ms(child.duration))), child)
        for error in errors:
            if error.span_id == span.span_id:
                tree.add(_error(error))

    label = Group(
        _line(
            Text.assemble(_name(request), "  ", _status(request)),
            _ms(request.duration),
        ),
        *_details(request),
    )
    tree = Tree(label, guide_style="dim")
    grow(tree, request)
    return tree


def _details(request: Trace) -> Iterator[Text]:
    if request.outcome is None:
        return
    text = f"stream {request.outcome}"
    chunks = request.data.get("http.response.stream.chunks")
    first = request.data.get("http.response.stream.time_to_first_chunk")
    if chunks and first is not None:
        text += f", {chunks} chunks, first at {_ms(first / 1000)}"
    yield Text(text, "cyan")


def _name(span: Span) -> Text:
    name = span.name.replace('"', "") if span.op == "db" else span.name
    return Text.assemble((span.op or "-", "bold"), " ", " ".join(name.split()))


def _status(request: Trace) -> Text:
    return Text(request.status, "green" if request.status == "ok" else "red")


def _error(error: seen.Error) -> Text:
    return Text(f"! {error.type}: {error.value}", "bold red")


def _line(left: Text, right: str) -> Table:
    """Text that is cut off at the right edge, where a number stands."""
    grid = Table.grid(expand=True, padding=(0, 1))
    # Not every encoding has an ellipsis.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis" if unicode else "crop")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, right)
    return grid


def _of(found: int, total: int) -> Text:
    return Text(f"{found} of {total}", "green" if found == total else "red")


def _ms(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:,.{0 if milliseconds >= 9.95 else 1}f} ms"


def _size(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    if size < 1_000_000:
        return f"{size / 1000:.1f} kB"
    return f"{size / 1_000_000:.1f} MB"
