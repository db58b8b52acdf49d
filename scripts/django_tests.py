#!/usr/bin/env python3
"""Run Django's own tests without the integration, with the stock one and with ours.

    python3 scripts/django_tests.py 5.2
    python3 scripts/django_tests.py 5.2.19 6.1 --sdk 2.63.0

The tests are in Django's source distribution, which pip downloads; of a series (5.2) the
newest release's. They run in both of the SDK's trace lifecycles. Their test clients are
sent through WSGIHandler.__call__ and ASGIHandler.__call__, which Django's own clients go
past (scripts/upstream/django_suite). What passes without the integration must pass with
ours, save what EXPLAINED lists, with a reason each.

All that is needed goes to .cache/upstream, in a virtual environment for each version of
Python and Django; Django 6.1 needs Python 3.12 or later to run this.

Exit status: 0 no unexplained difference, 1 there is one, 2 an error.
"""

# Only the standard library here: this has to run on a machine that has only Python.

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import supported
from upstream.compare import PASSED, Result, Results, compare, count, take_passes
from upstream.environment import (
    CACHE,
    ROOT,
    Refused,
    call,
    clean_environ,
    install,
    judge_each,
    make_environment,
    pip,
    run_tests,
    unpack,
)

PLUGINS = ROOT / "scripts" / "upstream" / "django_suite"
LIFECYCLES = ("static", "stream")
# The module of each DjangoIntegration.
INTEGRATIONS = {
    "without": None,
    "stock": "sentry_sdk.integrations.django",
    "ours": "vendored_integration",
}

# What has to do with requests, responses and signals.
LABELS = """
    admin_views asgi async cache conditional_processing context_processors csrf_tests
    decorators dispatch file_uploads flatpages_tests generic_views handlers httpwrappers
    logging_tests messages_tests middleware middleware_exceptions redirects_tests
    requests_tests responses servers sessions_tests shortcuts signals signed_cookies_tests
    sitemaps_tests staticfiles_tests syndication_tests template_backends test_client
    test_client_regress urlpatterns_reverse view_tests wsgi
"""

# What these tests import, and can do without: then some are skipped.
REQUIREMENTS = ("docutils", "jinja2", "pillow")

EXPLAINED = {
    "reads from a WSGI iterable what only Django's response has": (
        "handlers.test_exception.ExceptionHandlerTests.test_data_upload_max_memory_size_exceeded",
        "handlers.test_exception.ExceptionHandlerTests.test_data_upload_max_number_fields_exceeded",
        "handlers.test_exception.ExceptionHandlerTests.test_data_upload_max_number_files_exceeded",
        "handlers.tests.HandlerTests.test_bad_path_info",
        "handlers.tests.HandlerTests.test_invalid_multipart_boundary",
        "wsgi.tests.WSGITest.test_get_wsgi_application",
    ),
    "wants a body unread that the SDK reads for the transaction": (
        "file_uploads.tests.FileUploadTests.test_no_parsing_triggered_by_fd_closing",
    ),
    "wants Django to see a middleware factory's None, which the SDK wraps": (
        "handlers.tests.HandlerRequestTests.test_middleware_returns_none",
    ),
}


class Suite(NamedTuple):
    """Django's tests of one version, and an environment for them."""

    django: str
    python: Path
    tests: Path
    #: Of our integration.
    options: Dict[str, str]


class Difference(NamedTuple):
    """A test that passes without the integration and does not with ours."""

    test: str
    error: str
    lifecycle: str
    stock_too: bool
    #: Why it is no fault, or "".
    reason: str


def main(argv: "Sequence[str]") -> int:
    args = _arguments(argv)
    return judge_each(
        args.versions, lambda version: judge(prepare(version, args.sdk, args.finish_on))
    )


