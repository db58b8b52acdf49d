"""Django's ASGI handler: it tells what it sends, and its streaming body is closed at once."""

import asyncio
import functools
from contextvars import copy_context
from types import AsyncGeneratorType
from typing import Any, Optional

from .asgi_http import HttpRequest
from .bindings import Bindings, bindings_of
from .process import internal_error
from .reported import current_request


def patch_asgi_handler() -> None:
    """Patch the method of Django's ASGI handler that sends a response."""
    from django.core.handlers.asgi import ASGIHandler

    send_response = ASGIHandler.send_response

    @functools.wraps(send_response)
    async def _send_response(self: Any, response: Any, send: Any) -> None:
        request = current_request()
        if isinstance(request, HttpRequest):
            request.respond(response.streaming)
        if not isinstance(request, HttpRequest) or not response.streaming:
            await send_response(self, response, send)
            return
        request.bindings = bindings = _enter_bindings(response, request)
        can_await = True
        try:
            await send_response(self, response, send)
        except GeneratorExit:  # the loop is closed, or the task dropped
            can_await = False
            raise
        finally:
            try:
                if can_await:
                    await _close(response)
            finally:
                request.bindings = None
                if bindings is not None:
                    bindings.leave()
                # For what the SDK remembers: Django sends in a task of its own.
                request.sent_in = copy_context()

    ASGIHandler.send_response = _send_response


def _enter_bindings(response: Any, request: HttpRequest) -> "Optional[Bindings]":
    bindings = bindings_of(response)
    try:
        if bindings is not None and bindings.find(copy_context(), request.before):
            bindings.enter()
            return bindings
    except Exception:
        internal_error("internal error; a body may not see what was bound")
    return None


async def _close(response: Any) -> None:
    """Close the async generator that was iterated now: Django leaves it to the collector.

    What the application may go on to read, or has an ``aclose()`` for another purpose, is
    left alone. An error goes where it goes otherwise: to the loop's handler.
    """
    generator = response._iterator
    if type(generator) is not AsyncGeneratorType or generator.ag_running:
        return
    try:
        await generator.aclose()
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler(
            {
                "message": f"an error occurred during closing of asynchronous generator {generator!r}",
                "exception": error,
                "asyncgen": generator,
            }
        )
