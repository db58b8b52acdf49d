"""What pytest found, for stock and for ours, and where the two differ.

The results come from pytest-reportlog: one JSON object a line, two or three lines a
test (setup, call, teardown).
"""

import json
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

from supported import numbers

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"


class Result(NamedTuple):
    """How one test ended. ``error`` is one line, empty unless it failed."""

    outcome: str
    error: str = ""


Results = Dict[str, Result]


class Explanation(NamedTuple):
    """Tests that pass for stock and are to fail for ours.

    ``first`` and ``last`` are releases, both included; ``last`` is ``""`` as long as
    the newest one is concerned. ``tests`` are pytest's node ids below
    tests/integrations/.
    """

    reason: str
    first: str
    last: str
    tests: Tuple[str, ...]

    def claims(self, release: str) -> bool:
        """Whether it is about this release."""
        wanted = numbers(release)
        if wanted < numbers(self.first):
            return False
        return not self.last or wanted <= numbers(self.last)


class Verdict(NamedTuple):
    """The difference between two runs; all tuples are of (test, text)."""

    #: Fail for ours only and nothing says why, with the error.
    unexplained: "List[Tuple[str, str]]"
    #: Fail for ours only, as the list says, with the error.
    explained: "List[Tuple[str, str]]"
    #: In the list, but no such difference occurs, with what occurs instead.
    idle: "List[Tuple[str, str]]"
    #: Fail for stock and pass for ours, with stock's error.
    gained: "List[Tuple[str, str]]"
    #: Fail for both, so that nothing is judged, with stock's error.
    undecided: "List[Tuple[str, str]]"


def read(report_log: Path) -> Results:
    """Return each test's result. A file that cannot be imported counts as a test."""
    results: Results = {}
    for line in report_log.read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        test = report.get("nodeid")
        if report.get("$report_type") not in ("TestReport", "CollectReport") or not test:
            continue
        known = results.get(test, Result(PASSED))
        if report["outcome"] == FAILED and known.outcome != FAILED:
            results[test] = Result(FAILED, one_line(report["longrepr"]))
        elif report["outcome"] == SKIPPED and known.outcome == PASSED:
            results[test] = Result(SKIPPED)
        elif report["$report_type"] == "TestReport":
            results[test] = known
    return results


def one_line(representation: object) -> str:
    """The error itself, out of all that pytest tells about a failure."""
    if isinstance(representation, dict):
        text = str((representation.get("reprcrash") or {}).get("message", ""))
        lines = text.splitlines()
        return lines[0] if lines else "no message"
    # A text: from a test in a process of its own, or an import that failed.
    lines = [line for line in str(representation).splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors[:1] or lines[-1:] or ["no message"])[0]


def failing(results: Results) -> "List[str]":
    """The tests that failed, in order."""
    return [test for test, result in results.items() if result.outcome == FAILED]


def count(results: Results, outcome: str) -> int:
    """How many tests ended so."""
    return sum(result.outcome == outcome for result in results.values())


def take_passes(results: Results, again: Results) -> "List[str]":
    """Let a failed test pass that passes at a later attempt; return which ones do."""
    steady = Result(PASSED)
    mended = [test for test in failing(results) if again.get(test) == steady]
    for test in mended:
        results[test] = steady
    return mended


def claimed(release: str, explanations: "Sequence[Explanation]") -> "Dict[str, str]":
    """The tests that are to fail for ours at a release, with the reason."""
    return {
        f"tests/integrations/{test}": explanation.reason
        for explanation in explanations
        if explanation.claims(release)
        for test in explanation.tests
    }


def compare(stock: Results, ours: Results, expected: "Iterable[str]") -> Verdict:
    """Find where ours differs from stock, and whether it was ``expected`` to."""
    verdict = Verdict([], [], [], [], [])
    missing = Result("missing", "the test was not run")
    expected = set(expected)
    for test in dict.fromkeys([*stock, *ours]):
        here, there = stock.get(test, missing), ours.get(test, missing)
        if here.outcome == FAILED and there.outcome != PASSED:
            verdict.undecided.append((test, here.error))
        elif here.outcome == FAILED:
            verdict.gained.append((test, here.error))
        elif here.outcome == there.outcome:
            continue
        elif test in expected and there.outcome == FAILED:
            verdict.explained.append((test, there.error))
        elif here.outcome == PASSED or there.outcome == FAILED:
            # Not run or skipped is not passed, either.
            verdict.unexplained.append((test, there.error or there.outcome))
    found = {test for test, _ in verdict.explained}
    for test in sorted(expected - found):
        here, there = stock.get(test, missing), ours.get(test, missing)
        # Skipped: it needs PostgreSQL, or another Django. Failed: listed as undecided.
        if here.outcome == FAILED or here.outcome == there.outcome == SKIPPED:
            continue
        verdict.idle.append((test, f"stock: {here.outcome}, ours: {there.outcome}"))
    return verdict
