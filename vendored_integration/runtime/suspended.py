"""The record of a WSGI response: upstream's middleware waits, suspended, for its end.

A record never refers to the response that the server holds, so that the garbage
collector can tell when the server has dropped that.
"""

import contextlib
import weakref
from contextvars import Context
from types import TracebackType
from typing import Any, Callable, ContextManager, Generator, Iterator, List, Optional

from . import record as records
from . import sdk
from .body import BodyContext
from .context import NOBODY, Tokens, publish, run_in
from .frames import hidden
from .log import internal_error
from .record import Measured, Record
from .registry import registry
from .resources import close_at_once, close_if_old, connections_as_before

_NOTHING_TO_DO: "ContextManager[None]" = contextlib.nullcontext()


class StartResponse:
    """The server's ``start_response``, and what the application has told it.

    The suspended middleware holds this, and must not hold the server's handler,
    which may hold the response (wsgiref's does): a response that the server drops
    would never be free. So the server's function is held weakly once there is a
    response, which then holds it.
    """

    __slots__ = ("headers", "server", "_weak")

    def __init__(self, server: "Callable[..., Any]") -> None:
        self.server: "Optional[Callable[..., Any]]" = server
        self._weak: "Optional[weakref.ref[Any]]" = None
        #: The headers, once the application has called start_response.
        self.headers: "List[Any]" = []

    def __call__(self, status: str, headers: "List[Any]", *exc_info: Any) -> Any:
        self.headers = headers
        server = self.server
        if server is None and self._weak is not None:
            server = self._weak()
        if server is None:
            return _discard  # the response has been dropped
        return server(status, headers, *exc_info)

    def weaken(self) -> Any:
        """Return the server's function, for the caller to hold."""
        server = self.server
        try:
            self._weak = weakref.ref(server)
        except TypeError:
            return None  # cannot be held weakly
        self.server = None
        return server


def _discard(data: bytes) -> None:
    """The ``write()`` of a response that is no more."""


class SuspendedRecord(Record):
    """One WSGI response, and the middleware that is resumed when it has ended."""

    __slots__ = (
        "_suspended",
        "context",
        "_published",
        "_tokens",
        "_head",
        "_start_response",
        "body",
        "exhausted",
    )

    def __init__(
        self,
        suspended: "Generator[Any, Any, Any]",
        context: Context,
        root: Any,
        started: float,
        head: bool,
        start_response: StartResponse,
        streaming: bool,
        body: "Optional[BodyContext]",
        tokens: Tokens,
    ) -> None:
        super().__init__(context.copy(), root, started, streaming)
        #: The request's, which belongs to it alone.
        self.context = context
        self._suspended: "Optional[Generator[Any, Any, Any]]" = suspended
        self._published = self._snapshot
        self._tokens = tokens
        self._head = head
        self._start_response = start_response
        self.body = body
        self.exhausted = False

    @property
    def unfinished(self) -> bool:
        """Whether upstream's middleware is still suspended."""
        return self._suspended is not None

    def sent_by_server(self) -> None:
        """The server has read a file itself (sendfile): the header is all we know.

        Not even whether the client has stayed to the end of it.
        """
        self.exhausted = True
        if not self._head:
            self.measured = Measured(self._content_length())

    def weaken_start_response(self) -> Any:
        """Return the server's ``start_response``, for the response to hold."""
        return self._start_response.weaken()

    # -- the contexts ----------------------------------------------------------

    def run(self, function: Any, *args: Any) -> Any:
        """Run something of the response in its context."""
        return run_in(self.context, function, *args)

    def iterate(self, response: Any) -> "Iterator[Any]":
        """Begin to iterate the body."""
        if self.body is not None:
            try:
                self.run(self.body.enter)
            except Exception:
                internal_error("internal error; a body may not see what was bound")
        iterator: "Iterator[Any]" = self.run(iter, response)
        return iterator

    def exhaust(self) -> None:
        """The body has been iterated to its end."""
        self.exhausted = True
        self.leave_body()
        self._publish()

    def leave_body(self) -> None:
        """The body is not iterated any more: what was bound for it alone is let go."""
        if self.body is not None:
            self.run(self.body.leave)

    def _publish(self) -> None:
        """Let the server's context see what the application has set since."""
        private = NOBODY if self.body is None else self.body.in_force
        self._tokens = publish(self.context, self._published, self._tokens, private)
        self._published = self.context.copy()

    # -- endings -----------------------------------------------------------------

    def return_now(self) -> None:
        """End the transaction at the application's return (``finish_on="return"``)."""
        self.end("completed")
        self._resume(None)

    def close(self) -> None:
        """The server has closed the response, and the response's own close() has run."""
        span = None if self._suspended is None else self._span
        # (nothing is sent of what has ended already, or is not sampled)
        sends = span is not None and span.sampled is not False
        with connections_as_before(close_if_old) if sends else _NOTHING_TO_DO:
            try:
                self.end("completed" if self._is_complete() else "cancelled")
            finally:
                self._resume(None)
        self._publish()

    def fail(self, error: BaseException) -> None:
        """The body, or the response's ``close()``, has raised: report and end.

        To be called while the error is being handled. The error's traceback is
        left as it was: that is what the server goes on to see.
        """
        traceback: "Optional[TracebackType]" = error.__traceback__
        self.leave_body()
        if self.end("failed"):
            self._resume(error)
        else:
            run_in(self.context, sdk.capture_exception, self._span)
        error.__traceback__ = traceback
        self._publish()

    def abandon(self) -> None:
        """Nobody will close the response: it was dropped, or the process ends."""
        with connections_as_before(close_at_once):
            try:
                self.end("abandoned")
            finally:
                self._resume(None)

    def _resume(self, error: "Optional[BaseException]") -> None:
        if self._process != registry.process:
            return  # forked since: the parent ends it
        with records.lock:
            suspended, self._suspended = self._suspended, None
        if suspended is None:
            return
        run_in(self.context, resume, suspended, error)
        self.log_late_spans()

    # -- what is told about the response -----------------------------------------

    def _is_complete(self) -> bool:
        """Whether a closed response had been sent as far as it was to be sent."""
        if self.exhausted or self._head:
            return True
        chunks, size = self.measured.totals()
        if not chunks:
            return True
        length = self._content_length()
        return length is not None and (size or 0) >= length

    def _content_length(self) -> "Optional[int]":
        try:
            for name, value in self._start_response.headers:
                if name.lower() == "content-length":
                    return int(value)
        except Exception:
            pass  # not what the WSGI specification allows; the server will say so
        return None


def resume(suspended: "Generator[Any, Any, Any]", error: "Optional[BaseException]") -> None:
    """Let upstream's middleware leave its ``with`` blocks, in the request's context.

    An error is thrown into it, and comes out again; the caller raises it itself.
    The scopes are put back afterwards: the context belongs to this request alone,
    and an error that comes later (in ``close()``, after a body that failed) must
    still find them.
    """
    scopes = sdk.scope_variables()
    try:
        if error is None:
            next(suspended)
        else:
            suspended.throw(error)
    except StopIteration:
        pass
    except BaseException as raised:
        # A StopIteration of the application comes back as the cause (PEP 479).
        if raised is error or (error is not None and raised.__cause__ is error):
            pass
        elif isinstance(raised, ValueError) and "different Context" in str(raised):
            pass  # in a copy of the context, where older SDKs fail to reset scopes
        elif isinstance(raised, Exception):
            internal_error("internal error while finishing a response")
        else:
            raise  # a signal handler's, such as the server's own SystemExit
    finally:
        sdk.restore_scopes(scopes)


__name__ = hidden(__name__)
