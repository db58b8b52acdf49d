"""One WSGI request: how it begins, how the application is called, and how it ends.

A plain response is upstream's: its transaction ends when the application returns. For an open
one (it is streaming, or ``finish_on="close"``) upstream's middleware waits until it is closed.
"""

import functools
from contextvars import copy_context
from time import perf_counter
from typing import Any, Callable, Iterator, List, Optional

from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied
from sentry_sdk.scope import _current_scope

from . import sigterm, spans, stats
from .bindings import Bindings, bindings_of
from .body_stats import BodyStats
from .cleanup import close_new_connections, open_connections
from .contexts import NO_VARIABLES, RequestContext
from .django_response import is_streaming, response_of_django
from .middleware import Middleware, resume, without_transaction
from .open_response import OpenResponse
from .process import counts, internal_error, is_collecting
from .registry import workers
from .reported import reports_errors
from .request_data import take_request_data
from .sdk import options_of_integration
from .wsgi_response import open_scoped_response, scoped_response


def close_aware(call: "Callable[..., Middleware]") -> "Callable[..., Any]":
    """Decorate upstream's ``SentryWsgiMiddleware.__call__``, made a generator by a ``yield``.

    It yields the call of the application, as a partial, where upstream makes it. That call
    is made here, so that an error of the application is known from one of upstream's.
    """

    @functools.wraps(call)
    @reports_errors
    def __call__(self: Any, environ: "dict[str, Any]", start_response: Any) -> Any:
        if _wsgi_middleware_applied.get(False):
            # Within a middleware of this kind, ours or stock: that one traces.
            return self.app(environ, start_response)
        request = WsgiRequest(environ, start_response)
        application = request.begin(call, self, environ)
        try:
            response = request.run(application)
        except BaseException as error:
            request.fail_without_response(error)
            raise
        request.publish()
        return request.respond(response, self)

    return __call__


