"""What has been measured, as it is kept in results.json: one row a number."""

import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import stats


class Row(NamedTuple):
    """A number, measured once a round."""

    #: `instructions` and `wallclock` (seconds) a request; `growth` (instructions),
    #: `scheduler` (seconds), `memory` (bytes, threads), `imports` (seconds), `load`.
    part: str
    system: str
    work: str
    rate: float
    lifecycle: str
    values: "List[float]"
    #: Of the requests, how many reached the exporter as a trace; None: not counted.
    share: "Optional[float]" = None
    #: Spans in the trace of one request, besides its root; None: not counted.
    spans: "Optional[int]" = None


Key = Tuple[str, str, str, float, str]


class Results:
    """All rows of one run, with the machine and the versions they hold for."""

    def __init__(self, about: "Optional[Dict[str, Any]]" = None) -> None:
        self.about: "Dict[str, Any]" = about or {}
        self._rows: "Dict[Key, Row]" = {}

    def add(self, row: Row) -> None:
        """Add a row, or replace the one with the same key."""
        self._rows[row[:5]] = row

    def rows(self, part: str) -> "List[Row]":
        """All rows of a part, in the order in which they were added."""
        return [row for row in self._rows.values() if row.part == part]

    def parts(self) -> "List[str]":
        """What has been measured."""
        return list(dict.fromkeys(row.part for row in self._rows.values()))

    def row(
        self, part: str, system: str, work: str, rate: float = 0.0, lifecycle: str = "static"
    ) -> "Optional[Row]":
        """One row; bare Django has neither rate nor lifecycle."""
        if system == "bare":
            rate, lifecycle = 0.0, "static"
        return self._rows.get((part, system, work, rate, lifecycle))

    def values(
        self, part: str, system: str, work: str, rate: float = 0.0, lifecycle: str = "static"
    ) -> "List[float]":
        """What one more costs; [] if it was not measured.

        Of a rate in between, moved to exactly that share of sampled requests.
        """
        row = self.row(part, system, work, rate, lifecycle)
        if row is None:
            return []
        ends = [self.row(part, system, work, end, lifecycle) for end in (0.0, 1.0)]
        if not 0 < rate < 1 or row.share is None or ends[0] is None or ends[1] is None:
            return row.values
        return [
            stats.at_share(value, row.share, rate, unsampled, sampled)
            for value, unsampled, sampled in zip(row.values, ends[0].values, ends[1].values)
        ]

    def overhead(
        self, part: str, system: str, work: str, rate: float = 0.0, lifecycle: str = "static"
    ) -> "List[float]":
        """What one more costs over bare Django; [] if it was not measured."""
        measured = self.values(part, system, work, rate, lifecycle)
        return stats.over(measured, self.values(part, "bare", work))

    def chunk(self, part: str, system: str, rate: float) -> "List[float]":
        """What one chunk of a stream costs over bare Django; [] if it was not measured."""
        short = self.overhead(part, system, "stream-100", rate)
        long = self.overhead(part, system, "stream-10000", rate)
        return [stats.per_unit(few, many, 100, 10_000) for few, many in zip(short, long)]

    def series(self, part: str, system: str, what: str, rate: float) -> "Dict[int, Row]":
        """The rows whose work is `what@N`, by N."""
        found = {}
        for row in self.rows(part):
            name, _, number = row.work.partition("@")
            if (row.system, name, row.rate) == (system, what, rate) and number:
                found[int(number)] = row
        return dict(sorted(found.items()))

    # -- the file ------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Errors: OSError; ValueError, LookupError or TypeError if it is damaged."""
        data = json.loads(path.read_text("utf-8"))
        results = cls(data["about"])
        for row in data["rows"]:
            results.add(Row(**row))
        return results

    def write(self, path: Path) -> None:
        """One line a row, so that a new run is a readable diff."""
        lines = ",\n".join("  " + json.dumps(_rounded(row)) for row in self._rows.values())
        about = json.dumps(self.about, indent=1, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"about": {about},\n "rows": [\n{lines}\n]}}\n', "utf-8")


def _rounded(row: Row) -> "Dict[str, Any]":
    """Six digits are more than any of these numbers is worth."""
    found = row._asdict()
    found["values"] = [float(f"{value:.6g}") for value in row.values]
    return {key: value for key, value in found.items() if value is not None}
