"""Two made-up releases of an SDK, small enough to read, and what patches them.

Nothing here is taken from a real release.
"""

import base64
import hashlib
import zipfile
from pathlib import Path
from typing import Dict, Optional

WSGI = """\
import sys

LIMIT = 1


def handle(environ):
    name = environ["name"]

    return name


def finish():
    return sys.version
"""

DJANGO = """\
from sentry_sdk.integrations.wsgi import handle
from sentry_sdk.integrations.django.asgi import (
    wrap,
)


class Integration:
    def setup(self):
        from sentry_sdk.integrations.django import asgi
        from .asgi import wrap

        return asgi, wrap, handle


def process():
    @add_global_repr_processor
    def name(value):
        return value
"""

ASGI = '''\
"""Used by `sentry_sdk.integrations.django` only."""


def wrap():
    return None


def middleware():
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    return SentryAsgiMiddleware
'''

SIGNALS = """\
def patch():
    Signal._live_receivers = _sentry_live_receivers
"""

MIDDLEWARE = """\
import sentry_sdk


def check(integration):
    if not integration.middleware_spans:
        return None
    return sentry_sdk.start_span(name="middleware")
"""

VIEWS = """\
def patch():
    BaseHandler.make_view_atomic = sentry_patched_make_view_atomic
"""

TRANSACTIONS = """\
def process(environ):
    return _make_wsgi_event_processor(environ)


def get_regex(resolver_or_pattern):
    regex = resolver_or_pattern.regex
    return regex
"""

FILES = {
    "wsgi.py": WSGI,
    "django/__init__.py": DJANGO,
    "django/asgi.py": ASGI,
    "django/transactions.py": TRANSACTIONS,
    "django/middleware.py": MIDDLEWARE,
    "django/signals_handlers.py": SIGNALS,
    "django/views.py": VIEWS,
}
# The later release has one file more, and differs in a line that no patch touches.
LATER = {
    **FILES,
    "wsgi.py": WSGI.replace("sys.version", "sys.platform"),
    "django/tasks.py": "TASKS = True\n",
}
RELEASES = {"9.0.0": FILES, "9.1.0": LATER}
LICENSE = "MIT License\n\nMade up.\n"

HEADER = """\
Description: Raise the limit
 Because the tests want it so.
Origin: vendor
Forwarded: not-needed
Last-Update: 2026-01-01
Author: The tests
"""

PATCH = f"""\
{HEADER}
--- a/wsgi.py
+++ b/wsgi.py
@@ -3 +3 @@
-LIMIT = 1
+LIMIT = 2
@@ -9,0 +10 @@
+    # added
"""


def contents(
    release: str, files: Dict[str, str], license: Optional[str] = LICENSE
) -> Dict[str, bytes]:
    """What the release installs, by path."""
    info = f"sentry_sdk-{release}.dist-info"
    texts = {f"sentry_sdk/integrations/{name}": text for name, text in files.items()}
    texts["sentry_sdk/__init__.py"] = "raise ImportError('the build must not import it')\n"
    texts[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: sentry-sdk\nVersion: {release}\n"
    texts[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if license is not None:
        texts[f"{info}/licenses/LICENSE"] = license
    result = {name: text.encode() for name, text in texts.items()}
    rows = []
    for name, data in result.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        rows.append(f"{name},sha256={digest.decode()},{len(data)}\n")
    rows.append(f"{info}/RECORD,,\n")
    return {**result, f"{info}/RECORD": "".join(rows).encode()}


def wheel(directory: Path, release: str, files: Dict[str, str], **kwargs: str) -> Path:
    """Write the release's wheel; the same input gives the same bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"sentry_sdk-{release}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents(release, files, **kwargs).items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def install(directory: Path, release: str, files: Dict[str, str]) -> Path:
    """Write the release as pip installs it; the directory goes on PYTHONPATH."""
    for name, data in contents(release, files).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory
