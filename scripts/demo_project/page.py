"""The findings as one HTML file: no script, nothing from a network.

What is shown is counted in `findings`; here it only gets its places on a time axis. The
form is in templates/. Names of spans and texts of errors are data of users: Django's
templates escape them.
"""

from __future__ import annotations

import contextlib
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import seen
from django.template import Context, Engine
from findings import Count, Finding, Made, Side
from units import display_name, milliseconds, size

from traces import Span, Trace

TEMPLATES = Path(__file__).resolve().parent / "templates"

TICKS = 5  # at most, beside the one at 0


def _of_milliseconds(value: float) -> str:
    return milliseconds(value / 1000)


# What the request's data say of its stream, and how to write it.
_FACTS: List[Tuple[str, str, Callable[[Any], str]]] = [
    ("chunks", "http.response.stream.chunks", str),
    ("body", "http.response.body.size", size),
    ("first chunk after", "http.response.stream.time_to_first_chunk", _of_milliseconds),
    ("producing", "http.response.stream.produce_time", _of_milliseconds),
    ("sending", "http.response.stream.send_time", _of_milliseconds),
    ("view returned after", "http.server.return_time", _of_milliseconds),
]


def write(path: Path, sides: List[Side], about: Dict[str, str]) -> None:
    """Write the page in one go: a reader finds a whole one, or the one before.

    `about` has the texts `versions`, `lifecycle` and `made` (when). Errors: `OSError`.
    """
    text = render(sides, about)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # A name can hold half of a surrogate pair, which UTF-8 has no bytes for.
        unfinished.write_text(text, encoding="utf-8", errors="replace")
        unfinished.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()


def render(sides: List[Side], about: Dict[str, str]) -> str:
    template = Engine(dirs=[str(TEMPLATES)]).get_template("page.html")
    # Strings only: Django would ask its settings, which are not set up, how to write numbers.
    context = Context(
        {
            **about,
            "sides": sides,
            "sums": [_sum(rows) for rows in zip(*(side.sums for side in sides))],
            "streams": [_stream(sides, both) for both in zip(*(side.findings for side in sides))],
        }
    )
    return str(template.render(context))


def _sum(rows: Tuple[Any, ...]) -> Dict[str, Any]:
    return {
        "title": rows[0][0],
        "cells": [
            {
                "text": str(value),
                "verdict": ("good" if value.all else "bad") if isinstance(value, Count) else "",
            }
            for _, value in rows
        ],
    }


# -- the time axis


@dataclass
class Axis:
    """Of one stream: from the client's request on, as long as all that is shown of it."""

    zero: float  # seconds since the epoch
    length: float  # seconds

    def at(self, time: float) -> str:
        share = (time - self.zero) / self.length
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"

    def bar(self, kind: str, start: float, end: float) -> Dict[str, str]:
        width = max(end - start, 0.0) / self.length
        return {"kind": kind, "left": self.at(start), "width": f"{100 * width:.2f}%"}

    def mark(self, kind: str, time: float) -> Dict[str, str]:
        return {"kind": kind, "left": self.at(time)}

    def since(self, time: float) -> str:
        return milliseconds(max(time - self.zero, 0.0))

    @property
    def step(self) -> float:
        """Seconds between two ticks: 1, 2 or 5 of a power of ten."""
        least = self.length / TICKS
        power = math.pow(10, math.floor(math.log10(least)))
        return next(step * power for step in (1, 2, 5, 10) if step * power >= least * 0.999)

    @property
    def grid(self) -> str:
        return f"{100 * self.step / self.length:.3f}%"

    @property
    def ticks(self) -> Iterator[Dict[str, str]]:
        for number in range(int(self.length / self.step) + 1):
            seconds = number * self.step
            yield {"left": self.at(self.zero + seconds), "text": f"{seconds * 1000:g}"}


def _length(finding: Finding) -> float:
    """From the client's request to the last that is known of it, in seconds."""
    served, request = finding.served, finding.request
    times: List[float] = [served.started + served.seconds]
    times += [entry["time"] for entry in served.journal]
    times += [error.time for error in finding.attached]
    times += [detached.error.time for detached in finding.detached]
    if request is not None:
        times += [request.end, *(span.end for span in request.spans)]
    return max(times) - served.started


# -- what is shown


@dataclass
class Row:
    """A line of a waterfall, and those below it."""

    kind: str
    op: str
    name: str
    value: str = ""  # at the right edge
    start: str = ""
    note: str = ""
    bars: List[Dict[str, str]] = field(default_factory=list)
    marks: List[Dict[str, str]] = field(default_factory=list)
    children: List[Row] = field(default_factory=list)


def _stream(sides: List[Side], both: Tuple[Finding, ...]) -> Dict[str, Any]:
    stream = both[0].served.stream
    # The same for both, so that what is short looks short.
    length = max(_length(finding) for finding in both) * 1.01
    return {
        "id": stream.name,
        "title": stream.title,
        "target": stream.target,
        "sides": [
            _waterfall(side, finding, Axis(finding.served.started, length))
            for side, finding in zip(sides, both)
        ],
    }


