"""The targets: what is wanted, and how it is computed from the results."""

from typing import Callable, List, NamedTuple

import stats
from results import Results

Values = List[float]


def _part(results: Results) -> str:
    """Instructions where there are any: they do not depend on who else uses the machine."""
    return "instructions" if results.rows("instructions") else "wallclock"


def _plain_unsampled(results: Results) -> Values:
    part = _part(results)
    ours = results.overhead(part, "ours", "plain", 0.0)
    return stats.ratio(ours, results.overhead(part, "stock", "plain", 0.0))


def _plain_unsampled_stream(results: Results) -> Values:
    part = _part(results)
    ours = results.overhead(part, "ours", "plain", 0.0, "stream")
    return stats.ratio(ours, results.overhead(part, "stock", "plain", 0.0, "stream"))


def _plain_sampled(results: Results) -> Values:
    part = _part(results)
    ours = results.overhead(part, "ours", "plain", 1.0)
    return stats.ratio(ours, results.overhead(part, "stock", "plain", 1.0))


def _chunk(results: Results) -> Values:
    part = _part(results)
    return stats.ratio(results.chunk(part, "ours", 1.0), results.chunk(part, "stock", 1.0))


def _pair(results: Results) -> Values:
    return results.values("scheduler", "ours", "pair@0")


def _pair_of_timer(results: Results) -> Values:
    return stats.ratio(_pair(results), results.values("scheduler", "timer", "pair"))


def _threads(results: Results) -> Values:
    ours = results.values("memory", "ours", "threads@10000", 1.0)
    return stats.over(ours, results.values("memory", "stock", "threads@10000", 1.0))


def _each(results: Results, system: str, open_: int, rate: float) -> Values:
    peak = results.values("memory", system, f"open@{open_}", rate)
    start = results.values("memory", system, "open@0", rate)
    return [value / open_ for value in stats.over(peak, start)]


def memory_each(results: Results, open_: int, rate: float = 1.0) -> Values:
    """Bytes an open response takes besides what it takes with stock."""
    return stats.over(_each(results, "ours", open_, rate), _each(results, "stock", open_, rate))


def memory_besides(results: Results, open_: int, rate: float = 1.0) -> Values:
    """Bytes an open response takes besides what stock keeps while a view is at work.

    These are the SDK's scopes, transaction and spans: stock lets go of them when the
    view has returned, and whoever traces the stream has to keep them.
    """

    def at_work(system: str, rate: float) -> Values:
        return results.values("memory", system, "at-work", rate)

    ours = stats.over(_each(results, "ours", open_, rate), _each(results, "bare", open_, 0.0))
    return stats.over(ours, stats.over(at_work("stock", rate), at_work("bare", 0.0)))


def _memory(results: Results) -> Values:
    return memory_besides(results, 10_000)


def _imports(results: Results) -> Values:
    ours = results.values("imports", "ours", "import")
    return stats.over(ours, results.values("imports", "stock", "import"))


def chunk_costs(results: Results, system: str) -> "dict[int, float]":
    """Instructions of a chunk over bare Django, by the length that the stream grows to."""
    rows = results.series("growth", system, "stream", 1.0)
    bare = results.series("growth", "bare", "stream", 0.0)
    lengths = [length for length in rows if length in bare]
    cost = {
        length: stats.Spread.of(stats.over(rows[length].values, bare[length].values)).middle
        for length in lengths
    }
    return {
        many: stats.per_unit(cost[few], cost[many], few, many)
        for few, many in zip(lengths, lengths[1:])
    }


def _flat_chunks(results: Results) -> Values:
    costs = chunk_costs(results, "ours")
    return [stats.steepness(list(costs.values()))] if len(costs) > 1 else []


def _flat(results: Results, what: str) -> Values:
    rows = results.series("growth", "ours", what, 0.0).values()
    if len(rows) < 2:
        return []
    return [stats.steepness([stats.Spread.of(row.values).middle for row in rows])]


def _flat_open(results: Results) -> Values:
    return _flat(results, "open")


def _flat_pending(results: Results) -> Values:
    return _flat(results, "pending")


def _memory_back(results: Results) -> Values:
    start = results.values("memory", "ours", "open@0", 1.0)
    left = stats.over(results.values("memory", "ours", "after", 1.0), start)
    peak = stats.over(results.values("memory", "ours", "open@10000", 1.0), start)
    return stats.ratio(left, peak)


class Target(NamedTuple):
    """A number that must not be exceeded."""

    work: str
    wanted: str
    limit: float
    #: What the numbers are shown in: "", "µs", "ms", "bytes" or "threads".
    unit: str
    #: From seconds or the like to that unit.
    factor: float
    #: One number a round; [] if it was not measured.
    measured: "Callable[[Results], Values]"


TARGETS = [
    Target("plain request, not sampled", "at most 0.55 of stock's overhead", 0.55, "", 1, _plain_unsampled),
    Target("plain request, not sampled, stream lifecycle", "at most 0.55 of stock's overhead", 0.55, "", 1, _plain_unsampled_stream),
    Target("plain request, sampled", "at most 0.9 of stock's overhead", 0.9, "", 1, _plain_sampled),
    Target("one chunk of a stream, all stream data recorded", "at most 0.08 of stock's overhead", 0.08, "", 1, _chunk),
    Target("schedule + cancel of a deadline", "below 1 µs", 1, "µs", 1e6, _pair),
    Target("schedule + cancel of a deadline", "at most 1/50 of threading.Timer start + cancel", 0.02, "", 1, _pair_of_timer),
    Target("10,000 responses open: threads added", "at most 4", 4, "threads", 1, _threads),
    Target("10,000 responses open: memory each, besides the scopes, transaction and spans that stock keeps while the view is at work", "at most 4 KiB", 4096, "bytes", 1, _memory),
    Target("import time over the stock integration", "at most 5 ms", 5, "ms", 1e3, _imports),
    # Flat is what costs nowhere more than this much of where it costs least.
    Target("cost per chunk, from 10 to 1,000,000 chunks", "flat: at most 1.05", 1.05, "", 1, _flat_chunks),
    Target("cost per request, from 0 to 10,000 open responses", "flat: at most 1.05", 1.05, "", 1, _flat_open),
    Target("schedule + cancel, from 0 to 100,000 pending", "flat: at most 1.05", 1.05, "", 1, _flat_pending),
    Target("memory left of the peak with 10,000 open responses", "at most 0.01", 0.01, "", 1, _memory_back),
]  # fmt: skip


class Verdict(NamedTuple):
    """A target, and how it was met."""

    target: Target
    #: In the target's unit; None: not measured.
    found: "stats.Spread | None"

    @property
    def met(self) -> bool:
        """Whether the median is within the limit."""
        return self.found is not None and self.found.middle <= self.target.limit

    @property
    def word(self) -> str:
        """`met`, or the number that it is short by."""
        if self.found is None:
            return "not measured"
        if self.met:
            return "met"
        return f"short by {number(self.found.middle - self.target.limit, self.target.unit)}"


def verdicts(results: Results) -> "List[Verdict]":
    """All targets, in their order."""
    found = []
    for target in TARGETS:
        values = [value * target.factor for value in target.measured(results)]
        found.append(Verdict(target, stats.Spread.of(values) if values else None))
    return found


def number(value: float, unit: str) -> str:
    """With its unit, and no more digits than are worth reading."""
    if unit in ("bytes", "threads"):
        return f"{value:,.0f} {unit}"
    return f"{value:.3g} {unit}".rstrip() if abs(value) < 1000 else f"{value:,.0f} {unit}".rstrip()
