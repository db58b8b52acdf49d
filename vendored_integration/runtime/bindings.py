"""A Django streaming body sees the context variables that were bound when its response was made.

As a task does that is made there: what a middleware or a view had bound
(``with bound_contextvars(request_id=...)``) is still bound in the generator, though the
``with`` block has exited since. Stock, and Django alone, iterate the body without it.

``StreamingHttpResponse`` is patched where it takes a body, and remembers the context. While
the body runs, bindings whose block has exited are set again in the request's context: the
very context, not a copy, so that the body can reset the tokens of the view. All else is as
it is. An asgiref ``Local`` is never set: Django keeps language, time zone and URL
configuration in them, which decide about the bytes; asgiref keeps its executors there.
"""

import contextlib
import functools
import sys
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any, Dict, FrozenSet, Optional, Tuple

import sentry_sdk.scope

from .contexts import OWN_VARIABLES, UNSET
from .process import internal_error

#: The attribute of a streaming response that holds its Bindings.
_ATTRIBUTE = "_vendored_integration_bindings"

_isolation_scope = sentry_sdk.scope._isolation_scope
_current_scope = sentry_sdk.scope._current_scope


class Bindings:
    """What was bound when a streaming response was made, and is set for its body."""

    __slots__ = ("_made_in", "_values", "_entered")

    def __init__(self) -> None:
        self._made_in: "Optional[Context]" = copy_context()
        self._values: "Dict[ContextVar[Any], Any]" = {}
        self._entered: "Dict[ContextVar[Any], Token[Any]]" = {}

    def __reduce__(self) -> "Tuple[Any, ...]":
        # A response that can be copied or pickled still can be.
        return (Bindings, ())

    @property
    def variables(self) -> "FrozenSet[ContextVar[Any]]":
        """The variables that are set for the body."""
        return frozenset(self._values)

    def find(self, now: Context, before: Context) -> bool:
        """Find the bindings whose block has exited since the response was made.

        :param now: the request's context, in which the body is going to run.
        :param before: what that was when the request began.
        :return: whether there are any.
        """
        # A response that is served once more has nothing of the first request.
        made_in, self._made_in, self._values = self._made_in, None, {}
        if made_in is None:
            return False
        for variable, value in made_in.items():
            current = now.get(variable, UNSET)
            if (
                current is not value
                and (_is_unset(current) or current is before.get(variable, UNSET))
                and variable not in OWN_VARIABLES
                and not _belongs_to_asgiref(variable)
                and type(value) is not getattr(sys.modules.get("decimal"), "Context", None)
            ):
                self._values[variable] = value
        scope = made_in.get(_current_scope)
        if scope is not now.get(_current_scope) and (
            made_in.get(_isolation_scope) is now.get(_isolation_scope)
        ):
            self._values[_current_scope] = scope  # made within new_scope()
        return bool(self._values)

    def enter(self) -> None:
        """Set the bindings in the running context."""
        for variable, value in self._values.items():
            if variable not in self._entered:
                self._entered[variable] = variable.set(value)

    def leave(self) -> None:
        """Undo :meth:`enter`; what the body has set instead is kept, as without us."""
        for variable, token in list(self._entered.items()):
            # The body may have set it, and go back to our value when it is closed.
            if variable.get(UNSET) is self._values[variable]:
                del self._entered[variable]
                # (fails in a copy of the context, where somebody else is in that)
                with contextlib.suppress(ValueError):
                    variable.reset(token)


def _is_unset(value: Any) -> bool:
    """Whether a variable is as good as unset: what a block leaves that knows no tokens."""
    return value is UNSET or value is None or value is ...  # structlog's


def _belongs_to_asgiref(variable: "ContextVar[Any]") -> bool:
    return variable.name == "asgiref.local" or variable in _asgiref_variables()


def _asgiref_variables() -> "FrozenSet[Any]":
    from asgiref.sync import AsyncToSync, SyncToAsync

    return _own_variables(AsyncToSync, SyncToAsync) | _variables_of_locals(AsyncToSync)


@functools.lru_cache(maxsize=None)
def _own_variables(*classes: Any) -> "FrozenSet[Any]":
    """The variables by which asgiref finds its way back from a call."""
    names = ("async_single_thread_context", "thread_sensitive_context", "deadlock_context")
    found = (getattr(cls, name, None) for cls in classes for name in names)
    return frozenset(variable for variable in found if isinstance(variable, ContextVar))


def _variables_of_locals(async_to_sync: Any) -> "FrozenSet[Any]":
    """In asgiref 3.9 each attribute of a Local has a variable of its own, with its name."""
    from django.urls import base
    from django.utils import timezone
    from django.utils.translation import trans_real

    locals_ = (
        base._prefixes,
        base._urlconfs,
        timezone._active,
        trans_real._active,
        getattr(async_to_sync, "executors", None),
    )
    data = (getattr(getattr(local, "_storage", None), "_data", None) for local in locals_)
    return frozenset(v for held in data if type(held) is dict for v in held.values())


def bindings_of(response: Any) -> "Optional[Bindings]":
    """Return the bindings of a response, if it is Django's and streaming."""
    return getattr(response, _ATTRIBUTE, None)


def patch_streaming_response() -> None:
    """Have every ``StreamingHttpResponse`` remember the context that it is made in."""
    from django.http import StreamingHttpResponse

    set_content = StreamingHttpResponse._set_streaming_content

    @functools.wraps(set_content)
    def _set_streaming_content(self: Any, value: Any) -> None:
        set_content(self, value)
        try:
            # Middleware may set the content again; what the view had bound counts.
            if bindings_of(self) is None:
                setattr(self, _ATTRIBUTE, Bindings())
        except Exception:
            internal_error("internal error; a body may not see what was bound")

    StreamingHttpResponse._set_streaming_content = _set_streaming_content
