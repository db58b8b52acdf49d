"""The client's side: requests over a real connection, hang-ups, and gates."""

import contextlib
import http.client
import socket
import struct
from typing import List, NamedTuple, Tuple

TIMEOUT = 20  # seconds


class Response(NamedTuple):
    status: int
    headers: List[Tuple[str, str]]
    body: bytes
    complete: bool  # False: the connection ended before the body did, as far as HTTP can tell

    @property
    def comparable(self):
        """What an application decides on; the server's name and the clock left out."""
        headers = sorted((name.lower(), value) for name, value in self.headers)
        kept = [header for header in headers if header[0] not in ("date", "server")]
        return self.status, kept, self.body, self.complete


class Open(contextlib.ExitStack):
    """A request that has been sent. Nothing of its response is read before it is asked for:

    a server may send the headers only when the whole body has been produced.
    """

    def __init__(self, port, path, headers=None, method="GET", body=b""):
        super().__init__()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.callback(self._connection.close)
        self._response = None
        more = {"Content-Type": "application/json"} if body else {}
        headers = {"Connection": "close", **more, **(headers or {})}
        self._connection.request(method, path, body or None, headers)
        # The connection's own is closed with the response.
        self._socket = self.enter_context(self._connection.sock.dup())

    def read_headers(self):
        if self._response is None:
            self._response = self._connection.getresponse()
            self.callback(self._response.close)
        return self._response

    def read(self):
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

    def wait_until_closed(self):
        """The server has done with this request all that it does, but for its own clean-up."""
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(65536):
                pass

    def hang_up(self):
        """Reset the connection: the server's next write fails."""
        # With a linger time of 0, closing sends RST at once.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def fetch(port, path, headers=None, method="GET"):
    with Open(port, path, headers, method) as response:
        return response.read()


class Gate(contextlib.ExitStack):
    """A point in a generator where it waits for the test; see `at_gate` in app.py.

    Leaving the `with` block opens it, so that a failed test leaves no server waiting.
    """

    def __init__(self):
        super().__init__()
        self._listener = self.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(TIMEOUT)
        self._peer = None

    @property
    def port(self):
        return int(self._listener.getsockname()[1])

    def wait_until_reached(self):
        peer, _ = self._listener.accept()
        self._peer = self.enter_context(peer)

    def open(self):
        if self._peer is None:
            self.wait_until_reached()
        assert self._peer is not None
        self._peer.close()
