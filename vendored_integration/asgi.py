"""The ASGI middleware, for any ASGI application."""

from typing import Any, Awaitable, Callable, Optional

from .runtime.asgi import SentryAsgiMiddleware
from .runtime.asgi_request import Lifespan
from .runtime.options import DEFAULT_OPTIONS, Options
from .runtime.process import hide_frames

__all__ = ["SentryMiddleware", "flush_at_shutdown"]


class SentryMiddleware(SentryAsgiMiddleware):
    """Trace an ASGI application: its requests, errors and streams.

    For Django, ``DjangoIntegration`` does all of it by itself. For Starlette, FastAPI
    or a plain ASGI application, serve ``application = SentryMiddleware(app)``. The
    transaction takes its name from ``scope["endpoint"]`` (SDK 3: the path of
    ``scope["route"]``), where a framework puts it.

    Takes every argument of :class:`sentry_sdk.integrations.asgi.SentryAsgiMiddleware`
    of the same SDK release, and ``response_timeout`` (seconds), ``max_open_responses``,
    ``on_timeout`` and ``stream_op`` as :class:`vendored_integration.DjangoIntegration` does.

    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of range.
    """

    def __init__(
        self,
        app: "Callable[..., Any]",
        *args: Any,
        response_timeout: Optional[float] = DEFAULT_OPTIONS.response_timeout,
        max_open_responses: int = DEFAULT_OPTIONS.max_open_responses,
        on_timeout: str = DEFAULT_OPTIONS.on_timeout,
        stream_op: Optional[str] = DEFAULT_OPTIONS.stream_op,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, *args, **kwargs)
        self.stream_options = Options(
            response_timeout, max_open_responses, on_timeout=on_timeout, stream_op=stream_op
        ).checked()


def flush_at_shutdown(
    app: "Callable[[Any, Any, Any], Awaitable[Any]]",
) -> "Callable[[Any, Any, Any], Awaitable[None]]":
    """Have all that there is sent to Sentry when the server shuts down.

    For servers that end the process by a signal, so that the SDK's own flush at the end
    of a process does not run: uvicorn, also with ``--workers`` or as a worker of
    gunicorn. What tells of the shutdown is ASGI's ``lifespan`` protocol, which Django and
    Channels do not know: this answers it in their place. :class:`SentryMiddleware` does
    the same for an application that knows it.

    ::

        application = flush_at_shutdown(get_asgi_application())

    Takes at most the SDK's ``shutdown_timeout`` (2 seconds).
    """

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        lifespan = Lifespan(scope, receive, send)
        try:
            await app(scope, lifespan.receive, lifespan.send)
        except Exception:
            if lifespan.listens:
                raise
        if not lifespan.listens:  # it does not know the protocol
            for kind in ("startup", "shutdown"):
                await receive()
                await lifespan.send({"type": f"lifespan.{kind}.complete"})

    return application


hide_frames()
