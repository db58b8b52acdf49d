"""The context of a request, and the server's context around it.

A context cannot be entered while it is entered already: a generator that closes its own
response, a server that closes from another thread in mid-``next()``. ``Context.run`` raises
:exc:`RuntimeError` then, before it calls anything.
"""

import contextlib
from contextvars import Context, ContextVar, Token
from typing import Any, Callable, Dict, FrozenSet, Optional

import sentry_sdk.integrations.wsgi
import sentry_sdk.scope

from .django_response import django_response

#: What an event may do for its request's data. ``None``: what it does in stock. ``"query"``: it
#: leaves an unread body alone. ``"cached"``: it does not look the user up, either.
request_access: "ContextVar[Optional[str]]" = ContextVar(
    "vendored_integration_request_access", default=None
)

#: Hold the SDK's scopes of a context.
SCOPE_VARIABLES = (sentry_sdk.scope._isolation_scope, sentry_sdk.scope._current_scope)

#: The SDK's variables and ours: the server's context keeps its own values of them.
OWN_VARIABLES: "FrozenSet[ContextVar[Any]]" = frozenset(
    (
        django_response,
        request_access,
        *SCOPE_VARIABLES,
        sentry_sdk.integrations.wsgi._wsgi_middleware_applied,
    )
)

#: For ``publish``: no variable is private.
NO_VARIABLES: "FrozenSet[ContextVar[Any]]" = frozenset()

UNSET: Any = object()
_probe: "ContextVar[Any]" = ContextVar("vendored_integration_probe")


def is_entry_refused(error: BaseException) -> bool:
    """Whether ``Context.run`` raised this itself, for being entered already.

    To be called in the ``except`` block of the very frame that called ``run``: an error
    of the function that was run has more frames in its traceback.
    """
    traceback = error.__traceback__
    return (
        isinstance(error, RuntimeError)
        and traceback is not None
        and traceback.tb_next is None
        and str(error).startswith("cannot enter context")
    )


def _is_current(context: Context) -> bool:
    """Whether this very context (not a copy of it) is the running one."""
    marker = object()
    token = _probe.set(marker)
    try:
        return context.get(_probe) is marker
    finally:
        _probe.reset(token)


class RequestContext:
    """The context that one WSGI request runs in: a copy of the server's, its own alone."""

    def __init__(self, context: Context) -> None:
        self.context = context
        #: What the server's context was when the request began.
        self.before = context.copy()
        #: The adapter of its root span, or ``None``.
        self.root: Any = None
        self._published = self.before
        self._tokens: "Dict[ContextVar[Any], Token[Any]]" = {}

    def run(self, function: "Callable[..., Any]", *args: Any) -> Any:
        """Run something of the request's in its context, even if that is entered already.

        If it is the running context, the function is simply called: tokens that it holds
        can be reset. If another thread (or greenlet) is in it, the function runs in a copy,
        in which they cannot: there is no better place for it.
        """
        context = self.context
        try:
            return context.run(function, *args)
        except RuntimeError as error:
            if not is_entry_refused(error):
                raise
        if _is_current(context):
            return function(*args)
        return context.copy().run(function, *args)

    def publish(self, private: "FrozenSet[ContextVar[Any]]" = NO_VARIABLES) -> None:
        """Set in the running context, the server's, what the application has set since.

        As asgiref does between threads. A variable is set if its value here differs from
        what it was when the two contexts last agreed, and if the server's context still has
        that: a server that closes a response after the next request has begun must not
        bring back old bindings. A variable that was set, and has been reset since to what
        it was at first, unset, is unset: the next request in this thread must not find it.

        :param private: variables that are none of the server's business.
        """
        baseline, tokens = self._published, self._tokens
        get = baseline.get
        for variable, value in self.context.items():
            before = get(variable, UNSET)
            if before is value or variable in OWN_VARIABLES or variable in private:
                continue
            if variable.get(UNSET) is before:
                token = variable.set(value)
                if before is UNSET:
                    tokens.setdefault(variable, token)
        for variable in tokens and [v for v in tokens if v not in self.context]:
            if variable.get(UNSET) is get(variable, UNSET):
                with contextlib.suppress(ValueError):  # in another thread than before
                    variable.reset(tokens.pop(variable))
        self._published = self.context.copy()
