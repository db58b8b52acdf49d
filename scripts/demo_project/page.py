"""The findings as one HTML file: no script, nothing from a network.

Here the findings only get their places on a time axis; the form is in templates/. Names of spans
and texts of errors are data of users: Django's templates escape them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from django.template import Context, Engine
from findings import Count, Finding, Node, Side, label, milliseconds

TEMPLATES = Path(__file__).resolve().parent / "templates"
TICKS = 5  # at most, beside the one at 0


def write(path: Path, sides: List[Side], about: Dict[str, str]) -> None:
    """Write the page. `about` has the texts `versions`, `lifecycle` and `made` (when).

    :raises OSError: it cannot be written.
    """
    # A name can hold half of a surrogate pair, which UTF-8 has no bytes for.
    path.write_text(render(sides, about), encoding="utf-8", errors="replace")


def render(sides: List[Side], about: Dict[str, str]) -> str:
    template = Engine(dirs=[str(TEMPLATES)]).get_template("page.html")
    # Strings only: Django would ask its settings, which are not set up, how to write numbers.
    context = {
        **about,
        "sides": sides,
        "sums": [
            {"title": rows[0][0], "cells": [(str(value), _verdict(value)) for _, value in rows]}
            for rows in zip(*(side.sums for side in sides))
        ],
        "streams": [_stream(sides, both) for both in zip(*(side.findings for side in sides))],
    }
    return str(template.render(Context(context)))


def _verdict(value: object) -> str:
    return ("good" if value.all else "bad") if isinstance(value, Count) else ""


@dataclass
class Axis:
    """The time axis of a stream, from the client's request on."""

    zero: float  # seconds since the epoch
    length: float  # seconds

    def at(self, time: float) -> str:
        return f"{100 * min(max((time - self.zero) / self.length, 0.0), 1.0):.2f}%"

    def bar(self, kind: str, start: float, end: float) -> Dict[str, str]:
        width = max(end - start, 0.0) / self.length
        return {"kind": kind, "left": self.at(start), "width": f"{100 * width:.2f}%"}

    def mark(self, kind: str, time: float) -> Dict[str, str]:
        return {"kind": kind, "left": self.at(time)}

    def ticks(self) -> Iterator[Dict[str, str]]:
        """At 1, 2 or 5 of a power of ten milliseconds."""
        least = self.length / TICKS
        power = math.pow(10, math.floor(math.log10(least)))
        step = next(step * power for step in (1, 2, 5, 10) if step * power >= least * 0.999)
        for number in range(int(self.length / step) + 1):
            seconds = number * step
            yield {"left": self.at(self.zero + seconds), "text": f"{seconds * 1000:g}"}


def _stream(sides: List[Side], both: Tuple[Finding, ...]) -> Dict[str, Any]:
    stream = both[0].served.stream
    # The same axis for both, so that what is short looks short.
    length = max(map(_length, both)) * 1.01
    return {
        "id": stream.name,
        "title": stream.title,
        "target": stream.target,
        "sides": [
            _waterfall(side, finding, Axis(finding.served.started, length))
            for side, finding in zip(sides, both)
        ],
    }


def _length(finding: Finding) -> float:
    """Seconds from the client's request to the last that is known of it."""
    served = finding.served
    ends = [node.end for node in [*_flat(finding.tree), *finding.detached]]
    ends += [entry["time"] for entry in served.journal]
    return max(served.seconds, *(end - served.started for end in ends), 0.0)


def _flat(node: Optional[Node]) -> Iterator[Node]:
    if node is not None:
        yield node
        for child in node.children:
            yield from _flat(child)


def _waterfall(side: Side, finding: Finding, axis: Axis) -> Dict[str, Any]:
    request = finding.request
    rows = [_client(finding, axis)]
    if finding.tree is not None and request is not None:
        rows += _rows(finding.tree, axis)
        returned = request.data.get("http.server.return_time")
        if returned is not None:
            rows[1]["marks"].append(axis.mark("returned", request.start + returned / 1000))
    for node in finding.detached:
        rows += _rows(node, axis, note=f"{node.name}; {finding.whereabouts.rstrip(':')}")
    missing = [row for node in finding.missing for row in _rows(node, axis)]
    return {
        "side": side,
        "status": request.status if request else "no transaction has arrived",
        "unseen": finding.unseen,
        "good": request is not None and not finding.unseen,
        "outcome": finding.of_stream,
        "verdict": finding.of_spans if finding.made else "",
        "complete": finding.spans.all,
        "ticks": list(axis.ticks()),
        "rows": rows,
        "missing": missing,
    }


def _row(kind: str, op: str, name: str = "", value: str = "", **more: Any) -> Dict[str, Any]:
    row = {"kind": kind, "op": op, "name": name, "value": value, "depth": "0"}
    return {**row, "note": "", "bars": [], "marks": [], **more}


def _rows(node: Node, axis: Axis, depth: int = 0, note: str = "") -> List[Dict[str, Any]]:
    """The node's row, and those below it."""
    if node.kind == "error":
        marks = [axis.mark("error", node.start)]
        return [_row("error", node.op, depth=str(depth), note=note or node.name, marks=marks)]
    bars = [axis.bar(node.kind, node.start, node.end)]
    value = milliseconds(node.end - node.start)
    rows = [_row(node.kind, node.op, label(node), value, depth=str(depth), bars=bars)]
    return rows + [row for child in node.children for row in _rows(child, axis, depth + 1)]


def _client(finding: Finding, axis: Axis) -> Dict[str, Any]:
    served = finding.served
    end = served.started + served.seconds
    arrivals = [served.started + seconds for seconds in served.arrivals]
    first = arrivals[0] if arrivals else end
    # What is read of a file are not its chunks.
    marks = [axis.mark("arrival", time) for time in arrivals if served.stream.journalled]
    if served.ending != "read to its end":
        marks.append(axis.mark("broken", end))
    bars = [axis.bar("waiting", served.started, first), axis.bar("receiving", first, end)]
    value, note = milliseconds(served.seconds), finding.of_client
    return _row("client", "client", value=value, note=note, bars=bars, marks=marks)
