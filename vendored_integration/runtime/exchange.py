"""What passes between an ASGI application and its server, and how it ends.

Under ASGI upstream's middleware stays in its ``with`` blocks until the application
returns, and with them the transaction. What it does not see is how the response
went: that is told by the messages.
"""

import asyncio
import time
from contextvars import Context, ContextVar, copy_context
from time import perf_counter
from typing import TYPE_CHECKING, Any, Awaitable, Callable, Dict, Optional, Tuple

from . import sdk
from .context import publish
from .frames import hidden
from .log import logger
from .options import DEFAULT_OPTIONS, Options
from .record import Progress, Record
from .registry import registry
from .scheduler import scheduler

if TYPE_CHECKING:
    from .body import BodyContext

Message = Dict[str, Any]

#: The exchange of the running request, if it is an ASGI request of ours.
current_exchange: "ContextVar[Optional[Exchange]]" = ContextVar(
    "vendored_integration_exchange", default=None
)


class Exchange:
    """One connection (or, for HTTP, one request) of an ASGI application."""

    def __init__(
        self,
        receive: "Callable[[], Awaitable[Message]]",
        send: "Callable[[Message], Awaitable[None]]",
    ) -> None:
        self._receive = receive
        self._send = send
        #: Whether the application has been called.
        self.begun = False
        #: To be raised once upstream has left its ``with`` blocks, which would take
        #: it for a failure.
        self.postponed: "Optional[BaseException]" = None
        self._raised: "Optional[Tuple[BaseException, Optional[BaseException], bool]]" = None

    async def receive(self) -> Message:
        """The server's ``receive``."""
        return await self._receive()

    async def send(self, message: Message) -> None:
        """The server's ``send``."""
        await self._send(message)

    def begin(self, options: Options) -> None:
        """The application is called. Upstream's transaction is the running one."""
        self.begun = True

    def returned(self) -> None:
        """The application has returned."""

    def raised(self, error: BaseException) -> bool:
        """The application has raised.

        :return: whether the error is for upstream to see, and to report.
        """
        reported = self._is_failure(error)
        if reported:
            self._raised = error, error.__cause__, error.__suppress_context__
        else:
            self.postponed = error
        return reported

    def _is_failure(self, error: BaseException) -> bool:
        return not isinstance(error, (asyncio.CancelledError, GeneratorExit))

    async def close_body(self) -> None:
        """Close what the application has left open."""

    def restore(self, error: BaseException) -> None:
        """Undo what upstream does to an error: it cuts its cause off (``from None``)."""
        if self._raised is not None and self._raised[0] is error:
            _, error.__cause__, error.__suppress_context__ = self._raised
        self._raised = None


class WebSocketExchange(Exchange):
    """A WebSocket connection."""

    def raised(self, error: BaseException) -> bool:
        """A server that cancels its application: the client has gone."""
        if not super().raised(error):
            sdk.set_status(sdk.root_span(), "cancelled")
            return False
        return True


class Lifespan(Exchange):
    """The ``lifespan`` protocol.

    An application that does not know it raises at once, whatever it likes: that is
    how it says so, and no error. Stock reports it at every start of a server.
    Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """

    _known = False

    async def receive(self) -> Message:
        """The server's ``receive``: whoever calls it knows the protocol."""
        self._known = True
        return await super().receive()

    def _is_failure(self, error: BaseException) -> bool:
        return self._known and super()._is_failure(error)


class AsgiRecord(Record):
    """One ASGI response. Upstream's ``with`` blocks end when the application returns."""

    __slots__ = ()

    def abandon(self) -> None:
        """The process ends."""
        registry.take(self, "abandoned")
        self.end_early()


