"""Django's ASGI handler: it tells what it sends, and its streaming body is closed at once."""

import asyncio
import functools
from contextvars import copy_context
from types import AsyncGeneratorType
from typing import Any, Callable, Optional

from .asgi_request import HttpRequest, current_request
from .bindings import Bindings, bindings_of
from .process import internal_error


def patch_asgi_handler() -> None:
    """Patch the method of Django's ASGI handler that sends a response."""
    from django.core.handlers.asgi import ASGIHandler

    send_response = ASGIHandler.send_response

    @functools.wraps(send_response)
    async def _send_response(self: Any, response: Any, send: Any) -> None:
        request = current_request()
        if not isinstance(request, HttpRequest) or not response.streaming:
            if isinstance(request, HttpRequest):
                request.respond(False)
            await send_response(self, response, send)
            return
        request.respond(True)
        bindings = _entered(response, request)
        if bindings is not None:
            send = _without_bindings(bindings, send)
        try:
            await send_response(self, response, send)
        except GeneratorExit:
            raise  # the loop is closed, or the task dropped: nothing can be awaited
        except BaseException:
            await _close(response)
            raise
        else:
            await _close(response)
        finally:
            if bindings is not None:
                bindings.leave()
            # For what the SDK remembers: Django sends in a task of its own.
            request.sent_in = copy_context()

    ASGIHandler.send_response = _send_response


def _entered(response: Any, request: HttpRequest) -> "Optional[Bindings]":
    bindings = bindings_of(response)
    try:
        if bindings is not None and bindings.find(copy_context(), request.before):
            bindings.enter()
            return bindings
    except Exception:
        internal_error("internal error; a body may not see what was bound")
    return None


def _without_bindings(bindings: Bindings, send: "Callable[[Any], Any]") -> "Callable[[Any], Any]":
    """Return a ``send`` that shows the server nothing of what the body alone sees."""

    async def _send(message: Any) -> Any:
        bindings.leave()
        try:
            return await send(message)
        finally:
            # After the last one Django closes the response.
            if message.get("type") != "http.response.body" or message.get("more_body"):
                bindings.enter()

    return _send


async def _close(response: Any) -> None:
    """Close the async generator that was iterated now: Django leaves it to the collector.

    What the application may go on to read, or has an ``aclose()`` for another purpose, is
    left alone. An error goes where it goes otherwise: to the loop's handler.
    """
    generator = response._iterator
    if (
        type(generator) is not AsyncGeneratorType
        or generator.ag_frame is None
        or getattr(generator, "ag_running", False)
    ):
        return
    try:
        await generator.aclose()
    except Exception as error:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # it has ended, and what waited in it is being collected
        loop.call_exception_handler(
            {
                "message": "an error occurred during closing of asynchronous "
                f"generator {generator!r}",
                "exception": error,
                "asyncgen": generator,
            }
        )
