"""All that depends on the SDK's trace lifecycles, in one place.

In the static lifecycle the root of a request is a ``Transaction``: ``set_data``,
``set_status``, any status. In the stream lifecycle it is a ``StreamedSpan``
(the segment): ``set_attribute``, and only ``ok`` or ``error`` as a status.
"""

import contextlib
import functools
import inspect
from contextvars import Context, ContextVar
from typing import Any, Callable, Dict, Iterator, Optional

import sentry_sdk
from sentry_sdk.client import NonRecordingClient
from sentry_sdk.tracing import Transaction
from sentry_sdk.transport import HttpTransport, Transport
from sentry_sdk.utils import capture_internal_exceptions

from .frames import hidden
from .log import internal_error
from .options import DEFAULT_OPTIONS, Options

#: Transaction status by outcome; outcomes that are missing keep the HTTP status.
#: ``failed`` is missing too: upstream's own ``__exit__`` sets ``internal_error``.
STATUS_BY_OUTCOME = {
    "cancelled": "cancelled",
    "timed_out": "deadline_exceeded",
    "abandoned": "aborted",
    "evicted": "aborted",
}


def contextvars_work() -> bool:
    """Whether the SDK keeps its scopes in real context variables.

    It does not under an old gevent or eventlet; there a request's scopes belong
    to the thread, and cannot outlive the handler's return.
    """
    return bool(sentry_sdk.utils.HAS_REAL_CONTEXTVARS)


def options_of_integration() -> Options:
    """Return the options of the active ``DjangoIntegration``, or the defaults."""
    integration = sentry_sdk.get_client().get_integration("django")
    return getattr(integration, "stream_options", DEFAULT_OPTIONS)


def root_span() -> Any:
    """Return the transaction or segment of the running context, or ``None``."""
    span: Any = sentry_sdk.Scope.get_current_scope()._span
    if span is None:
        return None
    segment = getattr(span, "_segment", None)
    # Up to 2.65 an unsampled span of the stream lifecycle has neither.
    return segment if segment is not None else getattr(span, "containing_transaction", None)


@functools.lru_cache(maxsize=None)
def _sends_data() -> bool:
    """Whether the SDK sends a transaction's data; up to 2.11 it keeps them to itself."""
    transaction = Transaction(name="probe")
    transaction.set_data("probe", True)
    return "probe" in transaction.get_trace_context().get("data", {})


def annotate(span: Any, data: "Dict[str, Any]", outcome: str) -> None:
    """Put the data of a streaming response, and its status, on its root span."""
    if not span.sampled:
        return
    if hasattr(span, "set_attributes"):
        span.set_attributes(data)
        return
    if _sends_data():
        for key, value in data.items():
            span.set_data(key, value)
    else:
        span.set_context("http.response.stream", data)
    status = STATUS_BY_OUTCOME.get(outcome)
    if status is not None:
        span.set_status(status)


def set_status(span: Any, status: str) -> None:
    """Set the status of a transaction; a segment has only ``ok`` and ``error``."""
    if isinstance(span, Transaction) and span.sampled:
        span.set_status(status)


def fork_current_scope() -> Any:
    """Return a copy of the running context's current scope."""
    return sentry_sdk.Scope.get_current_scope().fork()


def start_child(name: str, op: str, attributes: "Dict[str, Any]") -> Any:
    """Start a child of the active span, and make it the active one."""
    if hasattr(sentry_sdk.Scope.get_current_scope()._span, "set_attributes"):
        attributes = {"sentry.op": op, **attributes}
        return sentry_sdk.traces.start_span(name, attributes).__enter__()
    span = sentry_sdk.start_span(op=op)
    span.description = name  # the argument has had two names
    for key, value in attributes.items():
        span.set_data(key, value)
    return span.__enter__()


def end_child(span: Any, error: "Optional[BaseException]", cancelled: bool) -> None:
    """End a span that :func:`start_child` has started, with the status of what ended it."""
    if cancelled:
        error = None
        if not is_sent_at_its_end(span):
            span.set_status("cancelled")
    span.__exit__(None if error is None else type(error), error, None)


def is_sent_at_its_end(span: Any) -> bool:
    """Whether a span is of the stream lifecycle: the user's hook and locks are at its end.

    One of the static lifecycle only takes the time, and is sent with the transaction.
    """
    return hasattr(span, "set_attributes")


def capture_exception(span: Any) -> None:
    """Report the error being handled as upstream's middleware would.

    :param span: the request's root span, finished by now; the error belongs to
        its trace all the same. ``None``: there is none.
    """
    from vendored_integration._vendor.wsgi import _capture_exception

    scope = sentry_sdk.Scope.get_current_scope()
    current = scope._span
    if current is None:
        scope._span = span
    try:
        with capture_internal_exceptions():
            _capture_exception()
    finally:
        scope._span = current


def remember_reported(context: Context) -> None:
    """Let the running context know the error that was reported last in another one.

    The SDK remembers it in a context variable, so that there is one event of each.
    """
    dedupe = sentry_sdk.get_client().get_integration("dedupe")
    variable = getattr(dedupe, "_last_seen", None)
    if isinstance(variable, ContextVar):
        last = context.get(variable)
        if last is not None:
            variable.set(last)


def unfailing(report: "Callable[..., None]") -> "Callable[..., None]":
    """Return a function that reports an error of the application, and never fails itself."""

    @functools.wraps(report)
    def unfailing_report(*args: Any, **kwargs: Any) -> None:
        try:
            report(*args, **kwargs)
        except Exception:
            internal_error("internal error while reporting an error")

    return unfailing_report


def scope_variables() -> "tuple[Any, Any]":
    """Return the SDK's scopes of the running context, for :func:`restore_scopes`."""
    return (
        sentry_sdk.scope._isolation_scope.get(),
        sentry_sdk.scope._current_scope.get(),
    )


def restore_scopes(scopes: "tuple[Any, Any]") -> None:
    """Make the scopes of :func:`scope_variables` current again."""
    isolation_scope, current_scope = scopes
    sentry_sdk.scope._isolation_scope.set(isolation_scope)
    sentry_sdk.scope._current_scope.set(current_scope)


@contextlib.contextmanager
def unrecorded(options: "Dict[str, Any]") -> "Iterator[None]":
    """Have the SDK record nothing of what this thread does in the block.

    :param options: of the client; the SDK's own log follows its ``debug``.
    """
    with sentry_sdk.new_scope() as scope:
        scope.set_client(_Unrecording(options))
        yield


class _Unrecording(NonRecordingClient):
    """Takes everything, keeps nothing, has no integrations."""

    def is_active(self) -> bool:
        # Or the SDK goes on looking, and finds the real client in the outer scopes.
        return True


def count_lost(transport: Transport, reason: str, category: Any, quantity: int) -> None:
    """Count items as lost, for the transport's next client report."""
    if "quantity" in inspect.signature(HttpTransport.record_lost_event).parameters:
        transport.record_lost_event(reason, category, quantity=quantity)
    else:
        # Up to 2.8 one at a time.
        for _ in range(quantity):
            transport.record_lost_event(reason, category)


def shutdown_timeout() -> float:
    """Seconds that the SDK itself may take at process exit (its own option)."""
    timeout: Optional[float] = sentry_sdk.get_client().options.get("shutdown_timeout")
    return 2.0 if timeout is None else float(timeout)


__name__ = hidden(__name__)
