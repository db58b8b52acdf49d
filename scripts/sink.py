"""A Sentry that runs on loopback: it keeps the envelopes it is sent, and nothing else.

    with EnvelopeSink() as sink:
        sentry_sdk.init(dsn=sink.dsn, traces_sample_rate=1.0)
        ...
        event = sink.wait_for(lambda sink: sink.transactions())[0]

By itself it prints its DSN, then one line an item:

    python scripts/sink.py --port 0

Standard library only, Python 3.8 and newer. The envelope format:
https://develop.sentry.dev/sdk/data-model/envelopes/
"""

from __future__ import annotations

import argparse
import gzip
import json
import socket
import socketserver
import sys
import threading
import zlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, TypeVar

__all__ = [
    "Envelope",
    "EnvelopeSink",
    "Item",
    "Malformed",
    "Reply",
    "attributes",
    "describe",
    "parse_envelope",
]

Json = Dict[str, Any]
T = TypeVar("T")


class Malformed(ValueError):
    """What was sent is not an envelope; the message says why."""


@dataclass(frozen=True)
class Item:
    """One item of an envelope: its headers, and its payload as it was sent."""

    headers: Json
    payload: bytes

    @property
    def type(self) -> str:
        return str(self.headers["type"])

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


@dataclass(frozen=True)
class Envelope:
    """Its headers (`trace` holds the dynamic sampling context), and its items."""

    headers: Json
    items: list[Item] = field(default_factory=list)


class Reply(NamedTuple):
    """What a `respond` hook may answer instead of 200.

    Status 0: no answer; the connection is cut.
    """

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b"{}"


class Rejected(NamedTuple):
    """A request that was answered with an error: why, and its body as it was sent."""

    reason: str
    body: bytes


# Item types whose payload is JSON: a payload of these that does not parse makes the
# envelope malformed. Attachments, replays and profile chunks may be anything.
_JSON_TYPES = frozenset(
    [
        "event",
        "transaction",
        "span",
        "session",
        "sessions",
        "client_report",
        "check_in",
        "log",
        "trace_metric",
    ]
)


def parse_envelope(body: bytes) -> Envelope:
    """Parse an envelope, or raise `Malformed`.

    An item ends after `length` bytes if its header says so, else at the next newline.
    """
    line, position = _line(body, 0)
    envelope = Envelope(headers=_object(line, "envelope header"))
    while position < len(body):
        line, position = _line(body, position)
        if not line.strip():
            continue  # Empty lines may follow the last item.
        header = _object(line, "item header")
        kind = header.get("type")
        if not isinstance(kind, str):
            raise Malformed(f"item header without a type: {line[:200]!r}")
        if "length" in header:
            length = header["length"]
            if not isinstance(length, int) or isinstance(length, bool) or length < 0:
                raise Malformed(f"{kind} item: length is {length!r}, expected bytes")
            payload = body[position : position + length]
            if len(payload) != length:
                raise Malformed(
                    f"{kind} item: length is {length} bytes, only {len(payload)} are left"
                )
            position += length
            if body[position : position + 1] not in (b"", b"\n"):
                raise Malformed(f"{kind} item: no newline after its {length} bytes")
            position += 1
        else:
            payload, position = _line(body, position)
        if kind in _JSON_TYPES:
            _object(payload, f"{kind} item")
        envelope.items.append(Item(header, payload))
    return envelope


def _line(body: bytes, start: int) -> tuple[bytes, int]:
    end = body.find(b"\n", start)
    if end == -1:
        end = len(body)
    return body[start:end], end + 1


def _object(text: bytes, what: str) -> Json:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Malformed(f"{what} is not JSON ({error}): {text[:200]!r}") from None
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a JSON object: {text[:200]!r}")
    return value


