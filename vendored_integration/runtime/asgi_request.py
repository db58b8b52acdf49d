"""One ASGI request: what passes between the application and its server, and how it ends.

Under ASGI upstream's middleware stays in its ``with`` blocks until the application returns,
and with them the transaction. What it does not see is how the response went: the messages
tell. The application gets :meth:`AsgiRequest.receive` and :meth:`AsgiRequest.send`.
"""

import asyncio
import threading
import traceback
from contextvars import Context, ContextVar, copy_context
from time import perf_counter
from typing import Any, Awaitable, Callable, Dict, Optional, Tuple

from . import sigterm, spans, stats
from .bindings import Bindings
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

#: The ASGI request that the running context belongs to. A weak reference: tasks that the
#: application has left behind keep their context, and must not keep the connection by it.
running: "ContextVar[Callable[[], Optional[AsgiRequest]]]" = ContextVar(
    "vendored_integrationrunning", default=lambda: None
)


def current_request() -> "Optional[AsgiRequest]":
    """Return the running request, if it is an ASGI request of ours."""
    return running.get()()


class AsgiRequest:
    """One connection (or, for HTTP, one request) of an ASGI application.

    As it is: a WebSocket connection, or one of a protocol that is not known here. More than
    7 attributes: both sides' functions, and what is known of the errors.
    """

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        self._server_receive = receive
        self._server_send = send
        self.root_path = scope.get("root_path", "")
        #: Whether the application has been called, and whether it has asked for a message.
        self.begun = self.listens = False
        self._root: Any = None
        # An OSError of the server's send(): the client has gone.
        self._send_error: "Optional[OSError]" = None
        # Whether the server has told the application that the client has gone.
        self._disconnected = False
        #: What the application has raised, until that is raised to the server; its cause, and
        #: whether its context is suppressed.
        self.error: "Optional[BaseException]" = None
        self.cause: "Tuple[Optional[BaseException], bool]" = (None, False)
        #: The last unhandled error of which there is an event.
        self.reported: "Optional[BaseException]" = None

    # -- the messages ------------------------------------------------------------

    async def receive(self) -> Any:
        """What the application receives by: notices that the client has gone."""
        self.listens = True
        message = await self._server_receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._disconnected = True
        return message

    async def send(self, message: Any) -> None:
        """What the application sends by."""
        if message["type"] in SHUT_DOWN:
            await flush()  # before the server ends the process
        try:
            await self._server_send(message)
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

    def end(self, error: "Optional[BaseException]") -> bool:
        """The application has returned, or raised.

        :return: true if there is an error that upstream should see, and report.
        """
        failed = error is not None and self._is_failure(error)
        if error is not None and (isinstance(error, Exception) or not failed):
            self.error = error
            self.cause = error.__cause__, error.__suppress_context__
        try:
            self._end(error, failed)
        except Exception:
            internal_error("internal error while finishing a response")
        # What these hold may hold this.
        self._root = self._send_error = None
        return failed

    def reports(self, error: BaseException) -> bool:
        """Whether an unhandled error makes an event. It is going to have one then."""
        if error is self.reported or self._is_hang_up(error):
            return False
        self.reported = error
        return True

    def _end(self, error: "Optional[BaseException]", failed: bool) -> None:
        # A server that cancels its application: the client has gone, and did not say so.
        if error is not None and not failed and not self._disconnected:
            self._set_status("cancelled")

    def _is_failure(self, error: BaseException) -> bool:
        return not isinstance(error, GeneratorExit) and not self._is_hang_up(error)

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

    def _is_failure(self, error: BaseException) -> bool:
        return self.listens and super()._is_failure(error)


