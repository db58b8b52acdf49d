"""The targets, and the tables made of the results. Standard library only."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from sections import measured, table

SYSTEMS = {
    "bare": "bare Django",
    "stock": "stock",
    "ours": "ours",
    "ours-close": 'ours, `finish_on="close"`',
    "older": "shr_span_recorder",
    "otel": "OpenTelemetry",
    "ddtrace": "ddtrace",
}
OPEN = 10_000  # responses, where memory is measured


class Results:
    """What was measured. Each query raises `KeyError` if that is not among it.

    The keys of `values` are words: `instructions SYSTEM WORK RATE LIFECYCLE` (a request's), `spans`
    with the same (in a request's trace), `memory SYSTEM WHAT RATE` (bytes, threads), and
    `seconds WHAT`.
    """

    def __init__(self, values: dict[str, float]) -> None:
        self.values = values

    def over(self, system: str, work: str, rate: int = 0, lifecycle: str = "static") -> float:
        """Instructions of a request over those of bare Django."""
        bare = self.values[f"instructions bare {work} 0 static"]
        return self.values[f"instructions {system} {work} {rate} {lifecycle}"] - bare

    def of_stock(
        self, work: str, rate: int, lifecycle: str = "static", system: str = "ours"
    ) -> float:
        """The same, in units of stock's."""
        stock = self.over("stock", work, rate, lifecycle)
        return self.over(system, work, rate, lifecycle) / stock

    def chunk(self, path: str, system: str, few: int = 100, many: int = 10_000) -> float:
        """Instructions of a chunk of a sampled stream over those of bare Django."""
        long, short = (self.over(system, f"{path}/{chunks}", 1) for chunks in (many, few))
        return (long - short) / (many - few)

    def chunk_of_stock(self, path: str) -> float:
        return self.chunk(path, "ours") / self.chunk(path, "stock")

    def chunk_steepness(self) -> float:
        lengths = [10**power for power in range(1, 7)]
        pairs = zip(lengths, lengths[1:])
        costs = [self.chunk("/stream", "ours", few, many) for few, many in pairs]
        return max(costs) / min(costs)

    def steepness(self, work: str) -> float:
        """How far from flat: the largest cost in units of the smallest."""
        name = re.compile(f"instructions ours {work}@.* 0 static")
        costs = [value for key, value in self.values.items() if name.fullmatch(key)]
        if not costs:
            raise KeyError(work)
        return max(costs) / min(costs)

    def memory(self, system: str, what: str, rate: int = 1) -> float:
        return self.values[f"memory {system} {what} {0 if system == 'bare' else rate}"]

    def each(self, system: str, rate: int = 1) -> float:
        """Bytes of an open response."""
        many, none = (self.memory(system, f"open@{count}", rate) for count in (OPEN, 0))
        return (many - none) / OPEN

    def besides(self) -> float:
        """Bytes of an open response, besides what stock keeps while a view is at work.

        These are the SDK's scopes, transaction and spans: stock lets go of them when the view has
        returned, and whoever traces the stream has to keep them.
        """
        kept = self.memory("stock", "at work") - self.memory("bare", "at work")
        return self.each("ours") - self.each("bare") - kept

    def memory_left(self) -> float:
        start = self.memory("ours", "open@0")
        peak = self.memory("ours", f"open@{OPEN}") - start
        return (self.memory("ours", "after") - start) / peak

    def threads(self) -> float:
        there, stock = (self.memory(system, f"threads@{OPEN}") for system in ("ours", "stock"))
        return there - stock

    def seconds(self, what: str) -> float:
        return self.values[f"seconds {what}"]


class Target(NamedTuple):
    work: str
    wanted: str
    #: What must not be exceeded.
    limit: float
    unit: str
    found: Callable[[Results], float]


OVER = "of stock's overhead"
BESIDES = (
    "10,000 responses open: memory each, besides the scopes, transaction and spans that stock "
    "keeps while the view is at work"
)
TARGETS = [
    Target("plain request, not sampled", f"at most 0.55 {OVER}", 0.55, "", lambda found: found.of_stock("/plain", 0)),
    Target("plain request, not sampled, stream lifecycle", f"at most 0.55 {OVER}", 0.55, "", lambda found: found.of_stock("/plain", 0, "stream")),
    Target("plain request, sampled", f"at most 0.9 {OVER}", 0.9, "", lambda found: found.of_stock("/plain", 1)),
    Target("a chunk of a WSGI stream, all stream data recorded", f"at most 0.08 {OVER}", 0.08, "", lambda found: found.chunk_of_stock("/stream")),
    Target("a chunk of an ASGI stream, all stream data recorded", f"at most 2.5 {OVER}", 2.5, "", lambda found: found.chunk_of_stock("/astream")),
    Target(BESIDES, "at most 4 KiB", 4096, "bytes", Results.besides),
    Target("10,000 responses open: threads added", "at most 4", 4, "threads", Results.threads),
    Target("memory left of the peak with 10,000 open responses", "at most 0.01", 0.01, "", Results.memory_left),
    Target("a chunk, from 10 to 1,000,000 chunks", "flat: at most 1.05", 1.05, "", Results.chunk_steepness),
    Target("a request, from 0 to 10,000 open responses", "flat: at most 1.05", 1.05, "", lambda found: found.steepness("/plain")),
    Target("set and cancel a deadline, from 0 to 100,000 pending", "flat: at most 1.05", 1.05, "", lambda found: found.steepness("deadline")),
    Target("set and cancel a deadline", "below 1 µs", 1, "µs", lambda found: found.seconds("deadline") * 1e6),
    Target("set and cancel a deadline", "at most 1/50 of threading.Timer's start and cancel", 0.02, "", lambda found: found.seconds("deadline") / found.seconds("timer")),
    Target("import time over the stock integration", "at most 5 ms", 5, "ms", lambda found: (found.seconds("import ours") - found.seconds("import stock")) * 1e3),
]  # fmt: skip


def verdict(target: Target, results: Results) -> list[str]:
    """A row of the table: a number that was not measured is neither met nor missed."""
    try:
        found = target.found(results)
    except KeyError:
        return [target.work, target.wanted, "", "not measured"]
    over = found - target.limit
    word = "met" if over <= 0 else f"**over by {number(over, target.unit)}**"
    return [target.work, target.wanted, number(found, target.unit), word]


def number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if unit in ("bytes", "threads") else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def section(kept: dict[str, Any]) -> str:
    """The tables in benchmarks/README.md, which are printed, too."""
    results = Results(kept["values"])
    verdicts = [verdict(target, results) for target in TARGETS]
    parts = [table(["work", "target", "measured", ""], verdicts, numbers=False)]
    parts += [_spans(results), _memory(results), _instructions(results), kept.get("seconds", "")]
    return "\n".join(part for part in parts if part) + measured(kept["about"])


def _spans(results: Results) -> str:
    named = [
        f"{SYSTEMS[system]} {results.values[f'spans {system} /plain 1 static']:.0f}"
        for system in SYSTEMS
        if f"spans {system} /plain 1 static" in results.values
    ]
    return f"Spans in the trace of a plain request, besides its own: {', '.join(named)}.\n"


def _memory(results: Results) -> str:
    try:
        more = [results.each("ours", rate) - results.each("stock", rate) for rate in (0, 1)]
    except KeyError:
        return ""
    return (
        f"An open response takes {more[0]:,.0f} bytes more than one of stock's, {more[1]:,.0f} where "
        "it is sampled: stock has sent the transaction by then.\n"
    )


def _instructions(results: Results) -> str:
    keys = [key.split() for key in results.values if key.startswith("instructions ")]
    works = sorted({key[2] for key in keys if key[1] == "bare"}, key=_order)
    systems = [name for name in SYSTEMS if name != "bare" and name in {key[1] for key in keys}]
    rows = []
    for work in works:
        for lifecycle, rate in (("static", 0), ("static", 1), ("stream", 0), ("stream", 1)):
            cells = [_cell(results, system, work, rate, lifecycle) for system in systems]
            if any(cells):
                name, number = _parts(work)
                name = f"{NAMES[name].format(number)}, rate {rate}"
                name += ', `trace_lifecycle="stream"`' if lifecycle == "stream" else ""
                rows.append([name, *cells])
    head = "instructions over bare Django; in units of stock's"
    return table([head, *(SYSTEMS[system] for system in systems)], rows)


def _cell(results: Results, system: str, work: str, rate: int, lifecycle: str) -> str:
    try:
        over = results.over(system, work, rate, lifecycle)
    except KeyError:
        return ""
    text = f"{over / 1e6:,.3f} M"
    if system != "stock" and f"instructions stock {work} {rate} {lifecycle}" in results.values:
        text += f", {over / results.over('stock', work, rate, lifecycle):.2f}"
    return text


NAMES = {
    "/plain": "plain request",
    "/stream": "stream, {:,} chunks",
    "/astream": "ASGI stream, {:,} chunks",
    "/error": "error",
    "/file": "file of 64 KiB",
}


def _parts(work: str) -> tuple[str, int]:
    """`/stream/100` is a `/stream` of 100."""
    name, _, number = work[1:].partition("/")
    return f"/{name}", int(number or 0)


def _order(work: str) -> tuple[int, int]:
    name, number = _parts(work)
    return list(NAMES).index(name), number
