"""What passes between an ASGI application and its server, and how it ends.

Under ASGI upstream's middleware stays in its ``with`` blocks until the application
returns, and with them the transaction. What it does not see is how the response
went: that is told by the messages.
"""

import asyncio
import threading
import time
from contextvars import Context, ContextVar, copy_context
from time import perf_counter
from typing import Any, Awaitable, Callable, Dict, Optional

from . import sdk
from .counters import counters
from .frames import hidden
from .hang_up import is_hang_up
from .log import internal_error
from .options import DEFAULT_OPTIONS, Options
from .record import Measured, Record
from .registry import registry
from .scheduler import scheduler
from .shutdown import SHUT_DOWN, flush
from .sigterm import watch

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[Any]]


class Running:
    """Holds the exchange of a request while that runs.

    Every copy of the request's context holds this, for as long as there are tasks that
    the application has left behind; not the exchange, which holds the server's side.
    """

    __slots__ = ("exchange",)

    def __init__(self, exchange: "Exchange") -> None:
        self.exchange: "Optional[Exchange]" = exchange


#: The ASGI request of ours that the running context belongs to.
running: "ContextVar[Optional[Running]]" = ContextVar("vendored_integration_running", default=None)


def current_exchange() -> "Optional[Exchange]":
    """Return the exchange of the running request, if it is an ASGI request of ours."""
    holder = running.get()
    return None if holder is None else holder.exchange


class Exchange:
    """One connection (or, for HTTP, one request) of an ASGI application."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.root_path = scope.get("root_path", "")
        #: Whether the application has been called.
        self.begun = False
        self._span: Any = None
        # Whether upstream has passed the application's message on.
        self._passed_on = False
        self._send_error: "Optional[OSError]" = None
        self._postponed: "Optional[BaseException]" = None
        # Whether the server has told the application that the client has gone.
        self._disconnected = False
        #: The last unhandled error of which there is an event.
        self.reported: "Optional[BaseException]" = None

    async def receive(self) -> Any:
        """The server's ``receive``: notices that the client has gone."""
        message = await self._receive()
        if _kind(message) in _DISCONNECTS:
            self._disconnected = True
        return message

    async def send(self, message: Any) -> Any:
        """The server's ``send``."""
        self._passed_on = True
        try:
            return await self._send(message)
        except OSError as error:
            self._send_error = error
            raise

    def guarded(self, upstream: Send) -> Send:
        """Return the ``send`` that the application gets.

        :param upstream: upstream's, which calls :meth:`send`. All that it reads is the
            status of a response, and if that is no number, it raises.
        """

        async def send(message: Any) -> Any:
            if _kind(message) == "http.response.start":
                self._passed_on = False
                try:
                    return await upstream(message)
                except Exception:
                    if self._passed_on:
                        raise
                    internal_error("internal error of the SDK")
            return await self.send(message)

        return send

    def begin(self, options: "Optional[Options]") -> None:
        """The application is called. Upstream's transaction is the running one.

        :param options: ``None``: those of the active DjangoIntegration.
        """
        self.begun = True
        try:
            self._begin(options or sdk.options_of_integration())
        except Exception:
            internal_error("internal error; this request is traced as in stock")

    def returned(self) -> None:
        """The application has returned."""
        self._finish(None, failed=False)

    def raised(self, error: BaseException) -> bool:
        """The application has raised.

        :return: whether upstream is to see the error, and to report it. It would take
            any for a failure; another one is raised when upstream is done.
        """
        failed = self._is_failure(error)
        if not failed:
            self._postponed = error
        self._finish(error, failed)
        return failed

    def raise_postponed(self) -> None:
        """Raise the error that upstream was not to see, if there is one."""
        error, self._postponed = self._postponed, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback holds this frame

    def _finish(self, error: "Optional[BaseException]", failed: bool) -> None:
        try:
            self._end(error, failed)
        except Exception:
            internal_error("internal error while finishing a response")
        # What these hold may hold this.
        self._span = self._send_error = None

    # -- what the kinds of exchange differ in --------------------------------------

    def _begin(self, options: Options) -> None:
        self._span = sdk.root_span()

    def is_hang_up(self, error: BaseException) -> bool:
        """Whether an error comes of it that the client has gone."""
        # Since ASGI 2.4 a server may tell by an OSError of its send().
        if error is self._send_error or isinstance(error, asyncio.CancelledError):
            return True
        # What a framework raises means nothing before the server has told so.
        return (self._disconnected or self._send_error is not None) and is_hang_up(error)

    def reports(self, error: BaseException) -> bool:
        """Whether an unhandled error makes an event. It is going to have one then."""
        if error is self.reported or self.is_hang_up(error):
            return False
        self.reported = error
        return True

    def _is_failure(self, error: BaseException) -> bool:
        return not isinstance(error, GeneratorExit) and not self.is_hang_up(error)

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        pass


