"""One ASGI request: what passes between the application and its server, and how it ends.

Under ASGI upstream's middleware stays in its ``with`` blocks until the application returns,
and with them the transaction. What it does not see is how the response went: the messages
tell. The application gets :meth:`AsgiRequest.receive` and :meth:`AsgiRequest.send`.
"""

import asyncio
import threading
from contextvars import Context, ContextVar, copy_context
from time import perf_counter
from typing import Any, Awaitable, Callable, Dict, Optional

from . import sigterm, spans, stats
from .body_stats import BodyStats
from .open_response import OpenResponse
from .options import Options
from .process import internal_error
from .registry import workers
from .reported import is_hang_up
from .request_data import take_request_data
from .sdk import options_of_integration, remember_reported
from .shutdown import SHUT_DOWN, flush

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[Any]]


class Running:
    """Holds a request while it runs.

    Every copy of the request's context holds this, for as long as there are tasks that
    the application has left behind; not the request, which holds the server's side.
    """

    __slots__ = ("request",)

    def __init__(self, request: "AsgiRequest") -> None:
        self.request: "Optional[AsgiRequest]" = request


#: The ASGI request of ours that the running context belongs to.
running: "ContextVar[Optional[Running]]" = ContextVar("vendored_integration_running", default=None)


def current_request() -> "Optional[AsgiRequest]":
    """Return the running request, if it is an ASGI request of ours."""
    holder = running.get()
    return None if holder is None else holder.request


class AsgiRequest:
    """One connection (or, for HTTP, one request) of an ASGI application.

    As it is, of a protocol that is not known here: nothing is made of its messages and
    errors. More than 7 attributes: both sides' functions, and what is known of the errors.
    """

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._server_receive = receive
        self._server_send = send
        self.root_path = scope.get("root_path", "")
        #: Whether the application has been called.
        self.begun = False
        self._root: Any = None
        # An OSError of the server's send(): the client has gone.
        self._send_error: "Optional[OSError]" = None
        # Whether the server has told the application that the client has gone.
        self._disconnected = False
        #: An error that upstream is not to see: raised when upstream is done.
        self.postponed: "Optional[BaseException]" = None
        #: The last unhandled error of which there is an event.
        self.reported: "Optional[BaseException]" = None

    # -- the messages ------------------------------------------------------------

    async def receive(self) -> Any:
        """What the application receives by: notices that the client has gone."""
        message = await self._server_receive()
        if _kind(message) in ("http.disconnect", "websocket.disconnect"):
            self._disconnected = True
        return message

    async def send(self, message: Any) -> Any:
        """What the application sends by."""
        try:
            return await self._server_send(message)
        except OSError as error:
            self._send_error = error
            raise

    # -- what the middleware calls -----------------------------------------------

    def begin(self, options: "Optional[Options]", upstream_send: Send) -> None:
        """The application is called. Upstream's transaction is the running one.

        :param options: ``None``: those of the active DjangoIntegration.
        :param upstream_send: upstream's ``send`` around the server's; it reads the status.
        """
        self.begun = True
        self._root = spans.current_root()

    def returned(self) -> None:
        """The application has returned."""
        self._finish(None, False)

    def raised(self, error: BaseException) -> bool:
        """The application has raised.

        :return: true if upstream should report it. It takes any error for a failure; one
            that is none is kept as ``postponed``.
        """
        failed = self._is_failure(error)
        if not failed:
            self.postponed = error
        self._finish(error, failed)
        return failed

    def reports(self, error: BaseException) -> bool:
        """Whether an unhandled error makes an event. It is going to have one then."""
        if error is self.reported or self._is_hang_up(error):
            return False
        self.reported = error
        return True

    def _finish(self, error: "Optional[BaseException]", failed: bool) -> None:
        try:
            self._end(error, failed)
        except Exception:
            internal_error("internal error while finishing a response")
        # What these hold may hold this.
        self._root = self._send_error = None

    # -- what the protocols differ in ------------------------------------------------

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        pass

    def _is_failure(self, error: BaseException) -> bool:
        return True

    def _is_hang_up(self, error: BaseException) -> bool:
        """Whether an error comes of it that the client has gone."""
        # Since ASGI 2.4 a server may tell by an OSError of its send().
        if error is self._send_error or isinstance(error, asyncio.CancelledError):
            return True
        # What a framework raises means nothing before the server has told so.
        return (self._disconnected or self._send_error is not None) and is_hang_up(error)

    def _set_status(self, status: str) -> None:
        if self._root is not None:
            self._root.set_status(status)


class Lifespan(AsgiRequest):
    """The ``lifespan`` protocol.

    An application that does not know it raises at once, whatever it likes: that is how it
    says so, and no error. Stock reports it at every start of a server.
    Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
    """

    #: Whether the application knows the protocol.
    known = False

    async def receive(self) -> Any:
        self.known = True
        return await self._server_receive()

    async def send(self, message: Any) -> Any:
        if _kind(message) in SHUT_DOWN:
            await flush()  # before the server ends the process
        return await self._server_send(message)

    def _is_failure(self, error: BaseException) -> bool:
        return self.known and not isinstance(error, (GeneratorExit, asyncio.CancelledError))


class WebSocket(AsgiRequest):
    """A WebSocket connection."""

    def _is_failure(self, error: BaseException) -> bool:
        return not isinstance(error, GeneratorExit) and not self._is_hang_up(error)

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        # A server that cancels its application: the client has gone, and did not say so.
        if error is not None and not failed and not self._disconnected:
            self._set_status("cancelled")