def prepare(version: str, sdk: "Optional[str]", finish_on: "Optional[str]") -> Suite:
    """Install a version of Django or the newest of a series, the SDK and our wheel."""
    python = make_environment(f"django{version}-suite", REQUIREMENTS)
    call(
        [*pip(python, "install"), "--upgrade", f"Django=={version}.*"],
        f"could not install Django {version} for Python {sys.version.split()[0]}",
    )
    install(sdk or supported.newest(), python)
    ask = [str(python), "-c", "import django; print(django.__version__)"]
    django = subprocess.check_output(ask, universal_newlines=True).strip()
    options = {"finish_on": finish_on} if finish_on else {}
    return Suite(django, python, unpack("Django", django, python) / "tests", options)


def judge(suite: Suite) -> bool:
    """Run the tests, print the differences; true if all are explained."""
    without = run(suite, "without", LIFECYCLES[0])
    differences: List[Difference] = []
    for lifecycle in LIFECYCLES:
        stock = run(suite, "stock", lifecycle)
        ours = run(suite, "ours", lifecycle)
        # Some tests fail now and then: their modules run once more.
        unexplained = [test for test, _ in compare(without, ours).worse if not reason(test)]
        if unexplained:
            modules = " ".join(sorted({test.rsplit(".", 2)[0] for test in unexplained}))
            take_passes(ours, run(suite, "ours", lifecycle, modules))
        with_stock = dict(compare(without, stock).worse)
        differences += [
            Difference(test, error, lifecycle, test in with_stock, reason(test))
            for test, error in compare(without, ours).worse
        ]
    print(report(suite, without, differences))
    return all(one.reason for one in differences)


def reason(test: str) -> str:
    """Why a test is to fail with ours, or an empty text."""
    return next((why for why, tests in EXPLAINED.items() if test in tests), "")


def run(suite: Suite, name: str, lifecycle: str, labels: str = LABELS) -> Results:
    """Run some of the tests once."""
    title = f"{name}, {lifecycle}" + ("" if labels is LABELS else ", again")
    log = CACHE / "results" / f"django-{suite.django}" / (title.replace(", ", "-") + ".json")
    settings = {
        "integration": INTEGRATIONS[name],
        "lifecycle": lifecycle,
        "options": suite.options if name == "ours" else {},
        "results": str(log),
    }
    environ = {"PYTHONPATH": str(PLUGINS), "DJANGO_SUITE_RUN": json.dumps(settings)}
    # Not every version has all of them.
    present = [one for one in labels.split() if (suite.tests / one.partition(".")[0]).is_dir()]
    command = [str(suite.python), "runtests.py", "--settings=suite_settings", "--noinput"]
    command += ["--parallel=1", *present]
    title = f"Django {suite.django}: {title}"
    found = run_tests(title, command, suite.tests, {**clean_environ(), **environ}, log, _read)
    if bool(found["traced"]) != (name != "without"):
        raise Refused(f"{title}: {found['traced']} traced, expected some with an integration only")
    return {test: Result(*outcome) for test, outcome in found["outcomes"].items()}


def _read(log: Path) -> Any:
    """What suite_runner.py has written."""
    found = json.loads(log.read_text())
    return found if found["outcomes"] else None


def report(suite: Suite, without: Results, differences: "Sequence[Difference]") -> str:
    """All differences as text, those without a reason last."""
    passed = count(without, PASSED)
    lines = ["", f"Django {suite.django}: {passed} tests pass without the integration"]
    for why in sorted({one.reason for one in differences}, reverse=True):
        lines += ["", f"  explained: it {why}" if why else "  UNEXPLAINED:"]
        for one in differences:
            if one.reason == why:
                stock = ", with stock too" if one.stock_too else ""
                lines += [f"    {one.test} ({one.lifecycle}{stock})", f"      {one.error}"]
    explained = sum(bool(one.reason) for one in differences)
    lines += ["", f"  {explained} explained, {len(differences) - explained} unexplained"]
    return "\n".join(lines)


def _version(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version like 5.2 or 5.2.19")
    return text


def _arguments(argv: "Sequence[str]") -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="django_tests.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("versions", metavar="VERSION", type=_version, nargs="+", help="of Django")
    parser.add_argument(
        "--finish-on",
        choices=("close", "return"),
        help="of our integration (default: its own default)",
    )
    supported.add_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
