"""The load: what is requested, what the client gets, and what Sentry receives of it."""

from __future__ import annotations

import random
import statistics
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, Iterable, NamedTuple, Sequence

import urllib3

from sink import Item

CONNECTIONS = 16
# Requests whose transaction has not arrived yet: the client waits at more of them, long before
# the SDK's queue is full and drops some.
BEHIND = 200
PATIENCE = 300.0  # seconds without any transaction
FILE = bytes(range(256)) * 256
STREAM = b"".join(b"chunk %d\n" % index for index in range(4))

# What is called growth: an object for each request of one kind. The smallest one takes 16 bytes,
# and a block of the allocator. Memory comes in pieces of 1 MiB: a few say nothing, nor do a few
# blocks.
MOST_BYTES, FEW_BYTES = 16.0, 4 * 1024 * 1024  # a request; in all
MOST_BLOCKS, FEW_BLOCKS = 0.02, 2_000

Json = Dict[str, Any]


class Kind(NamedTuple):
    """A kind of request. Its path is `/<name>/<number of the request>`."""

    name: str
    share: int  # of 100 requests
    #: What the client gets: the status, the body (None: any), and whether that is cut off.
    answer: "tuple[int, bytes | None, bool]"
    status: str  # of the transaction
    outcome: str = ""  # of the stream; "" if it is none
    spans: int = 0  # that the body makes
    fails: bool = False  # there is one error event


KINDS = [
    Kind("plain", 45, (200, b"plain\n", False), "ok"),
    Kind("stream", 30, (200, STREAM, False), "ok", "completed", spans=4),
    Kind("file", 10, (200, FILE, False), "ok", "completed"),
    Kind("hang-up", 5, (200, b"x" * 1000, False), "cancelled", "cancelled", spans=1),
    Kind("error", 5, (500, None, False), "internal_error", fails=True),
    Kind("stream-error", 5, (200, b"chunk 0\n", True), "internal_error", "failed", 2, True),
]

# Mixed, and each time in the same way.
_ORDER = [kind for kind in KINDS for _ in range(kind.share)]
random.Random(1).shuffle(_ORDER)


def kind_of(number: int) -> Kind:
    return _ORDER[number % len(_ORDER)]


class Ledger:
    """By the requests' numbers: one that is lost cannot be masked by one that came twice."""

    def __init__(self, count: int) -> None:
        self.transactions, self.errors = bytearray(count), bytearray(count)
        self.problems: list[str] = []
        self.behind = threading.Semaphore(BEHIND)
        self._lock = threading.Lock()
        # Of what came first, the error or the transaction, until the other one comes.
        self._trace_ids: dict[int, str] = {}

    def take(self, item: Item) -> None:
        """An item has arrived at the sink; called from any thread."""
        with self._lock:
            try:
                problem = self._problem(item.type, item.json)
            except (LookupError, ValueError) as error:
                problem = f"{error!r} in {item.json}"
        if problem:
            self.problems.append(problem)

    def _problem(self, type_: str, event: Json) -> str:
        if type_ == "client_report":
            # A server logs the error of a stream, and the SDK has reported that error already.
            known = ("event_processor", "error")
            losses = [(lost["reason"], lost["category"]) for lost in event["discarded_events"]]
            return "" if set(losses) <= {known} else f"the SDK reports losses: {losses}"
        _, name, digits = event["request"]["url"].rsplit("/", 2)
        number, trace = int(digits), event["contexts"]["trace"]
        kind = kind_of(number)
        received = self.transactions if type_ == "transaction" else self.errors
        received[number] += received[number] < 2
        if type_ == "transaction":
            if received[number] == 1:
                self.behind.release()
            # Up to 2.11 the SDK sends no data of a transaction.
            data = event["contexts"].get("http.response.stream") or trace.get("data") or {}
            outcome = data.get("http.response.stream.outcome", "")
            spans = sum(span.get("op") == "soak" for span in event["spans"])
            found: Any = name, trace["status"], outcome, spans
            wanted: Any = kind.name, kind.status, kind.outcome, kind.spans
        else:
            value = event["exception"]["values"][-1]
            found = type_, kind.fails, value["type"], value["value"]
            wanted = "event", True, "Soaked", digits
        if kind.fails and self._trace_ids.pop(number, trace["trace_id"]) != trace["trace_id"]:
            return f"request {number}: its error is in another trace"
        if kind.fails and self.transactions[number] + self.errors[number] == 1:
            self._trace_ids[number] = trace["trace_id"]
        return "" if found == wanted else f"request {number}: received {found}, expected {wanted}"

    def lost(self) -> int:
        """Transactions and errors that have not arrived."""
        failing = [kind_of(number).fails for number in range(len(self.errors))]
        missing = sum(fails and not heard for fails, heard in zip(failing, self.errors))
        return self.transactions.count(0) + missing

    def double(self) -> int:
        """Requests whose transaction, or error, has arrived more than once."""
        return self.transactions.count(2) + self.errors.count(2)