class HttpExchange(Exchange):
    """An HTTP request and its response."""

    def __init__(
        self,
        receive: "Callable[[], Awaitable[Message]]",
        send: "Callable[[Message], Awaitable[None]]",
    ) -> None:
        super().__init__(receive, send)
        try:
            scheduler.poll()
        except Exception:
            logger.exception("internal error in the scheduler")
        self._started = time.monotonic()
        self._measured_from = perf_counter()
        #: Whether the response makes its chunks as it goes along; ``None``: the
        #: first message of the body will tell.
        self.streaming: "Optional[bool]" = None
        self._options = DEFAULT_OPTIONS
        self._record: "Optional[AsgiRecord]" = None
        self._span: Any = None
        self._body: "Optional[BodyContext]" = None
        self._body_before: "Optional[Context]" = None
        self._disconnected = False
        self._complete = False
        self._send_error: "Optional[OSError]" = None
        # Seconds of perf_counter; see Progress.
        self._chunks = self._size = 0
        self._first_chunk = self._produce_time = self._send_time = 0.0
        self._last_sent = 0.0

    def begin(self, options: Options) -> None:
        """The application is called. Upstream's transaction is the running one."""
        super().begin(options)
        self._options = options
        self._span = sdk.root_span()

    # -- the messages ------------------------------------------------------------

    async def receive(self) -> Message:
        """The server's ``receive``."""
        message = await self._receive()
        if message.get("type") == "http.disconnect":
            self._disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """The server's ``send``: measures, and notices the end of the body."""
        asked = perf_counter()
        kind = message.get("type")
        if kind == "http.response.start":
            self._open(asked)
        elif kind == "http.response.body":
            self._count(message, asked)
        try:
            await self._send(message)
        except OSError as error:
            self._send_error = error
            raise
        self._last_sent = perf_counter()
        if kind == "http.response.body":
            self._send_time += self._last_sent - asked
            if not message.get("more_body", False):
                self._complete = True
        elif kind == "http.response.pathsend":
            self._complete = True

    def _open(self, now: float) -> None:
        """The application has returned a response, and begins to send it."""
        if self.streaming is False or self._record is not None or self._span is None:
            return
        try:
            record = AsgiRecord(copy_context(), self._span, self._measured_from, streaming=True)
            record.returned = now
            record.progress = self._progress
            self._record = record
            record.open(self._options, self._started)
        except Exception:
            logger.exception("internal error; this response is traced as in stock")

    def _count(self, message: Message, asked: float) -> None:
        if self.streaming is None:
            self.streaming = bool(message.get("more_body", False))
            if self._record is not None:
                self._record.streaming = self.streaming
        self._produce_time += asked - self._last_sent
        try:
            size = len(message.get("body", b""))
        except TypeError:
            return  # the server will say so
        if size:
            if not self._chunks:
                self._first_chunk = asked
            self._chunks += 1
            self._size += size

    def _progress(self) -> Progress:
        return Progress(
            self._chunks, self._size, self._first_chunk, self._produce_time, self._send_time
        )

    # -- the body ------------------------------------------------------------------

    def body_begins(self, body: "BodyContext") -> None:
        """Django iterates a streaming body, in the context that it was created in."""
        self._body = body
        sdk.share_scopes(copy_context(), body.context)
        self._body_before = body.context.copy()

    async def close_body(self) -> None:
        """Close the body's generator now, not at some later garbage collection."""
        if self._body is not None:
            await self._body.aclose()

    # -- endings -------------------------------------------------------------------

    def returned(self) -> None:
        """The application has returned."""
        self._end(None)

    def raised(self, error: BaseException) -> bool:
        """The application has raised."""
        reported = super().raised(error)
        if reported and self._body is not None and self._body_before is not None:
            # The body may have reported the error itself: the SDK's memory of that
            # is a context variable, and Django iterates in a task of its own.
            publish(self._body.context, self._body_before)
        self._end(error)
        return reported

    def _is_failure(self, error: BaseException) -> bool:
        # Since ASGI 2.4 a server may tell by an OSError that the client has gone.
        return error is not self._send_error and super()._is_failure(error)

    def _end(self, error: "Optional[BaseException]") -> None:
        if isinstance(error, GeneratorExit):
            outcome = "abandoned"
        elif error is not None and self.postponed is not error:
            outcome = "failed"
        elif self._complete:
            outcome = "completed"
        else:
            outcome = "cancelled"
        record, self._record = self._record, None
        if record is not None:
            record.end(outcome)
            record.log_late_spans()
        if outcome == "cancelled" and (self._disconnected or error is not None):
            # Also where nothing was streaming: the client has not got the response.
            sdk.set_status(self._span, outcome)
        self._span = self._body = self._body_before = None


__name__ = hidden(__name__)
