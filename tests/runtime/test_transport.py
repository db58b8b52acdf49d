"""bounded_transport, judged by what a loopback ingest gets, and by what the user can read."""

import contextlib
import logging
import os
import socket
import threading
import time
import warnings
from collections import Counter

import pytest
import sentry_sdk
import urllib3
from support.program import run
from support.sdk import HAS_STREAM_LIFECYCLE, messages

from sink import EnvelopeSink, Reply
from vendored_integration import DjangoIntegration, bounded_transport
from vendored_integration import transport as transport_module

#: The events of an outage; 100,000 take a minute.
MANY = int(os.environ.get("OUTAGE_EVENTS", "2000"))
FLUSH = 60.0  # seconds; no test needs them
NO_REPORTS = {"send_client_reports": False}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")


@pytest.fixture
def init():
    """Initialise the SDK with a bounded transport, which is returned."""

    def init(dsn, options=None, **bounds):
        bounds.setdefault("timeout", 30.0)
        sentry_sdk.init(
            dsn=dsn,
            transport=bounded_transport(**bounds),
            integrations=[DjangoIntegration()],
            **(options or {}),
        )
        return sentry_sdk.get_client().transport

    yield init
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.init()


@pytest.fixture
def down():
    """A port that refuses connections, and is not given to anybody else meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken


def dsn_of(taken):
    return f"http://public@127.0.0.1:{taken.getsockname()[1]}/1"


@pytest.fixture
def log(caplog):
    """What the user reads in the log of this project."""
    caplog.set_level(logging.INFO)
    return lambda: [
        record.getMessage() for record in caplog.records if record.name == "vendored_integration"
    ]


@contextlib.contextmanager
def stalled_sink():
    """An ingest that takes a request, and answers when let go."""
    let_go = threading.Event()
    with EnvelopeSink(respond=lambda envelope: let_go.wait(10 * FLUSH) and None) as sink:
        try:
            yield sink, let_go.set
        finally:
            let_go.set()


def capture(number, name="message"):
    for each in range(number):
        sentry_sdk.capture_message(f"{name} {each}")


def reported(sink):
    """The errors that the SDK's client reports tell of, by reason."""
    lost = Counter()
    for report in sink.client_reports():
        for entry in report["discarded_events"]:
            if entry["category"] == "error":
                lost[entry["reason"]] += entry["quantity"]
    return lost


# -- arguments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "error", "names"),
    [
        ({"queue_size": 0}, ValueError, "queue_size must be a .*at least 1; got 0"),
        ({"queue_size": 1.5}, TypeError, "queue_size.*1.5"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": "5"}, ValueError, "Timeout value"),
        ({"retries": -1}, ValueError, "retries"),
        ({"retries": None}, TypeError, "retries.*None"),
        ({"retry": 1}, TypeError, "retry"),
    ],
)
def test_refused(bounds, error, names):
    """A wrong value is refused at once, with its name and what was expected."""
    with pytest.raises(error, match=names):
        bounded_transport(**bounds)


# -- an outage -----------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "option"])
def test_memory_is_bounded_by_the_queue(init, log, by):
    """Of any number of events, only those in the queue are kept; the rest are counted."""
    size = 10
    bounds = {"queue_size": size} if by == "argument" else {}
    options = {"transport_queue_size": 99 if by == "argument" else size}
    with stalled_sink() as (sink, let_go):
        transport = init(sink.dsn, options, timeout=None, **bounds)
        sentry_sdk.capture_message("first")
        sink.wait_for(lambda sink: sink.errors())
        capture(MANY)
        assert transport.dropped == {"full_queue": MANY - size}
        assert len(log()) == 1
        assert "full_queue" in log()[0]
        let_go()
        sentry_sdk.flush(FLUSH)
        # What had been taken arrives, and that is all.
        assert messages(sink) == ["first"] + [f"message {number}" for number in range(size)]
        sentry_sdk.flush(FLUSH)
        assert reported(sink) == {"queue_overflow": MANY - size}
        assert transport.dropped == {"full_queue": MANY - size}


