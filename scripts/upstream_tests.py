#!/usr/bin/env python3
"""Run the SDK's own tests, once with the stock integration and once with ours.

    python3 scripts/upstream_tests.py newest
    python3 scripts/upstream_tests.py 2.29.1 newest --django 4.2

The tests are tests/integrations/django and tests/integrations/wsgi out of the release's
source distribution, which pip downloads; those of the newer releases carry them. In the
second run our modules stand in the place of sentry_sdk.integrations.django and .wsgi
(scripts/upstream/plugins). What passes for stock must pass for ours.

All that is needed goes to .cache, with a virtual environment for each version of Python and
Django. For the tests that use PostgreSQL, set SENTRY_PYTHON_TEST_POSTGRES_HOST and its fellows
(_PORT, _USER, _PASSWORD, _NAME); without it they are skipped.

Exit status: 0 no regression, 1 there is one, 2 an error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple, Sequence
from xml.etree import ElementTree

import environment
from upstream import suites
from upstream.suites import FAILED, PASSED, SKIPPED, Result, Results

PLUGINS = environment.ROOT / "scripts" / "upstream" / "plugins"
PATHS = ("tests/integrations/django", "tests/integrations/wsgi")

# What upstream's tests import, and what they are marked with (forked, asyncio, django_db); the
# last two are for speed, and tests that hang. pytest-forked hands no result of pytest 9 to its
# parent.
REQUIREMENTS = """
    asttokens brotli channels[daphne] djangorestframework executing freezegun gevent httpx
    jsonschema pyrsistent pytest<9 pytest-asyncio pytest-django pytest-forked pytest-localserver
    responses six werkzeug pytest-xdist pytest-timeout
"""

# Close the responses, as a WSGI server does, in both runs; then swap.
PLUGINS_OF = {"stock": ["close_responses"], "ours": ["close_responses", "swap_integration"]}

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


def main(argv: Sequence[str]) -> int:
    parser = environment.parser_of(__doc__)
    parser.add_argument("releases", metavar="RELEASE", type=environment.sdk_release, nargs="+")
    parser.add_argument(
        "--django", metavar="VERSION", default="5.2", help="two numbers (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    return suites.judge_each(args.releases, lambda release: judge(prepare(release, args.django)))


def judge(suite: Suite) -> bool:
    """Run the tests of one release and print the difference; true if ours is not worse."""
    both = {name: attempts(suite, name) for name in ("stock", "ours")}
    print(f"\nsentry-sdk {suite.release}")
    for name, results in both.items():
        counts = [f"{suites.count(results, end)} {end}" for end in (PASSED, FAILED, SKIPPED)]
        print(f"  {name}: {', '.join(counts)}")
    for kind, test, error in suites.compare(both["stock"], both["ours"]):
        print(f"  {kind}: {test}\n      {error}")
    regressions = len(suites.worse(both["stock"], both["ours"]))
    print(f"  regressions: {regressions}")
    return not regressions


def prepare(release: str, django: str) -> Suite:
    """Install the release, our wheel and what the tests need; download the tests."""
    requirements = [f"Django=={django}.*", *REQUIREMENTS.split()]
    if "SENTRY_PYTHON_TEST_POSTGRES_HOST" in os.environ:
        requirements.append("psycopg2-binary")
    python = environment.make(f"django{django}", requirements)
    source = suites.unpack("sentry-sdk", release, python)
    environment.install(release, python)
    return Suite(release, django, python, source)


def attempts(suite: Suite, name: str) -> Results:
    """Run all tests; and the files with failures once more, twice at most.

    The whole files: what fails may have been brought about by the test before it.
    """
    results = run(suite, name, PATHS)
    for _ in range(ATTEMPTS - 1):
        failed = [test for test, result in results.items() if result.outcome == FAILED]
        if not failed:
            break
        again = sorted({test.partition("::")[0] for test in failed})
        suites.take_passes(results, run(suite, name, again))
    return results


def run(suite: Suite, name: str, tests: Sequence[str]) -> Results:
    """Run some tests once."""
    title = name if tests is PATHS else f"{name}-again"
    log = suites.CACHE / "results" / f"{suite.release}-django{suite.django}" / f"{title}.xml"
    command = [str(suite.python), "-m", "pytest", "-c", "pyproject.toml"]
    # Upstream's own options ask for coverage.
    command += ["-o", "addopts=", "-p", "no:cacheprovider", "--tb=short"]
    command += [f"-p{plugin}" for plugin in PLUGINS_OF[name]]
    # A file's tests in one process and in order: some rely on it.
    command += ["--numprocesses=auto", "--dist=loadfile", f"--timeout={TEST_TIMEOUT}"]
    # This form names the files.
    command += [f"--junit-xml={log}", "-o", "junit_family=xunit1", *tests]
    title = f"sentry-sdk {suite.release}: {title}"
    results: Results = suites.run_tests(title, command, suite.source, test_environ(), log, read)
    return results


def test_environ() -> dict[str, str]:
    """The environment variables for the tests."""
    given = {
        name: value for name, value in os.environ.items() if name.startswith("SENTRY_PYTHON_TEST_")
    }
    return {
        **environment.clean_environ(),
        **given,
        # Upstream's tests run in a git checkout, whose commit is the release; without a
        # release there are no sessions.
        "SENTRY_RELEASE": "upstream-tests",
        "DJANGO_SETTINGS_MODULE": "tests.integrations.django.myapp.settings",
        "PYTHONPATH": str(PLUGINS),
    }


def read(log: Path) -> Results:
    """How each test ended. A file that cannot be imported counts as a test."""
    results: Results = {}
    for case in ElementTree.parse(log).iter("testcase"):
        file = case.get("file", "")
        classes = case.get("classname", "")[len(file[: -len(".py")]) + 1 :]
        test = "::".join(filter(None, [file, classes, case.get("name")]))
        results[test] = Result(PASSED)
        for child in case:
            if child.tag in ("failure", "error"):
                results[test] = Result(FAILED, child.get("message", "").partition("\n")[0])
            elif child.tag == "skipped":
                results[test] = Result(SKIPPED)
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
