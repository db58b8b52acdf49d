"""Rules for entering and copying :class:`contextvars.Context` objects.

A context cannot be entered while it is entered already: a generator that closes
its own response, a server that closes from another thread in mid-``next()``.
``Context.run`` raises :exc:`RuntimeError` then, before it calls anything.
"""

import contextlib
from contextvars import Context, ContextVar, Token
from typing import Any, Callable, Dict, FrozenSet

import sentry_sdk.integrations.wsgi
import sentry_sdk.scope

from .frames import hidden

#: The SDK's own variables: the server's context keeps its own values of them.
SENTRY_VARIABLES: "FrozenSet[ContextVar[Any]]" = frozenset(
    (
        sentry_sdk.scope._isolation_scope,
        sentry_sdk.scope._current_scope,
        sentry_sdk.integrations.wsgi._wsgi_middleware_applied,
    )
)

#: Of variables that were unset before: only a token can make them so again.
Tokens = Dict["ContextVar[Any]", "Token[Any]"]
NO_TOKENS: Tokens = {}

#: No variable is private; see :func:`publish`.
NOBODY: "FrozenSet[ContextVar[Any]]" = frozenset()

_UNSET: Any = object()
_probe: "ContextVar[Any]" = ContextVar("vendored_integration_probe")


def entry_refused(error: BaseException) -> bool:
    """Whether ``Context.run`` raised this itself, for being entered already.

    To be called in the ``except`` block of the very frame that called ``run``:
    an error of the function that was run has more frames in its traceback.
    """
    traceback = error.__traceback__
    return (
        isinstance(error, RuntimeError)
        and traceback is not None
        and traceback.tb_next is None
        and str(error).startswith("cannot enter context")
    )


def is_current(context: Context) -> bool:
    """Whether this very context (not a copy of it) is the running one."""
    marker = object()
    token = _probe.set(marker)
    try:
        return context.get(_probe) is marker
    finally:
        _probe.reset(token)


def run_in(context: Context, function: "Callable[..., Any]", *args: Any) -> Any:
    """Run a function in a context, even if the context is entered already.

    If it is the running context, the function is simply called: tokens that it
    holds can be reset. If another thread (or greenlet) is in it, the function
    runs in a copy, in which they cannot: there is no better place for it.
    """
    try:
        return context.run(function, *args)
    except RuntimeError as error:
        if not entry_refused(error):
            raise
    if is_current(context):
        return function(*args)
    return context.copy().run(function, *args)


def publish(
    source: Context,
    baseline: Context,
    tokens: "Tokens",
    private: "FrozenSet[ContextVar[Any]]" = NOBODY,
) -> "Tokens":
    """Set here what was changed in another context, as asgiref does between threads.

    A variable is set in the running context if its value in ``source`` differs
    from ``baseline`` (what ``source`` was when the two last agreed), and if the
    running context still has the value of ``baseline``: a server that closes a
    response after the next request has begun must not bring back old bindings.
    A variable that was set here, and has been reset since to what it was at first, unset,
    is unset here as well: the next request in this thread must not find it.

    :param tokens: what the last call has returned.
    :param private: variables that are none of the running context's business.
    :return: of the variables that were unset before.
    """
    for variable, value in source.items():
        before = baseline.get(variable, _UNSET)
        if before is value or variable in SENTRY_VARIABLES or variable in private:
            continue
        if variable.get(_UNSET) is before:
            token = variable.set(value)
            if before is _UNSET and variable not in tokens:
                tokens = {**tokens, variable: token}
    for variable in [*tokens]:
        if variable not in source and variable.get(_UNSET) is baseline.get(variable, _UNSET):
            token = tokens[variable]
            tokens = {other: tokens[other] for other in tokens if other is not variable}
            with contextlib.suppress(ValueError):  # in another thread than before
                variable.reset(token)
    return tokens


__name__ = hidden(__name__)
