"""What is measured of a response and its body, under WSGI and ASGI alike."""

from time import perf_counter
from typing import Any, Dict, Optional

#: Milliseconds in a second.
_MS = 1e3


class BodyStats:
    """What is measured of a response and its body; times in seconds of ``perf_counter``.

    The registry holds it, by way of the response's :class:`OpenResponse`: it must not lead
    to the application's response, nor to what the server has. More than 7 attributes: one
    for each figure that is told.
    """

    def __init__(self, started: float) -> None:
        #: When the request began.
        self.started = started
        #: When the application returned its response: now.
        self.returned = perf_counter()
        #: Chunks with bytes: PEP 3333 sends nothing for an empty one.
        self.chunks = 0
        #: Their bytes.
        self.size = 0
        #: Of a file that the server reads itself, in bytes; ``None``: nobody knows. 0: there is
        #: no such file.
        self.file_size: "Optional[int]" = 0
        #: When the first chunk with bytes was there.
        self.first_chunk = 0.0
        #: When the last one was. Of the first there is no gap.
        self.last_chunk = float("inf")
        #: The longest time between two of them.
        self.longest_gap = 0.0
        #: Database connections that the thread held when the application returned (WSGI).
        self.open_db_connections = 0
        #: When the body was begun. 0: not yet.
        self.iterated = 0.0
        #: When the body was last left, for the server to send a chunk. 0: not yet.
        self.last_step = 0.0
        #: Spent in making the body.
        self.produce_time = 0.0

    def count(self, size: int, now: float) -> None:
        """A chunk of this many bytes is there."""
        if size:
            if not self.chunks:
                self.first_chunk = now
            gap = now - self.last_chunk
            if gap > self.longest_gap:
                self.longest_gap = gap
            self.last_chunk = now
            self.chunks += 1
            self.size += size

    def end_step(self, started: float) -> None:
        """A step of the body that began then has ended, without a chunk."""
        self.last_step = now = perf_counter()
        self.produce_time += now - started

    def data(self) -> "Dict[str, Any]":
        """Return what is told about a streaming response (times in milliseconds)."""
        # The rest of the time. A step that ends just now must not make it negative.
        send_time = max(0.0, self.last_step - self.iterated - self.produce_time)
        data: "Dict[str, Any]" = {
            "http.response.stream.chunks": self.chunks,
            "http.response.stream.produce_time": self.produce_time * _MS,
            "http.response.stream.send_time": send_time * _MS,
            "http.server.return_time": (self.returned - self.started) * _MS,
        }
        size = self.file_size if self.file_size != 0 else self.size
        if size is not None:
            data["http.response.body.size"] = size
        if self.chunks:
            data["http.response.stream.time_to_first_chunk"] = (
                self.first_chunk - self.started
            ) * _MS
        if self.chunks > 1:
            data["http.response.stream.longest_gap"] = self.longest_gap * _MS
        if self.open_db_connections:
            data["http.response.stream.open_db_connections"] = self.open_db_connections
        return data
