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
import subprocess
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
    last_lines,
    make_environment,
    say,
    short,
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


class Environment(NamedTuple):
    """A virtual environment with what the tests need, save the SDK and our wheel."""

    python: Path
    django: str


class Run(NamedTuple):
    """The results of one implementation, and which tests needed more than one attempt."""

    results: Results
    unsteady: "List[str]"


def main(argv: "Sequence[str]") -> int:
    args = _arguments(argv)
    status = 0
    for release in args.releases:
        # An error with one release does not stop the others.
        try:
            if not judge(release, prepare(args.django)):
                status = max(status, 1)
        except Refused as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    return status


def judge(release: str, environment: Environment) -> bool:
    """Run the tests of one release and print the difference; true if ours is not worse."""
    source = unpack_tests(release, environment)
    install(release, environment.python)
    runs = Runs(release, environment, source)
    stock = runs.attempts("stock", CLOSE)
    ours = runs.attempts("ours", SWAP)
    verdict = compare(stock.results, ours.results)
    print(report(release, stock, ours, verdict))
    return not verdict.worse


# -- getting ready ---------------------------------------------------------------------


def prepare(django: str) -> Environment:
    """Return the environment for this Python and a Django, made if it is not there."""
    requirements = [f"Django=={django}.*", *REQUIREMENTS]
    if POSTGRES_VARIABLE in os.environ:
        requirements.append("psycopg2-binary")
    return Environment(make_environment(f"django{django}", requirements), django)


def unpack_tests(release: str, environment: Environment) -> Path:
    """Return the directory with the release's tests, downloaded if it is not there."""
    target = unpack("sentry-sdk", release, environment.python)
    missing = [path for path in PATHS if not (target / path).is_dir()]
    if missing:
        raise Refused(
            f"sentry-sdk {release}: its source distribution carries no such tests, so there "
            "is nothing to judge by\n"
            f"  expected: {', '.join(PATHS)}\n"
            f"  found: {short(target)} without {', '.join(missing)}\n"
            "  next: leave this release out"
        )
    return target


# -- running the tests -----------------------------------------------------------------


class Runs:
    """Runs of the tests of one release."""

    def __init__(self, release: str, environment: Environment, source: Path) -> None:
        self._release = release
        self._environment = environment
        self._source = source

    def attempts(self, name: str, plugins: "Iterable[str]") -> Run:
        """Run all tests; and the files with failures once more, twice at most.

        The whole files: what fails may have been brought about by the test before it.
        """
        results = self.run(name, plugins, PATHS)
        unsteady: List[str] = []
        for _ in range(ATTEMPTS - 1):
            again = sorted({test.partition("::")[0] for test in failing(results)})
            if not again:
                break
            unsteady += take_passes(results, self.run(f"{name}-again", plugins, again))
        return Run(results, unsteady)

    def run(self, name: str, plugins: "Iterable[str]", tests: "Iterable[str]") -> Results:
        """Run some tests once, with some plugins."""
        directory = CACHE / "results" / f"{self._release}-django{self._environment.django}"
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / f"{name}.jsonl"
        output = directory / f"{name}.txt"
        if log.exists():
            log.unlink()  # pytest-reportlog would add to it
        say(f"running the tests of sentry-sdk {self._release}: {name}")
        with output.open("w") as stream:
            status = subprocess.call(
                [*self._pytest(plugins), f"--report-log={log}", *tests],
                cwd=str(self._source),
                env=test_environ(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        results = read(log) if log.exists() else {}
        # pytest: 0 all have passed, 1 some have failed, 2 some file could not be imported.
        if status not in (0, 1, 2) or not results:
            raise Refused(
                f"sentry-sdk {self._release}: pytest could not run the tests ({name})\n"
                f"  expected: its exit status 0 or 1, and results in {short(log)}\n"
                f"  found: {status}, {len(results)} results\n{last_lines(output.read_text())}\n"
                f"  next: read {short(output)}"
            )
        return results

    def _pytest(self, plugins: "Iterable[str]") -> "List[str]":
        command = [str(self._environment.python), "-m", "pytest", "-c", "pyproject.toml"]
        # Upstream's own options ask for coverage.
        command += ["-o", "addopts=", "-p", "no:cacheprovider", "--tb=short"]
        command += [option for plugin in plugins for option in ("-p", plugin)]
        # A file's tests in one process and in order: some rely on it.
        return [*command, "--numprocesses=auto", "--dist=loadfile", f"--timeout={TEST_TIMEOUT}"]


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


# -- telling ---------------------------------------------------------------------------


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
