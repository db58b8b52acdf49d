"""Upstream's ASGI middleware, which is told here how each response ends.

The build makes upstream's ``django/asgi.py`` import this class. Upstream's own class is not
vendored: what has to be known can be seen from around it, and from within.
"""

import weakref
from typing import Any, Callable, Optional

import sentry_sdk
import sentry_sdk.integrations.asgi
from sentry_sdk.integrations.asgi import _asgi_middleware_applied, _capture_exception
from sentry_sdk.utils import capture_internal_exceptions

from .asgi_http import HttpRequest
from .asgi_request import AsgiRequest, Lifespan
from .options import Options
from .process import internal_error
from .reported import current_request, reports_errors, running

_PROTOCOLS = {"http": HttpRequest, "lifespan": Lifespan}


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Upstream has an attribute of this name, set by the version of ASGI. Where the
        # class is given to Starlette's add_middleware(), the SDK takes that for a method,
        # and fails; unless it finds that it has put its span around that before.
        return self.__dict__["__call__"](*args, **kwargs)

    __call__.__name__ = "_create_span_call"

    async def _run_app(self, scope: Any, receive: Any, send: Any, asgi_version: int) -> Any:
        self._asgi_version = asgi_version
        # Within a middleware of this kind, ours or stock, that one traces.
        if _asgi_middleware_applied.get(False):
            return await self._call(scope, receive, send)
        request = _PROTOCOLS.get(scope["type"], AsgiRequest)(scope, receive, send)
        running.set(weakref.ref(request))
        result = None
        try:
            result = await super()._run_app(scope, receive, send, 3)
        except Exception as error:
            # A header or an error that it cannot read, a sampler or transport that raises.
            if error is not request.error:
                internal_error("internal error of the SDK")
        finally:
            request.reported = None
        if request.error is not None:
            # Upstream raises what it has reported `from None`, which cuts its cause off.
            raised, request.error = request.error, None
            raised.__cause__, raised.__suppress_context__ = request.cause
            try:
                raise raised
            finally:
                del raised  # its traceback holds this frame
        if not request.begun:
            # There is no transaction, but what the application sets is not seen by others.
            with sentry_sdk.isolation_scope():
                return await self._call(scope, receive, send)
        return result

    @reports_errors
    async def _observed(self, scope: Any, receive: Any, send: Any) -> Any:
        """Call the application. Upstream does, in the innermost of its ``with`` blocks."""
        request = current_request()
        try:
            request.begin(self.stream_options, send)
        except Exception:
            internal_error("internal error; this request is traced as in stock")
        try:
            result = await self._application3(scope, request.receive, request.send)
        except BaseException as error:
            # Upstream takes any error for a failure: one that is none is raised afterwards.
            if request.end(error):
                raise
            return None
        request.end(None)
        return result

    @reports_errors
    async def _call(self, scope: Any, receive: Any, send: Any) -> Any:
        """Call the application where there is no transaction of this middleware's."""
        try:
            return await self._application3(scope, receive, send)
        except Exception as error:
            with capture_internal_exceptions():
                _capture_exception(error, self.mechanism_type)
            raise

    def _application3(self, scope: Any, receive: Any, send: Any) -> Any:
        if self._asgi_version == 2:
            return self._application(scope)(receive, send)
        return self._application(scope, receive, send)

    def _get_transaction_name_and_source(self, *args: Any) -> Any:
        return _name(super()._get_transaction_name_and_source, *args)

    def _get_segment_name_and_source(self, *args: Any) -> Any:
        return _name(super()._get_segment_name_and_source, *args)


def _name(get_name_and_source: "Callable[..., Any]", *args: Any) -> Any:
    """Return the name of a request, and its source: its path if its endpoint has no name.

    Such as an application that is mounted, and has not found a route.

    :param args: of upstream's method; the last one is the scope.
    """
    name, source = get_name_and_source(*args)
    if name:
        return name, source
    *style, scope = args
    unrouted = {key: scope[key] for key in scope if key != "endpoint"}
    request = current_request()
    if request is not None:
        unrouted["root_path"] = request.root_path  # mounting has changed it
    return get_name_and_source(*style, unrouted)
