"""A made-up SDK, small enough to read, that can be ported and driven; and our half beside it.

Nothing here is taken from a real release. `CORE` is what the integration needs of the
SDK, `FILES` are those that are vendored, `OURS` stands for the hand-written package.
"""

import sys
import zipfile
from pathlib import Path
from typing import Mapping

#: `SENTRY_NOT_TO_BE_IMPORTED` is set for the build, which must read and never run.
CORE = {
    "__init__.py": """\
import contextlib
import contextvars
import os

if "SENTRY_NOT_TO_BE_IMPORTED" in os.environ:
    raise ImportError("the build must not import it")

_client = None
_processors = contextvars.ContextVar("processors")
_spans = contextvars.ContextVar("spans", default=None)


class Item:
    def __init__(self, type, json):
        self.type, self.json, self.payload, self.items = type, json, self, [self]


class Scope:
    add_event_processor = property(lambda self: _processors.get().append)


def init(transport, integrations, **options):
    global _client
    _client = transport
    for integration in integrations:
        integration.setup_once()


def is_initialized():
    return _client is not None


def flush():
    pass


def _send(*item):
    if _client is not None:
        _client.capture_envelope(Item(*item))


@contextlib.contextmanager
def isolation_scope():
    token = _processors.set([])
    yield Scope()
    _processors.reset(token)


@contextlib.contextmanager
def start_transaction():
    token = _spans.set([])
    try:
        yield
    finally:
        _send("transaction", {"spans": _spans.get()})
        _spans.reset(token)


@contextlib.contextmanager
def start_span(op):
    if _spans.get() is not None:
        _spans.get().append({"op": op})
    yield


def capture_event(event):
    for processor in _processors.get():
        event = processor(event)
    _send("event", event)
""",
    "transport.py": "class Transport:\n    pass\n",
    "utils.py": "def event_from_exception(exc_info):\n    return {}\n",
    "serializer.py": "def add_global_repr_processor(processor):\n    return processor\n",
    "integrations/__init__.py": "",
    "integrations/asgi.py": "class SentryAsgiMiddleware:\n    pass\n",
    "integrations/wsgi_core.py": "class SentryWsgiMiddleware:\n    pass\n",
}

WSGI = """\
import sys
from contextvars import ContextVar
from functools import partial

import sentry_sdk
from sentry_sdk.utils import event_from_exception

_wsgi_middleware_applied = ContextVar("applied")


class SentryWsgiMiddleware:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        if _wsgi_middleware_applied.get(False):
            return self.app(environ, start_response)

        _wsgi_middleware_applied.set(True)
        try:
            with sentry_sdk.isolation_scope() as scope:
                scope.add_event_processor(_make_wsgi_event_processor(environ))
                transaction = sentry_sdk.start_transaction()

                with transaction:
                    try:
                        response = self.app(environ, start_response)
                    except BaseException:
                        _capture_exception()
                        raise
        finally:
            _wsgi_middleware_applied.set(False)

        return _ScopedResponse(scope, response)


def _capture_exception():
    exc_info = sys.exc_info()
    error = exc_info[1]

    skipped = isinstance(error, SystemExit) and error.code in (0, None)
    if not skipped:
        sentry_sdk.capture_event(event_from_exception(exc_info))


class _ScopedResponse:
    def __init__(self, scope, response):
        self.response = response


def _make_wsgi_event_processor(environ):
    url = "http://" + environ["HTTP_HOST"] + environ["PATH_INFO"]

    def processor(event):
        event["request"] = {"url": url}
        return event

    return processor
"""

DJANGO = """\
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception

import sentry_sdk
from sentry_sdk.integrations.django.asgi import patch_asgi
from sentry_sdk.integrations.django.caching import (
    patch_caching,
)
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware, _capture_exception
from sentry_sdk.serializer import add_global_repr_processor


class DjangoIntegration:
    def setup_once(self):
        from sentry_sdk.integrations.django.middleware import check
        from .views import patch_views

        assert check
        patch_asgi()
        patch_caching()
        patch_views()
        handle = WSGIHandler.__call__

        def handle_traced(self, environ, start_response):
            app = SentryWsgiMiddleware(lambda *args: handle(self, *args))
            return app(environ, start_response)

        WSGIHandler.__call__ = handle_traced
        got_request_exception.connect(report, weak=False)

        @add_global_repr_processor
        def name(value):
            return value


def report(**kwargs):
    with sentry_sdk.start_span(op="report"):
        _capture_exception()
"""

