"""A program of a test: `run` starts one; what it begins with is imported from here."""

import os
import subprocess
import sys
import textwrap
import threading  # noqa: F401
import time  # noqa: F401
from pathlib import Path

import sentry_sdk  # noqa: F401
from django.http import StreamingHttpResponse  # noqa: F401

from sink import attributes
from vendored_integration import DjangoIntegration  # noqa: F401

from .apps import serve, stream
from .sdk import HAS_STATIC_LIFECYCLE, LIFECYCLES, Received, start_sdk, start_span  # noqa: F401
from .wsgi import WsgiClient  # noqa: F401

TESTS = Path(__file__).resolve().parents[1]

_PRELUDE = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import conftest
del sys.modules["conftest"]
from support.program import *
"""


def run(code, *args, prelude=_PRELUDE, status=0, timeout=60, **environ):
    """Run code after the prelude in a fresh interpreter, and return the lines that it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code), *args],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environ},
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()


# -- what a program begins with --------------------------------------------------------------


def init(integration=None, lifecycle=LIFECYCLES[0], transport=None, **options):
    return start_sdk(transport or Received(), lifecycle, integration, **options)


def when_sent(hook):
    """Return options of the SDK that have a hook called with the URL of each request sent."""

    def before_send_transaction(event, hint):
        hook(event["request"]["url"])
        return event

    def before_send_span(span, hint):
        if span["is_segment"]:
            hook(span["attributes"]["url.full"])
        return span

    if HAS_STATIC_LIFECYCLE:
        return {"before_send_transaction": before_send_transaction}
    return {"before_send_span": before_send_span}


class Printing(Received):
    """Prints how each request has ended: outcome, part, spans of the test."""

    def capture_envelope(self, envelope):
        super().capture_envelope(envelope)
        for item in envelope.items:
            if item.type == "transaction":
                event = item.payload.json
                contexts = event["contexts"]
                data = contexts.get("http.response.stream") or contexts["trace"]["data"]
                self._print(data, [s["description"] for s in event["spans"] if s["op"] == "test"])
            elif item.type == "span":
                spans = item.payload.json["items"]
                names = [span["name"] for span in spans if "sentry.op" not in span["attributes"]]
                for span in spans:
                    if span["is_segment"]:
                        self._print(attributes(span), names)

    def _print(self, data, names):
        part = data.get("http.response.stream.part")
        print(data["http.response.stream.outcome"], part, *names)

    def flush(self, timeout, callback=None):
        print("flush")


app = serve(stream)
