"""What the demo prints: both sides of every stream, then the sums."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Union
from urllib.parse import urljoin

import seen
from findings import NAMES, Count, Finding, Side
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree
from units import display_name, milliseconds, size

from traces import Span, Trace

if TYPE_CHECKING:
    from run import Served
    from spotlight import Spotlight

PIPE_WIDTH = 100  # columns, where there is no terminal to ask
MOST_WIDTH = 140
# Below this, two trees beside each other cannot be read.
BESIDE_WIDTH = 80

# More siblings than this of one kind are cut short.
MOST_SIBLINGS = 6


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

    def versions(self, text: str) -> None:
        self.console.print(Text(text, "dim"))

    def served(self, integration: str, served: List[Served], seconds: float) -> None:
        received = size(sum(one.size for one in served))
        self.console.print(
            f"{NAMES[integration]}: {len(served)} streams, {received}, served in {seconds:.1f} s"
        )

    # -- with a real Sentry

    def sent(self, runs: Dict[str, List[Served]], host: str) -> None:
        self._traces(runs)
        self.console.print(
            f"The SDK was given {host} to send to. Look there for these trace ids, or for the "
            f"environments {_environments(runs)}."
        )

    def _traces(self, runs: Dict[str, List[Served]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("stream", no_wrap=True)
        for integration in runs:
            table.add_column(f"trace with {NAMES[integration]}", no_wrap=True)
        for both in zip(*runs.values()):
            table.add_row(both[0].stream.target, *(one.trace_id for one in both))
        self.console.print()
        self.console.print(table)
        self.console.print()

    # -- with the sink

    def compare(self, sides: List[Side]) -> None:
        for both in zip(*(side.findings for side in sides)):
            stream = both[0].served.stream
            self.console.print()
            self.console.print(Text.assemble((stream.title, "bold"), f"  GET {stream.target}"))
            self._beside([side.title for side in sides], list(both))
        self.console.print()
        self._sums(sides)

    def written(self, page: Path) -> None:
        self.console.print()
        # Not broken into lines: it is to be clicked on, or copied.
        self.console.print(Text(f"The same as waterfalls, for a browser: {page}"), soft_wrap=True)

    def forwarded(self, runs: Dict[str, List[Served]], spotlight: Spotlight) -> None:
        self._traces(runs)
        self.console.print(
            f"{spotlight.forwarded} envelopes forwarded to Spotlight. Look for these trace ids, or "
            f"for the environments {_environments(runs)}, at"
        )
        self.console.print(Text(urljoin(spotlight.url, "/")), soft_wrap=True)

    def _beside(self, titles: List[str], both: List[Finding]) -> None:
        cells = [Group(*_account(finding)) for finding in both]
        table = Table(box=box.ROUNDED, expand=True)
        if self.console.width >= BESIDE_WIDTH:
            for title in titles:
                table.add_column(title, ratio=1)
            table.add_row(*cells)
            self.console.print(table)
            return
        for title, cell in zip(titles, cells):
            table = Table(box=box.ROUNDED, expand=True)
            table.add_column(title)
            table.add_row(cell)
            self.console.print(table)

    def _sums(self, sides: List[Side]) -> None:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("All streams")
        for side in sides:
            table.add_column(side.title, justify="right", no_wrap=True)
        for rows in zip(*(side.sums for side in sides)):
            table.add_row(rows[0][0], *(_sum(value) for _, value in rows))
        self.console.print(table)
        self.console.print()
        for side in sides:
            text = Text(f"{side.title}: ", "bold green" if side.clean else "bold red")
            self.console.print(text.append(side.verdict))


def _environments(runs: Dict[str, List[Served]]) -> str:
    return " and ".join("demo-" + name for name in runs)


def _sum(value: Union[Count, str]) -> Text:
    if isinstance(value, str):
        return Text(value)
    return Text(str(value), "green" if value.all else "red")


def _account(finding: Finding) -> Iterator[RenderableType]:
    """One side of one stream."""
    served, request = finding.served, finding.request
    yield _line(Text(f"client: {finding.of_client}"), milliseconds(served.seconds))
    if request is None:
        yield Text("no transaction has arrived", "red")
    else:
        yield _tree(request, finding.attached)
    for detached in finding.detached:
        tree = Tree(Text(detached.whereabouts, "red"), guide_style="dim")
        tree.add(_error(detached.error))
        yield tree
    if finding.made:
        yield Text(finding.of_spans, "red" if finding.missing else "green")


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
            grow(tree.add(_line(_name(child), milliseconds(child.duration))), child)
        for error in errors:
            if error.span_id == span.span_id:
                tree.add(_error(error))

    label = Group(
        _line(
            Text.assemble(_name(request), "  ", _status(request)),
            milliseconds(request.duration),
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
        text += f", {chunks} chunks, first at {milliseconds(first / 1000)}"
    yield Text(text, "cyan")


def _name(span: Span) -> Text:
    return Text.assemble((span.op or "-", "bold"), " ", display_name(span.op, span.name))


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
