"""A thread pool whose tasks belong to the request that has submitted them."""

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from types import BuiltinMethodType
from typing import Any, Callable, Dict, Optional, Tuple, TypeVar

import sentry_sdk.scope

from .runtime import sdk
from .runtime.frames import hidden
from .runtime.log import internal_error

__all__ = ["ContextPreservingExecutor"]

T = TypeVar("T")


class ContextPreservingExecutor(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` whose tasks run in their submitter's context.

    Spans that a task makes are children of the submitter's, errors carry its tags
    and user, log lines its bindings. Each task has a copy of the context and forks
    of the scopes, made when it is submitted: tasks run in parallel, and nothing
    that one sets is seen by the submitter or by the next task of its thread.

    As an event loop's default executor it does the same for ``run_in_executor``
    and ``asyncio.to_thread``::

        loop.set_default_executor(ContextPreservingExecutor())

    A task that brings a context (``executor.submit(context.run, fn)``, and what
    ``to_thread`` submits) runs in that one, with forks of the scopes in it.

    Arguments, ``map``, ``shutdown``, futures and errors are the standard library's.
    """

    def submit(self, fn: "Callable[..., T]", /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Schedule ``fn(*args, **kwargs)``, in a copy of the running context."""
        task = _Task(fn, args, kwargs)
        # In an empty context: the SDK's threading integration hands a new thread the
        # scopes of whoever starts it, and the thread would keep these for good. And
        # the arguments within the task: that integration's own submit() has
        # parameters called `self` and `fn`.
        return Context().run(super().submit, task)


class _Task:
    """One call, with the context that it is to run in."""

    __slots__ = ("_call",)

    def __init__(
        self, fn: "Callable[..., Any]", args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]"
    ) -> None:
        context, fn, args, kwargs = _own_context(fn, args, kwargs)
        if context is None:
            context = copy_context()
        self._call: Any = (context, _fork_scopes(context), fn, args, kwargs)

    def __call__(self) -> Any:
        # The future's error holds this frame, and thereby the task.
        call, self._call = self._call, None
        context, scopes, fn, args, kwargs = call
        try:
            return context.run(_run, scopes, fn, args, kwargs)
        finally:
            del call, context, scopes, fn, args, kwargs


def _run(
    scopes: "Dict[ContextVar[Any], Any]",
    fn: "Callable[..., Any]",
    args: "Tuple[Any, ...]",
    kwargs: "Dict[str, Any]",
) -> Any:
    """Call a function with these scopes as the current ones."""
    before = _set_scopes(scopes)
    try:
        return fn(*args, **kwargs)
    finally:
        # The context may be one that somebody goes on to use.
        _set_scopes(before)
        del scopes, before, fn, args, kwargs


def _set_scopes(scopes: "Dict[ContextVar[Any], Any]") -> "Dict[ContextVar[Any], Any]":
    """Make these scopes the current ones; return those that were.

    Without tokens: they refer to the context.
    """
    before = {variable: variable.get() for variable in scopes}
    for variable, scope in scopes.items():
        variable.set(scope)
    return before


def _own_context(
    fn: Any, args: "Tuple[Any, ...]", kwargs: "Dict[str, Any]"
) -> "Tuple[Optional[Context], Any, Tuple[Any, ...], Dict[str, Any]]":
    """Take ``Context.run`` off a call, if there is one: ``asyncio.to_thread`` puts it there."""
    called, before, keywords = fn, args, kwargs
    if type(fn) is functools.partial:
        called, before, keywords = fn.func, fn.args + args, {**fn.keywords, **kwargs}
    # By its type first: asking for an attribute may run code of the application.
    if type(called) is BuiltinMethodType and before:
        context = called.__self__
        if isinstance(context, Context) and called.__name__ == "run":
            return context, before[0], before[1:], keywords
    return None, fn, args, kwargs


def _fork_scopes(context: Context) -> "Dict[ContextVar[Any], Any]":
    """Return forks of the SDK's scopes in a context, by variable.

    A copied context has the very scopes of its original, and these hold the active
    span. They are forked here and not in the worker: their owner goes on to change
    them.
    """
    forks: "Dict[ContextVar[Any], Any]" = {}
    try:
        if sdk.contextvars_work():
            for variable in sentry_sdk.scope._isolation_scope, sentry_sdk.scope._current_scope:
                scope = context.get(variable)
                if scope is not None:
                    # The SDK makes a span's id when it is first asked for: two tasks that
                    # ask at the same time would be children of different ones.
                    getattr(scope.span, "span_id", None)
                    forks[variable] = scope.fork()
    except Exception:
        internal_error("internal error; a task runs with its submitter's scopes")
    return forks


__name__ = hidden(__name__)
