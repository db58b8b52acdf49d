"""What the demo prints: both sides of every stream, then the sums."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterator, List

from findings import NAMES, Count, Finding, Node, Side, label, milliseconds, size
from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from run import Served

MOST_WIDTH = 140


class Screen:
    """The terminal, or the file, that the report goes to. rich heeds COLUMNS and NO_COLOR."""

    def __init__(self) -> None:
        # What the encoding cannot show must not end the demo; box characters are rich's.
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr,unused-ignore]
        self.console = Console(highlight=False, markup=False, emoji=False)
        terminal = self.console.is_terminal
        self.console.width = min(self.console.width, MOST_WIDTH) if terminal else 100

    def say(self, text: str = "", style: str = "") -> None:
        # Not broken into lines: a path is to be copied.
        self.console.print(Text(text, style), soft_wrap=True)

    def served(self, integration: str, served: List[Served], seconds: float) -> None:
        received = size(sum(one.size for one in served))
        streams = f"{len(served)} streams, {received}, served in {seconds:.1f} s"
        self.say(f"{NAMES[integration]}: {streams}")

    def traces(self, runs: Dict[str, List[Served]]) -> None:
        """Where to look in a Sentry, or in Spotlight."""
        self.say()
        for name, all_served in runs.items():
            for served in all_served:
                self.say(f"{served.trace_id}  {NAMES[name]}  {served.stream.target}")

    def compare(self, sides: List[Side]) -> None:
        for both in zip(*(side.findings for side in sides)):
            stream = both[0].served.stream
            self.say()
            self.console.print(Text.assemble((stream.title, "bold"), f"  GET {stream.target}"))
            table = Table(box=box.ROUNDED, expand=True)
            for side in sides:
                table.add_column(side.title, ratio=1)
            table.add_row(*(Group(*_account(one)) for one in both))
            self.console.print(table)
        self.say()
        table = Table(box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("All streams")
        for side in sides:
            table.add_column(side.title, justify="right", no_wrap=True)
        for rows in zip(*(side.sums for side in sides)):
            table.add_row(rows[0][0], *(_sum(value) for _, value in rows))
        self.console.print(table)
        self.say()
        for side in sides:
            text = Text(f"{side.title}: ", "bold green" if side.clean else "bold red")
            self.console.print(text.append(side.verdict))

    def written(self, page: Path) -> None:
        self.say()
        self.say(f"The same as waterfalls, for a browser: {page}")


def _sum(value: object) -> Text:
    style = ("green" if value.all else "red") if isinstance(value, Count) else ""
    return Text(str(value), style)


def _account(finding: Finding) -> Iterator[RenderableType]:
    """One side of one stream."""
    yield _line(Text(f"client: {finding.of_client}"), finding.served.seconds)
    if finding.tree is None or finding.request is None:
        yield Text("no transaction has arrived", "red")
    else:
        status = Text(finding.request.status, "green" if finding.request.status == "ok" else "red")
        root = Text.assemble(_name(finding.tree), "  ", status)
        lines: List[RenderableType] = [_line(root, finding.request.duration)]
        lines += [Text(finding.of_stream, "cyan")] if finding.of_stream else []
        yield _grow(Tree(Group(*lines)), finding.tree)
    if finding.detached:
        whereabouts = Text(finding.whereabouts, "red")
        yield _grow(Tree(whereabouts), Node("", "", "", 0, 0, finding.detached))
    if finding.made:
        yield Text(finding.of_spans, "green" if finding.spans.all else "red")


def _grow(tree: Tree, node: Node) -> Tree:
    tree.guide_style = "dim"
    for child in node.children:
        if child.kind == "error":
            tree.add(Text(f"! {child.op}: {child.name}", "bold red"))
        else:
            _grow(tree.add(_line(_name(child), child.end - child.start)), child)
    return tree


def _name(node: Node) -> Text:
    return Text.assemble((node.op, "bold"), " ", label(node))


def _line(left: Text, seconds: float) -> Table:
    """Text that is cut off at the right edge, where the duration stands."""
    grid = Table.grid(expand=True, padding=(0, 1))
    # Not every encoding has an ellipsis.
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis" if unicode else "crop")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(left, milliseconds(seconds))
    return grid
