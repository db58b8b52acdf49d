"""The Sentry SDK in a test, and the ingest that keeps what it sends."""

import contextvars
import inspect
import json
import logging
import threading
import time

import pytest
import sentry_sdk
import sentry_sdk.profiler
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.sessions import SessionFlusher
from sentry_sdk.transport import Transport

import vendored_integration._vendor.django
from sink import attributes
from traces import traces
from vendored_integration import DjangoIntegration, stats

from .relay import complaints

try:
    from sentry_sdk.tracing import Span
except ImportError:  # from 3.0 on there is only the stream lifecycle
    Span = None  # type: ignore[assignment,misc]

HAS_STATIC_LIFECYCLE = Span is not None
# Releases have it before their Django integration has.
HAS_STREAM_LIFECYCLE = not HAS_STATIC_LIFECYCLE or hasattr(
    vendored_integration._vendor.django, "has_span_streaming_enabled"
)
LIFECYCLES = ["static"] * HAS_STATIC_LIFECYCLE + ["stream"] * HAS_STREAM_LIFECYCLE
HAS_CONTINUOUS_PROFILER = "profile_lifecycle" in sentry_sdk.consts.DEFAULT_OPTIONS
# Up to 2.14 a span had no name, only a description.
_NAME = (
    "name"
    if HAS_STATIC_LIFECYCLE and "name" in inspect.signature(Span).parameters
    else "description"
)
#: Options that have HEAD requests traced: up to 2.14 every method is.
TRACE_HEAD = (
    {"http_methods_to_capture": ("GET", "HEAD")}
    if "http_methods_to_capture"
    in inspect.signature(vendored_integration._vendor.django.DjangoIntegration).parameters
    else {}
)

# Sessions are flushed with the client; the flusher's thread would sleep for a minute.
SessionFlusher._ensure_running = lambda self: None  # type: ignore[method-assign]

if HAS_STREAM_LIFECYCLE:
    from sentry_sdk._span_batcher import SpanBatcher

    # Spans, too: their thread may have taken them, and not yet sent them, when a test looks.
    SpanBatcher._flush_loop = lambda self: None  # type: ignore[method-assign]


#: Options that an SDK without transactions does not have.
STATIC_OPTIONS = {"before_send_transaction", "profiles_sample_rate", "_experiments"}


def start_sdk(transport, lifecycle=LIFECYCLES[0], integration=None, **options):
    """Initialise the SDK, sampling everything. A logged error is an event."""
    integrations = [integration or DjangoIntegration()]
    if not HAS_STATIC_LIFECYCLE:
        if lifecycle == "static" or STATIC_OPTIONS & options.keys():
            pytest.skip("this SDK has no transactions")
        if options.pop("send_default_pii", False):
            options["data_collection"] = {"user_info": True}
        # It is no event by default.
        integrations.append(LoggingIntegration(event_level=logging.ERROR))
    elif lifecycle == "stream":
        experiments = options.get("_experiments", {})
        options["_experiments"] = {**experiments, "trace_lifecycle": "stream"}
    options.setdefault("traces_sample_rate", 1.0)
    # To look for what is installed here takes most of the time of a test.
    options.setdefault("auto_enabling_integrations", False)
    # Each client would leave a thread that sleeps for up to a minute after its end.
    options.setdefault("enable_backpressure_handling", False)
    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=transport,
        integrations=integrations,
        release="test@1",
        **options,
    )
    return transport


def tear_down_profilers():
    """They are global, and the first init() of a process sets them up for good."""
    if HAS_STATIC_LIFECYCLE:
        sentry_sdk.profiler.teardown_profiler()
    if HAS_CONTINUOUS_PROFILER:
        sentry_sdk.profiler.continuous_profiler.teardown_continuous_profiler()


def streams():
    """Whether the SDK has been initialised with the stream lifecycle."""
    if not HAS_STATIC_LIFECYCLE:
        return True
    experiments = sentry_sdk.get_client().options["_experiments"] or {}
    return experiments.get("trace_lifecycle") == "stream"


def start_span(name):
    """Start a span of the lifecycle that the SDK has been initialised with."""
    if streams():
        return sentry_sdk.traces.start_span(name=name)
    return sentry_sdk.start_span(op="test", **{_NAME: name})


def start_child(parent, name):
    """Start a span of the static lifecycle below another, without making it current."""
    return parent.start_child(op="test", **{_NAME: name})


def status_of(lifecycle, status):
    """The status expected: the stream lifecycle knows only ``ok`` and ``error``."""
    if lifecycle == "static":
        return status
    return "error" if status in ("internal_error", "not_found") else "ok"


def messages(sink):
    """What each error event says: the last exception's value, or the message."""
    return [
        event["exception"]["values"][-1]["value"]
        if "exception" in event
        else event.get("message") or event["logentry"]["message"]
        for event in sink.errors()
    ]


class Received(Transport):
    """A transport that keeps what it is given, as an ingest would receive it."""

    def __init__(self, options=None):
        super().__init__(options)
        self._changed = threading.Condition()
        self._items = []

    def capture_envelope(self, envelope):
        items = Envelope.deserialize(envelope.serialize()).items
        with self._changed:
            self._items += [
                (item.headers["type"], json.loads(item.payload.get_bytes())) for item in items
            ]
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
            return [payload for kind, payload in self._items if kind in types]

    def transactions(self):
        return self.items("transaction")

    def errors(self):
        return self.items("event")

    def ended(self):
        """Transactions and segments that have arrived; the SDK is not asked to flush."""
        spans = [span for container in self.items("span") for span in container["items"]]
        return self.transactions() + [span for span in spans if span["is_segment"]]

    def messages(self):
        return messages(self)

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
        """The requests that have ended, in either lifecycle."""
        # Up to 2.74 a signal receiver that runs in no request is a segment of its own.
        return [trace for trace in traces(self) if trace.op != "event.django"]

    def root(self, timeout=10.0):
        """The one request that has ended; waits for it."""
        (root,) = self.wait_for_roots(1, timeout)
        return root

    def wait_for_roots(self, number, timeout=10.0):
        self.wait_for(lambda: len(self.roots()) >= number, timeout)
        return self.roots()

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

    def one_error(self, root):
        """The one error event, which is in this request's trace."""
        (event,) = self.errors()
        assert event["contexts"]["trace"]["trace_id"] == root.trace_id
        return event


def log_in_server(error, logger="server"):
    """Log an error as a server does: in a context and a thread that have not seen the request."""
    thread = threading.Thread(
        target=contextvars.Context().run,
        args=(logging.getLogger(logger).error, "Exception in application"),
        kwargs={"exc_info": error},
    )
    thread.start()
    thread.join()


class Seen:
    """What has been counted since this was made."""

    def __init__(self):
        self._before = stats()

    def __getattr__(self, name):
        before, now = (getattr(numbers, name) for numbers in (self._before, stats()))
        if isinstance(now, dict):
            return {key: now[key] - before[key] for key in now if now[key] != before[key]}
        return now - before


def assert_accepted(event):
    """Relay's normaliser has nothing against a transaction."""
    assert complaints(event) == []
