"""The section of docs/reliability.md that is made of what has been measured. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, TypeVar

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SOAK = RESULTS / "soak.json"
OUTAGE = RESULTS / "outage.json"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak -->", "<!-- /soak -->"

Json = Dict[str, Any]
_Made = TypeVar("_Made")


class Damaged(Exception):
    """A file of the repository cannot be read; the message is for the user."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(
            f"{path}: missing or damaged\n  found: {error!r}\n  next: git checkout -- {path}"
        )


def lines(result: Json) -> List[str]:
    """What a soak has found besides the requests, in words."""
    low, high = result["slope"][1:]
    return [
        f"lost {result['lost']:,}, double {result['double']:,}, "
        f"open at the end {result['open']:,}, deadlines {result['deadlines']:,}",
        "threads {} -> {}".format(*result["threads"]),
        "memory {:.1f} -> {:.1f} MB".format(*(size / 1e6 for size in result["resident"]))
        + f"; slope {_slope(result)} bytes per 1,000 requests (95 %: {low:,.0f} to {high:,.0f})",
        "blocks of the allocator {:,} -> {:,}".format(*result["blocks"]),
    ]


def _slope(result: Json) -> str:
    return f"{result['slope'][0]:+,.0f}"


def keep(found: Json) -> Optional[str]:
    """Keep the results of these servers, in place of earlier ones, and write the section.

    :return: what is wrong with the page; None: nothing is.
    """
    servers = {**kept(), **found["servers"]}
    write_json(SOAK, {"about": found["about"], "servers": servers})
    return update(PAGE, check=False)


def kept() -> Json:
    """The results of all servers so far.

    :raises Damaged: they cannot be read.
    """
    if not SOAK.is_file():
        return {}
    return _read(SOAK, lambda soak: dict(soak["servers"]))


def write_json(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def section() -> str:
    """What stands between the markers.

    :raises Damaged: there are no results of which it could be made.
    """
    return f"{_read(SOAK, _soak_table)}\n{_read(OUTAGE, _outage_table)}"


def _soak_table(soak: Json) -> str:
    head = (
        "| soak | requests | transactions, errors | lost | double | open at the end | "
        "threads | memory, MB | slope, bytes per 1,000 requests (95 %) |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    )
    rows = [_soak_row(kind, result) for kind, result in sorted(soak["servers"].items())]
    return _table(head, rows, soak["about"])


def _outage_table(outage: Json) -> str:
    head = (
        "| ingest, transport | events | delivered | dropped | queued at the end | "
        "CPU, and time, of a request: times those with a healthy ingest | memory, MB more |\n"
        "|---|---:|---:|---:|---:|---:|---:|\n"
    )
    return _table(head, [_outage_row(case) for case in outage["cases"]], outage["about"])


def _table(head: str, rows: List[str], about: Json) -> str:
    if not rows:
        raise ValueError("no results")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    measured = f"{about['date']}, Python {about['python']}, {about['cores']} cores, {versions}"
    return head + "".join(f"{row}\n" for row in rows) + f"\nMeasured: {measured}.\n"


def _soak_row(kind: str, result: Json) -> str:
    transactions = sum(row["transactions"] for row in result["kinds"])
    errors = sum(row["errors"] for row in result["kinds"])
    low, high = result["slope"][1:]
    cells = [
        f"gunicorn {kind}",
        f"{result['requests']:,}",
        f"{transactions:,}, {errors:,}",
        f"{result['lost']:,}",
        f"{result['double']:,}",
        f"{result['open']:,}",
        "{} → {}".format(*result["threads"]),
        "{:.1f} → {:.1f}".format(*(size / 1e6 for size in result["resident"])),
        f"{_slope(result)} ({low:+,.0f} to {high:+,.0f})",
    ]
    return "| " + " | ".join(cells) + " |"


def _outage_row(case: Json) -> str:
    dropped = case["dropped"]
    if isinstance(dropped, dict):
        dropped = ", ".join(f"{name} {count:,}" for name, count in sorted(dropped.items())) or "0"
    cells = [
        f"{case['ingest']}, {case['transport']}",
        f"{case['events']:,}",
        f"{case['delivered']:,}",
        dropped,
        f"{case['queued']:,}",
        f"{case['CPU_ratio']:.2f}, {case['wall_ratio']:.2f}",
        f"{case['memory']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def update(path: Path, check: bool) -> Optional[str]:
    """Write the section, or with ``check`` say what is wrong; None: nothing is."""
    try:
        text = path.read_text("utf-8")
        made = section()
    except Damaged as error:
        return str(error)
    except (OSError, ValueError) as error:
        return str(Damaged(path, error))
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return (
            f"{path}: expected the lines {BEGIN} and {END} in it\n"
            "  next: put them where the section belongs"
        )
    wanted = f"{before}{begin}\n{made}{end}{after}"
    if wanted == text:
        return None
    if check:
        return (
            f"{path}: its section differs from what is in {RESULTS}\n"
            "  next: python3 scripts/soak.py --docs"
        )
    path.write_text(wanted, "utf-8")
    return None


def _read(path: Path, make: "Callable[[Json], _Made]") -> "_Made":
    """What is made of a file of results.

    :raises Damaged: nothing can be.
    """
    try:
        return make(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(path, error) from None
