"""One error, one event.

The SDK's ``DedupeIntegration`` knows the last error of the running context. Servers and
bridges log an application's error from another one: daphne, uvicorn's ``--interface wsgi``,
hypercorn, a2wsgi, granian, tornado. An error that has been raised through one of our frames
has been reported there.
"""

import asyncio
import sys
from types import CodeType
from typing import Any, Callable, List, Optional, Set

import sentry_sdk.scope
from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied

#: Of the functions through which an error goes when it has been reported.
_codes: "Set[CodeType]" = set()

#: Asked whether the running context is that of a request.
_in_request: "List[Callable[[], bool]]" = [lambda: bool(_wsgi_middleware_applied.get(False))]

#: What frameworks raise when the client has gone, by the module that has it. None of
#: these is imported here.
_HANG_UPS = (
    ("django.core.exceptions", "RequestAborted"),
    ("starlette.requests", "ClientDisconnect"),
    ("starlette.websockets", "WebSocketDisconnect"),
)


def reports_errors(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Decorate a function that raises no error which has not been reported."""
    _codes.add(function.__code__)
    return function


def note_requests(is_in_request: "Callable[[], bool]") -> None:
    """Have this function asked whether the running context is that of a request."""
    _in_request.append(is_in_request)


def is_hang_up(error: "Optional[BaseException]") -> bool:
    """Whether an error says no more than that the client has gone."""
    if isinstance(error, asyncio.CancelledError):
        return True
    for module, name in _HANG_UPS:
        exception = getattr(sys.modules.get(module), name, None)
        if isinstance(exception, type) and isinstance(error, exception):
            return True
    return False


def _leaves_the_process(error: BaseException) -> bool:
    """Whether upstream has let an error pass unseen: it reports no ``SystemExit`` and the like.

    ``sys.exit()`` in one task ends the event loop, which cancels the one that waits for it.
    """
    if not isinstance(error, asyncio.CancelledError):
        return not isinstance(error, Exception)
    cause: "Optional[BaseException]" = error
    while isinstance(cause, asyncio.CancelledError):
        cause = cause.__context__
    return isinstance(cause, (SystemExit, KeyboardInterrupt))


def _was_reported(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in _codes:
            return True
        traceback = traceback.tb_next
    return False


def _drop_reported(event: Any, hint: Any) -> Any:
    """Drop a logged error that is none, or has been reported before. An event processor."""
    hint = hint or {}
    error: "Optional[BaseException]" = (hint.get("exc_info") or (None, None))[1]
    if error is None or "log_record" not in hint or _leaves_the_process(error):
        return event
    if hint["log_record"].name == "asyncio" and is_hang_up(error):
        return None  # nobody was left to catch it
    # In a request it would be an error object that is used again.
    if not any(ask() for ask in _in_request) and _was_reported(error):
        return None
    return event


sentry_sdk.scope.add_global_event_processor(_drop_reported)
