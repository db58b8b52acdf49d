"""An ASGI server's side of a connection, in the hands of the test."""

import asyncio
import contextlib
from typing import Any

#: How a server tells an application that the client has gone.
HANG_UPS = ("message", "cancel", "error")
_FIRST = {
    "http": {"type": "http.request", "body": b"", "more_body": False},
    "websocket": {"type": "websocket.connect"},
    "lifespan": {"type": "lifespan.startup"},
}


def make_scope(path="/", method="GET", type="http", headers=(), **more):
    """The scope of a connection.

    :param headers: pairs of names and values, text or bytes.
    """

    def encoded(value):
        return value if isinstance(value, bytes) else value.encode()

    return {
        "type": type,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")]
        + [(encoded(name), encoded(value)) for name, value in headers],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 5000),
        **more,
    }


class Connection:
    """One connection. To be made in a running event loop, which the application runs in.

    :param slow: a client that takes a chunk only when :meth:`sent` asks for it.
    """

    def __init__(self, app, path="/", method="GET", body=b"", slow=False, first=None, **scope):
        scope = make_scope(path, method, **scope)
        if body:
            scope["headers"].append((b"content-length", b"%d" % len(body)))
        self.messages = []
        self._incoming: "asyncio.Queue[Any]" = asyncio.Queue()
        first = first or _FIRST[scope["type"]]
        self.deliver({**first, "body": body} if body else first)
        self._changed = asyncio.Condition()
        self._wanted = 0 if slow else float("inf")
        self._has_gone = False
        #: What :func:`read` has found the application to raise.
        self.error: Any = None
        self.task = asyncio.ensure_future(app(scope, self._incoming.get, self._send))

    async def _send(self, message):
        async with self._changed:
            await self._wanted_more(message)
            if self._has_gone:
                raise ConnectionResetError("the client has gone")
            self.messages.append(message)
            self._changed.notify_all()
            await self._wanted_more(message)
        await asyncio.sleep(0)

    async def _wanted_more(self, message):
        if message.get("body"):
            await self._changed.wait_for(lambda: self._wanted > len(self.chunks) or self._has_gone)

    def deliver(self, message):
        """Have the application receive a message."""
        self._incoming.put_nowait(message)

    async def want(self, chunks):
        """Have a slow client take this many chunks in all."""
        async with self._changed:
            self._wanted = chunks
            self._changed.notify_all()

    async def hang_up(self, how):
        """The client goes, and the server tells the application in one of three ways."""
        if how == "message":
            self.deliver({"type": "http.disconnect"})
        elif how == "cancel":
            self.task.cancel()
        else:
            self._has_gone = True
            await self.want(float("inf"))

    @property
    def status(self):
        return self.messages[0]["status"] if self.messages else None

    @property
    def headers(self):
        return self.messages[0]["headers"]

    @property
    def chunks(self):
        return [message["body"] for message in self.messages if message.get("body")]

    async def sent(self, chunks):
        """Wait until the application has sent this many chunks; 0: until its response begins."""

        async def enough():
            async with self._changed:
                await self._changed.wait_for(lambda: self.messages and len(self.chunks) >= chunks)

        waiting = asyncio.ensure_future(enough())
        await asyncio.wait({self.task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        waiting.cancel()

    async def end(self):
        """Wait until the application has returned, or raised: the error, or None."""
        done, _ = await asyncio.wait({self.task}, timeout=60)
        assert done, "the application does not return"
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()


async def read(app, path="/", **arguments):
    """Serve one request to its end, whatever that is."""
    connection = Connection(app, path, **arguments)
    connection.error = await connection.end()
    return connection


async def hang_up_after(app, chunks, how="error", **arguments):
    """Serve a request whose client goes after so many chunks; return its error, or None."""
    connection = Connection(app, **arguments)
    await connection.sent(chunks)
    await connection.hang_up(how)
    return await connection.end()


class AsgiClient:
    """What :class:`support.wsgi.WsgiClient` is, for ASGI: its event loop runs in its methods."""

    def __init__(self, app, path="/", method="GET", **connection):
        self._loop = asyncio.new_event_loop()
        self.connection = self._loop.run_until_complete(
            self._connect(app, path, method, **connection)
        )

    async def _connect(self, app, path, method, **more):
        connection = Connection(app, path, method, slow=True, **more)
        await connection.sent(0)
        return connection

    status = property(lambda self: self.connection.status)
    chunks = property(lambda self: self.connection.chunks)

    def take(self, chunks=1):
        wanted = len(self.chunks) + chunks
        self._loop.run_until_complete(self.connection.want(wanted))
        self._loop.run_until_complete(self.connection.sent(wanted))

    def read(self):
        self._end(self.connection.want(float("inf")))
        return b"".join(self.chunks)

    def hang_up(self, how="error"):
        with contextlib.suppress(ConnectionResetError, asyncio.CancelledError):
            self._end(self.connection.hang_up(how))

    close = hang_up

    def _end(self, how):
        async def end():
            await how
            return await self.connection.end()

        error = self._loop.run_until_complete(end())
        close_loop(self._loop)
        if error is not None:
            raise error


def close_loop(loop):
    """End a loop as ``asyncio.run`` does."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
