#!/usr/bin/env python3
"""Count what a streaming WSGI request calls of this package, and how often the module changes.

    python benchmarks/calls.py        in an environment with Django and the package

The second request of a process, sampled, two chunks: iterated, and closed.
"""

import argparse
import os
import sys
from collections import Counter
from typing import Any
from wsgiref.util import setup_testing_defaults

import django
import sentry_sdk
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import StreamingHttpResponse
from django.urls import path

from vendored_integration import DjangoIntegration


def stream(request: Any) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter([b"one", b"two"]))


urlpatterns = [path("", stream)]


def serve(application: Any) -> None:
    environ: "dict[str, Any]" = {}
    setup_testing_defaults(environ)
    response = application(environ, lambda status, headers: None)
    assert b"".join(response) == b"onetwo"
    response.close()


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    # Nothing is sent: the transport drops it.
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        integrations=[DjangoIntegration()],
        traces_sample_rate=1.0,
        transport=lambda event: None,
    )
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, LOGGING_CONFIG=None)
    django.setup()
    application = get_wsgi_application()
    serve(application)

    package = f"vendored_integration{os.sep}"
    functions: "Counter[str]" = Counter()
    changes, last = 0, ""

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal changes, last
        _, found, name = frame.f_code.co_filename.rpartition(package)
        if event != "call" or not found or name.startswith("_vendor"):
            return
        functions[f"{name}: {frame.f_code.co_name}"] += 1
        if last not in ("", name):
            changes += 1
        last = name

    sys.setprofile(count)
    try:
        serve(application)
    finally:
        sys.setprofile(None)
    for function, number in functions.most_common():
        print(f"{number:4}  {function}")
    print(f"{sum(functions.values())} calls, {changes} changes of module")


if __name__ == "__main__":
    main()
