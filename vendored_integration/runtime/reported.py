"""One error, one event.

The SDK's ``DedupeIntegration`` knows the last error of the running context. Servers and
bridges log an application's error from another one: daphne, uvicorn's ``--interface wsgi``,
hypercorn, a2wsgi, granian, tornado. An error that has been raised through one of our frames
has been reported there.
"""

import asyncio
import sys
from contextvars import ContextVar
from types import CodeType
from typing import Any, Callable, Optional, Set

import sentry_sdk.scope
from sentry_sdk.integrations.asgi import _asgi_middleware_applied
from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied

#: Of the functions through which an error goes when it has been reported.
_codes: "Set[CodeType]" = set()

#: The ASGI request that the running context belongs to. A weak reference: tasks that the
#: application has left behind keep their context, and must not keep the connection by it.
running: "ContextVar[Callable[[], Any]]" = ContextVar(
    "vendored_integration_running", default=lambda: None
)

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


def current_request() -> Any:
    """Return the running request, if it is an ASGI request of ours, or ``None``."""
    return running.get()()


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


def _is_logged_again(error: BaseException, record: Any) -> bool:
    """Whether an error that is logged is none, or has been reported before."""
    if _leaves_the_process(error):
        return False
    if record.name == "asyncio" and is_hang_up(error):
        return True  # nobody was left to catch it
    # In a request it would be an error object that is used again.
    in_request = _wsgi_middleware_applied.get(False) or _asgi_middleware_applied.get(False)
    return not in_request and _was_reported(error)


def _is_unhandled(event: Any) -> bool:
    """Whether a middleware reports an error, and not the application itself."""
    values = event.get("exception", {}).get("values") or [{}]
    return (values[-1].get("mechanism") or {}).get("handled") is False


def _drop_reported(event: Any, hint: Any) -> Any:
    """Drop an error that is none, such as a hang-up, or has its event. An event processor."""
    hint = hint or {}
    error: "Optional[BaseException]" = (hint.get("exc_info") or (None, None))[1]
    if error is None:
        return event
    if "log_record" in hint:
        is_known = _is_logged_again(error, hint["log_record"])
    else:
        # The SDK may have middleware of its own in between, and in more than one context.
        request = current_request()
        is_known = request is not None and _is_unhandled(event) and not request.reports(error)
    return None if is_known else event


sentry_sdk.scope.add_global_event_processor(_drop_reported)
