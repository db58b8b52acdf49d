#!/usr/bin/env python3
"""Run the SDK's own tests, once with the stock integration and once with ours.

    python3 scripts/upstream_tests.py newest
    python3 scripts/upstream_tests.py 2.29.1 newest --django 4.2

The tests are tests/integrations/django and tests/integrations/wsgi out of the release's
source distribution, which pip downloads; those of the newer releases carry them. In the
second run our modules stand in the place of sentry_sdk.integrations.django and .wsgi
(scripts/upstream/plugins). What passes for stock must pass for ours.

All that is needed goes to .cache/upstream, in a virtual environment for each version of
Python and Django. For the tests that use PostgreSQL, set SENTRY_PYTHON_TEST_POSTGRES_HOST
and its fellows (_PORT, _USER, _PASSWORD, _NAME); without it they are skipped.

Exit status: 0 no regression, 1 there is one, 2 an error.
"""

# Only the standard library here: this has to run on a machine that has only Python.

import argparse
import os
import sys
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Sequence

import supported
from upstream.compare import (
    FAILED,
    PASSED,
    SKIPPED,
    Results,
    Verdict,
    compare,
    count,
    failing,
    read,
    take_passes,
)
from upstream.environment import (
    CACHE,
    ROOT,
    Refused,
    clean_environ,
    install,
    judge_each,
    make_environment,
    run_tests,
    unpack,
)

PLUGINS = ROOT / "scripts" / "upstream" / "plugins"
PATHS = ("tests/integrations/django", "tests/integrations/wsgi")

# What upstream's tests import, and what they are marked with (forked, asyncio,
# django_db); the last three are for the results, speed, and tests that hang.
REQUIREMENTS = (
    "asttokens",
    "brotli",
    "channels[daphne]",
    "djangorestframework",
    "executing",
    "freezegun",
    "gevent",
    "httpx",
    "jsonschema",
    "pyrsistent",
    # pytest-forked hands no result of pytest 9 to its parent.
    "pytest<9",
    "pytest-asyncio",
    "pytest-django",
    "pytest-forked",
    "pytest-localserver",
    "responses",
    "six",
    "werkzeug",
    "pytest-reportlog",
    "pytest-xdist",
    "pytest-timeout",
)
POSTGRES_VARIABLE = "SENTRY_PYTHON_TEST_POSTGRES_HOST"

# Close the responses, as a WSGI server does, in both runs; then swap.
CLOSE = ("close_responses",)
SWAP = (*CLOSE, "swap_integration")

# Some of upstream's tests fail now and then, for stock too (they read spans in the
# order in which another thread sends them); so the files with failures run again.
ATTEMPTS = 3

TEST_TIMEOUT = 120  # seconds


class Suite(NamedTuple):
    """The tests of one release, and an environment for them."""

    release: str
    django: str
    python: Path
    source: Path


class Run(NamedTuple):
    """The results of one implementation, and which tests needed more than one attempt."""

    results: Results
    unsteady: "List[str]"


def main(argv: "Sequence[str]") -> int:
    args = _arguments(argv)
    return judge_each(args.releases, lambda release: judge(prepare(release, args.django)))


def judge(suite: Suite) -> bool:
    """Run the tests of one release and print the difference; true if ours is not worse."""
    stock = attempts(suite, "stock", CLOSE)
    ours = attempts(suite, "ours", SWAP)
    verdict = compare(stock.results, ours.results)
    print(report(suite.release, stock, ours, verdict))
    return not verdict.worse


def prepare(release: str, django: str) -> Suite:
    """Install the release, our wheel and what the tests need; download the tests."""
    requirements = [f"Django=={django}.*", *REQUIREMENTS]
    if POSTGRES_VARIABLE in os.environ:
        requirements.append("psycopg2-binary")
    python = make_environment(f"django{django}", requirements)
    source = unpack("sentry-sdk", release, python)
    missing = [path for path in PATHS if not (source / path).is_dir()]
    if missing:
        raise Refused(
            f"sentry-sdk {release}: its source distribution carries no {', '.join(missing)}\n"
            "  next: leave this release out"
        )
    install(release, python)
    return Suite(release, django, python, source)


def attempts(suite: Suite, name: str, plugins: "Iterable[str]") -> Run:
    """Run all tests; and the files with failures once more, twice at most.

    The whole files: what fails may have been brought about by the test before it.
    """
    results = run(suite, name, plugins, PATHS)
    unsteady: List[str] = []
    for _ in range(ATTEMPTS - 1):
        again = sorted({test.partition("::")[0] for test in failing(results)})
        if not again:
            break
        unsteady += take_passes(results, run(suite, f"{name}-again", plugins, again))
    return Run(results, unsteady)


def run(suite: Suite, name: str, plugins: "Iterable[str]", tests: "Iterable[str]") -> Results:
    """Run some tests once, with some plugins."""
    log = CACHE / "results" / f"{suite.release}-django{suite.django}" / f"{name}.jsonl"
    command = [str(suite.python), "-m", "pytest", "-c", "pyproject.toml"]
    # Upstream's own options ask for coverage.
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "--tb=short"]
    command += [option for plugin in plugins for option in ("-p", plugin)]
    # A file's tests in one process and in order: some rely on it.
    command += ["--numprocesses=auto", "--dist=loadfile", f"--timeout={TEST_TIMEOUT}"]
    command += [f"--report-log={log}", *tests]
    title = f"sentry-sdk {suite.release}: {name}"
    results: Results = run_tests(title, command, suite.source, test_environ(), log, read)
    return results


def test_environ() -> "Dict[str, str]":
    """The environment variables for the tests."""
    environ = clean_environ()
    environ.update(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("SENTRY_PYTHON_TEST_")
    )
    # Upstream's tests run in a git checkout, whose commit is the release; without a
    # release there are no sessions.
    environ["SENTRY_RELEASE"] = "upstream-tests"
    environ["DJANGO_SETTINGS_MODULE"] = "tests.integrations.django.myapp.settings"
    environ["PYTHONPATH"] = str(PLUGINS)
    return environ


def report(release: str, stock: Run, ours: Run, verdict: Verdict) -> str:
    """All that is to be known of one release, as text."""
    lines = ["", f"sentry-sdk {release}", f"  {'':8}{'passed':>8}{'failed':>8}{'skipped':>8}"]
    for name, one in (("stock", stock), ("ours", ours)):
        counts = [count(one.results, outcome) for outcome in (PASSED, FAILED, SKIPPED)]
        lines.append(f"  {name:8}" + "".join(f"{number:8}" for number in counts))
    sections = (
        ("REGRESSION, passes for stock and not for ours", verdict.worse),
        ("passes for ours and not for stock", verdict.gained),
        ("fails for both", verdict.undecided),
        ("passes not always, for stock", [(test, "") for test in stock.unsteady]),
        ("passes not always, for ours", [(test, "") for test in ours.unsteady]),
    )
    for title, entries in sections:
        lines += ["", f"  {title}:"] if entries else []
        for test, text in entries:
            lines += [f"    {test}", *([f"      {text}"] if text else [])]
    plural = "" if len(verdict.worse) == 1 else "s"
    lines += ["", f"  {len(verdict.worse)} regression{plural}"]
    return "\n".join(lines)


def _arguments(argv: "Sequence[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="upstream_tests.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "releases", metavar="RELEASE", type=supported.release, nargs="+", help="of sentry-sdk"
    )
    parser.add_argument(
        "--django",
        metavar="VERSION",
        default="5.2",
        help="its first two numbers (default: %(default)s)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
