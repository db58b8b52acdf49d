"""How each test ended in two runs, and where the second is worse.

:func:`read` takes what pytest-reportlog wrote: one JSON object a line, two or three lines
a test (setup, call, teardown).
"""

import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

PASSED, SKIPPED, FAILED = "passed", "skipped", "failed"


class Result(NamedTuple):
    """How one test ended. ``error`` is one line, empty unless it failed."""

    outcome: str
    error: str = ""


Results = Dict[str, Result]


class Verdict(NamedTuple):
    """The difference between two runs; all lists are of (test, error)."""

    #: Worse in the second run: failed, or passed in the first only.
    worse: "List[Tuple[str, str]]"
    #: Failed in the first run and passed in the second.
    gained: "List[Tuple[str, str]]"
    #: Not passed in either, so that nothing is judged.
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


def compare(first: Results, second: Results) -> Verdict:
    """Find where two runs of the same tests differ."""
    verdict = Verdict([], [], [])
    missing = Result("missing", "the test was not run")
    for test in dict.fromkeys([*first, *second]):
        here, there = first.get(test, missing), second.get(test, missing)
        if here.outcome == FAILED and there.outcome != PASSED:
            verdict.undecided.append((test, here.error))
        elif here.outcome == FAILED:
            verdict.gained.append((test, here.error))
        elif here.outcome == there.outcome:
            continue
        elif here.outcome == PASSED or there.outcome == FAILED:
            # Not run or skipped is not passed, either.
            verdict.worse.append((test, there.error or there.outcome))
    return verdict
