"""The test's side of a request: the server that it plays, and the ingest that it reads."""

import inspect
import threading
import time
from io import BytesIO

import sentry_relay
import sentry_sdk
from sentry_relay.processing import StoreNormalizer
from sentry_sdk.tracing import Span
from sentry_sdk.transport import Transport

import vendored_integration._vendor.django
from sink import parse_envelope

# Releases have it before their Django integration has.
HAS_STREAM_LIFECYCLE = hasattr(vendored_integration._vendor.django, "has_span_streaming_enabled")
# Up to 2.14 a span had no name, only a description.
_NAME = "name" if "name" in inspect.signature(Span).parameters else "description"
# Up to 2.14 every method is traced.
TRACE_HEAD = (
    {"http_methods_to_capture": ("GET", "HEAD")}
    if "http_methods_to_capture"
    in inspect.signature(vendored_integration._vendor.django.DjangoIntegration).parameters
    else {}
)
LIFECYCLES = ["static", "stream"] if HAS_STREAM_LIFECYCLE else ["static"]


def start_span(name):
    """Start a span of the lifecycle that the SDK is initialised with."""
    experiments = sentry_sdk.get_client().options["_experiments"] or {}
    if experiments.get("trace_lifecycle") == "stream":
        return sentry_sdk.traces.start_span(name=name)
    return sentry_sdk.start_span(op="test", **{_NAME: name})


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
            {
                **span,
                "attributes": {key: value["value"] for key, value in span["attributes"].items()},
            }
            for container in self.items("span")
            for span in container["items"]
        ]

    def roots(self):
        """The requests seen, in either lifecycle: name, status, data, trace and children."""
        return [Root.of_transaction(event) for event in self.transactions()] + [
            Root.of_segment(span, self.spans())
            for span in self.spans()
            # Up to 2.74 a signal receiver that runs in no request is a segment of its own.
            if span["is_segment"] and span["attributes"].get("sentry.op") != "event.django"
        ]

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


class Root:
    """A transaction or a segment span, seen alike."""

    def __init__(self, name, status, data, trace_id, span_id, start, end, children):
        self.name = name
        self.status = status
        self.data = data
        self.trace_id = trace_id
        self.span_id = span_id
        self.start = start
        self.end = end
        self.children = children

    @classmethod
    def of_transaction(cls, event):
        trace = event["contexts"]["trace"]
        children = [
            (span.get("description"), span["span_id"], span["parent_span_id"])
            for span in event["spans"]
            if span["trace_id"] == trace["trace_id"]
        ]
        return cls(
            event["transaction"],
            trace.get("status"),
            # Up to 2.11 the SDK sends no data of a transaction.
            event["contexts"].get("http.response.stream") or trace.get("data", {}),
            trace["trace_id"],
            trace["span_id"],
            event["start_timestamp"],
            event["timestamp"],
            children,
        )

    @classmethod
    def of_segment(cls, segment, spans):
        children = [
            (span["name"], span["span_id"], span.get("parent_span_id"))
            for span in spans
            if span["attributes"].get("sentry.segment.id") == segment["span_id"]
            and span is not segment
            and not span["is_segment"]
        ]
        return cls(
            segment["name"],
            segment["status"],
            segment["attributes"],
            segment["trace_id"],
            segment["span_id"],
            segment["start_timestamp"],
            segment["end_timestamp"],
            children,
        )

    @property
    def outcome(self):
        return self.data.get("http.response.stream.outcome")

    def names(self):
        return [name for name, _, _ in self.children]

    def parent_of(self, name):
        """The name of a span's parent; ``None`` if that is the root."""
        by_id = {span_id: child for child, span_id, _ in self.children}
        (parent_id,) = [parent for child, _, parent in self.children if child == name]
        return None if parent_id == self.span_id else by_id[parent_id]


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
        self.status = None
        self.headers = None
        self.response = app(self.environ, self._start_response)

    def _start_response(self, status, headers, exc_info=None):
        self.status, self.headers = status, headers
        return lambda data: None

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


def assert_accepted(event):
    """Relay's normaliser has nothing against a transaction."""
    try:
        normalized = StoreNormalizer().normalize_event(event)
    except sentry_relay.RelayError as error:
        raise AssertionError(f"refused by Relay: {error}") from error
    assert '"err"' not in repr(normalized.get("_meta", {})).replace("'", '"')