class HttpRequest(AsgiRequest):
    """An HTTP request and its response. More than 7 attributes: see ``AsgiRequest``."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        stats.interfaces["asgi"] = None
        try:
            workers.poll()
            sigterm.watch()
        except Exception:
            internal_error("internal error when a request begins")
        self._method = scope.get("method")
        self._upstream_send = send
        self._options: "Optional[Options]" = None
        self._opened: "Optional[OpenResponse]" = None
        # Whether the response makes its chunks as it goes along; None: the first message of
        # the body will tell.
        self._streaming: "Optional[bool]" = None
        #: The context when the request began.
        self.before = copy_context()
        #: The one that Django's response was sent in, when that was over.
        self.sent_in: "Optional[Context]" = None
        # Whether all that was to be sent has been sent.
        self._is_complete = False
        self._content_length: "Optional[int]" = None
        self._stats = BodyStats(perf_counter())
        self._stats.last_step = self._stats.started

    def begin(self, options: "Optional[Options]", upstream_send: Send) -> None:
        super().begin(options, upstream_send)
        self._options = options or options_of_integration()
        self._upstream_send = upstream_send

    def respond(self, streaming: bool) -> None:
        """Django begins to send a response."""
        self._streaming = streaming
        if streaming:
            take_request_data(self._root)

    async def send(self, message: Any) -> Any:
        kind = _kind(message)
        is_body = kind == "http.response.body"
        server_send = self._server_send
        was_disconnected = self._disconnected
        body_stats = self._stats
        asked = perf_counter()
        if is_body:
            body_stats.produce_time += asked - body_stats.last_step
            body_stats.count(len(message.get("body") or b""), asked)
            if self._streaming is None:
                self._find_out_streaming(message)
        elif kind == "http.response.start":
            self._open(message, asked)
            server_send = self._upstream_send
        try:
            result = await server_send(message)
        except OSError as error:
            self._send_error = error
            raise
        body_stats.last_step = now = perf_counter()
        if is_body:
            body_stats.send_time += now - asked
            if message.get("more_body") is True and self._content_length is None:
                return result  # Most messages of a stream: nothing is complete yet.
        self._note_sent(kind, message, was_disconnected)
        return result

    def _open(self, message: Message, now: float) -> None:
        """The application has made a response, and begins to send it."""
        try:
            self._read_headers(message.get("headers"))
            if self._streaming is False or self._opened is not None or self._root is None:
                return
            # As in stock: an idle stream would be sampled for as long as it is open.
            self._root.stop_profile()
            self._stats.returned = now
            context = copy_context()
            context.run(running.set, None)  # it must not hold this request
            opened = OpenResponse(
                self._root,
                context,
                self._options or options_of_integration(),
                self._stats,
                streaming=True,
                loop_thread=threading.get_ident(),
            )
            opened.open()
            self._opened = opened
        except Exception:
            internal_error("internal error; this response is traced as in stock")

    def _read_headers(self, headers: Any) -> None:
        # ASGI allows any iterable: one that can be read only once is the server's to read.
        if not isinstance(headers, (list, tuple)):
            return
        for name, value in headers:
            name = name.lower()
            if name == b"content-length" and value.isdigit():
                self._content_length = int(value)
            elif name in (b"x-accel-redirect", b"x-sendfile"):
                self._is_complete = True  # the proxy sends the file

    def _find_out_streaming(self, message: Message) -> None:
        # Middleware may say that more is to come of a body that is all there.
        more = bool(message.get("more_body", False))
        self._streaming = more and not self._has_content_length()
        if self._opened is not None:
            self._opened.streaming = self._streaming

    def _note_sent(self, kind: "Optional[str]", message: Message, was_disconnected: bool) -> None:
        """The server has taken a message.

        :param was_disconnected: the client had gone before. Starlette's BaseHTTPMiddleware
            ends the body all the same.
        """
        if kind == "http.response.start":
            if self._method == "HEAD" or message.get("status") in (204, 304):
                self._is_complete = True  # of these a server sends no body
            return
        last = not message.get("more_body", False)
        if kind == "http.response.body":
            if (last and not was_disconnected) or self._has_content_length():
                self._is_complete = True
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            # The server reads a file itself: the header is all we know.
            self._stats.size = self._content_length
            if last:
                self._is_complete = True

    def _has_content_length(self) -> bool:
        expected = self._content_length
        return expected is not None and (self._stats.size or 0) >= expected

    def _is_failure(self, error: BaseException) -> bool:
        return not isinstance(error, GeneratorExit) and not self._is_hang_up(error)

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        opened, self._opened = self._opened, None
        sent_in, self.sent_in = self.sent_in, None
        if failed and sent_in is not None:
            # The body may have reported the error itself.
            remember_reported(sent_in)
        if isinstance(error, GeneratorExit):
            outcome = "abandoned"
        elif failed and not _is_in_background(error):
            outcome = "failed"
        elif self._is_complete:
            outcome = "completed"
        else:
            outcome = "cancelled"
        if opened is not None:
            opened.end(outcome)
        else:
            stats.count_response(bool(self._streaming), outcome)
        if outcome == "cancelled" and (self._disconnected or error is not None):
            # Also where nothing was streaming: the client has not got the response.
            self._set_status(outcome)


def _is_in_background(error: "Optional[BaseException]") -> bool:
    """Whether an error comes from a task of Starlette's, which is run after the response."""
    traceback = None if error is None else error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == "starlette.background":
            return True
        traceback = traceback.tb_next
    return False


def _kind(message: Any) -> "Optional[str]":
    """Return the type of a message. If it is none, the server will say so."""
    return message.get("type") if isinstance(message, dict) else None