class WebSocketExchange(Exchange):
    """A WebSocket connection."""

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        # A server that cancels its application: the client has gone, and did not say so.
        if error is not None and not failed and not self._disconnected:
            sdk.set_status(self._span, "cancelled")


class Unknown(Exchange):
    """A protocol that is not known here: nothing is made of its messages and errors."""

    def _is_failure(self, error: BaseException) -> bool:
        return True


class Lifespan(Exchange):
    """The ``lifespan`` protocol.

    An application that does not know it raises at once, whatever it likes: that is
    how it says so, and no error. Stock reports it at every start of a server.
    Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """

    #: Whether the application knows the protocol.
    known = False

    async def receive(self) -> Any:
        """The server's ``receive``: whoever calls it knows the protocol."""
        self.known = True
        return await self._receive()

    async def send(self, message: Any) -> Any:
        """The server's ``send``: before the last message, all there is goes to Sentry."""
        if _kind(message) in SHUT_DOWN:
            await flush()
        return await super().send(message)

    def _is_failure(self, error: BaseException) -> bool:
        return self.known and super()._is_failure(error)


class AsgiRecord(Record):
    """One ASGI response. Upstream's ``with`` blocks end when the application returns."""

    __slots__ = ("thread",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        #: Of the event loop; it must not hold that, see Meter.
        self.thread = threading.get_ident()

    def abandon(self) -> None:
        """The server, or the process, ends."""
        if registry.take(self, "abandoned") or self.early_outcome:
            self.end_early()


#: Lengths that are summed up at once.
_MANY = 16


class Meter(Measured):
    """Measures a body by its messages.

    It must not hold the exchange: the server's ``send`` may lead to the very task, which
    would never be collected.
    """

    __slots__ = ("last_sent",)

    def __init__(self, now: float) -> None:
        super().__init__()
        self.last_sent = now

    def count(self, message: Message, asked: float) -> None:
        """The application wants a part of the body sent."""
        self.produce_time += asked - self.last_sent
        try:
            size = len(message.get("body", b""))
        except Exception:
            return  # not bytes: the server will say so
        if size:
            if not self.first_chunk:
                self.first_chunk = asked
            since = self.counted[2]
            since.append(size)
            if len(since) == _MANY:
                self.sum_up()

    def sent_by_server(self, size: "Optional[int]") -> None:
        """The server reads a file itself: the header is all we know.

        :param size: of the body, in bytes.
        """
        self.counted = (self.totals()[0], size, [])


class HttpExchange(Exchange):
    """An HTTP request and its response."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        counters.asgi = True
        try:
            scheduler.poll()
            watch()
        except Exception:
            internal_error("internal error in the scheduler")
        self._started = time.monotonic()
        self._measured_from = perf_counter()
        self._method = scope.get("method")
        self._options = DEFAULT_OPTIONS
        self._record: "Optional[AsgiRecord]" = None
        # Whether the response makes its chunks as it goes along; None: the first
        # message of the body will tell.
        self._streaming: "Optional[bool]" = None
        #: The context when the request began.
        self.before = copy_context()
        #: The one that Django's response was sent in, when that was over.
        self.sent_in: "Optional[Context]" = None
        # Whether all that was to be sent has been sent.
        self._complete = False
        self._content_length: "Optional[int]" = None
        self._meter = Meter(self._measured_from)

    def _begin(self, options: Options) -> None:
        self._options = options
        super()._begin(options)

    # -- the messages ------------------------------------------------------------

    def guarded(self, upstream: Send) -> Send:
        """Return the ``send`` that the application gets: most of what it sends are chunks."""
        any_message = super().guarded(upstream)
        server, meter, clock = self._send, self._meter, perf_counter

        async def send(message: Any) -> Any:
            # What follows is what is left of the other way, where this holds.
            if (
                not self._streaming
                or self._content_length is not None
                or _kind(message) != "http.response.body"
                or message.get("more_body") is not True
            ):
                return await any_message(message)
            asked = clock()
            try:
                meter.count(message, asked)
            except Exception:
                internal_error("internal error while measuring a body")
            try:
                result = await server(message)
            except OSError as error:
                self._send_error = error
                raise
            meter.last_sent = now = clock()
            meter.send_time += now - asked
            return result

        return send

    async def send(self, message: Any) -> Any:
        """The server's ``send``: measures, and notices the end of the body."""
        asked = perf_counter()
        kind = _kind(message)
        too_late = self._disconnected
        try:
            if kind == "http.response.start":
                self._open(message, asked)
            elif kind == "http.response.body":
                self._count(message, asked)
        except Exception:
            internal_error("internal error; this response is traced as in stock")
        result = await super().send(message)
        try:
            self._sent(kind, message, asked, too_late)
        except Exception:
            internal_error("internal error; this response is traced as in stock")
        return result

    def _open(self, message: Message, now: float) -> None:
        """The application has made a response, and begins to send it."""
        self._content_length = _content_length(message)
        if self._streaming is False or self._record is not None or self._span is None:
            return
        context = copy_context()
        context.run(running.set, None)  # see Meter
        record = AsgiRecord(context, self._span, self._measured_from, True)
        record.returned = now
        record.measured = self._meter
        self._record = record
        record.open(self._options, self._started)

    def _count(self, message: Message, asked: float) -> None:
        self._meter.count(message, asked)
        if self._streaming is None:
            # Middleware may say that more is to come of a body that is all there.
            more = bool(message.get("more_body", False))
            self._streaming = more and not self._has_content_length()
            if self._record is not None:
                self._record.streaming = self._streaming

    def _sent(self, kind: Any, message: Message, asked: float, too_late: bool) -> None:
        """The server has taken a message.

        :param too_late: the client had gone before. Starlette's BaseHTTPMiddleware ends
            the body all the same.
        """
        self._meter.last_sent = now = perf_counter()
        if kind == "http.response.start":
            # Of these a server sends no body.
            self._complete = self._method == "HEAD" or message.get("status") in (204, 304)
        elif kind == "http.response.body":
            self._meter.send_time += now - asked
            last = not message.get("more_body", False)
            if (last and not too_late) or self._has_content_length():
                self._complete = True
        elif kind in _FILES:
            self._meter.sent_by_server(self._content_length)
            if not message.get("more_body", False):
                self._complete = True

    def _has_content_length(self) -> bool:
        expected = self._content_length
        return expected is not None and (self._meter.totals()[1] or 0) >= expected

    # -- the body ------------------------------------------------------------------

    def respond(self, streaming: bool) -> None:
        """Django begins to send a response."""
        self._streaming = streaming

    # -- endings -------------------------------------------------------------------

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        record, self._record = self._record, None
        sent_in, self.sent_in = self.sent_in, None
        if failed and sent_in is not None:
            # The body may have reported the error itself.
            sdk.remember_reported(sent_in)
        if isinstance(error, GeneratorExit):
            outcome = "abandoned"
        elif failed and not _in_background(error):
            outcome = "failed"
        elif self._complete:
            outcome = "completed"
        else:
            outcome = "cancelled"
        if record is not None:
            record.end(outcome)
            record.log_late_spans()
        else:
            counters.ended(bool(self._streaming), outcome)
        if outcome == "cancelled" and (self._disconnected or error is not None):
            # Also where nothing was streaming: the client has not got the response.
            sdk.set_status(self._span, outcome)


#: Messages that say that the client has gone.
_DISCONNECTS = ("http.disconnect", "websocket.disconnect")

#: Messages by which a server is told to read a file itself.
_FILES = ("http.response.pathsend", "http.response.zerocopysend")


def _in_background(error: "Optional[BaseException]") -> bool:
    """Whether an error comes from a task of Starlette's, which is run after the response."""
    traceback = None if error is None else error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == "starlette.background":
            return True
        traceback = traceback.tb_next
    return False


def _kind(message: Any) -> "Optional[str]":
    """Return the type of a message. If it is none, the server will say so."""
    # By their types: isinstance() may ask an object, which may raise.
    if not issubclass(type(message), dict):
        return None
    kind = dict.get(message, "type")
    return kind if type(kind) is str else None


def _content_length(message: Message) -> "Optional[int]":
    headers = message.get("headers")
    # ASGI allows any iterable: one that can be read only once is the server's to read.
    if not isinstance(headers, (list, tuple)):
        return None
    try:
        for name, value in headers:
            if name.lower() == b"content-length":
                return int(value)
    except Exception:
        pass  # not what ASGI allows; the server will say so
    return None


__name__ = hidden(__name__)
