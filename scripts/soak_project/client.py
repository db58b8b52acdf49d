"""The client's side: requests over real connections, and what must come back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

from kinds import Kind
from ledger import Ledger, Stalled

CONNECTIONS = 16
PATIENCE = 300.0  # seconds in which nothing comes back and nothing is heard
FILE_CONTENT = bytes(range(256)) * 256
STREAM = b"".join(b"chunk %d\n" % index for index in range(4))


class CutOff(Exception):
    """The connection has ended before the response."""


class Connection:
    """Is opened when it is needed, and kept as long as the server does."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self._port = port
        self._receive_buffer = receive_buffer  # bytes; 0: what the system likes
        self._streams: Optional[Tuple[asyncio.StreamReader, asyncio.StreamWriter]] = None

    async def begin(self, path: str) -> Tuple[int, bytes, asyncio.StreamReader]:
        """Send a request; the status and the header of the response, in lower case."""
        if self._streams is None:
            sock = socket.socket()
            if self._receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            self._streams = await asyncio.open_connection(sock=sock)
        reader, writer = self._streams
        writer.write(b"GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % (path.encode(), self._port))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        return int(head[9:12]), head, reader

    async def get(self, path: str) -> Tuple[int, bytes]:
        """Status and body.

        :raises CutOff: with the body so far.
        """
        status, head, reader = await self.begin(path)
        if b"transfer-encoding: chunked" in head:
            body = await _read_chunks(reader)
        else:
            length = head.split(b"content-length:")[1].split(b"\r\n")[0]
            body = await reader.readexactly(int(length))
        if b"connection: close" in head:
            self.close()
        return status, body

    def reset(self) -> None:
        """Hang up: with a linger time of 0 the server's next write fails."""
        if self._streams is not None:
            sock = self._streams[1].get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._streams[1].transport.abort()
            self._streams = None

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = await reader.readline()
        if not line:
            raise CutOff(body)
        size = int(line, 16)
        body += (await reader.readexactly(size + 2))[:-2]
        if not size:
            return body


class Client:
    """Sends requests over a few connections at once, and looks at the answers."""

    def __init__(
        self, port: int, ledger: Ledger, on_done: "Callable[[int], None]" = lambda done: None
    ) -> None:
        self._port = port
        self._ledger = ledger
        self._on_done = on_done
        self._done = 0

    async def drive(self, numbers: "Iterator[int]") -> None:
        """Send these requests, and wait until Sentry has heard of them.

        :raises Stalled: it does not, or the server does not answer.
        """
        work = asyncio.ensure_future(self._drive(numbers))
        seen = -1
        try:
            while not work.done():
                await asyncio.wait([work], timeout=PATIENCE)
                progress = self._done + self._ledger.events
                if progress == seen and not work.done():
                    raise Stalled(
                        f"nothing for {PATIENCE:.0f} s: {self._done:,} requests have been answered, "
                        + self._ledger.missing()
                    )
                seen = progress
            work.result()
        finally:
            work.cancel()

    async def _drive(self, numbers: "Iterator[int]") -> None:
        await asyncio.gather(*(self._work(numbers) for _ in range(CONNECTIONS)))
        await self._ledger.settle()

    async def _work(self, numbers: "Iterator[int]") -> None:
        with contextlib.closing(Connection(self._port)) as connection:
            for number in numbers:
                kind = await self._ledger.begin(number)
                path = f"/{kind.name}/{number}"
                problem = await self._request(connection, kind, path)
                if problem:
                    self._ledger.problems.add(f"{path}: the client got {problem}")
                    connection.close()
                self._done += 1
                self._on_done(self._done)

    async def _request(self, connection: Connection, kind: Kind, path: str) -> str:
        """Make a request; what is wrong with the answer."""
        try:
            if kind.name == "hang-up":
                return await self._hang_up(path)
            if kind.name == "stream-error":
                try:
                    status, body = await connection.get(path)
                except CutOff as cut:
                    connection.close()
                    return "" if cut.args[0] == b"chunk 0\n" else repr(cut.args[0])
                return f"{status}, and a body that is complete"
            status, body = await connection.get(path)
        except (OSError, asyncio.IncompleteReadError, ValueError, CutOff) as error:
            return repr(error)
        expected = {"plain": b"plain\n", "stream": STREAM, "file": FILE_CONTENT}.get(kind.name)
        if status != (200 if expected else 500):
            return f"status {status}"
        return repr(body[:200]) if expected and body != expected else ""

    async def _hang_up(self, path: str) -> str:
        connection = Connection(self._port, receive_buffer=4096)
        try:
            status, _, reader = await connection.begin(path)
            await reader.readexactly(1000)
            return "" if status == 200 else f"status {status}"
        finally:
            connection.reset()

    async def state(self) -> Dict[str, Any]:
        """What the server's process says of itself."""
        with contextlib.closing(Connection(self._port)) as connection:
            _, body = await asyncio.wait_for(connection.get("/-/state"), PATIENCE)
            found: Dict[str, Any] = json.loads(body)
            return found
