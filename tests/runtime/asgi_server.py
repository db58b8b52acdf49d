"""An ASGI server's side of a connection, in the hands of the test; and applications for it."""

import asyncio

import django
from django.http import StreamingHttpResponse
from views import serve_asgi

from vendored_integration.asgi import SentryMiddleware

#: Below 4.2 a Django body is a sync one, which the ASGI handler iterates in the event loop.
ASYNC_BODIES = django.VERSION >= (4, 2)
#: Below 5.0 Django looks no more at what the client does once it has read the request.
DJANGO_LISTENS = django.VERSION >= (5, 0)
#: Below 6.0 it streams in a task of its own, which does not hear of the cancellation.
DJANGO_STREAMS_APART = (5, 0) <= django.VERSION < (6, 0)
#: How a server tells an application that the client has gone.
HANG_UPS = ("message", "cancel", "error")


class Connection:
    """One connection. To be made in a running event loop, which the application runs in."""

    def __init__(
        self,
        app,
        path="/",
        method="GET",
        type="http",
        headers=(),
        asgi_version=3,
        spec_version="2.4",
    ):
        scope = {
            "type": type,
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(b"host", b"localhost"), *headers],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 5000),
        }
        self.messages = []
        self._incoming = asyncio.Queue()
        self._incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self._sent = asyncio.Event()
        self._send_error = None
        if asgi_version == 2:
            called = app(scope)(self._receive, self._send)
        else:
            called = app(scope, self._receive, self._send)
        self.task = asyncio.ensure_future(called)

    async def _receive(self):
        return await self._incoming.get()

    async def _send(self, message):
        if self._send_error is not None:
            raise self._send_error
        self.messages.append(message)
        self._sent.set()
        await asyncio.sleep(0)

    def deliver(self, message):
        """Have the application receive a message."""
        self._incoming.put_nowait(message)

    def hang_up(self, how):
        """The client goes, and the server tells the application in one of three ways."""
        if how == "message":
            self.deliver({"type": "http.disconnect"})
        elif how == "cancel":
            self.task.cancel()
        else:
            self._send_error = ConnectionResetError("the client has gone")

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def chunks(self):
        return [message["body"] for message in self.messages if message.get("body")]

    async def sent(self, chunks):
        """Wait until the application has sent this many chunks."""
        while len(self.chunks) < chunks and not self.task.done():
            self._sent.clear()
            await asyncio.wait({self.task, asyncio.ensure_future(self._sent.wait())}, **_FIRST)

    async def end(self):
        """Wait until the application has returned, or raised: the error, or None."""
        done, _ = await asyncio.wait({self.task}, timeout=60)
        assert done, "the application does not return"
        try:
            self.task.result()
        except BaseException as error:
            return error


_FIRST = {"return_when": asyncio.FIRST_COMPLETED, "timeout": 60}


async def read(app, path="/", **connection):
    """Serve one request to its end, whatever that is."""
    connection = Connection(app, path, **connection)
    connection.error = await connection.end()
    return connection


async def hang_up_after(app, chunks, how="error"):
    """Serve a request whose client goes after so many chunks; return its error, or None."""
    connection = Connection(app)
    await connection.sent(chunks)
    connection.hang_up(how)
    return await connection.end()


def plain_app(body, headers=(), status=200):
    """A plain ASGI application that streams; it listens to its client, as Starlette does."""

    async def stream(send):
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        async for chunk in body():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body"})

    async def listen(receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def app(scope, receive, send):
        tasks = [asyncio.ensure_future(stream(send)), asyncio.ensure_future(listen(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]

    return app


def django_app(body, headers=(), status=200):
    """The same in Django, with an async view."""

    async def view(request):
        response = StreamingHttpResponse(body(), status=status)
        for name, value in headers:
            response[name.decode()] = value.decode()
        return response

    return serve_asgi(view)


def streaming_app(kind, body, **options):
    """An application that streams what an async generator function yields."""
    if kind == "django":
        return django_app(body, **options)
    return SentryMiddleware(plain_app(body, **options))


KINDS = ("plain", "django") if ASYNC_BODIES else ("plain",)
