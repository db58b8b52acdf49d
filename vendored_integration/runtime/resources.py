"""What sending a transaction takes of the application's: database connections, request bodies.

An event has the request's body, and its user, whom Django looks up in the database. Stock
gets both when the view has returned, before Django closes its connections. Here the response
has been closed by then, or, with an early ending, goes on in another thread.
"""

import contextlib
import functools
import sys
from contextvars import ContextVar
from typing import Any, Callable, Iterator, List

from .frames import hidden
from .log import internal_error

#: Set while a transaction is sent whose response goes on.
ending_early: "ContextVar[bool]" = ContextVar("vendored_integration_ending_early", default=False)


def spare_unread_body(extractor: Any) -> None:
    """Let an early ending leave a request's body alone that the application has not read.

    Reading waits for the client, and takes from the application what it may be about to
    read.

    :param extractor: upstream's class that gets the body from Django's request.
    """
    raw_data, parsed_body = extractor.raw_data, extractor.parsed_body

    @functools.wraps(raw_data)
    def _raw_data(self: Any) -> Any:
        if _is_not_ours(self.request):
            raise ValueError("the request's body has not been read")  # upstream catches it
        return raw_data(self)

    @functools.wraps(parsed_body)
    def _parsed_body(self: Any) -> Any:
        return None if _is_not_ours(self.request) else parsed_body(self)

    extractor.raw_data, extractor.parsed_body = _raw_data, _parsed_body


def _is_not_ours(request: Any) -> bool:
    if not ending_early.get() or hasattr(request, "_body") or hasattr(request, "_post"):
        return False
    meta = request.META
    # (without a length it may be sent in chunks; and Django has read that of ASGI to a file)
    return (
        meta.get("CONTENT_LENGTH") not in (None, "", "0")
        or "HTTP_TRANSFER_ENCODING" in meta
        or hasattr(request, "scope")
    )


@contextlib.contextmanager
def connections_as_before(close: "Callable[[Any], None]") -> "Iterator[None]":
    """Close database connections that are opened in the block, in this thread.

    :param close: what is to be done with each.
    """
    before = _connections()
    try:
        yield
    finally:
        for connection in _connections():
            if not any(connection is known for known in before):
                try:
                    close(connection)
                except Exception:
                    internal_error("a database connection cannot be closed")


def close_if_old(connection: Any) -> None:
    """Do as Django does at a request's end: ``CONN_MAX_AGE`` decides."""
    connection.close_if_unusable_or_obsolete()


def close_at_once(connection: Any) -> None:
    """In a thread that is not the application's nobody would ever do so."""
    connection.close()


def _connections() -> "List[Any]":
    """Return the database connections of this thread that are open."""
    db = sys.modules.get("django.db")
    if db is None:
        return []
    try:
        known = db.connections._connections
        found = (getattr(known, alias, None) for alias in db.connections)
        return [wrapper for wrapper in found if getattr(wrapper, "connection", None) is not None]
    except Exception:
        return []  # no settings: Django is installed, and not in use


__name__ = hidden(__name__)
