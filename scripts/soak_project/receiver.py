"""The sink of the soak: it keeps nothing, and keeps its connections.

scripts/sink.py has a thread and a connection for each envelope, and keeps them all.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import Callable

from sink import Item, Malformed, parse_envelope

_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"


class Receiver:
    """Hands each item of each envelope on; what is no envelope to `on_malformed`."""

    def __init__(
        self, on_item: "Callable[[Item], None]", on_malformed: "Callable[[str], None]"
    ) -> None:
        self._on_item = on_item
        self._on_malformed = on_malformed

    async def start(self) -> str:
        """Listen on loopback; the DSN."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return "http://public@127.0.0.1:%d/1" % self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.split(b"content-length:")[1].split(b"\r\n")[0]
                body = await reader.readexactly(int(length))
                if b"content-encoding: gzip" in head:
                    body = gzip.decompress(body)
                try:
                    envelope = parse_envelope(body)
                except Malformed as error:
                    self._on_malformed(str(error))
                    writer.write(_BAD)
                    continue
                for item in envelope.items:
                    self._on_item(item)
                writer.write(_OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()
