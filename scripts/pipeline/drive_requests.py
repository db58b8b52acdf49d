"""Serve requests with a vendored integration, and exit 1 with what is wrong.

`drive.py` runs this in another process. Standard library, Django, the SDK, and the
package that was built.
"""

import contextlib
import logging
import sys
from typing import Any, Dict, Iterator, List, Tuple
from wsgiref.util import setup_testing_defaults

import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING_CONFIG=None,
    ROOT_URLCONF=__name__,
    SECRET_KEY="drive",
    USE_TZ=True,
)
django.setup()
logging.getLogger().addHandler(logging.NullHandler())

import sentry_sdk  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from sentry_sdk.transport import Transport  # noqa: E402

import vendored_integration._vendor.django  # noqa: E402
from vendored_integration import DjangoIntegration  # noqa: E402
from vendored_integration.wsgi import SentryWsgiMiddleware  # noqa: E402

HOST = "http://127.0.0.1"
BODY = b"one two"

_lifecycle = ""


def start_span() -> Any:
    if _lifecycle == "stream":
        return sentry_sdk.traces.start_span(name="body")
    return sentry_sdk.start_span(op="body")


def body(fails: bool) -> Iterator[bytes]:
    yield b"one "
    with start_span():
        yield b"two"
    if fails:
        raise ValueError("in the body")


def plain(request: Any) -> HttpResponse:
    return HttpResponse(BODY)


def fail(request: Any) -> HttpResponse:
    raise ValueError("in the view")


urlpatterns = [
    path("plain", plain),
    path("fail", fail),
    path("stream", lambda request: StreamingHttpResponse(body(fails=False))),
    path("broken", lambda request: StreamingHttpResponse(body(fails=True))),
]


class Received(Transport):
    """Keeps what the SDK would send."""

    def __init__(self) -> None:
        super().__init__()
        self.items: List[Tuple[str, Dict[str, Any]]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.items += [(item.type, item.payload.json) for item in envelope.items]

    def requests(self) -> List[List[str]]:
        """For each request that was traced, the names of the spans below its own."""
        sentry_sdk.flush()
        found = [p["spans"] for kind, p in self.items if kind == "transaction"]
        spans = [s for kind, p in self.items if kind == "span" for s in p["items"]]
        for root in (s for s in spans if s["is_segment"]):
            trace = [s for s in spans if s["trace_id"] == root["trace_id"]]
            found.append([s for s in trace if not s["is_segment"]])
        return [[span.get("name") or span.get("op", "") for span in spans] for spans in found]

    def errors(self) -> List[str]:
        """For each error event, the URL of its request."""
        events = [p for kind, p in self.items if kind == "event"]
        return [event.get("request", {}).get("url", "no request") for event in events]


def call(application: Any, url: str, method: str = "GET") -> bytes:
    """Do what a WSGI server does; an error of the body is the server's."""
    environ: Dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": url}
    setup_testing_defaults(environ)
    response = application(environ, lambda status, headers, exc_info=None: None)
    try:
        return b"".join(response)
    finally:
        if hasattr(response, "close"):
            response.close()


def expect(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        sys.exit(f"{what}: expected {expected!r}, found {found!r}")


def without_init() -> None:
    application = SentryWsgiMiddleware(get_wsgi_application())
    for url in "/plain", "/stream":
        expect(f"{url} without init()", call(application, url), BODY)


def with_init(lifecycle: str) -> None:
    global _lifecycle
    _lifecycle = lifecycle
    received = Received()
    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=received,
        traces_sample_rate=1.0,
        integrations=[DjangoIntegration()],
        _experiments={"trace_lifecycle": lifecycle},  # type: ignore[typeddict-item]
    )
    application = get_wsgi_application()

    def serve(url: str, method: str = "GET") -> "Tuple[str, bytes]":
        sentry_sdk.flush()
        received.items.clear()
        return f"{method} {url}, {lifecycle} lifecycle", call(application, url, method)

    what, body = serve("/plain")
    expect(what, (body, len(received.requests()), received.errors()), (BODY, 1, []))

    what, body = serve("/stream")
    spans = [spans.count("body") for spans in received.requests()]
    expect(f"{what}: spans of the body", (body, spans, received.errors()), (BODY, [1], []))

    what, body = serve("/plain", "OPTIONS")
    expect(what, (body, received.errors()), (BODY, []))

    serve("/fail")
    expect(f"error of a view, {lifecycle} lifecycle", received.errors(), [f"{HOST}/fail"])

    what = f"error of a body, {lifecycle} lifecycle"
    with contextlib.suppress(ValueError):
        serve("/broken")
        expect(what, "no error for the server", "ValueError")
    expect(what, (len(received.requests()), received.errors()), (1, [f"{HOST}/broken"]))


if __name__ == "__main__":
    without_init()
    lifecycles = ["static"] if hasattr(sentry_sdk, "start_transaction") else []
    if not lifecycles or hasattr(vendored_integration._vendor.django, "has_span_streaming_enabled"):
        lifecycles.append("stream")
    for lifecycle in lifecycles:
        with_init(lifecycle)