def _waterfall(side: Side, finding: Finding, axis: Axis) -> Dict[str, Any]:
    served, request = finding.served, finding.request
    rows = [_client(finding, axis)]
    if request is not None:
        rows.append(_root(request, finding.attached, axis))
    rows += [_error(one.error, axis, one.whereabouts.rstrip(":")) for one in finding.detached]
    return {
        "side": side,
        "verdict": finding.of_spans if finding.made else "",
        "good": not finding.missing,
        "arrived": request is not None,
        "status": _status(finding),
        "facts": _facts(finding),
        "axis": axis,
        "client_end": axis.at(served.started + served.seconds),
        "rows": rows,
        "missing": _nested(finding.missing, axis),
        "log": _log(finding, axis) if served.journal else None,
        "lines": [_line(entry, axis) for entry in served.journal],
    }


def _client(finding: Finding, axis: Axis) -> Row:
    served = finding.served
    arrivals = [served.started + seconds for seconds in served.arrivals]
    end = served.started + served.seconds
    first = arrivals[0] if arrivals else end
    marks = []
    if served.stream.journalled:  # what is read of a file are not its chunks
        marks += [axis.mark("arrival", time) for time in arrivals]
    if served.ending != "read to its end":
        marks.append(axis.mark("broken", end))
    return Row(
        kind="client",
        op="client",
        name="",
        value=milliseconds(served.seconds),
        note=f"{finding.of_client}; first bytes after {axis.since(first)}",
        bars=[axis.bar("waiting", served.started, first), axis.bar("receiving", first, end)],
        marks=marks,
    )


def _root(request: Trace, errors: List[seen.Error], axis: Axis) -> Row:
    def grow(span: Span) -> Row:
        row = _span(span, axis)
        row.children += [grow(child) for child in seen.children(request, span.span_id)]
        row.children += [_error(one, axis) for one in errors if one.span_id == span.span_id]
        return row

    row = grow(request)
    row.kind = "root"
    row.bars = [axis.bar("root", request.start, request.end)]
    returned = request.data.get("http.server.return_time")
    if returned is not None:
        row.marks.append(axis.mark("returned", request.start + returned / 1000))
    return row


def _span(span: Span, axis: Axis) -> Row:
    kind = "db" if span.op.startswith("db") else "app"
    return Row(
        kind=kind,
        op=span.op or "-",
        name=display_name(span.op, span.name),
        value=milliseconds(span.duration),
        start=axis.since(span.start),
        bars=[axis.bar(kind, span.start, span.end)],
    )


def _error(error: seen.Error, axis: Axis, where: str = "") -> Row:
    return Row(
        kind="error",
        op=error.type,
        name="",
        start=axis.since(error.time),
        note=f"{error.value}; {where}" if where else error.value,
        marks=[axis.mark("error", error.time)],
    )


def _nested(made: List[Made], axis: Axis) -> List[Row]:
    """Spans that are missing, each below the last one before it that is less deep."""
    top: List[Row] = []
    opened: List[Tuple[int, Row]] = []
    for one in made:
        row = Row(
            kind="missing",
            op=one.op,
            name=display_name(one.op, one.name),
            value=milliseconds(one.end - one.start),
            start=axis.since(one.start),
            bars=[axis.bar("missing", one.start, one.end)],
        )
        while opened and opened[-1][0] >= one.depth:
            opened.pop()
        (opened[-1][1].children if opened else top).append(row)
        opened.append((one.depth, row))
    return top


def _status(finding: Finding) -> List[Dict[str, str]]:
    """The transaction's status and the stream's outcome: whether they say what happened."""
    request = finding.request
    if request is None:
        return []
    unseen = ""
    if finding.raised and not finding.failure_seen:
        unseen = "the body failed"
    elif finding.hung_up and not finding.hang_up_seen:
        unseen = "the client hung up"
    text = f"{request.status}, though {unseen}" if unseen else request.status
    facts = [{"title": "status", "text": text, "verdict": "bad" if unseen else "good"}]
    if request.outcome is not None:
        facts.append({"title": "stream", "text": request.outcome, "verdict": "good"})
    return facts


def _facts(finding: Finding) -> List[Dict[str, str]]:
    data = finding.request.data if finding.request else {}
    return [
        {"title": title, "text": form(data[key])} for title, key, form in _FACTS if data.get(key)
    ]


def _log(finding: Finding, axis: Axis) -> Row:
    lines = finding.log_lines
    return Row(
        kind="log",
        op="log lines",
        name=f"{lines} with request_id",
        marks=[
            axis.mark("line" if "request_id" in entry else "line bare", entry["time"])
            for entry in finding.served.journal
        ],
    )


def _line(entry: Dict[str, Any], axis: Axis) -> Dict[str, Any]:
    what = entry.get("sql") or entry.get("name") or entry.get("value") or ""
    return {
        "time": axis.since(entry["time"]),
        "event": entry["event"],
        "what": display_name("db" if "sql" in entry else "", str(what)),
        "request_id": entry.get("request_id") or "",
    }
