"""Serve requests with a vendored integration, and exit 1 with what is wrong.

`drive.py` runs this in another process. Standard library, Django, the SDK, and the
package that was built.
"""

import faulthandler
import logging
import sys
from typing import Any, Dict, Iterator, List
from wsgiref.util import setup_testing_defaults

import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None, ROOT_URLCONF=__name__, SECRET_KEY="drive", USE_TZ=True
)
django.setup()
logging.getLogger().addHandler(logging.NullHandler())

import sentry_sdk  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from sentry_sdk.transport import Transport  # noqa: E402

import vendored_integration._vendor.django  # noqa: E402
from vendored_integration import DjangoIntegration  # noqa: E402
from vendored_integration.wsgi import SentryWsgiMiddleware  # noqa: E402

BODY = b"one two"

# What is to come of each request: what the server gets, for each transaction the number
# of spans that the body has made, and for each error event the URL of its request.
# None: whatever it is (the SDK's releases differ).
REQUESTS: "Dict[str, List[Any]]" = {
    "GET /plain": [BODY, [0], []],
    "GET /stream": [BODY, [1], []],
    "OPTIONS /plain": [BODY, None, []],
    "GET /fail": [None, [0], ["http://127.0.0.1/fail"]],
    "GET /broken": ["ValueError", [1], ["http://127.0.0.1/broken"]],
}


lifecycles = ["static"] if hasattr(sentry_sdk, "start_transaction") else []
if not lifecycles or hasattr(vendored_integration._vendor.django, "has_span_streaming_enabled"):
    lifecycles.append("stream")
lifecycle = lifecycles[0]


def body(request: Any) -> Iterator[bytes]:
    yield b"one "
    is_new = lifecycle == "stream"
    with sentry_sdk.traces.start_span(name="body") if is_new else sentry_sdk.start_span(op="body"):
        yield b"two"
    if request.path == "/broken":
        raise ValueError("in the body")


def fail(request: Any) -> HttpResponse:
    raise ValueError("in the view")


urlpatterns = [
    path("plain", lambda request: HttpResponse(BODY)),
    path("fail", fail),
    path("stream", lambda request: StreamingHttpResponse(body(request))),
    path("broken", lambda request: StreamingHttpResponse(body(request))),
]


class Received(Transport):
    """Keeps what the SDK would send."""

    def __init__(self) -> None:
        super().__init__()
        self.items: "List[Any]" = []

    def capture_envelope(self, envelope: Any) -> None:
        self.items += [(item.type, item.payload.json) for item in envelope.items]

    def spans(self) -> "List[int]":
        """For each request that was traced, how many spans its body has made."""
        traces = [payload["spans"] for kind, payload in self.items if kind == "transaction"]
        spans = [s for kind, payload in self.items if kind == "span" for s in payload["items"]]
        for root in spans:
            # Up to 2.69 a receiver's span after the response can be a segment, too.
            if root["is_segment"] and root["name"].startswith("/"):
                traces.append([span for span in spans if span["trace_id"] == root["trace_id"]])
        return [[s.get("name") or s.get("op") for s in trace].count("body") for trace in traces]

    def errors(self) -> "List[str]":
        events = [payload for kind, payload in self.items if kind == "event"]
        return [event.get("request", {}).get("url", "no request") for event in events]


def serve(application: Any, request: str) -> Any:
    """Do what a WSGI server does; an error of the body is the server's."""
    method, _, url = request.partition(" ")
    environ: "Dict[str, Any]" = {"REQUEST_METHOD": method, "PATH_INFO": url}
    setup_testing_defaults(environ)
    response = application(environ, lambda status, headers, exc_info=None: None)
    try:
        return b"".join(response)
    except ValueError as error:
        return type(error).__name__
    finally:
        getattr(response, "close", lambda: None)()


def expect(what: str, expected: "List[Any]", found: "List[Any]") -> None:
    if any(one is not None and one != other for one, other in zip(expected, found)):
        sys.exit(f"{what}: expected {expected}, found {found}")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(120, exit=True)  # seconds; it takes two
    application: Any = SentryWsgiMiddleware(get_wsgi_application())
    for request in "GET /plain", "GET /stream":
        expect(f"{request} without init()", [BODY], [serve(application, request)])
    for lifecycle in lifecycles:
        received = Received()
        sentry_sdk.init(
            dsn="http://public@127.0.0.1:9/1",
            transport=received,
            traces_sample_rate=1.0,
            integrations=[DjangoIntegration()],
            _experiments={"trace_lifecycle": lifecycle},  # type: ignore[typeddict-item]
        )
        application = get_wsgi_application()
        for request, expected in REQUESTS.items():
            received.items.clear()
            answer = serve(application, request)
            sentry_sdk.flush()
            found = [answer, received.spans(), received.errors()]
            expect(f"{request}, {lifecycle} lifecycle", expected, found)