class EnvelopeSink:
    """An HTTP server on 127.0.0.1 that keeps what is sent to it, in the order of arrival.

    Use it as a context manager, or call `start()` and `stop()`. All methods may be
    called from any thread. Each query returns a new list, which does not change later.

    `respond` is called with each envelope after it has been stored. It may return a
    `Reply` to send instead of `200 {}`, may block (a slow Sentry), and may raise (a
    broken one: status 500). `on_item` is called with each item, and `on_body` with each
    envelope's bytes as they came and their Content-Encoding ("" for none).
    """

    def __init__(
        self,
        port: int = 0,
        *,
        respond: Callable[[Envelope], Reply | None] | None = None,
        on_item: Callable[[Item], None] | None = None,
        on_body: Callable[[bytes, str], None] | None = None,
    ) -> None:
        self.respond = respond
        self.on_item = on_item
        self.on_body = on_body
        self._changed = threading.Condition()
        self._envelopes: list[Envelope] = []
        self._rejected: list[Rejected] = []
        # The socket is bound and listening from here on: requests that arrive before
        # `start()` wait in its backlog, none is refused.
        self._server = _Server(("127.0.0.1", port), _handler_for(self))
        self._thread: threading.Thread | None = None

    # -- life

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def dsn(self) -> str:
        return f"http://public@127.0.0.1:{self.port}/1"

    def start(self) -> EnvelopeSink:
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            args=(0.02,),
            name="envelope-sink",
            daemon=True,
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

    # -- what has arrived

    @property
    def envelopes(self) -> list[Envelope]:
        with self._changed:
            return list(self._envelopes)

    @property
    def rejected(self) -> list[Rejected]:
        """The requests that were not envelopes. A test should find none."""
        with self._changed:
            return list(self._rejected)

    def items(self, *types: str) -> list[Item]:
        """The items of these types, or all, of all envelopes."""
        return [
            item
            for envelope in self.envelopes
            for item in envelope.items
            if not types or item.type in types
        ]

    def transactions(self) -> list[Json]:
        """The transaction events. The stream lifecycle sends none: see `spans()`."""
        return [item.json for item in self.items("transaction")]

    def errors(self) -> list[Json]:
        """The events that are not transactions: errors and messages."""
        return [item.json for item in self.items("event")]

    def spans(self) -> list[Json]:
        """The spans of the stream lifecycle; a request's own one has `is_segment`."""
        return list(self._batched("span"))

    def segments(self) -> list[Json]:
        return [span for span in self.spans() if span.get("is_segment")]

    def logs(self) -> list[Json]:
        return list(self._batched("log"))

    def sessions(self) -> list[Json]:
        """The payloads of `session` (one each) and `sessions` (aggregated) items."""
        return [item.json for item in self.items("session", "sessions")]

    def client_reports(self) -> list[Json]:
        return [item.json for item in self.items("client_report")]

    def _batched(self, type_: str) -> Iterator[Json]:
        for item in self.items(type_):
            payload = item.json
            # One span an item is the older form of the same item type.
            yield from payload.get("items", [payload])

    def describe(self) -> str:
        """What has arrived, a line an item; the text of `wait_for`'s errors."""
        lines = [describe(item) for item in self.items()]
        lines += [f"rejected: {rejected.reason}" for rejected in self.rejected]
        return "\n".join("  " + line for line in lines) or "  nothing"

    def wait_for(
        self,
        predicate: Callable[[EnvelopeSink], T],
        timeout: float = 10.0,
        what: str = "",
    ) -> T:
        """Block until `predicate(self)` is truthy and return its value.

        It is called at once, and again after each arrival. After `timeout` seconds:
        `TimeoutError`, which names `what` was waited for and lists what did arrive.
        """
        # The condition's lock can be taken twice by one thread, so the predicate can use
        # every query, and nothing can arrive between its look and the wait.
        with self._changed:
            value = predicate(self)

            def holds() -> bool:
                nonlocal value
                value = value or predicate(self)
                return bool(value)

            if not self._changed.wait_for(holds, timeout):
                awaited = f" for {what}" if what else ""
                raise TimeoutError(
                    f"waited {timeout:.1f} s{awaited}; what has arrived:\n{self.describe()}"
                )
            return value

    def clear(self) -> None:
        """Forget what has arrived."""
        with self._changed:
            self._envelopes.clear()
            self._rejected.clear()

    # -- what arrives

    def _store(self, envelope: Envelope) -> None:
        with self._changed:
            self._envelopes.append(envelope)
            self._changed.notify_all()
        if self.on_item is not None:
            for item in envelope.items:
                self.on_item(item)

    def _reject(self, reason: str, body: bytes) -> None:
        with self._changed:
            self._rejected.append(Rejected(reason, body))
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Many processes may connect at once, too many for the default backlog of 5.
    request_queue_size = 256

    def server_bind(self) -> None:
        # Not HTTPServer's: it looks up the host's name, which may ask a DNS server.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in mid-request is no news: nothing is printed here."""


