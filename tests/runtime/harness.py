"""The test's side of a request: the server that it plays, and the ingest that it reads."""

import functools
import inspect
import threading
import time
from io import BytesIO

import sentry_relay
import sentry_sdk
from sentry_relay.processing import StoreNormalizer
from sentry_sdk.transport import Transport

import vendored_integration._vendor.django
from sink import attributes, parse_envelope
from traces import traces

try:
    from sentry_sdk.tracing import Span
except ImportError:  # from 3.0 on there is only the stream lifecycle
    Span = None

# Releases have it before their Django integration has.
HAS_STREAM_LIFECYCLE = Span is None or hasattr(
    vendored_integration._vendor.django, "has_span_streaming_enabled"
)
# Up to 2.14 a span had no name, only a description.
_NAME = "name" if Span and "name" in inspect.signature(Span).parameters else "description"
# Up to 2.14 every method is traced.
TRACE_HEAD = (
    {"http_methods_to_capture": ("GET", "HEAD")}
    if "http_methods_to_capture"
    in inspect.signature(vendored_integration._vendor.django.DjangoIntegration).parameters
    else {}
)
LIFECYCLES = ["static"] * (Span is not None) + ["stream"] * HAS_STREAM_LIFECYCLE


def start_span(name):
    """Start a span of the lifecycle that the SDK is initialised with."""
    experiments = sentry_sdk.get_client().options["_experiments"] or {}
    if Span is None or experiments.get("trace_lifecycle") == "stream":
        return sentry_sdk.traces.start_span(name=name)
    return sentry_sdk.start_span(op="test", **{_NAME: name})


def start_child(parent, name):
    """Start a span of the static lifecycle below another, without making it current."""
    return parent.start_child(op="test", **{_NAME: name})


def static_status(lifecycle, status):
    """The status expected: the stream lifecycle knows only ``ok`` and ``error``."""
    if lifecycle == "static":
        return status
    return "error" if status == "internal_error" else "ok"


class Received(Transport):
    """A transport that keeps what it is given, as an ingest would receive it."""

    def __init__(self, options=None):
        super().__init__(options)
        self._changed = threading.Condition()
        self._items = []

    def capture_envelope(self, envelope):
        items = parse_envelope(envelope.serialize()).items
        with self._changed:
            self._items += items
            self._changed.notify_all()

    def flush(self, timeout, callback=None):
        pass

    def kill(self):
        pass

    def record_lost_event(self, *args, **kwargs):
        pass

    def is_healthy(self):
        return True

    def clear(self):
        """Forget what has arrived."""
        with self._changed:
            self._items.clear()

    def items(self, *types):
        with self._changed:
            return [item.json for item in self._items if item.type in types]

    def transactions(self):
        return self.items("transaction")

    def errors(self):
        return self.items("event")

    def sessions(self):
        return self.items("session", "sessions")

    def spans(self):
        """Streamed spans, each with its attributes as a plain dict."""
        sentry_sdk.get_client().flush()
        return [
            {**span, "attributes": attributes(span)}
            for container in self.items("span")
            for span in container["items"]
        ]

    def roots(self):
        """The requests seen, in either lifecycle."""
        # Up to 2.74 a signal receiver that runs in no request is a segment of its own.
        return [trace for trace in traces(self) if trace.op != "event.django"]

    def root(self, timeout=10.0):
        """The one request that has ended; waits for it."""
        self.wait_for(lambda: self.roots(), timeout)
        (root,) = self.roots()
        return root

    def wait_for(self, predicate, timeout=10.0):
        """Wait until the predicate holds, looking whenever something has arrived."""
        deadline = time.monotonic() + timeout
        while not predicate():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"waited {timeout} s for {predicate}")
            # Streamed spans come when they are flushed, so look now and then, too.
            with self._changed:
                self._changed.wait(min(left, 0.05))


class Exchange:
    """One request, with the test in the server's place."""

    def __init__(self, app, path="/", method="GET", **environ):
        self.environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": BytesIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            **environ,
        }
        self._told = []
        self.response = app(self.environ, functools.partial(_start_response, self._told))

    @property
    def status(self):
        return self._told[-1][0] if self._told else None

    @property
    def headers(self):
        return self._told[-1][1] if self._told else None

    def read(self):
        """Iterate and close the response, as a server does when all goes well."""
        try:
            return b"".join(self.response)
        finally:
            self.close()

    def close(self):
        close = getattr(self.response, "close", None)
        if close is not None:
            close()


def _start_response(told, status, headers, exc_info=None):
    # Not a method: what the application holds must not lead to its response.
    told.append((status, headers))
    return lambda data: None


def assert_accepted(event):
    """Relay's normaliser has nothing against a transaction."""
    try:
        normalized = StoreNormalizer().normalize_event(event)
    except sentry_relay.RelayError as error:
        raise AssertionError(f"refused by Relay: {error}") from error
    assert '"err"' not in repr(normalized.get("_meta", {})).replace("'", '"')
