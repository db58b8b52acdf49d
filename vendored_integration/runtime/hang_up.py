"""The exceptions by which an application is told that its client has gone."""

import asyncio
import sys
from typing import Optional

from .frames import hidden

#: What frameworks raise, by the module that has it. None of these is imported here.
_EXCEPTIONS = (
    ("django.core.exceptions", "RequestAborted"),
    ("starlette.requests", "ClientDisconnect"),
    ("starlette.websockets", "WebSocketDisconnect"),
)


def is_hang_up(error: "Optional[BaseException]") -> bool:
    """Whether an error says no more than that the client has gone."""
    if isinstance(error, asyncio.CancelledError):
        return True
    for module, name in _EXCEPTIONS:
        exception = getattr(sys.modules.get(module), name, None)
        if isinstance(exception, type) and isinstance(error, exception):
            return True
    return False


__name__ = hidden(__name__)