def test_unreachable_and_back(init, down, log, monkeypatch):
    """All that is lost is counted, twice over, and said in one line; so is the end.

    Stock loses the client reports along with the rest: it counts less than was lost.
    """
    transport = init(dsn_of(down), queue_size=5, retries=0)
    for round_ in range(3):
        capture(MANY // 10, f"message {round_}")
        sentry_sdk.flush(FLUSH)
        # There is room in the queue again: this one sends a client report, in vain.
        sentry_sdk.flush(FLUSH)
    lost = 3 * (MANY // 10)
    dropped = sum(transport.dropped.values())
    assert dropped >= lost  # with the client reports
    assert set(transport.dropped) == {"full_queue", "network"}
    assert len(log()) == 1

    port = down.getsockname()[1]
    down.close()
    with EnvelopeSink(port) as sink:
        sentry_sdk.capture_message("soon after")
        sentry_sdk.flush(FLUSH)
        assert messages(sink) == ["soon after"]
        assert sum(reported(sink).values()) == lost
        # Not said yet: the next drop may come at once.
        assert len(log()) == 1

        monkeypatch.setattr(transport_module, "QUIET", 0.0)
        sentry_sdk.capture_message("later")
        sentry_sdk.capture_message("and later")
        sentry_sdk.flush(FLUSH)
        assert messages(sink) == ["soon after", "later", "and later"]
        assert len(log()) == 2
        assert f"Sentry takes data again; {dropped} envelopes were dropped" in log()[1]
        assert sum(transport.dropped.values()) == dropped


def test_pauses_between_attempts_in_vain(init, down):
    """A refused connection costs time of the processor, which requests do not get then."""
    transport = init(dsn_of(down), NO_REPORTS, queue_size=5, retries=0)
    sentry_sdk.flush(FLUSH)  # after a flush there are pauses again
    begun = time.monotonic()
    attempts = 4
    pauses = [transport_module.FIRST_PAUSE * 2**number for number in range(attempts - 1)]
    while transport.dropped.get("network", 0) < attempts:
        sentry_sdk.capture_message("hello")
        time.sleep(0.001)  # no busy loop: what is watched needs the interpreter, too
    assert time.monotonic() - begun >= sum(pauses)
    # Until then most were dropped at once.
    assert transport.dropped["full_queue"] > attempts


def test_no_pauses_in_a_flush(init, down, monkeypatch):
    """Whoever waits for the queue need not wait for an ingest that is not there."""
    monkeypatch.setattr(transport_module, "FIRST_PAUSE", 2 * FLUSH)
    monkeypatch.setattr(transport_module, "LONGEST_PAUSE", 2 * FLUSH)
    transport = init(dsn_of(down), NO_REPORTS, queue_size=5, retries=0)
    for attempted in (0, 5):
        # The first attempt ends in a pause, which only the flush ends.
        sentry_sdk.capture_message("in vain")
        while transport.dropped.get("network", 0) == attempted:
            time.sleep(0.001)
        capture(4)
        sentry_sdk.flush(FLUSH)
    assert transport.dropped == {"network": 10}


def test_drops_and_deliveries_in_turn_are_one_outage(init, log):
    """Under a load that is a little too high, the log is not flooded."""
    answers = iter([Reply(500), Reply(200)] * 20)
    with EnvelopeSink(respond=lambda envelope: next(answers)) as sink:
        transport = init(sink.dsn, NO_REPORTS)
        capture(40)
        sentry_sdk.flush(FLUSH)
        assert transport.dropped == {"status_500": 20}
        assert len(log()) == 1


@pytest.mark.parametrize(
    ("reply", "reasons"),
    [
        (Reply(500), {"status_500": 3}),
        (Reply(413), {"status_413": 3}),
        (Reply(0), {"network": 3}),
        # What the ingest has forbidden is not sent.
        (Reply(429), {"status_429": 1, "self_rate_limits": 2}),
        (Reply(429, {"Retry-After": "60"}), {"status_429": 1, "self_rate_limits": 2}),
        (Reply(200, {"X-Sentry-Rate-Limits": "60:error:key"}), {"self_rate_limits": 2}),
        (Reply(200, {"X-Sentry-Rate-Limits": "60:session:key"}), {}),
    ],
    ids=["500", "413", "cut", "429", "retry-after", "rate-limit", "other-rate-limit"],
)
def test_replies(init, log, monkeypatch, reply, reasons):
    """Whatever the ingest says or does not say: counted by its name, once an envelope.

    None of it means that Sentry takes data again.
    """
    monkeypatch.setattr(transport_module, "QUIET", 0.0)
    with EnvelopeSink(respond=lambda envelope: reply) as sink:
        transport = init(sink.dsn, NO_REPORTS)
        capture(3)
        sentry_sdk.flush(FLUSH)
        assert transport.dropped == reasons
        assert len(sink.errors()) == 3 - reasons.get("self_rate_limits", 0)
        assert len(log()) == bool(reasons)


# -- timeouts and retries ------------------------------------------------------


@pytest.mark.parametrize(
    "timeout", [0.2, urllib3.Timeout(total=0.2), urllib3.Timeout(connect=30, read=0.2)]
)
@pytest.mark.parametrize("proxy", [False, True])
def test_an_ingest_that_does_not_answer(init, timeout, proxy):
    """The attempt ends by the timeout, also if it is a proxy that does not answer."""
    with stalled_sink() as (sink, _):
        options = {"http_proxy": f"http://127.0.0.1:{sink.port}"} if proxy else {}
        dsn = "http://public@sentry.example/1" if proxy else sink.dsn
        transport = init(dsn, {**NO_REPORTS, **options}, timeout=timeout)
        capture(1)
        # Without the timeout, this would be over before the ingest lets go.
        sentry_sdk.flush(FLUSH / 2)
        assert transport.dropped == {"network": 1}


def test_no_timeout(init):
    """None waits for ever, whatever Python's default for sockets."""
    late = threading.Event()
    with EnvelopeSink(respond=lambda envelope: late.wait(0.6) and None) as sink:
        transport = init(sink.dsn, timeout=None)
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(0.2)
        try:
            capture(1)
            sentry_sdk.flush(FLUSH)
        finally:
            socket.setdefaulttimeout(before)
        assert transport.dropped == {}
        assert len(sink.errors()) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_retries(init, down, caplog, retries):
    """As many further attempts as asked for; urllib3 logs each."""
    transport = init(dsn_of(down), NO_REPORTS, retries=retries)
    capture(1)
    sentry_sdk.flush(FLUSH)
    assert transport.dropped == {"network": 1}
    assert [record.name for record in caplog.records].count("urllib3.connectionpool") == retries


def test_retry_by_status(init):
    """A Retry that repeats on a status ends with the reply: its rate limits are obeyed."""
    replies = iter([Reply(503), Reply(503), Reply(429, {"X-Sentry-Rate-Limits": "60:error:key"})])
    with EnvelopeSink(respond=lambda envelope: next(replies, None)) as sink:
        name = (
            "allowed_methods" if hasattr(urllib3.Retry(), "allowed_methods") else "method_whitelist"
        )
        retry = urllib3.Retry(2, status_forcelist=[429, 503], **{name: None})
        transport = init(sink.dsn, NO_REPORTS, retries=retry)
        sentry_sdk.capture_message("three times")
        sentry_sdk.capture_message("not sent")
        sentry_sdk.flush(FLUSH)
        assert messages(sink) == ["three times"] * 3
        assert transport.dropped == {"status_429": 1, "self_rate_limits": 1}


# -- no event begets another ---------------------------------------------------


def test_the_log_of_sending_gives_no_events(init, down, log, monkeypatch):
    """A handler for all log records, as for loguru, gets past the SDK's list of loggers.

    Each event would be dropped with a record about it, which is an event.
    """
    handler = logging.Handler()
    handler.emit = lambda record: sentry_sdk.capture_message(record.getMessage())
    monkeypatch.setattr(logging.getLogger(), "handlers", [*logging.getLogger().handlers, handler])
    transport = init(dsn_of(down), NO_REPORTS, retries=1)
    capture(1)
    for _ in range(5):
        sentry_sdk.flush(FLUSH)
    # The line of this project about it has gone the same way.
    assert transport.dropped == {"network": 1}
    assert len(log()) == 1


@pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="needs the stream lifecycle")
def test_sending_gives_no_spans(init):
    """The SDK does not know its own requests by a DSN with a port: each gives a span.

    The thread that sends has the scope of the request that started it, so with stock
    this goes on for ever: the span is sent in an envelope, whose request gives a span.
    """
    with EnvelopeSink() as sink:
        options = {"traces_sample_rate": 1.0, "_experiments": {"trace_lifecycle": "stream"}}
        init(sink.dsn, options)
        with sentry_sdk.traces.start_span(name="root"):
            sentry_sdk.capture_message("hello")
        for _ in range(5):
            sentry_sdk.flush(FLUSH)
        assert [span["name"] for span in sink.spans()] == ["root"]


# -- fork ----------------------------------------------------------------------


FORKING = """
import warnings
from vendored_integration import bounded_transport
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
sentry_sdk.init(
    dsn=sys.argv[1],
    transport=bounded_transport(queue_size=2, timeout=60.0),
    integrations=[DjangoIntegration()],
)
transport = sentry_sdk.get_client().transport
def fork(in_child):
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        in_child()
        sys.stdout.flush()
        os._exit(0)
    return pid
def send(message):
    sentry_sdk.capture_message(message)
    sentry_sdk.flush(60)
"""


@needs_fork
def test_fork(tmp_path):
    """gunicorn --preload: the child sends its own events, and none of the parent's.

    With stock, what waits in the parent's queue is sent by each child as well.
    """
    with stalled_sink() as (sink, let_go):
        arrived = tmp_path / "arrived"

        def on_item(item):
            arrived.touch()
            if b"from the child" in item.payload:
                let_go()

        sink.on_item = on_item
        lines = run(
            FORKING
            + """
sentry_sdk.capture_message("0")
# Not while the worker still imports what it needs for a connection: the child
# would inherit the import's lock, and wait for it.
while not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
for number in range(1, 5):
    sentry_sdk.capture_message(str(number))
print("parent", dict(transport.dropped))
def in_child():
    print("child", dict(transport.dropped))
    send("from the child")
    print("child", dict(transport.dropped))
assert os.waitpid(fork(in_child), 0)[1] == 0
sentry_sdk.flush(60)
""",
            sink.dsn,
            str(arrived),
        )
        assert lines == ["parent {'full_queue': 2}", "child {}", "child {}"]
        assert sorted(messages(sink)) == ["0", "1", "2", "from the child"]
        assert reported(sink) == {"queue_overflow": 2}


@needs_fork
def test_fork_shares_no_connection():
    """Two processes that write to one TLS connection break it."""
    connections = []
    with EnvelopeSink() as sink:

        class Handler(sink._server.RequestHandlerClass):
            protocol_version = "HTTP/1.1"  # keeps the connection

            def setup(self):
                connections.append(self.client_address)
                super().setup()

        sink._server.RequestHandlerClass = Handler
        run(
            FORKING
            + """
send("before the fork")
pid = fork(lambda: send("from the child"))
send("from the parent")
assert os.waitpid(pid, 0)[1] == 0
""",
            sink.dsn,
        )
        assert sorted(messages(sink)) == ["before the fork", "from the child", "from the parent"]
        assert len(connections) == 2


@pytest.mark.skipif(
    not hasattr(sentry_sdk.transport, "_FunctionTransport"), reason="the SDK calls no function"
)
def test_forgotten_parentheses(caplog):
    """SDK 2 would call it with each envelope, and raise into the application."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some releases of the SDK deprecate functions
        sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", transport=bounded_transport)
        sentry_sdk.capture_message("first")
        sentry_sdk.init()
    (record,) = [record for record in caplog.records if record.name == "vendored_integration"]
    assert "transport=bounded_transport()" in record.getMessage()
