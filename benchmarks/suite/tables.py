"""The tables: on the terminal, and in the README."""

from pathlib import Path
from typing import Callable, List, Optional

from rich.console import Console
from rich.table import Table

import stats
import targets
from errors import BenchmarkError
from results import Results
from stats import Spread
from systems import SYSTEMS, WORKS
from targets import number

BEGIN, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"


def show(results: Results, console: Console) -> None:
    """Everything that has been measured, the verdicts last."""
    about = results.about
    console.print(_machine(results), highlight=False, soft_wrap=True)
    if about.get("quick"):
        console.print("A quick run: for a look, not for the README.", style="yellow")
    for part, unit in (("instructions", _instructions), ("wallclock", _seconds)):
        if results.rows(part):
            _show_requests(results, part, unit, console)
    for title, head, lines in (
        ("Growth, in instructions", ["", "N", "cost of one more"], _growth(results)),
        ("Scheduler", ["", "schedule + cancel"], _scheduler(results)),
        (
            "Open responses, over stock's open ones, and over its requests whose view is at work",
            ["rate", "open", "bytes each", "over a view at work", "threads"],
            _open(results),
        ),
        ("Import", ["", "time"], _imports(results)),
        ("Load", ["", "held open", "requests/s", "p99"], _load(results)),
    ):
        if lines:
            table = Table(title=title, title_justify="left")
            for heading in head:
                table.add_column(heading)
            for line in lines:
                table.add_row(*line)
            console.print(table)
    table = Table(title="Targets, over bare Django", title_justify="left")
    for heading in ("work", "target", "measured (spread)", ""):
        table.add_column(heading)
    for verdict in targets.verdicts(results):
        style = "green" if verdict.met else "yellow" if verdict.found is None else "red"
        table.add_row(
            verdict.target.work,
            verdict.target.wanted,
            _measured(verdict),
            f"[{style}]{verdict.word}[/]",
        )
    console.print(table)
    console.print(_spans(results), highlight=False, soft_wrap=True)


def _show_requests(
    results: Results, part: str, unit: "Callable[[float], str]", console: Console
) -> None:
    title = f"{part}: over bare Django, and in units of stock's (spread of the rounds)"
    table = Table(title=title, title_justify="left")
    for heading in ("work", "rate", "lifecycle", "system", "spans", "a request", "over bare"):
        table.add_column(heading)
    table.add_column("of stock's")
    rows = sorted(
        results.rows(part),
        key=lambda row: (
            list(WORKS).index(row.work),
            row.lifecycle,
            row.rate,
            list(SYSTEMS).index(row.system),
        ),
    )
    last = None
    for row in rows:
        key = row.work, row.rate, row.lifecycle
        if last not in (None, key):
            table.add_section()
        last = key
        values = results.values(*row[:5])
        over = results.overhead(*row[:5])
        of_stock = _of_stock(results, *row[:5])
        table.add_row(
            WORKS[row.work].label,
            "" if row.system == "bare" else f"{row.rate:g}",
            "" if row.system == "bare" else row.lifecycle,
            SYSTEMS[row.system].label,
            "" if row.spans is None else str(row.spans),
            unit(Spread.of(values).middle),
            "" if row.system == "bare" or not over else unit(Spread.of(over).middle),
            _spread(of_stock, "") if of_stock else "",
        )
    console.print(table)
    for rate in (0.0, 1.0):
        line = [
            f"{SYSTEMS[system].label} {unit(Spread.of(chunk).middle)}"
            for system in SYSTEMS
            for chunk in [results.chunk(part, system, rate)]
            if chunk and system != "bare"
        ]
        if line:
            console.print(f"One chunk over bare Django, rate {rate:g}: " + ", ".join(line))


def _of_stock(
    results: Results, part: str, system: str, work: str, rate: float, lifecycle: str
) -> "List[float]":
    stock = SYSTEMS[system].stock
    if stock is None:
        return []
    base = results.overhead(part, stock, work, rate, lifecycle)
    return stats.ratio(results.overhead(part, system, work, rate, lifecycle), base)


def _growth(results: Results) -> "List[List[str]]":
    lines = []
    for system in ("stock", "ours"):
        for length, cost in targets.chunk_costs(results, system).items():
            lines.append([f"{system}: chunk of a stream up to N", f"{length:,}", f"{cost:,.0f}"])
    for what, text in (("open", "request, N open"), ("pending", "deadline, N pending")):
        for count, row in results.series("growth", "ours", what, 0.0).items():
            cost = Spread.of(row.values).middle
            lines.append([f"ours: {text}", f"{count:,}", f"{cost:,.0f}"])
    return lines


def _scheduler(results: Results) -> "List[List[str]]":
    rows = results.series("scheduler", "ours", "pair", 0.0).items()
    lines = [
        [f"ours, {pending:,} pending", _spread(row.values, "µs", 1e6)] for pending, row in rows
    ]
    timer = results.values("scheduler", "timer", "pair")
    return lines + ([["threading.Timer", _spread(timer, "µs", 1e6)]] if timer else [])


def _open(results: Results) -> "List[List[str]]":
    lines = []
    for rate in (0.0, 1.0):
        for open_ in results.series("memory", "ours", "open", rate):
            stock = results.values("memory", "stock", f"threads@{open_}", rate)
            if not open_ or not stock:
                continue
            threads = stats.over(results.values("memory", "ours", f"threads@{open_}", rate), stock)
            besides = targets.memory_besides(results, open_, rate)
            each = targets.memory_each(results, open_, rate)
            lines.append(
                [f"{rate:g}", f"{open_:,}", _spread(each, "bytes"), _spread(besides, "bytes")]
                + [_spread(threads, "threads")]
            )
    return lines


