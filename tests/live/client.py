"""The client's side: requests over a real connection, hang-ups, and gates."""

import contextlib
import http.client
import http.server
import socket
import struct
import threading
from types import TracebackType
from typing import Dict, List, NamedTuple, Optional, Tuple, Type

TIMEOUT = 20  # seconds


class Response(NamedTuple):
    status: int
    headers: List[Tuple[str, str]]
    body: bytes
    complete: bool  # False: the connection ended before the body did, as far as HTTP can tell

    @property
    def comparable_headers(self) -> List[Tuple[str, str]]:
        """What an application decides on; the server's name and the clock left out."""
        return sorted(
            (name.lower(), value)
            for name, value in self.headers
            if name.lower() not in ("date", "server")
        )


class Open:
    """A request that has been sent. Nothing of its response is read before it is asked for:

    a server may send the headers only when the whole body has been produced.
    """

    def __init__(
        self,
        port: int,
        path: str,
        headers: Optional[Dict[str, str]] = None,
        method: str = "GET",
        body: bytes = b"",
    ) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
        if body:
            lines += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        # Not an HTTPConnection: where the SDK is in use in this process as well, it would add
        # the headers of a trace of its own to the request.
        self._response = http.client.HTTPResponse(self._socket, method=method)
        self._begun = False
        try:
            self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        except BaseException:
            self.close()
            raise

    def read_headers(self) -> http.client.HTTPResponse:
        if not self._begun:
            self._begun = True
            self._response.begin()
        return self._response

    def read(self) -> Response:
        """All of it."""
        response = self.read_headers()
        pieces, complete = [], True
        try:
            while True:
                piece = response.read1(65536)
                if not piece:
                    break
                pieces.append(piece)
        except http.client.IncompleteRead as error:
            complete = False
            pieces.append(error.partial)
        except ConnectionError:
            complete = False
        if response.length:  # Content-Length announced more
            complete = False
        return Response(response.status, response.getheaders(), b"".join(pieces), complete)

    def wait_until_closed(self) -> None:
        """The server has done with this request all that it does, but for its own clean-up."""
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(65536):
                pass

    def hang_up(self) -> None:
        """Reset the connection: the server's next write fails."""
        # With a linger time of 0, closing sends RST at once.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        # The response has a reference to the socket; without both it stays open.
        self._response.close()
        self._socket.close()

    def __enter__(self) -> "Open":
        return self

    def __exit__(
        self,
        _type: Optional[Type[BaseException]],
        _value: Optional[BaseException],
        _tb: Optional[TracebackType],
    ) -> None:
        self.close()


def fetch(
    port: int, path: str, headers: Optional[Dict[str, str]] = None, method: str = "GET"
) -> Response:
    with Open(port, path, headers, method) as response:
        return response.read()


class Gate:
    """A point in a generator where it waits for the test; see `at_gate` in app.py.

    Leaving the `with` block opens it, so that a failed test leaves no server waiting.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._peer: Optional[socket.socket] = None

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def wait_until_reached(self) -> None:
        self._peer, _ = self._listener.accept()

    def open(self) -> None:
        if self._peer is None:
            self.wait_until_reached()
        assert self._peer is not None
        self._peer.close()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._peer is not None:
            self._peer.close()
        self._listener.close()


class Recorder:
    """An HTTP server that answers 200, and keeps the headers that it was sent."""

    def __init__(self) -> None:
        #: Of each request, with names in lower case.
        self.headers: List[Dict[str, str]] = []
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                recorder.headers.append({name.lower(): v for name, v in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
