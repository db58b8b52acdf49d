"""What asgiref keeps in context variables, where a context goes on in another place.

A streaming body runs in the context that its response was created in; that may have
been in another thread, and below calls of ``sync_to_async`` and ``async_to_sync`` that
have returned since. What the application has bound there goes with the body; the
executors and the like, by which asgiref finds the thread for its next call, are those
of the place where the body runs.
"""

import threading
from contextvars import Context, ContextVar
from typing import Any, Callable, Dict, List, Tuple

from .context import run_in
from .frames import hidden
from .log import internal_error

try:
    import asgiref.local as _local
    from asgiref.sync import AsyncToSync, SyncToAsync
except ImportError:  # no Django
    _local = AsyncToSync = SyncToAsync = None  # type: ignore[assignment,misc]

#: What a Local keeps in its context variable, in newer releases of asgiref: it shows a
#: Local to the thread alone that has set it, and sync_to_async() moves it to another.
_Storage: Any = getattr(_local, "_Storage", None)

_Changes = List[Tuple["ContextVar[Any]", Any]]


def _variables() -> "Dict[ContextVar[Any], Any]":
    """Return asgiref's own variables, as far as this release has them, and what is like unset."""
    # A Local; before 3.8 it knew nothing of context variables.
    executors = getattr(getattr(AsyncToSync, "executors", None), "_storage", None)
    found = (
        (getattr(executors, "_data", None), {} if _Storage is None else _Storage(0, {})),
        (getattr(AsyncToSync, "async_single_thread_context", None), None),
        (getattr(SyncToAsync, "thread_sensitive_context", None), None),
        (getattr(SyncToAsync, "deadlock_context", None), False),
    )
    return {variable: unset for variable, unset in found if isinstance(variable, ContextVar)}


_VARIABLES = _variables()


def move(context: Context) -> None:
    """Let a context go on in this thread, below what called the running code."""
    changes = _changes(context)
    if changes:
        run_in(context, _set, changes)


def run_moved(context: Context, function: "Callable[[], Any]") -> Any:
    """Run a function in a context (see :func:`.context.run_in`) that goes on here."""
    return run_in(context, _set_and_call, _changes(context), function)


def _changes(context: Context) -> _Changes:
    """Return what is to be set in a context."""
    changes: _Changes = []
    try:
        if _Storage is not None:
            thread = threading.get_ident()
            for variable, value in context.items():
                if (
                    isinstance(value, _Storage)
                    and value.thread_id != thread
                    and variable not in _VARIABLES
                ):
                    changes.append((variable, _local._rehome(value)))
        for variable, unset in _VARIABLES.items():
            value = variable.get(unset)
            if context.get(variable, unset) is not value:
                changes.append((variable, value))
    except Exception:
        internal_error("internal error; a body may not see asgiref's Locals")
    return changes


def _set(changes: _Changes) -> None:
    for variable, value in changes:
        variable.set(value)


def _set_and_call(changes: _Changes, function: "Callable[[], Any]") -> Any:
    _set(changes)
    return function()


__name__ = hidden(__name__)
