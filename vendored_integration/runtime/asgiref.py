"""What asgiref keeps in context variables, where these are looked at in another place.

A streaming body sees bindings that were there when its response was created; that may
have been in another thread, and below calls of ``sync_to_async`` and ``async_to_sync``
that have returned since. What the application has bound there goes with the body; the
executors and the like, by which asgiref finds the thread for its next call, are those
of the place where the body runs.
"""

import threading
from contextvars import ContextVar
from typing import Any, Dict

from .frames import hidden

try:
    import asgiref.local as _local
    from asgiref.sync import AsyncToSync, SyncToAsync
except ImportError:  # no Django
    _local = AsyncToSync = SyncToAsync = None  # type: ignore[assignment,misc]

#: What a Local keeps in its context variable, in newer releases of asgiref: it shows a
#: Local to the thread alone that has set it, and sync_to_async() moves it to another.
_Storage: Any = getattr(_local, "_Storage", None)


#: By these asgiref finds its way back from a call; which there are depends on the release.
_OWN = frozenset(
    variable
    for variable in (
        getattr(AsyncToSync, "async_single_thread_context", None),
        getattr(SyncToAsync, "thread_sensitive_context", None),
        getattr(SyncToAsync, "deadlock_context", None),
    )
    if isinstance(variable, ContextVar)
)
_OWN_LOCAL = getattr(AsyncToSync, "executors", None)


def is_own(variable: "ContextVar[Any]") -> bool:
    """Whether asgiref keeps something of its own in this variable."""
    return variable in _OWN or is_of(_OWN_LOCAL, variable)


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