def _handler_for(sink: EnvelopeSink) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # HTTP/1.0: one request a connection. A kept connection would outlive the sink,
        # and would be shared by the processes that a pre-forking server makes.
        timeout = 10  # seconds, for a client that connects and sends nothing

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.split("?")[0].rstrip("/").endswith("/envelope"):
                sink._reject(f"POST {self.path}: expected /api/1/envelope/", raw)
                return self._reply(Reply(404))
            encoding = self.headers.get("Content-Encoding", "")
            try:
                body = _decode(raw, encoding)
                envelope = parse_envelope(body)
            except _UnknownEncoding as error:
                sink._reject(str(error), raw)
                return self._reply(Reply(415))
            except Malformed as error:
                sink._reject(str(error), raw)
                return self._reply(Reply(400, body=json.dumps({"detail": str(error)}).encode()))
            sink._store(envelope)
            if sink.on_body is not None:
                sink.on_body(raw, encoding)
            reply = None
            if sink.respond is not None:
                try:
                    reply = sink.respond(envelope)
                except Exception:
                    reply = Reply(500)
            self._reply(reply or Reply(200))
            return None

        def _reply(self, reply: Reply) -> None:
            if not reply.status:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    return Handler


class _UnknownEncoding(Exception):
    pass


def _decode(body: bytes, encoding: str) -> bytes:
    try:
        if encoding in ("", "identity"):
            return body
        if encoding == "gzip":
            return gzip.decompress(body)
        if encoding == "deflate":
            return zlib.decompress(body)
        if encoding == "br":
            # The SDK compresses with brotli where that module is installed. So it is
            # here, too, unless the sender runs in another environment.
            try:
                import brotli  # type: ignore[import-not-found,import-untyped,unused-ignore]
            except ImportError:
                raise _UnknownEncoding(
                    "a brotli envelope, but no module named brotli here: install it, or "
                    'send gzip (_experiments={"transport_compression_algo": "gzip"})'
                ) from None
            return bytes(brotli.decompress(body))
    except _UnknownEncoding:
        raise
    except Exception as error:
        raise Malformed(f"Content-Encoding is {encoding}, but the body is not ({error})") from None
    raise _UnknownEncoding(f"Content-Encoding {encoding!r}: expected gzip, deflate, br or none")


def attributes(span: Json) -> Json:
    """The attributes of a streamed span by name, without their types."""
    return {
        name: value["value"] if isinstance(value, dict) and "value" in value else value
        for name, value in (span.get("attributes") or {}).items()
    }


def describe(item: Item) -> str:
    """One line about an item: what a person wants to know of it first."""
    if item.type not in _JSON_TYPES:
        return f"{item.type}  {len(item.payload)} bytes"
    payload = item.json
    trace = (payload.get("contexts") or {}).get("trace") or {}
    if item.type == "transaction":
        return "  ".join(
            [
                f"transaction  {payload.get('transaction')}  {trace.get('status')}",
                f"{len(payload.get('spans', []))} spans  trace {trace.get('trace_id')}",
            ]
        )
    if item.type == "event":
        values = (payload.get("exception") or {}).get("values") or []
        what = ", ".join(f"{value.get('type')}: {value.get('value')}" for value in values)
        if not values:
            what = payload.get("message") or payload.get("logentry", {}).get("message")
        name, trace_id = payload.get("transaction"), trace.get("trace_id")
        return f"event  {name}  {what}  trace {trace_id}"
    if item.type == "span":
        return "span  " + ", ".join(
            ("segment " if span.get("is_segment") else "")
            + f"{span.get('name')} {span.get('status')} (trace {span.get('trace_id')})"
            for span in payload.get("items", [payload])
        )
    return f"{item.type}  {json.dumps(payload, sort_keys=True)[:300]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Receive Sentry envelopes on loopback; print one line an item."
    )
    parser.add_argument("--port", type=int, default=0, help="default: 0, a free one")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print each item's headers and payload as JSON",
    )
    options = parser.parse_args(argv)

    lock = threading.Lock()

    def show(item: Item) -> None:
        line = describe(item)
        if options.json:
            payload = item.json if item.type in _JSON_TYPES else repr(item.payload)
            line = json.dumps({"headers": item.headers, "payload": payload})
        with lock:
            print(line, flush=True)
        sink.clear()  # it may run for days

    try:
        with EnvelopeSink(options.port, on_item=show) as sink:
            print(sink.dsn, flush=True)
            threading.Event().wait()
    except (OSError, OverflowError) as error:
        print(f"sink: port {options.port}: {error}; try --port 0", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
