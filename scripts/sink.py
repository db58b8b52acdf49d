"""A Sentry ingest on loopback: it keeps the envelopes that it receives.

    with EnvelopeSink() as sink:
        sentry_sdk.init(dsn=sink.dsn, traces_sample_rate=1.0)
        ...
        event = sink.wait_for(lambda sink: sink.transactions())[0]

Needs sentry-sdk, which parses the envelopes, and Python 3.8 or later.
"""

from __future__ import annotations

import gzip
import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, NamedTuple, TypeVar

if TYPE_CHECKING:
    from sentry_sdk import envelope as sdk

Json = Dict[str, Any]
T = TypeVar("T")


class Item:
    """One item of an envelope."""

    def __init__(self, item: sdk.Item) -> None:
        self._payload = item.payload
        self.type = str(item.type)

    @property
    def payload(self) -> bytes:
        return self._payload.get_bytes()

    @property
    def json(self) -> Any:
        """The payload, parsed. Errors: `ValueError` if it is not JSON, as an attachment's."""
        # The SDK parses some types itself.
        return self._payload.json or json.loads(self.payload)


class Envelope(NamedTuple):
    items: list[Item]


class Reply(NamedTuple):
    """What a `respond` hook may answer. Status 0: the connection is cut without an answer."""

    status: int
    headers: Mapping[str, str] = {}


def parse_envelope(body: bytes, encoding: str) -> Envelope:
    """Parse a request's body. Errors: any exception, if it is not an envelope."""
    # Not above: the tests of the build import this module, and have no SDK.
    from sentry_sdk import envelope as sdk

    if encoding == "gzip":
        body = gzip.decompress(body)
    elif encoding == "br":
        import brotli  # type: ignore[import-not-found,import-untyped,unused-ignore]

        body = brotli.decompress(body)
    return Envelope([Item(item) for item in sdk.Envelope.deserialize(body).items])


class EnvelopeSink:
    """An HTTP server on 127.0.0.1 that keeps what is sent to it, in the order of arrival.

    All methods may be called from any thread. Each query returns a new list.

    `respond` is called with each envelope after it has been stored. It may return a `Reply`, block
    (a slow ingest), or raise (status 500). `on_item` is called with each item.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        respond: Callable[[Envelope], Reply | None] | None = None,
        on_item: Callable[[Item], object] | None = None,
        keep_alive: bool = False,
    ) -> None:
        self.respond = respond
        self.on_item = on_item
        # A kept connection outlives the sink, and the workers of a pre-forking server share it.
        self.protocol = "HTTP/1.1" if keep_alive else "HTTP/1.0"
        self._changed = threading.Condition()
        self._envelopes: list[Envelope] = []
        self._rejected: list[str] = []
        # It listens from here on: requests that arrive before `start()` wait in its backlog.
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self.port}/1"

    def start(self) -> EnvelopeSink:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="envelope-sink", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> EnvelopeSink:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- queries

    @property
    def envelopes(self) -> list[Envelope]:
        with self._changed:
            return list(self._envelopes)

    @property
    def rejected(self) -> list[str]:
        """Why requests were answered with an error. A test should find none."""
        with self._changed:
            return list(self._rejected)

    def items(self, *types: str) -> list[Item]:
        """The items of these types, or all."""
        found = [item for envelope in self.envelopes for item in envelope.items]
        return [item for item in found if not types or item.type in types]

    def transactions(self) -> list[Json]:
        """The transaction events. The stream lifecycle sends none: see `spans()`."""
        return [item.json for item in self.items("transaction")]

    def errors(self) -> list[Json]:
        """The events that are not transactions: errors and messages."""
        return [item.json for item in self.items("event")]

    def spans(self) -> list[Json]:
        """The spans of the stream lifecycle; a request's own one has `is_segment`."""
        payloads = [item.json for item in self.items("span")]
        # Older SDKs send one span an item.
        return [span for payload in payloads for span in payload.get("items", [payload])]

    def sessions(self) -> list[Json]:
        """The payloads of `session` (one each) and `sessions` (aggregated) items."""
        return [item.json for item in self.items("session", "sessions")]

    def client_reports(self) -> list[Json]:
        return [item.json for item in self.items("client_report")]

    def describe(self) -> str:
        """What has arrived, a line an item."""
        lines = [
            f"{item.type}  {item.payload[:2000].decode('utf-8', 'replace')}"
            for item in self.items()
        ]
        lines += [f"rejected: {reason}" for reason in self.rejected]
        return "\n".join("  " + line for line in lines) or "  nothing"

    def wait_for(
        self, predicate: Callable[[EnvelopeSink], T], timeout: float = 10.0, what: str = ""
    ) -> T:
        """Block until `predicate(self)` is truthy, and return its value.

        It is called at once, and after each arrival. After `timeout` seconds: `TimeoutError`, which
        names `what` was waited for and lists what has arrived.
        """
        value = None

        def holds() -> bool:
            nonlocal value
            value = predicate(self)
            return bool(value)

        # One thread can take the condition's lock twice, so the predicate can use every query.
        with self._changed:
            if not self._changed.wait_for(holds, timeout):
                awaited = f" for {what}" if what else ""
                raise TimeoutError(
                    f"waited {timeout:.1f} s{awaited}; what has arrived:\n{self.describe()}"
                )
        return value  # type: ignore[return-value]

    def clear(self) -> None:
        """Forget what has arrived."""
        with self._changed:
            self._envelopes.clear()
            self._rejected.clear()

    # -- arrivals

    def receive(self, body: bytes, encoding: str) -> Reply:
        """Take a request's body; what it is answered with."""
        try:
            envelope = parse_envelope(body, encoding)
        except Exception as error:
            with self._changed:
                self._rejected.append(f"{error!r}: {encoding} {body[:200]!r}")
                self._changed.notify_all()
            return Reply(400)
        with self._changed:
            self._envelopes.append(envelope)
            self._changed.notify_all()
        if self.on_item is not None:
            for item in envelope.items:
                self.on_item(item)
        try:
            return (self.respond and self.respond(envelope)) or Reply(200)
        except Exception:
            return Reply(500)


# Not HTTPServer, which looks up the host's name, and may ask a DNS server for it.
class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    # Many processes may connect at once, too many for the default backlog of 5.
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone in mid-request is no news."""


def _handler_for(sink: EnvelopeSink) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = sink.protocol
        wbufsize = -1  # one packet an answer: a second one would wait for the client's delayed ACK
        timeout = 10  # seconds, for a client that connects and sends nothing

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = sink.receive(body, self.headers.get("Content-Encoding", ""))
            if not reply.status:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler


def attributes(span: Json) -> Json:
    """The attributes of a streamed span by name, without their types."""
    return {
        name: value["value"] if isinstance(value, dict) and "value" in value else value
        for name, value in (span.get("attributes") or {}).items()
    }
