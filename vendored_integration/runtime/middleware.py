"""Suspends upstream's WSGI middleware while the response is open."""

import functools
import time
from contextvars import Context, copy_context
from types import CodeType
from typing import Any, Callable, Generator, Optional

import sentry_sdk
from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied

from . import sdk
from .body import body_context
from .context import NO_TOKENS, Tokens, publish
from .counters import counters
from .frames import hidden
from .log import internal_error
from .options import Options
from .response import close_aware_response, is_streaming
from .scheduler import scheduler
from .sigterm import watch
from .suspended import StartResponse, SuspendedRecord, resume


def close_aware(
    call: "Callable[..., Generator[Any, Any, Any]]",
) -> "Callable[..., Any]":
    """Decorate upstream's ``SentryWsgiMiddleware.__call__``, made a generator by a ``yield``.

    It yields the application's response where upstream would leave its ``with``
    blocks, and waits there, in a context of its own, until the response is closed.
    """

    @functools.wraps(call)
    def __call__(self: Any, environ: "dict[str, Any]", start_response: Any) -> Any:
        if _wsgi_middleware_applied.get(False):
            # Within a middleware of this kind, ours or stock: that one traces.
            return self.app(environ, start_response)
        request = _Request(environ, start_response)
        middleware = _Middleware(self)
        suspended = call(middleware, environ, request.start_response)
        context = copy_context()
        before = context.copy()
        raised = None
        try:
            response = context.run(next, suspended)
        except BaseException as error:
            if middleware.app_called or call is _isolated:
                counters.ended(False, "failed")
                raised = _error_of_application(error, call.__code__)
                if raised is None:
                    raise
            elif isinstance(error, Exception):
                # A header that the SDK cannot read, or a sampler that raises.
                internal_error("internal error; this request has no transaction")
            else:
                raise
        finally:
            tokens = publish(context, before, NO_TOKENS)
        if raised is not None:
            try:
                raise raised
            finally:
                del raised  # its traceback holds this frame
        if not middleware.app_called:
            return _call_isolated(self, environ, start_response)
        return request.respond(self, suspended, context, response, middleware.root, before, tokens)

    return __call__


class _Middleware:
    """Upstream's middleware, to its own code; notices when that calls the application."""

    __slots__ = ("_middleware", "app_called", "root")

    def __init__(self, middleware: Any) -> None:
        self._middleware = middleware
        self.app_called = False
        #: The request's root span. The application may have another one when it returns.
        self.root: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._middleware, name)

    @property
    def app(self) -> Any:
        """The application, which is called as soon as it is asked for."""
        self.app_called = True
        try:
            self.root = sdk.root_span()
        except Exception:
            internal_error("internal error; this request is traced as in stock")
        return self._middleware.app


def _isolated(
    self: Any, environ: "dict[str, Any]", start_response: Any
) -> "Generator[Any, Any, Any]":
    """Takes the place of upstream's method where that fails before the application is called.

    There is no transaction, but what the application sets is not seen by other requests.
    """
    _wsgi_middleware_applied.set(True)
    try:
        with sentry_sdk.isolation_scope():
            try:
                yield self.app(environ, start_response)
            except BaseException as error:
                if not is_disposal(error):
                    sdk.capture_exception(None)
                raise
    finally:
        _wsgi_middleware_applied.set(False)


_call_isolated = close_aware(_isolated)


class _Request:
    """What has to be known of a request before the application is called."""

    __slots__ = ("started", "measured_from", "head", "file_wrapper", "start_response")

    def __init__(self, environ: "dict[str, Any]", start_response: Any) -> None:
        counters.wsgi = True
        try:
            scheduler.poll()
            watch()
        except Exception:
            internal_error("internal error in the scheduler")
        #: Seconds of the scheduler's clock, for the deadline.
        self.started = time.monotonic()
        #: Seconds of perf_counter, for all that is measured.
        self.measured_from = time.perf_counter()
        # By its type: a server may hand over anything, and a comparison may raise.
        method = environ.get("REQUEST_METHOD")
        self.head = type(method) is str and method == "HEAD"
        self.file_wrapper = environ.get("wsgi.file_wrapper")
        self.start_response = StartResponse(start_response)

    def respond(
        self,
        middleware: Any,
        suspended: "Generator[Any, Any, Any]",
        context: Context,
        response: Any,
        root: Any,
        before: Context,
        tokens: Tokens,
    ) -> Any:
        """Return what the server gets, while upstream's middleware stays suspended.

        :param before: the server's context, before the application was called.
        :param tokens: what :func:`publish` has returned when it had been.

        If anything goes wrong here, the middleware is resumed at once, and the
        server gets what the application has returned: as in stock.
        """
        try:
            if not sdk.contextvars_work():
                context.run(resume, suspended, None)
                return response
            options: "Optional[Options]" = getattr(middleware, "stream_options", None)
            if options is None:
                options = sdk.options_of_integration()
            streaming = is_streaming(response)
            body = body_context(response)
            if body is not None:
                body.find(context, before)
            record = SuspendedRecord(
                suspended,
                context,
                root,
                self.measured_from,
                self.head,
                self.start_response,
                streaming,
                body,
                tokens,
            )
            if issubclass(type(response), (bytes, str)):
                # Servers treat these by their type; there is nothing to wait for.
                record.return_now()
                return response
            wrapped = close_aware_response(response, record, self.file_wrapper)
            if streaming or options.finish_on == "close":
                record.open(options, self.started)
            else:
                record.return_now()
            return wrapped
        except Exception:
            internal_error("internal error; this request is traced as in stock")
            context.run(resume, suspended, None)
            return response


def is_disposal(error: "Optional[BaseException]") -> bool:
    """Whether this is the GeneratorExit of a suspended middleware being collected.

    One that the application has raised comes with the application's frames.
    """
    if not isinstance(error, GeneratorExit):
        return False
    traceback = error.__traceback__
    return traceback is not None and traceback.tb_next is None


#: How many errors are looked at that were being handled when an error was raised. They
#: are the application's to link, and may be a ring.
_MAX_CHAIN = 20


def _error_of_application(error: BaseException, code: CodeType) -> "Optional[BaseException]":
    """Return what the application has raised, if upstream's middleware made this error of it.

    :param code: of upstream's method.

    No StopIteration gets out of a generator (PEP 479), such as the suspended
    middleware; but one of the application has to get to the server as it is. An
    error that Python made of it on the way out has no frames of the middleware.

    And the SDK may fail to report an error that cannot be looked at.
    """
    cause = error.__cause__
    traceback = error.__traceback__
    if (
        isinstance(error, RuntimeError)
        and isinstance(cause, StopIteration)
        and traceback is not None
        and traceback.tb_next is None
    ):
        return cause
    found = None
    handled = error.__context__
    for _ in range(_MAX_CHAIN):
        if handled is None:
            break
        traceback = handled.__traceback__
        # Caught there, and so on its way no more. The first one is the application's.
        if traceback is not None and traceback.tb_frame.f_code is code:
            found = handled
        handled = handled.__context__
    if found is not None:
        internal_error("internal error while reporting an error")
    return found


__name__ = hidden(__name__)