FILES = {
    "wsgi.py": WSGI,
    "django/__init__.py": DJANGO,
    "django/asgi.py": '''\
"""Used by `sentry_sdk.integrations.django` only."""

from sentry_sdk.integrations.asgi import SentryAsgiMiddleware


def patch_asgi():
    return SentryAsgiMiddleware
''',
    "django/caching.py": "def patch_caching():\n    pass\n",
    "django/middleware.py": """\
import sentry_sdk


def check(integration):
    if not integration.middleware_spans:
        return None
    return sentry_sdk.start_span(op="middleware")
""",
    "django/signals_handlers.py": """\
from django.dispatch import Signal


def patch_signals():
    old_live_receivers = Signal._live_receivers

    def _sentry_live_receivers(self, sender):
        return old_live_receivers(self, sender)

    Signal._live_receivers = _sentry_live_receivers
""",
    "django/templates.py": "TEMPLATES = 1\n",
    "django/transactions.py": """\
def get_regex(resolver_or_pattern):
    regex = resolver_or_pattern.regex
    return regex
""",
    "django/views.py": """\
from django.core.handlers.base import BaseHandler


def patch_views():
    old_make_view_atomic = BaseHandler.make_view_atomic

    def sentry_patched_make_view_atomic(self, view):
        return old_make_view_atomic(self, view)

    BaseHandler.make_view_atomic = sentry_patched_make_view_atomic
""",
}
# The later release has one file more, and differs in a line that no edit touches.
LATER = {
    **FILES,
    "django/templates.py": "TEMPLATES = 2\n",
    "django/tasks.py": "TASKS = True\n",
}
RELEASES = {"2.9.0": FILES, "9.1.0": LATER}
LICENSE = "MIT License\n\nMade up.\n"

#: What of the hand-written package the vendored files and the drive need.
OURS = {
    "__init__.py": "from vendored_integration._vendor.django import DjangoIntegration\n",
    "py.typed": "",
    "wsgi.py": "from vendored_integration._vendor.wsgi import SentryWsgiMiddleware\n",
    "runtime/__init__.py": """\
from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied


def close_aware(method):
    def call(self, environ, start_response):
        if _wsgi_middleware_applied.get(False):
            return self.app(environ, start_response)
        steps = method(self, environ, start_response)
        return finish(steps, next(steps)())

    return call


def finish(steps, response):
    try:
        yield from response
        response.close()
    except Exception as error:
        steps.throw(error)
    for _ in steps:
        pass


def _ScopedResponse(scope, response):
    pass


def is_disposal(error):
    return isinstance(error, GeneratorExit)
""",
    "runtime/asgi.py": "class SentryAsgiMiddleware:\n    pass\n",
    "runtime/spared.py": """\
from sentry_sdk import start_span

wanted = lambda: True
if_wanted = lambda patched, original: patched
EventProcessor = lambda make, *arguments: make(*arguments)
for_query_sets = lambda add: add
""",
}


def wheel(
    directory: Path,
    release: str,
    files: Mapping[str, str],
    license: str = LICENSE,
    core: Mapping[str, str] = CORE,
) -> Path:
    """Write the release's wheel; the same input gives the same bytes."""
    info = f"sentry_sdk-{release}.dist-info"
    texts = {f"sentry_sdk/{name}": text for name, text in core.items()}
    texts.update({f"sentry_sdk/integrations/{name}": text for name, text in files.items()})
    texts[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: sentry-sdk\nVersion: {release}\n"
        f"Classifier: Programming Language :: Python :: 3.{sys.version_info[1]}\n"
    )
    texts[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if license:
        texts[f"{info}/licenses/LICENSE"] = license
    texts[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*texts, f"{info}/RECORD"])
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"sentry_sdk-{release}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())
    return path


def install(directory: Path, release: str, files: Mapping[str, str]) -> Path:
    """Write the release as pip installs it; the directory goes on PYTHONPATH."""
    with zipfile.ZipFile(wheel(directory.parent / "wheel", release, files)) as archive:
        archive.extractall(directory)
    return directory