def _imports(results: Results) -> "List[List[str]]":
    return [[row.system, _spread(row.values, "ms", 1e3)] for row in results.rows("imports")]


def _load(results: Results) -> "List[List[str]]":
    lines = []
    for row in results.rows("load"):
        name, _, held = row.work.partition("@")
        if name == "rps":
            p99 = results.values("load", row.system, f"p99@{held}", row.rate)
            label = SYSTEMS[row.system].label
            lines.append([label, held, _spread(row.values, ""), _spread(p99, "ms", 1e3)])
    return sorted(lines, key=lambda line: int(line[1]))


def _measured(verdict: targets.Verdict) -> str:
    found, unit = verdict.found, verdict.target.unit
    if found is None:
        return ""
    if found.low == found.high:
        return number(found.middle, unit)
    return f"{number(found.middle, unit)} ({number(found.low, '')} to {number(found.high, '')})"


def _spread(values: "List[float]", unit: str, factor: float = 1.0) -> str:
    found = Spread.of([value * factor for value in values])
    text = number(found.middle, unit)
    if found.low == found.high:
        return text
    return f"{text} ({number(found.low, '')} to {number(found.high, '')})"


def _instructions(value: float) -> str:
    return f"{value / 1e6:,.3f} M" if abs(value) >= 1e5 else f"{value:,.0f}"


def _seconds(value: float) -> str:
    return f"{value * 1e3:,.3f} ms" if abs(value) >= 1e-3 else f"{value * 1e6:,.1f} µs"


def _machine(results: Results) -> str:
    about = results.about
    machine, versions = about["machine"], about["versions"]
    named = [f"{name} {version}" for name, version in versions.items()]
    return (
        f"{about['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['system']}, Python {machine['python']}, " + ", ".join(named)
    )


def _spans(results: Results) -> str:
    rows = [
        results.row("instructions", system, "plain", 1.0)
        for system in ("stock", "ours", "ours-close")
    ]
    counts = [None if row is None else row.spans for row in rows]
    if None in counts:
        return ""
    stock, ours, closed = counts
    return (
        f"Spans in the transaction of a plain request: stock {stock}, ours {ours}, ours with "
        f'finish_on="close" {closed} (those of the receivers of request_finished).'
    )


# -- the README ------------------------------------------------------------------


def section(results: Results) -> str:
    """What stands between the markers."""
    lines = ["| work | target | measured | |", "|---|---|---|---|"]
    for verdict in targets.verdicts(results):
        target = verdict.target
        word = f"**{verdict.word}**" if not verdict.met else "met"
        lines.append(f"| {target.work} | {target.wanted} | {_measured(verdict)} | {word} |")
    lines += ["", _spans(results), "", *_over_stock(results)]
    head = "| instructions over bare Django; in units of stock's | " + " | ".join(
        SYSTEMS[system].label for system in _columns(results)
    )
    lines += [head + " |", "|---|" + "---:|" * len(_columns(results))]
    for work in WORKS:
        for lifecycle in ("static", "stream"):
            for rate in (0.0, 0.1, 1.0):
                cells = [
                    _cell(results, system, work, rate, lifecycle) for system in _columns(results)
                ]
                if any(cells):
                    name = f"{WORKS[work].label}, rate {rate:g}"
                    name += ', `trace_lifecycle="stream"`' if lifecycle == "stream" else ""
                    lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [""]
    for name, text in (
        ("overhead", "Overhead of a request by system"),
        ("chunks", "Cost per chunk by length of the stream"),
        ("memory", "Memory by open streams"),
    ):
        lines.append(f"![{text}](benchmarks/results/{name}.svg)")
    lines += ["", f"Measured: {_machine(results)}."]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _over_stock(results: Results) -> "List[str]":
    each = [targets.memory_each(results, 10_000, rate) for rate in (0.0, 1.0)]
    if not all(each):
        return []
    unsampled, sampled = (f"{Spread.of(values).middle:,.0f}" for values in each)
    return [
        f"An open response takes {unsampled} bytes more than one of stock's, {sampled} where it is "
        "sampled: stock has sent the transaction by then.",
        "",
    ]


def _columns(results: Results) -> "List[str]":
    there = {row.system for row in results.rows("instructions")}
    return [system for system in SYSTEMS if system in there and system != "bare"]


def _cell(results: Results, system: str, work: str, rate: float, lifecycle: str) -> str:
    over = results.overhead("instructions", system, work, rate, lifecycle)
    if not over:
        return ""
    of_stock = _of_stock(results, "instructions", system, work, rate, lifecycle)
    text = _instructions(Spread.of(over).middle)
    return f"{text}, {Spread.of(of_stock).middle:.2f}" if of_stock else text


def with_section(text: str, results: Results) -> str:
    """The README with a new section.

    :raises BenchmarkError: it has not the two markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(
            f"README.md: expected the lines {BEGIN} and {END} in it\n"
            "  next: put them where the section belongs"
        )
    return f"{before}{begin}\n{section(results)}{end}{after}"


def readme(path: Path, results: Results, check: bool) -> "Optional[str]":
    """Write the section, or with ``check`` say what is wrong; None: nothing is."""
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path.name}: {error}\n  next: git checkout -- {path.name}") from None
    wanted = with_section(text, results)
    if wanted == text:
        return None
    if check:
        return (
            f"{path.name}: the benchmarks' section differs from benchmarks/results/results.json\n"
            "  next: python3 benchmarks/run.py --readme"
        )
    path.write_text(wanted, "utf-8")
    return None
