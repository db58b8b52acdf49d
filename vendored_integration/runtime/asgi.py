"""Upstream's ASGI middleware, which is told here how each response ends.

Upstream's ``django/asgi.py`` is made to use this class by a rewrite rule of the
build. Upstream's own class is not vendored: what has to be known can be seen from
around it, and from within.
"""

from typing import Any, Optional

import sentry_sdk.integrations.asgi
from sentry_sdk.integrations.asgi import _asgi_middleware_applied

from . import sdk
from .exchange import Exchange, HttpExchange, Lifespan, WebSocketExchange, current_exchange
from .frames import hidden
from .options import Options

_EXCHANGES = {"http": HttpExchange, "websocket": WebSocketExchange, "lifespan": Lifespan}


class SentryAsgiMiddleware(sentry_sdk.integrations.asgi.SentryAsgiMiddleware):
    """Takes the place of ``sentry_sdk.integrations.asgi.SentryAsgiMiddleware``."""

    #: Of this middleware; ``None``: those of the active DjangoIntegration.
    stream_options: "Optional[Options]" = None

    def __init__(self, app: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        self._application = app
        self._asgi_version = 3
        # Upstream calls it, within its transaction.
        self.app = self._observed

    async def _run_app(self, scope: Any, receive: Any, send: Any, asgi_version: int) -> Any:
        self._asgi_version = asgi_version
        exchange = None if _asgi_middleware_applied.get(False) else _exchange(scope, receive, send)
        if exchange is None:
            # Within a middleware of this kind, ours or stock: that one traces.
            return await super()._run_app(scope, receive, send, 3)
        current_exchange.set(exchange)
        try:
            result = await super()._run_app(scope, exchange.receive, exchange.send, 3)
        except BaseException as error:
            exchange.restore(error)
            raise
        finally:
            current_exchange.set(None)
        if exchange.postponed is not None:
            raise exchange.postponed
        return result

    async def _observed(self, scope: Any, receive: Any, send: Any) -> Any:
        """Call the application. Upstream does, in the innermost of its ``with`` blocks."""
        exchange = current_exchange.get()
        if exchange is None or exchange.begun:
            return await self._call(scope, receive, send)
        exchange.begin(self.stream_options or sdk.options_of_integration())
        try:
            try:
                result = await self._call(scope, receive, send)
            except GeneratorExit:
                raise  # the loop is closed, or the task dropped: nothing can be awaited
            except BaseException:
                await exchange.close_body()
                raise
            await exchange.close_body()
        except BaseException as error:
            if exchange.raised(error):
                raise
            return None
        exchange.returned()
        return result

    def _call(self, scope: Any, receive: Any, send: Any) -> Any:
        if self._asgi_version == 2:
            return self._application(scope)(receive, send)
        return self._application(scope, receive, send)


def _exchange(scope: Any, receive: Any, send: Any) -> "Optional[Exchange]":
    kind = _EXCHANGES.get(scope["type"])
    return None if kind is None else kind(receive, send)


__name__ = hidden(__name__)
