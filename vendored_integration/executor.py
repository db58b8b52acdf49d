"""A thread pool whose tasks belong to the request that has submitted them."""

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Any, Callable, Tuple, TypeVar

import sentry_sdk.scope
from sentry_sdk.scope import Scope, use_isolation_scope, use_scope

from .runtime.process import hide_frames

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
        call = functools.partial(fn, *args, **kwargs)  # flat, also if fn is a partial
        context = getattr(call.func, "__self__", None)
        if isinstance(context, Context):  # the call is context.run(function, ...)
            function, *rest = call.args
            call = functools.partial(function, *rest, **call.keywords)
        else:
            context = copy_context()
        isolation, current = _fork_scopes(context)
        task = functools.partial(context.run, _run, isolation, current, call)
        # In an empty context: the SDK's threading integration hands a new thread the
        # scopes of whoever starts it, and the thread would keep these for good.
        return Context().run(super().submit, task)


def _fork_scopes(context: Context) -> "Tuple[Scope, Scope]":
    """Return forks of the isolation scope and the current scope of a context.

    A copied context has the very scopes of its original, and these hold the active
    span. They are forked here and not in the worker: their owner goes on to change
    them.
    """
    isolation = context.get(sentry_sdk.scope._isolation_scope) or Scope.get_isolation_scope()
    current = context.get(sentry_sdk.scope._current_scope) or Scope.get_current_scope()
    # The SDK makes a span's id when it is first asked for: two tasks that ask at the same
    # time would be children of different ones.
    getattr(current._span, "span_id", None)
    return isolation.fork(), current.fork()


def _run(isolation: Scope, current: Scope, call: "Callable[[], T]") -> T:
    with use_isolation_scope(isolation), use_scope(current):
        return call()


hide_frames()
