"""The ASGI middleware, for any ASGI application."""

from typing import Any, Callable, Optional

from .runtime.asgi import SentryAsgiMiddleware
from .runtime.options import DEFAULT_OPTIONS, Options

__all__ = ["SentryMiddleware"]


class SentryMiddleware(SentryAsgiMiddleware):
    """Trace an ASGI application: its requests, errors and streams.

    For Django, ``DjangoIntegration`` does all of it by itself. For Starlette, FastAPI
    or a plain ASGI application, serve ``application = SentryMiddleware(app)``. The
    transaction takes its name from ``scope["endpoint"]``, where a framework puts it.

    Takes every argument of :class:`sentry_sdk.integrations.asgi.SentryAsgiMiddleware`
    of the same SDK release, and ``response_timeout`` (seconds), ``max_open_responses``
    and ``on_timeout`` as :class:`vendored_integration.DjangoIntegration` does.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(app, *args, **kwargs)
        self.stream_options = Options(
            response_timeout, max_open_responses, on_timeout=on_timeout
        ).checked()
