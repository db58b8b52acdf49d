#!/usr/bin/env python3
"""Run Django's own tests without the integration, with the stock one and with ours.

    python3 scripts/django_tests.py 5.2
    python3 scripts/django_tests.py 5.2.19 6.1 --sdk 2.63.0

The tests are in Django's source distribution, which pip downloads; of a series (5.2) the
newest release's. They run in both of the SDK's trace lifecycles. Their test clients are
sent through WSGIHandler.__call__ and ASGIHandler.__call__, which Django's own clients go
past (scripts/upstream/django_suite). What passes without the integration must pass with
ours; and where no response is streaming, each test must send the transactions and errors that
it sends with the stock integration. FAILS and SENDS_OTHERWISE list what differs, and why.

All that is needed goes to .cache, with a virtual environment for each version of Python and
Django; Django 6.1 needs Python 3.12 or later to run this.

Exit status: 0 no unexplained difference, 1 there is one, 2 an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import environment
from upstream import suites
from upstream.suites import PASSED, Result, Results

PLUGINS = environment.ROOT / "scripts" / "upstream" / "django_suite"
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

# Why a test fails with ours, or sends something else than with stock: it ...
FAILS = {
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
SENDS_OTHERWISE = {
    "hangs up, or cancels its request: to stock that is an error, or nothing": (
        "asgi.tests.ASGITest.test_asyncio_cancel_error",
        "asgi.tests.ASGITest.test_cancel_post_request_with_sync_processing",
        "asgi.tests.ASGITest.test_delayed_disconnect_with_body",
        "asgi.tests.ASGITest.test_disconnect",
        "asgi.tests.ASGITest.test_disconnect_with_body",
        "asgi.tests.ASGITest.test_non_unicode_query_string",
        "asgi.tests.ASGITest.test_post_body",
    ),
    "leaves a stream open, whose transaction ends later": (
        "wsgi.tests.WSGITest.test_file_wrapper",
    ),
    "has a stream that fails: its error has the request's cookies, too": (
        "urlpatterns_reverse.tests.RequestURLconfTests.test_reverse_outer_in_streaming",
    ),
}


class Suite(NamedTuple):
    """Django's tests of one version, and an environment for them."""

    django: str
    python: Path
    tests: Path


def main(argv: Sequence[str]) -> int:
    parser = environment.parser_of(__doc__, installs=True)
    parser.add_argument("versions", metavar="VERSION", nargs="+", help="of Django")
    args = parser.parse_args(argv)
    return suites.judge_each(args.versions, lambda version: judge(prepare(version, args.sdk)))


def prepare(version: str, sdk: str) -> Suite:
    """Install a version of Django or the newest of a series, the SDK and our wheel."""
    python = environment.make(f"django{version}-suite", REQUIREMENTS)
    environment.pip(python, "install", "--upgrade", f"Django=={version}.*")
    environment.install(sdk, python)
    ask = [str(python), "-c", "import django; print(django.__version__)"]
    django = subprocess.check_output(ask, text=True).strip()
    return Suite(django, python, suites.unpack("Django", django, python) / "tests")


def judge(suite: Suite) -> bool:
    """Run the tests, print the differences; true if all are explained."""
    without = run(suite, "without", LIFECYCLES[0])
    passed = suites.count(without, PASSED)
    print(f"\nDjango {suite.django}: {passed} tests pass without the integration")
    unexplained = 0
    for lifecycle in LIFECYCLES:
        stock, ours = run(suite, "stock", lifecycle), run(suite, "ours", lifecycle)
        # Some tests fail now and then: their modules run once more.
        doubtful = [test for test in suites.worse(without, ours) if not reason(FAILS, test)]
        if doubtful:
            modules = " ".join(sorted({test.rsplit(".", 2)[0] for test in doubtful}))
            suites.take_passes(ours, run(suite, "ours", lifecycle, modules))
        fails_with_stock = suites.worse(without, stock)
        for explained, differences in (
            (FAILS, suites.worse(without, ours)),
            (SENDS_OTHERWISE, suites.sent_otherwise(stock, ours)),
        ):
            for test, what in differences.items():
                why = reason(explained, test)
                unexplained += not why
                with_stock = ", with stock too" if test in fails_with_stock else ""
                print(f"  {test} ({lifecycle}{with_stock})\n      {what}")
                print(f"      explained: it {why}" if why else "      UNEXPLAINED")
        compared = sum(bool(result.sent) for result in ours.values())
        print(f"  {compared} tests send the same as with stock, but for these ({lifecycle})")
    print(f"  {unexplained} unexplained differences")
    return not unexplained


def reason(explained: dict[str, tuple[str, ...]], test: str) -> str:
    """Why a test is no fault, or an empty text."""
    return next((why for why, tests in explained.items() if test in tests), "")


def run(suite: Suite, name: str, lifecycle: str, labels: str = LABELS) -> Results:
    """Run some of the tests once."""
    title = f"{name}-{lifecycle}" + ("" if labels is LABELS else "-again")
    log = suites.CACHE / "results" / f"django-{suite.django}" / f"{title}.json"
    settings = {"integration": INTEGRATIONS[name], "lifecycle": lifecycle, "results": str(log)}
    environ = {"PYTHONPATH": str(PLUGINS), "DJANGO_SUITE_RUN": json.dumps(settings)}
    # Not every version has all of them.
    present = [one for one in labels.split() if (suite.tests / one.partition(".")[0]).is_dir()]
    command = [str(suite.python), "runtests.py", "--settings=suite_settings", "--noinput"]
    command += ["--parallel=1", *present]
    # Some tests make their requests in the order of a set.
    environ = {**environment.clean_environ(), "PYTHONHASHSEED": "0", **environ}
    title = f"Django {suite.django}: {title}"
    found = suites.run_tests(title, command, suite.tests, environ, log, _read)
    if bool(found["traced"]) != (name != "without"):
        raise environment.Refused(f"{title}: {found['traced']} transactions, spans were sent")
    return {
        test: Result(outcome, error, found["sent"].get(test, []))
        for test, (outcome, error) in found["outcomes"].items()
    }


def _read(log: Path) -> Any:
    """What suite_runner.py has written."""
    found = json.loads(log.read_text())
    return found if found["outcomes"] else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
