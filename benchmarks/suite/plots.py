"""The plots: SVG without a background, in colours that can be read on white and on black."""

from pathlib import Path
from typing import Any, Dict, List

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

import targets  # noqa: E402
from results import Results  # noqa: E402
from stats import Spread  # noqa: E402
from systems import SYSTEMS  # noqa: E402

INK = "#7d8590"  # 4.1:1 on white, 5.1:1 on #0d1117
COLOURS = {
    "stock": "#d9822b",
    "ours": "#2f81f7",
    "ours-close": "#7aa7e9",
    "older": "#c65b7c",
    "otel": "#8e6fd1",
    "ddtrace": "#3f9b6b",
}

_STYLE: "Dict[str, Any]" = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",
    # The same bytes for the same numbers.
    "svg.hashsalt": "vendored-integration",
}


def draw(results: Results, directory: Path) -> "List[Path]":
    """Write each plot for which there are numbers; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in (("overhead", _overhead), ("chunks", _chunks), ("memory", _memory)):
        with pyplot.rc_context(_STYLE):
            figure, axes = pyplot.subplots(figsize=(7.2, 3.6), layout="constrained")
            if plot(results, axes):
                path = directory / f"{name}.svg"
                figure.savefig(path, transparent=True, metadata={"Date": None})
                written.append(path)
            pyplot.close(figure)
    return written


def _overhead(results: Results, axes: Any) -> bool:
    """Bars: what a request costs over bare Django."""
    groups = [
        ("plain,\nnot sampled", "plain", 0.0),
        ("plain,\nsampled", "plain", 1.0),
        ("100 chunks,\nnot sampled", "stream-100", 0.0),
        ("100 chunks,\nsampled", "stream-100", 1.0),
    ]
    there = {row.system for row in results.rows("instructions")}
    systems = [system for system in COLOURS if system in there]
    width = 0.8 / max(1, len(systems))
    for index, system in enumerate(systems):
        places, heights = [], []
        for group, (_, work, rate) in enumerate(groups):
            over = results.overhead("instructions", system, work, rate)
            if over:
                places.append(group + (index - (len(systems) - 1) / 2) * width)
                heights.append(Spread.of(over).middle / 1e6)
        axes.bar(places, heights, width * 0.9, color=COLOURS[system], label=SYSTEMS[system].label)
    axes.set_xticks(range(len(groups)), [label for label, _, _ in groups])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("million instructions")
    axes.set_title("A request over bare Django", loc="left")
    if systems:
        axes.legend()
    return bool(systems)


def _chunks(results: Results, axes: Any) -> bool:
    """Lines: a chunk, by the length of its stream."""
    drawn = False
    for system in ("stock", "ours"):
        costs = targets.chunk_costs(results, system)
        if costs:
            drawn = True
            axes.plot(list(costs), list(costs.values()), "o-", color=COLOURS[system], label=system)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=100)
    axes.set_xlabel("chunks of the stream")
    axes.set_ylabel("instructions a chunk")
    axes.set_title("A chunk over bare Django", loc="left")
    if drawn:
        axes.legend()
    return drawn


def _memory(results: Results, axes: Any) -> bool:
    """Lines: memory, by the number of open streams, all sampled."""
    drawn = False
    for system, rate in (("stock", 1.0), ("ours", 1.0), ("bare", 0.0)):
        rows = results.series("memory", system, "open", rate)
        if not rows:
            continue
        drawn = True
        start = Spread.of(rows[0].values).middle
        heights = [(Spread.of(row.values).middle - start) / 2**20 for row in rows.values()]
        colour = COLOURS.get(system, INK)
        axes.plot(list(rows), heights, "o-", color=colour, label=SYSTEMS[system].label)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("open streams")
    axes.set_ylabel("MiB")
    axes.set_title("Memory of open streams, sampled", loc="left")
    if drawn:
        axes.legend()
    return drawn
