"""A server in miniature: what it does itself is as little as a server can do."""

import asyncio
from io import BytesIO
from wsgiref.util import FileWrapper

_ENVIRON = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "QUERY_STRING": "",
    "SERVER_NAME": "localhost",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "HTTP_HOST": "localhost:8000",
    "HTTP_USER_AGENT": "benchmark/1.0",
    "HTTP_ACCEPT": "*/*",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "wsgi.file_wrapper": FileWrapper,
}

_SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "query_string": b"",
    "root_path": "",
    "headers": [
        (b"host", b"localhost:8000"),
        (b"user-agent", b"benchmark/1.0"),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"gzip, deflate"),
    ],
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}


def _start_response(status, headers, exc_info=None):
    return None


def environ(path):
    return dict(_ENVIRON, PATH_INFO=path, **{"wsgi.input": BytesIO(), "wsgi.errors": BytesIO()})


def begin(application, path):
    """Call a WSGI application; its response, not yet iterated."""
    return application(environ(path), _start_response)


def request(application, path):
    """One WSGI request, read to its end and closed."""
    response = application(environ(path), _start_response)
    try:
        for _ in response:
            pass
    finally:
        if hasattr(response, "close"):
            response.close()


async def arequest(application, path):
    """One ASGI request, read to its end."""
    sent_request = False
    # The client stays until the response is complete.
    gone = asyncio.get_running_loop().create_future()

    async def receive():
        nonlocal sent_request
        if not sent_request:
            sent_request = True
            return {"type": "http.request", "body": b"", "more_body": False}
        return await gone

    async def send(message):
        pass

    scope = dict(_SCOPE, path=path, raw_path=path.encode(), headers=list(_SCOPE["headers"]))
    await application(scope, receive, send)


class Server:
    """Either kind of application, behind one call; and the scheduler, as if it were one."""

    def __init__(self, application, kind):
        self.application = application
        self._loop = asyncio.new_event_loop() if kind == "asgi" else None

    def requests(self, path, count):
        """Serve one request after the other."""
        if self._loop is None:
            for _ in range(count):
                request(self.application, path)
        else:
            self._loop.run_until_complete(self._arequests(path, count))

    async def _arequests(self, path, count):
        for _ in range(count):
            await arequest(self.application, path)

    def close(self):
        if self._loop is not None:
            self._loop.close()


class Deadlines:
    """Schedule and cancel a deadline, with others pending."""

    #: The default response_timeout, in seconds.
    TIMEOUT = 300.0

    def __init__(self):
        from vendored_integration.runtime.process import lock
        from vendored_integration.runtime.registry import registry, workers

        self._lock = lock
        self._registry = registry
        self._pending = []
        workers.start()

    def pend(self, pending):
        """Have so many deadlines pending."""
        while len(self._pending) < pending:
            entry = object()
            self._registry.set_deadline(entry, self.TIMEOUT)
            self._pending.append(entry)

    def requests(self, path, count):
        entry, registry = object(), self._registry
        for _ in range(count):
            registry.set_deadline(entry, self.TIMEOUT)
            with self._lock:
                registry.deadlines.discard(entry, self.TIMEOUT)

    def close(self):
        pass