class StartResponse:
    """The server's ``start_response``; it notes the headers that it is told."""

    __slots__ = ("headers", "_server")

    def __init__(self, server: "Callable[..., Any]") -> None:
        #: Those of the last call.
        self.headers: "List[Any]" = []
        self._server = server

    def __call__(self, status: str, headers: "List[Any]", *exc_info: Any) -> Any:
        self.headers = headers
        return self._server(status, headers, *exc_info)

    def header(self, name: str) -> "Optional[str]":
        """Return the value of a header, by its name in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return str(value)
        return None


class WsgiRequest(RequestContext):
    """One request, and its response as long as that is open.

    It never refers to the response that the server holds, so that the garbage collector
    can tell when the server has dropped that. More than 7 attributes: what belongs to a
    request, and how far its body was read.
    """

    def __init__(self, environ: "dict[str, Any]", start_response: Any) -> None:
        super().__init__(copy_context())
        # Not environ itself: uWSGI uses it again.
        self._is_head = environ.get("REQUEST_METHOD") == "HEAD"
        self._file_wrapper = environ.get("wsgi.file_wrapper")
        self._start_response = StartResponse(start_response)
        self._started = perf_counter()
        self._middleware: Middleware
        self._bindings: "Optional[Bindings]" = None
        self.opened: OpenResponse
        #: Whether the body was read to its end.
        self.is_exhausted = False
        #: Whether the body's iterator was closed before its end.
        self.is_cut_short = False

    # -- until the application has returned ------------------------------------------

    def begin(
        self, call: "Callable[..., Middleware]", middleware: Any, environ: "dict[str, Any]"
    ) -> Any:
        """Let upstream begin, and return the call of the application."""
        counts["wsgi"] = 1
        workers.poll()
        sigterm.watch()
        self._middleware = call(middleware, environ, self._start_response)
        try:
            application = self.run(next, self._middleware)
        except Exception:
            # A header that the SDK cannot read, or a sampler that raises.
            internal_error("internal error; this request has no transaction")
            self._middleware = without_transaction(middleware.app, environ, self._start_response)
            application = self.run(next, self._middleware)
        # Now: the application may have another one when it returns.
        self.root = spans.root_of(self.context.get(_current_scope))
        return application

    def fail_without_response(self, error: BaseException) -> None:
        """The application has raised: upstream reports it. The caller raises it."""
        stats.count_response(False, "failed")
        traceback = error.__traceback__
        self.run(resume, self._middleware, None, error)
        error.__traceback__ = traceback
        self.publish()

    def respond(self, response: Any, middleware: Any) -> Any:
        """Return what the server gets for the application's response."""
        try:
            options = getattr(middleware, "stream_options", None) or options_of_integration()
            made = response_of_django(self.context, self.before, response)
            streaming = is_streaming(made, response)
            if streaming or options.finish_on == "close":
                return self._open(response, bindings_of(made), streaming, options)
        except Exception:
            internal_error("internal error; this request is traced as in stock")
        stats.count_response(False, "completed")
        result = self.run(resume, self._middleware, response, None)
        if result is response and response is not None:
            return response  # a file: stock hands it back as well
        return scoped_response(response, self)

    def _open(
        self, response: Any, bindings: "Optional[Bindings]", streaming: bool, options: Any
    ) -> Any:
        body_stats = BodyStats(self._started)
        if self.root is not None:
            # As in stock: an idle stream would be sampled for as long as it is open.
            self.run(self.root.stop_profile)
        self.run(take_request_data, self.root, streaming)
        if streaming:
            body_stats.open_db_connections = len(open_connections())
        if bindings is not None and bindings.find(self.context, self.before):
            self._bindings = bindings
        self.opened = OpenResponse(
            self.root, self.context.copy(), options, body_stats, streaming, self._finish
        )
        result = open_scoped_response(response, self, self._file_wrapper)
        self.opened.open()
        return result

    # -- the body of an open response ------------------------------------------------

    def iterate(self, response: Any) -> "Iterator[Any]":
        """Begin to iterate the body.

        That is work of the application's, too: Django runs an async body from beginning to
        end there.
        """
        if self._bindings is not None:
            self.run(self._bindings.enter)
        body_stats = self.opened.stats
        started = perf_counter()
        body_stats.iterated = body_stats.iterated or started
        try:
            iterator: "Iterator[Any]" = self.run(iter, response)
        except BaseException as error:
            self.fail(error)
            raise
        body_stats.produce_time += perf_counter() - started
        return iterator

    def exhaust(self) -> None:
        """The body has come to its end."""
        self.is_exhausted = True
        self._leave_body()
        self._publish()

    def _leave_body(self) -> None:
        if self._bindings is not None:
            self.run(self._bindings.leave)

    def _publish(self) -> None:
        self.publish(NO_VARIABLES if self._bindings is None else self._bindings.variables)

    # -- how an open response ends -----------------------------------------------------

    @reports_errors
    def close(self, close: "Optional[Callable[[], Any]]") -> None:
        """Close the application's response first, and end its transaction then."""
        try:
            if close is not None:
                self.run(close)
        except BaseException as error:
            self.fail(error)
            raise
        self._leave_body()
        # Django has ended the request by now: request_finished was sent.
        with close_new_connections("close_if_unusable_or_obsolete"):
            self._end()
        self._publish()

    def fail(self, error: BaseException) -> None:
        """The body, or the response's ``close()``, has raised: report it, and end.

        To be called while the error is being handled. Its traceback is left as it was:
        that is what the server goes on to see.
        """
        traceback = error.__traceback__
        self._leave_body()
        try:
            if not self.opened.end("failed", error):
                self.run(spans.capture_exception, self.root)
        except Exception:
            internal_error("internal error while reporting an error")
        error.__traceback__ = traceback
        self._publish()

    def drop(self) -> None:
        """The server has dropped the response without closing it. Called by a ``__del__``."""
        if self.opened.has_ended:
            return
        is_iterated = bool(self.opened.stats.last_step)
        if self.is_exhausted or (is_iterated and self._is_complete()):
            if is_collecting():
                workers.submit(functools.partial(self._end, "completed"))
            else:
                # At once: a Lambda adapter reads a response to its end, drops it and flushes.
                self._end("completed")
        elif self.is_cut_short:
            workers.submit(functools.partial(self._end, "cancelled"))
        else:
            workers.submit(self.opened.abandon)

    def _end(self, outcome: "Optional[str]" = None) -> None:
        try:
            self.opened.end(outcome or ("completed" if self._is_complete() else "cancelled"))
        except Exception:
            internal_error("internal error while finishing a response")

    def _finish(self, error: "Optional[BaseException]") -> None:
        """Make upstream leave its ``with`` blocks."""
        self.run(resume, self._middleware, None, error)

    def read_by_server(self) -> None:
        """The server has read a file itself (sendfile): the header is all we know.

        Not even whether the client has stayed to the end of it.
        """
        if not self._is_head:
            self.opened.stats.file_size = self._content_length()

    def _is_complete(self) -> bool:
        """Whether a closed response had been sent as far as it was to be sent."""
        body_stats = self.opened.stats
        if self.is_exhausted or self._is_head or not body_stats.last_step:
            return True
        length = self._content_length()
        if length is not None and body_stats.size >= length:
            return True
        # The proxy sends the file, and closes our response.
        header = self._start_response.header
        return bool(header("x-accel-redirect") or header("x-sendfile"))

    def _content_length(self) -> "Optional[int]":
        length = self._start_response.header("content-length")
        return int(length) if length is not None and length.isdigit() else None