def send(
    port: int, numbers: Iterable[int], ledger: Ledger, on_done: Callable[[int], object]
) -> None:
    """Send these requests over a few connections, and wait until each has its transaction.

    :raises TimeoutError: nothing arrives any more.
    """
    numbers = iter(numbers)  # shared by the threads
    pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=CONNECTIONS, timeout=PATIENCE)

    def claim() -> None:
        if not ledger.behind.acquire(timeout=PATIENCE):
            missing = ledger.transactions.count(0)
            raise TimeoutError(f"nothing for {PATIENCE:.0f} s; {missing:,} requests to go")

    def work() -> None:
        for number in numbers:
            claim()
            kind = kind_of(number)
            answer = _answer(pool, kind, number)
            if answer != kind.answer:
                ledger.problems.append(f"request {number}, {kind.name}: the client got {answer}")
            on_done(number)

    with pool, ThreadPoolExecutor(CONNECTIONS) as threads:
        for done in [threads.submit(work) for _ in range(CONNECTIONS)]:
            done.result()
    for _ in range(BEHIND):
        claim()
    for _ in range(BEHIND):
        ledger.behind.release()


def _answer(pool: Any, kind: Kind, number: int) -> tuple[int, bytes | None, bool]:
    response = pool.request("GET", f"/{kind.name}/{number}", preload_content=False, retries=False)
    body, cut = b"", False
    try:
        if kind.name == "hang-up":
            body = response.read(1000)
            # Unread data make this a reset: the server's next write fails.
            response.close()
        else:
            for part in response.stream():
                body += part
    except urllib3.exceptions.HTTPError:
        cut = True
    response.release_conn()
    return response.status, None if kind.answer[1] is None else body, cut


def judge(ledger: Ledger, before: Json, after: Json, samples: Sequence[tuple[int, int]]) -> Json:
    """The result of a soak.

    :param before, after: what the server's process said of itself.
    :param samples: numbers of requests, each with the resident set size.
    """
    count, stats = len(ledger.transactions), after["stats"]
    slope = growth(samples[len(samples) // 4 :])
    result: Json = {
        "requests": count,
        "transactions": sum(ledger.transactions),
        "errors": sum(ledger.errors),
        "lost": ledger.lost(),
        "double": ledger.double(),
        "open": stats["open_responses"] + stats["left_open"],
        "deadlines": stats["pending_deadlines"] + stats["waiting_jobs"],
        "internal_errors": stats["internal_errors"],
        "threads": [before["threads"], after["threads"]],
        "resident": [samples[0][1], samples[-1][1]],
        "slope": [round(value, 1) for value in slope],
        "blocks": [before["blocks"], after["blocks"]],
    }
    wrong = [f"{len(ledger.problems):,} problems", *ledger.problems[:10]] if ledger.problems else []
    for name in ("lost", "double", "open", "deadlines", "internal_errors"):
        if result[name]:
            wrong.append(f"{name}: {result[name]:,}, expected 0")
    if after["threads"] > before["threads"]:
        wrong.append(f"threads: {before['thread_names']} -> {after['thread_names']}")
    if slope[1] > MOST_BYTES * 1000 and slope[1] * count / 1000 > FEW_BYTES:
        wrong.append(f"memory grows by at least {slope[1]:,.0f} bytes per 1,000 requests")
    blocks = after["blocks"] - before["blocks"]
    if blocks > max(FEW_BLOCKS, MOST_BLOCKS * count):
        wrong.append(f"memory: {blocks:,} blocks of the allocator more than before")
    return {**result, "wrong": wrong}


def growth(samples: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Bytes per 1,000 requests, and the 95 % confidence interval around that.

    A line by least squares, over the means of 20 blocks: neighbouring samples are alike.
    """
    edges = [len(samples) * block // 20 for block in range(21)]
    blocks = [samples[start:end] for start, end in zip(edges, edges[1:])]
    x = [statistics.mean(requests / 1000 for requests, _ in block) for block in blocks]
    y = [statistics.mean(size for _, size in block) for block in blocks]
    x_mean, y_mean = statistics.mean(x), statistics.mean(y)
    spread = sum((at - x_mean) ** 2 for at in x)
    middle = sum((at - x_mean) * (size - y_mean) for at, size in zip(x, y)) / spread
    rest = sum((size - y_mean - middle * (at - x_mean)) ** 2 for at, size in zip(x, y))
    # Student's t for 95 % on both sides and 18 degrees of freedom.
    error = 2.101 * (rest / 18 / spread) ** 0.5
    return middle, middle - error, middle + error
