"""Leaves out the spans of the integration that nobody will see.

In the static lifecycle a transaction that is not sampled is thrown away, with its
spans; the SDK makes these all the same, at about 60,000 instructions each. Rewrite
rules of the build have the vendored modules call :func:`start_span` in place of
``sentry_sdk.start_span``, and ask :func:`wanted` before they wrap signal receivers,
views and middlewares for a span.

What is sent does not change. An outgoing request from within such a span names the
transaction as its parent, which is not sent either; trace id and sampling decision
are the same.
"""

import functools
from typing import Any, Callable

import sentry_sdk
import sentry_sdk.scope
from sentry_sdk.tracing import Span

from .frames import hidden

_current_scope = sentry_sdk.scope._current_scope


class _UnseenSpan:
    """Takes what the integration tells a span, and forgets it."""

    __slots__ = ()

    def __enter__(self) -> "_UnseenSpan":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        pass

    def _ignore(self, *args: Any, **kwargs: Any) -> None:
        pass

    set_data = set_tag = set_status = finish = update_data = _ignore


_UNSEEN = _UnseenSpan()


def wanted() -> bool:
    """Whether a span that is started now may be seen by somebody."""
    scope = _current_scope.get()
    span = None if scope is None else scope._span
    return span is not None and (not isinstance(span, Span) or span.sampled is not False)


def start_span(*args: Any, **kwargs: Any) -> Any:
    """Start a span as ``sentry_sdk.start_span`` does, if it is :func:`wanted`."""
    return sentry_sdk.start_span(*args, **kwargs) if wanted() else _UNSEEN


def if_wanted(patched: "Callable[..., Any]", original: "Callable[..., Any]") -> Any:
    """Return a method that calls what upstream has patched, or the original."""

    @functools.wraps(original)
    def method(self: Any, *args: Any) -> Any:
        return patched(self, *args) if wanted() else original(self, *args)

    return method


__name__ = hidden(__name__)
