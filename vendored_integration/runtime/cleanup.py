"""Database connections that hooks of the user's open when a transaction is sent late."""

import contextlib
import sys
from typing import Any, Iterator, List

from .process import internal_error


@contextlib.contextmanager
def close_new_connections(method: str = "close") -> "Iterator[None]":
    """Close database connections that are opened in the block, in this thread.

    :param method: of the connection. In a thread that is not the application's nobody else
        would ever close it; in one that is, ``close_if_unusable_or_obsolete`` does as Django
        does when a request ends: ``CONN_MAX_AGE`` decides.
    """
    before = open_connections()
    try:
        yield
    finally:
        for connection in open_connections():
            if not any(connection is known for known in before):
                try:
                    getattr(connection, method)()
                except Exception:
                    internal_error("a database connection cannot be closed")


def open_connections() -> "List[Any]":
    """Return the database connections of this thread that are open. Asks no database."""
    found: "List[Any]" = []
    db = sys.modules.get("django.db")
    if db is not None:
        # Without settings Django is installed, and not in use.
        with contextlib.suppress(Exception):
            known = db.connections._connections
            for alias in db.connections:
                wrapper = getattr(known, alias, None)
                if getattr(wrapper, "connection", None) is not None:
                    found.append(wrapper)
    return found
