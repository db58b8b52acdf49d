"""The close-aware WSGI middleware, for any WSGI application."""

from typing import Any, Callable, Optional

from ._vendor.wsgi import SentryWsgiMiddleware as _UpstreamSentryWsgiMiddleware
from .runtime.options import DEFAULT_OPTIONS, Options
from .runtime.sigterm import watch

__all__ = ["SentryWsgiMiddleware"]


class SentryWsgiMiddleware(_UpstreamSentryWsgiMiddleware):
    """Trace a WSGI application; a response's transaction ends when it is closed.

    For Django, ``DjangoIntegration`` applies it by itself. For Flask::

        app.wsgi_app = SentryWsgiMiddleware(app.wsgi_app)

    is not enough, since the SDK's ``FlaskIntegration`` puts the stock middleware
    around ``Flask.__call__``; serve ``application = SentryWsgiMiddleware(app)``.

    Takes every argument of :class:`sentry_sdk.integrations.wsgi.SentryWsgiMiddleware`
    of the same SDK release, and ``response_timeout`` (seconds),
    ``max_open_responses``, ``finish_on``, ``on_timeout`` and ``stream_op`` as
    :class:`vendored_integration.DjangoIntegration` does.

    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of range.
    """

    def __init__(
        self,
        app: "Callable[..., Any]",
        *args: Any,
        response_timeout: Optional[float] = DEFAULT_OPTIONS.response_timeout,
        max_open_responses: int = DEFAULT_OPTIONS.max_open_responses,
        finish_on: str = DEFAULT_OPTIONS.finish_on,
        on_timeout: str = DEFAULT_OPTIONS.on_timeout,
        stream_op: Optional[str] = DEFAULT_OPTIONS.stream_op,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, *args, **kwargs)
        self.stream_options = Options(
            response_timeout, max_open_responses, finish_on, on_timeout, stream_op
        ).checked()
        watch()  # requests may run in threads
