"""What asgiref keeps in context variables, where these are looked at in another place.

A streaming body sees bindings that were there when its response was created; that may
have been in another thread, and below calls of ``sync_to_async`` and ``async_to_sync``
that have returned since. What the application has bound there goes with the body; the
executors and the like, by which asgiref finds the thread for its next call, are those
of the place where the body runs.
"""

import threading
from contextvars import ContextVar
from typing import Any, Dict, FrozenSet

from .frames import hidden

try:
    import asgiref.local as _local
    from asgiref.sync import AsyncToSync, SyncToAsync
except ImportError:  # no Django
    _local = AsyncToSync = SyncToAsync = None  # type: ignore[assignment,misc]

#: What a Local keeps in its context variable, in newer releases of asgiref: it shows a
#: Local to the thread alone that has set it, and sync_to_async() moves it to another.
_Storage: Any = getattr(_local, "_Storage", None)


def _own_variables() -> "FrozenSet[ContextVar[Any]]":
    """Return asgiref's own variables, as far as this release has them."""
    # A Local; before 3.8 it knew nothing of context variables.
    executors = getattr(getattr(AsyncToSync, "executors", None), "_storage", None)
    found = (
        getattr(executors, "_data", None),
        getattr(AsyncToSync, "async_single_thread_context", None),
        getattr(SyncToAsync, "thread_sensitive_context", None),
        getattr(SyncToAsync, "deadlock_context", None),
    )
    return frozenset(variable for variable in found if isinstance(variable, ContextVar))


OWN_VARIABLES = _own_variables()


def is_local(variable: "ContextVar[Any]") -> bool:
    """Whether a Local keeps its attributes in this variable."""
    return variable.name == "asgiref.local"


def is_of(local: Any, variable: "ContextVar[Any]") -> bool:
    """Whether a Local keeps something in this variable."""
    data = getattr(getattr(local, "_storage", None), "_data", None)
    if type(data) is dict:  # in 3.9 each attribute has a variable of its own
        return any(variable is other for other in data.values())
    return data is variable


def held_by_local(value: Any) -> "Dict[str, Any]":
    """Return what a Local holds, by the value of its variable; nothing, if that is unset."""
    if _Storage is not None and type(value) is _Storage:
        value = value.data
    return value if type(value) is dict else {}  # up to 3.11 it is that


def local_with(attributes: "Dict[str, Any]") -> Any:
    """Return the value of a Local's variable, in this thread."""
    return attributes if _Storage is None else _Storage(threading.get_ident(), attributes)


def same(some: "Dict[str, Any]", other: "Dict[str, Any]") -> bool:
    """Whether two Locals hold the same; not by equality, which is the application's code."""
    if len(some) != len(other):
        return False
    return all(key in other and some[key] is other[key] for key in some)


__name__ = hidden(__name__)
