"""One ASGI connection: what passes between the application and its server, and how it ends.

Under ASGI upstream's middleware stays in its ``with`` blocks until the application returns,
and with them the transaction. What it does not see is how the response went: the messages
tell. The application gets :meth:`AsgiRequest.receive` and :meth:`AsgiRequest.send`.
:mod:`.asgi_http` has the HTTP requests.
"""

import asyncio
from typing import Any, Awaitable, Callable, Optional, Tuple

import sentry_sdk

from . import spans
from .options import Options
from .process import internal_error
from .reported import is_hang_up
from .shutdown import SHUT_DOWN, flush

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[Any]]


class AsgiRequest:
    """One connection (or, for HTTP, one request) of an ASGI application.

    Used as it is for WebSockets, and for protocols that are not known here. More than 7
    attributes: both sides' functions, and what is known of the errors.
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
        self._root = spans.root_of(sentry_sdk.Scope.get_current_scope())

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
        """Return whether to make an event of an unhandled error, and remember that it has one."""
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
        """Whether an error says that the client has gone."""
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