class _AsgiBodyStats(BodyStats):
    """Derives from what is kept of a chunk what need not be."""

    __slots__ = ()

    def __init__(self, started: float) -> None:
        super().__init__(started)
        self.last_step = started

    def data(self) -> "Dict[str, Any]":
        # The application makes the body whenever none of it is being sent.
        self.produce_time = self.last_step - self.started - self.send_time
        return super().data()


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
        # The server's send(), while chunks need only be counted and timed.
        self._pass_on: "Optional[Send]" = None
        #: The context when the request began.
        self.before = copy_context()
        #: The one that Django's response was sent in, when that was over.
        self.sent_in: "Optional[Context]" = None
        #: What the body alone sees, while Django sends a streaming response.
        self.bindings: "Optional[Bindings]" = None
        # Whether all that was to be sent has been sent.
        self._is_complete = False
        self._content_length: "Optional[int]" = None
        self._stats = _AsgiBodyStats(perf_counter())

    def begin(self, options: "Optional[Options]", upstream_send: Send) -> None:
        super().begin(options, upstream_send)
        self._options = options or options_of_integration()
        self._upstream_send = upstream_send

    def respond(self, streaming: bool) -> None:
        """Django begins to send a response."""
        self._streaming = streaming
        if streaming:
            take_request_data(self._root)

    async def send(self, message: Any) -> None:
        asked = perf_counter()
        body = self._stats
        size = len(message.get("body", b""))  # only the body's messages have one
        if size:
            # BodyStats.count() without its call: that costs a quarter of what all of this does.
            gap = asked - body.last_chunk
            if gap > body.longest_gap:
                body.longest_gap = gap
            body.last_chunk = asked
            body.chunks += 1
            body.size += size
        bindings, completes = None, False
        server_send = self._pass_on if message.get("more_body") else None
        if server_send is None:
            completes, bindings = self._read(message, asked), self.bindings
            is_start = message["type"] == "http.response.start"
            server_send = self._upstream_send if is_start else self._server_send
            if bindings is not None:
                bindings.leave()  # the server sees nothing of them
        try:
            await server_send(message)
        except OSError as error:
            self._send_error = error
            raise
        finally:
            # After the last message Django closes the response.
            if bindings is not None and (is_start or message.get("more_body")):
                bindings.enter()
        body.last_step = now = perf_counter()
        body.send_time += now - asked
        if completes:
            self._is_complete = True

    def _read(self, message: Message, now: float) -> bool:
        """Read what a message says of the response.

        :return: whether the response is complete when the server has taken this message.
        """
        completes, kind, last = False, message["type"], not message.get("more_body")
        if kind == "http.response.start":
            self._open(message, now)
            # Of these a server sends no body.
            completes = self._method == "HEAD" or message.get("status") in (204, 304)
        elif kind == "http.response.body":
            body = self._stats
            body.first_chunk = body.first_chunk or (now if body.chunks else 0.0)
            has_all = self._has_content_length()
            if self._streaming is None:
                # Middleware may say that more is to come of a body that is all there.
                self._streaming = not last and not has_all
                if self._opened is not None:
                    self._opened.streaming = self._streaming
            # Starlette's BaseHTTPMiddleware ends the body also where the client has gone.
            completes = has_all or (last and not self._disconnected)
            if self._streaming and body.first_chunk and self._content_length is None:
                self._pass_on = None if self.bindings else self._server_send
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            completes = last
            self._stats.file_size = self._content_length
        return completes

    def _open(self, message: Message, now: float) -> None:
        """The application has made a response, and begins to send it."""
        try:
            self._read_headers(message.get("headers"))
            if self._streaming is False or self._opened is not None or self._root is None:
                return
            # As in stock: an idle stream would be sampled for as long as it is open.
            self._root.stop_profile()
            self._stats.returned = now
            self._opened = OpenResponse(
                self._root,
                copy_context(),
                self._options or options_of_integration(),
                self._stats,
                streaming=True,
                loop_thread=threading.get_ident(),
            )
            self._opened.open()
        except Exception:
            self._opened = None
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

    def _has_content_length(self) -> bool:
        expected = self._content_length
        return expected is not None and self._stats.size >= expected

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
        else:
            outcome = "completed" if self._is_complete else "cancelled"
        if opened is not None:
            opened.end(outcome)
        else:
            stats.count_response(bool(self._streaming), outcome)
        if outcome == "cancelled" and (self._disconnected or error is not None):
            # Also where nothing was streaming: the client has not got the response.
            self._set_status(outcome)


def _is_in_background(error: "Optional[BaseException]") -> bool:
    """Whether an error comes from a task of Starlette's, which is run after the response."""
    frames = traceback.walk_tb(None if error is None else error.__traceback__)
    return any(frame.f_globals.get("__name__") == "starlette.background" for frame, _ in frames)
