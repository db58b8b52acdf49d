"""The root span of a request, in either of the SDK's trace lifecycles.

In the static lifecycle it is a ``Transaction``, which collects its spans and is sent with
them. In the stream lifecycle it is a ``StreamedSpan`` (the segment); its children are sent
by themselves. :func:`root_of` returns the adapter of the one that is there. No other
module asks which lifecycle it is.

While a response is open its root span stands in a ``with`` block of upstream's middleware,
and is current in scopes that the application may have forked: it cannot be exchanged for
another one. So what is sent early is a shallow copy of it. ``detach()`` and ``begin_next()``
make one; they run no foreign code. ``send()`` runs hooks of the user's.
"""

import copy
from contextvars import Context
from datetime import datetime, timezone
from typing import Any, Dict, Optional

import sentry_sdk
import sentry_sdk.scope
import sentry_sdk.tracing_utils
from sentry_sdk.utils import capture_internal_exceptions

from .sdk import RELEASE

try:
    from sentry_sdk.tracing import Transaction

    from . import static_spans as static
except ImportError:  # an SDK that has only the stream lifecycle
    Transaction = static = None  # type: ignore[assignment,misc]

#: These releases do so in the stream lifecycle.
_MAKES_SPANS_WITHOUT_PARENT = (2, 52) <= RELEASE < (2, 66)

#: Dictionaries of a root span (of either lifecycle) that go on being changed.
_OWN = ("_data", "_tags", "_contexts", "_measurements", "_flags", "_attributes")


def copy_span(span: Any) -> Any:
    """Return a shallow copy of a root span, with dictionaries of its own."""
    result = copy.copy(span)
    for name in _OWN:
        if hasattr(span, name):  # depends on the release
            setattr(result, name, dict(getattr(span, name)))
    return result


class StreamRoot:
    """The segment of a request, in the stream lifecycle."""

    __slots__ = ("span",)

    #: Whether spans are kept until the root is sent.
    collects_spans = False
    #: Whether sending an event of it looks the user up, as stock does.
    looks_up_user = False

    def __init__(self, span: Any) -> None:
        self.span = span

    @property
    def sampled(self) -> bool:
        """Whether it is going to be sent."""
        return bool(self.span.sampled)

    def annotate(self, data: "Dict[str, Any]", outcome: str, op: "Optional[str]") -> None:
        """Set attributes. A segment's status is only ``ok`` or ``error``, which upstream sets.

        :param op: ``None``: upstream's.
        """
        if self.sampled:
            self.span.set_attributes(data if op is None else {**data, "sentry.op": op})

    def set_status(self, status: str) -> None:
        """Do nothing: see :meth:`annotate`."""

    def stop_profile(self) -> None:
        """End the profile now, and not with the span."""
        profile = getattr(self.span, "_continuous_profile", None)
        if profile is not None:
            profile.stop()

    def detach(self) -> "StreamRoot":
        """Return a copy that is to be sent; the original counts as finished."""
        copied = copy_span(self.span)
        if hasattr(self.span, "_finished"):  # not sampled
            copied._scope = None  # leaves the scope alone
            self.span._finished = True
        else:
            copied._segment = copied
            copied._active = False  # leaves the scope alone
            self.span._end_timestamp = datetime.now(timezone.utc)
        return StreamRoot(copied)

    def late_spans(self) -> int:
        """Return how many spans were made after :meth:`detach`: none of them is lost."""
        return 0

    def send(self, context: Context) -> None:
        """Finish it, in a copy of its request's context."""
        context.copy().run(self.span.end)


def root_of(scope: Any) -> Any:
    """Return the adapter of a current scope's transaction or segment, or ``None``."""
    span = root_span_of(scope)
    if span is None:
        return None
    if Transaction is not None and isinstance(span, Transaction):
        return static.StaticRoot(span)
    return StreamRoot(span)


def root_span_of(scope: Any) -> Any:
    """Return the transaction or segment of a current scope, or ``None``."""
    span: Any = scope._span
    if span is None:
        return None
    segment = getattr(span, "_segment", None)
    # Up to 2.65 an unsampled span of the stream lifecycle has neither.
    return segment if segment is not None else getattr(span, "containing_transaction", None)


def sends_spans_without_parent() -> bool:
    """Whether upstream makes spans that have no span above them, and sends these."""
    return _MAKES_SPANS_WITHOUT_PARENT and bool(
        sentry_sdk.tracing_utils.has_span_streaming_enabled(sentry_sdk.get_client().options)
    )


def capture_exception(root: Any) -> None:
    """Report the error being handled as upstream's middleware would.

    :param root: of the request, sent by now; the error belongs to its trace all the same.
        ``None``: there is none.
    """
    from vendored_integration._vendor.wsgi import _capture_exception

    scope = sentry_sdk.Scope.get_current_scope()
    current = scope._span
    if current is None and root is not None:
        scope._span = root.span
    try:
        with capture_internal_exceptions():
            _capture_exception()
    finally:
        scope._span = current


# -- child spans -------------------------------------------------------------------


def start_child(name: str, op: str, attributes: "Dict[str, Any]") -> Any:
    """Start a child of the active span, and make it the active one."""
    if hasattr(sentry_sdk.Scope.get_current_scope()._span, "set_attributes"):
        attributes = {"sentry.op": op, **attributes}
        return sentry_sdk.traces.start_span(name, attributes).__enter__()
    return static.start_child(name, op, attributes)


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
