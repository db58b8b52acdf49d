"""An HTTP request of an ASGI application, and its response, as the messages tell."""

import threading
import traceback
from contextvars import Context, copy_context
from time import perf_counter
from typing import Any, Dict, Optional

from . import sigterm, stats
from .asgi_request import AsgiRequest, Receive, Send
from .bindings import Bindings
from .body_stats import BodyStats
from .open_response import OpenResponse
from .options import DEFAULT_OPTIONS, Options
from .process import counts, internal_error
from .registry import workers
from .request_data import take_request_data
from .sdk import options_of_integration, remember_reported

Message = Dict[str, Any]


class HttpRequest(AsgiRequest):
    """An HTTP request and its response. More than 7 attributes: see ``AsgiRequest``."""

    def __init__(self, scope: Any, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        counts["asgi"] = 1
        workers.poll()
        sigterm.watch()
        self._method = scope.get("method")
        self._upstream_send = send
        self._options = DEFAULT_OPTIONS
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
        self._stats = BodyStats(perf_counter())
        # The application makes the body whenever none is sent.
        self._stats.iterated = self._stats.last_step = self._stats.started

    def begin(self, options: "Optional[Options]", upstream_send: Send) -> None:
        super().begin(options, upstream_send)
        self._options = options or options_of_integration()
        self._upstream_send = upstream_send

    def respond(self, streaming: bool) -> None:
        """Django begins to send a response."""
        self._streaming = streaming
        if streaming:
            take_request_data(self._root, streaming=True)

    async def send(self, message: Any) -> None:
        asked = perf_counter()
        server_send: Any = self._pass_on
        try:
            size = server_send and message["more_body"] and len(message["body"])
        except KeyError:
            size = 0  # the last message, or a file
        if not size:
            await self._send_and_read(message, asked)
            return
        # Most messages of a stream: a chunk that is only counted and timed. This is count()
        # without its call, which would be a tenth of what a chunk costs.
        body = self._stats
        gap = asked - body.last_chunk
        if gap > body.longest_gap:
            body.longest_gap = gap
        body.last_chunk = asked
        body.chunks += 1
        body.size += size
        try:
            await server_send(message)
        except OSError as error:
            self._send_error = error
            raise
        body.produce_time += asked - body.last_step
        body.last_step = perf_counter()

    async def _send_and_read(self, message: Message, asked: float) -> None:
        """Send a message that begins the response, ends it, or is out of the ordinary."""
        body, bindings = self._stats, self.bindings
        body.count(len(message.get("body") or b""), asked)
        completes = self._read(message, asked)
        is_start = message["type"] == "http.response.start"
        if bindings is not None:
            bindings.leave()  # the server sees nothing of them
        try:
            await (self._upstream_send if is_start else self._server_send)(message)
        except OSError as error:
            self._send_error = error
            raise
        finally:
            # After the last message Django closes the response.
            if bindings is not None and (is_start or message.get("more_body")):
                bindings.enter()
        body.produce_time += asked - body.last_step
        body.last_step = perf_counter()
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
            has_all = self._has_content_length()
            if self._streaming is None:
                # Middleware may say that more is to come of a body that is all there.
                self._streaming = not last and not has_all
                if self._opened is not None:
                    self._opened.streaming = self._streaming
            # Starlette's BaseHTTPMiddleware ends the body also where the client has gone.
            completes = has_all or (last and not self._disconnected)
            if self._streaming and self._stats.chunks and self._content_length is None:
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
                self._options,
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
