"""A WSGI server's side of a request, in the hands of the test."""

import functools
from io import BytesIO
from typing import Any


class Body(BytesIO):
    """The body of a request, which counts its reads."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        return super().read(size)


def make_environ(path="/", method="GET", body=b"", headers=(), **more):
    """The environ of a request.

    :param headers: pairs of names and values, as they come over the wire.
    """
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": Body(body),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers:
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else "HTTP_" + key] = value
    return {**environ, **more}


class WsgiClient:
    """One request to a WSGI application, and its response."""

    def __init__(self, app, path="/", method="GET", **environ):
        self.environ = make_environ(path, method, **environ)
        self.chunks = []
        self._told: Any = []
        self._steps = None
        self.response = app(self.environ, functools.partial(_start_response, self._told))

    @property
    def status(self):
        return int(self._told[-1][0].split()[0]) if self._told else None

    @property
    def headers(self):
        return self._told[-1][1] if self._told else None

    def take(self, chunks=1):
        """Read this many chunks, and leave the response open."""
        if self._steps is None:
            self._steps = iter(self.response)
        for _ in range(chunks):
            self.chunks.append(next(self._steps))

    def read(self):
        """Iterate to the end and close, as a server does when all goes well; return the bytes."""
        try:
            self.chunks.extend(self.response if self._steps is None else self._steps)
        finally:
            self.close()
        return b"".join(self.chunks)

    def close(self):
        self._steps = None
        close = getattr(self.response, "close", None)
        if close is not None:
            close()

    def hang_up(self, how=None):
        self.close()

    def drop(self):
        """Let the response go without a ``close()``."""
        self.response = self._steps = None


def _start_response(told, status, headers, exc_info=None):
    # Not a method: what the application holds must not lead to its response.
    told.append((status, headers))
    return lambda data: None
