"""A server in miniature: what it does itself is as little as a server can do."""

import asyncio
import threading
from io import BytesIO
from wsgiref.util import FileWrapper, setup_testing_defaults

from systems import install

_ENVIRON = {
    "HTTP_USER_AGENT": "benchmark/1.0",
    "HTTP_ACCEPT": "*/*",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "QUERY_STRING": "",
    "REMOTE_ADDR": "127.0.0.1",
    "wsgi.file_wrapper": FileWrapper,
}
setup_testing_defaults(_ENVIRON)

_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}
_HEADERS = [
    (b"host", b"localhost:8000"),
    (b"user-agent", b"benchmark/1.0"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
]


def _start_response(status, headers, exc_info=None):
    return None


class Server:
    """Requests by path, one after the other; a path that begins with `/a` is for ASGI.

    `deadline` as a path is not a request, but setting and cancelling a deadline, and `timer`
    starting and cancelling a `threading.Timer`.
    """

    def __init__(self, system, rate, lifecycle="static"):
        self.wsgi, self.asgi = install(system, rate, lifecycle)
        self._loop = asyncio.new_event_loop()
        self._open = []
        self._pending = []

    def serve(self, path, count):
        if path == "deadline":
            self._deadlines(count)
        elif path == "timer":
            for _ in range(count):
                timer = threading.Timer(300.0, print)
                timer.daemon = True
                timer.start()
                timer.cancel()
        elif path.startswith("/a"):
            self._loop.run_until_complete(self._aserve(path, count))
        else:
            for _ in range(count):
                self.request(path)

    def request(self, path):
        """One WSGI request, read to its end and closed."""
        response = self.begin(path)
        try:
            for _ in response:
                pass
        finally:
            if hasattr(response, "close"):
                response.close()

    def begin(self, path):
        """Call the WSGI application; its response, not yet iterated."""
        files = {"wsgi.input": BytesIO(), "wsgi.errors": BytesIO()}
        return self.wsgi(dict(_ENVIRON, PATH_INFO=path, **files), _start_response)

    async def _aserve(self, path, count):
        for _ in range(count):
            await self._arequest(path)

    async def _arequest(self, path):
        messages = [{"type": "http.request", "body": b"", "more_body": False}]
        # The client stays until the response is complete.
        gone = asyncio.get_running_loop().create_future()

        async def receive():
            return messages.pop() if messages else await gone

        async def send(message):
            pass

        scope = dict(_SCOPE, path=path, raw_path=path.encode(), headers=list(_HEADERS))
        await self.asgi(scope, receive, send)

    # -- what is open or pending meanwhile

    def hold(self, count):
        """Have so many responses open, each after its first chunk."""
        while len(self._open) < count:
            response = self.begin("/stream/2")
            chunks = iter(response)
            next(chunks)
            self._open.append((response, chunks))
        while len(self._open) > count:
            response, chunks = self._open.pop()
            for _ in chunks:
                pass
            response.close()

    def pend(self, count):
        """Have so many deadlines pending."""
        from vendored_integration.runtime.registry import registry

        while len(self._pending) < count:
            self._pending.append(object())
            registry.set_deadline(self._pending[-1], 300.0)

    def _deadlines(self, count):
        from vendored_integration.runtime.process import lock
        from vendored_integration.runtime.registry import registry, workers

        workers.start()
        entry = object()
        for _ in range(count):
            registry.set_deadline(entry, 300.0)
            with lock:
                registry.deadlines.discard(entry, 300.0)
