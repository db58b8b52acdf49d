"""The two forms of the findings: text for the terminal, and one file of HTML.

Names of spans and texts of errors are data of users: rich and Django's templates escape them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

from django.template import Context, Engine
from findings import Row, Side, milliseconds
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

TEMPLATES = Path(__file__).resolve().parent / "templates"
STYLES = {"good": "green", "bad": "red", "error": "bold red", "note": "cyan"}


def show(console: Console, sides: List[Side]) -> None:
    """Both sides of every stream, then the sums."""
    for both in zip(*(side.findings for side in sides)):
        stream = both[0].served.stream
        console.print(Text.assemble("\n", (stream.title, "bold"), f"  GET {stream.target}"))
        table = Table(box=box.ROUNDED, expand=True)
        for side in sides:
            table.add_column(side.title, ratio=1)
        table.add_row(*(_tree(console, one.rows) for one in both))
        console.print(table)
    console.print()
    table = Table("All streams", box=box.SIMPLE_HEAD, show_edge=False)
    for side in sides:
        table.add_column(side.title, justify="right", no_wrap=True)
    for rows in zip(*(side.sums for side in sides)):
        table.add_row(rows[0].op, *(Text(row.name, STYLES[row.kind]) for row in rows))
    console.print(table)


def _tree(console: Console, rows: List[Row]) -> Tree:
    tree = Tree("", guide_style="dim", hide_root=True)
    path = [tree]  # from the root to the last row
    for row in rows:
        del path[row.depth + 1 :]
        path.append(path[-1].add(_line(console, row)))
    return tree


def _line(console: Console, row: Row) -> RenderableType:
    style = STYLES.get(row.kind, "")
    text = Text.assemble((f"{row.op} " if row.op else "", "bold"), row.name, style=style)
    if not row.duration:
        return text
    # Cut off at the right edge, where the duration stands. Not every encoding has an ellipsis.
    unicode = console.encoding.startswith("utf")
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis" if unicode else "crop")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row(text, row.duration)
    return grid


def page(sides: List[Side], about: str) -> str:
    """The same, with a waterfall for each side of a stream."""
    streams = []
    for both in zip(*(side.findings for side in sides)):
        # The same time axis for both, so that what is short looks short.
        length = max(row.end - one.served.started for one in both for row in one.rows)
        waterfalls = [
            [_placed(row, one.served.started, length) for row in one.rows] for one in both
        ]
        streams.append(
            {
                "stream": both[0].served.stream,
                "length": milliseconds(length),
                "sides": list(zip(sides, waterfalls)),
            }
        )
    sums = list(zip(*(side.sums for side in sides)))
    context = Context({"sides": sides, "sums": sums, "streams": streams, "about": about})
    return str(Engine(dirs=[str(TEMPLATES)]).get_template("page.html").render(context))


def _placed(row: Row, zero: float, length: float) -> Dict[str, Any]:
    """A row with its place on the axis, in percent."""
    # Strings only: Django would ask its settings, which are not set up, how to write numbers.
    placed = {**row._asdict(), "depth": str(row.depth), "duration": row.duration}
    if row.end:
        placed["left"] = f"{max(100 * (row.start - zero) / length, 0):.2f}%"
        placed["width"] = f"{max(100 * (row.end - row.start) / length, 0):.2f}%"
    return placed
