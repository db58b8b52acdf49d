"""``on_timeout="continue"``: a stream's transaction arrives in parts, and nothing is lost.

A part ends at a deadline, or when the SDK's limit of spans is reached. The limit is
set to 10 here, and a deadline comes when a test says so, unless it is about the clock.
"""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sentry_sdk
from django.http import HttpResponse, StreamingHttpResponse
from support.apps import serve, streaming_app, wsgi_app
from support.asgi import read
from support.sdk import HAS_STREAM_LIFECYCLE, start_child, start_span
from support.wsgi import WsgiClient

from traces import traces
from vendored_integration import DjangoIntegration, stats
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.runtime.registry import registry
from vendored_integration.wsgi import SentryWsgiMiddleware

tracing = pytest.importorskip("sentry_sdk.tracing", reason="this SDK has no transactions")
Span, _SpanRecorder = tracing.Span, tracing._SpanRecorder

LIMIT = 10
FULL = {"max_spans": LIMIT}
COUNTS_DROPS = hasattr(_SpanRecorder(1), "dropped_spans")  # since 2.21


def in_threads(*functions):
    with ThreadPoolExecutor(len(functions)) as threads:
        tasks = [threads.submit(contextvars.copy_context().run, each) for each in functions]
        for task in tasks:
            task.result()


class Stream(WsgiClient):
    """An open stream, whose body does what it is told, a chunk a time."""

    def __init__(self, path="/", headers=(), in_view=lambda: None, **options):
        self._todo = self._result = None

        def view():
            sentry_sdk.Scope.get_current_scope().set_transaction_name("stream")
            in_view()

        options = {"on_timeout": "continue", "response_timeout": 3600, **options}
        super().__init__(
            SentryWsgiMiddleware(wsgi_app(self._body, view=view), **options), path, headers=headers
        )
        self._opened = next(reversed(registry.open))

    def _body(self):
        while self._todo is not None:
            self._result = self._todo()
            yield b"chunk"

    def do(self, function, *args):
        """Run something in the body, for the next chunk."""
        self._todo = lambda: function(*args)
        self.take()
        return self._result

    def span(self, *names):
        """Make a chunk with spans in it, one after the other."""

        def make():
            for name in names:
                with start_span(name):
                    pass

        self.do(make)

    def open_span(self, name):
        """Enter a span that stays open."""
        return self.do(lambda: start_span(name).__enter__())

    def leave(self, span):
        self.do(span.__exit__, None, None, None)

    def deadline(self):
        """What a worker does when the deadline has passed."""
        in_threads(self._opened.expire)

    def finish(self):
        """Read to the end and close."""
        self._todo = None
        self.read()

    def drop(self):
        self._todo = None
        super().drop()
        gc.collect()


class Part:
    """One transaction of several: a `Trace`, with its event, its number and its links."""

    def __init__(self, trace, event):
        self._trace = trace
        self.event = event
        self.number = trace.data.get("http.response.stream.part", 1)
        self.links = event["contexts"]["trace"].get("links")

    def __getattr__(self, name):
        return getattr(self._trace, name)


def transactions(sentry):
    return [Part(*both) for both in zip(traces(sentry), sentry.transactions())]


def parts_of(sentry, name="stream"):
    """The parts of the one stream, checked for all that must hold of any."""
    return checked(transactions(sentry), name)


def checked(found, name="stream"):
    found = sorted(found, key=lambda part: part.number)
    first, last = found[0], found[-1]
    assert [part.number for part in found] == list(range(1, len(found) + 1))
    assert {(part.trace_id, part.name) for part in found} == {(first.trace_id, name)}
    assert len({part.span_id for part in found}) == len(found)
    assert [part.outcome for part in found[:-1]] == ["continued"] * (len(found) - 1)
    assert last.outcome != "continued"
    assert (first.links, first.parent_span_id) == (None, None)
    for before, part in zip(found, found[1:]):
        assert part.parent_span_id == first.span_id
        assert part.links == [
            {
                "trace_id": first.trace_id,
                "span_id": before.span_id,
                "sampled": True,
                "attributes": {"sentry.link.type": "previous_part"},
            }
        ]
        assert before.start <= part.start <= part.end
    ids = [span.span_id for part in found for span in part.spans]
    assert len(set(ids)) == len(ids)
    # (the parent of a span may never have been sent if that is still open)
    return found


def names(found):
    """The names of all spans, in the order of arrival."""
    return [name for part in found for name in part.names()]


def numbered(count, start=0):
    return [f"span {number}" for number in range(start, start + count)]


# -- when a part ends


def test_deadlines(init):
    """A part at each `response_timeout`, counted from the request's start, then from the last."""
    sentry = init()
    stream = Stream(response_timeout=0.1)
    for number in range(1, 4):
        stream.span(f"span {number}")
        sentry.wait_for(lambda: len(sentry.transactions()) > number)  # noqa: B023
    stream.span("last")
    stream.finish()
    found = parts_of(sentry)
    assert sorted(names(found)) == ["last", "span 1", "span 2", "span 3"]
    assert found[-1].outcome == "completed"
    assert found[-1].data["http.response.stream.chunks"] == 4
    assert {part.status for part in found} == {"ok"}


def test_span_limit(init, seen):
    """A part whenever the SDK would begin to drop spans, in one step of the body or many."""
    sentry = init(_experiments=FULL)
    stream = Stream()
    stream.span(*numbered(25))
    for number in range(25, 35):
        stream.span(f"span {number}")
    stream.finish()
    found = parts_of(sentry)
    assert names(found) == numbered(35)
    assert [len(part.spans) for part in found] == [10, 10, 10, 5]
    assert seen.streaming == {"continued": 3, "completed": 1}
    assert [part.data["http.response.stream.chunks"] for part in found] == [0, 0, 6, 11]


@pytest.mark.parametrize(("on_timeout", "spans"), [("continue", LIMIT), ("finish", 25)])
def test_no_parts(init, on_timeout, spans):
    """Without need, and by default: one transaction as ever, with no part number."""
    sentry = init(_experiments=FULL)
    stream = Stream(on_timeout=on_timeout)
    stream.span(*numbered(spans))
    stream.finish()
    (part,) = parts_of(sentry)
    assert "http.response.stream.part" not in part.data
    assert names([part]) == numbered(LIMIT)


@pytest.mark.parametrize("finish_on", ["return", "close"])
def test_plain_response(init, finish_on):
    """One that does not stream is one transaction, however many its spans, and however late."""
    sentry = init(
        integration=DjangoIntegration(
            on_timeout="continue", finish_on=finish_on, response_timeout=0.1
        ),
        _experiments=FULL,
    )

    def view(request):
        for name in numbered(2 * LIMIT):
            with start_span(name):
                pass
        return HttpResponse(b"plain")

    client = WsgiClient(serve(view))
    assert "http.response.stream.part" not in sentry.root().data
    assert client.read() == b"plain"
    assert len(sentry.transactions()) == 1


def test_drops_before_the_stream_are_told(init):
    """Spans that the view itself made over the limit are lost as in stock, and counted as there."""
    if not COUNTS_DROPS:
        pytest.skip("the SDK counts since 2.21")
    sentry = init(_experiments=FULL)

    def view():
        for name in numbered(LIMIT + 3):
            with start_span(name):
                pass

    app = streaming_app("wsgi-plain", lambda: iter([b"chunk"]), view, on_timeout="continue")
    WsgiClient(app).read()
    (event,) = sentry.transactions()
    assert event["_meta"]["spans"][""]["len"] == LIMIT + 3


# -- how the last one ends


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("cancelled", "cancelled"), ("abandoned", "aborted"), ("failed", "internal_error")],
)
def test_end_in_mid_stream(init, seen, outcome, status):
    """That is the outcome of the last part alone; the event of an error belongs to that one."""
    sentry = init()
    stream = Stream("/path")
    stream.span("first")
    stream.deadline()
    stream.span("second")
    if outcome == "failed":
        with pytest.raises(ZeroDivisionError):
            stream.do(lambda: 1 / 0)
    (stream.drop if outcome == "abandoned" else stream.close)()
    sentry.wait_for(lambda: len(sentry.transactions()) == 2)
    first, last = parts_of(sentry)
    assert (first.status, last.status) == ("ok", status)
    assert last.outcome == outcome
    assert seen.streaming == {"continued": 1, outcome: 1}
    assert (first.names(), last.names()) == (["first"], ["second"])
    assert len(sentry.errors()) == (outcome == "failed")
    for event in sentry.errors():
        trace = event["contexts"]["trace"]
        assert (trace["trace_id"], trace["span_id"]) == (last.trace_id, last.span_id)
        assert event["request"]["url"] == "http://localhost/path"


def test_evicted(init, caplog):
    """The oldest of too many ends for good: no part follows, and late spans are counted."""
    sentry = init(_experiments=FULL)
    stream = Stream(max_open_responses=1)
    stream.span("first")
    stream.deadline()
    stream.span("second")

    other = WsgiClient(streaming_app("wsgi-plain", lambda: iter([b"chunk"]), max_open_responses=1))
    sentry.wait_for(lambda: len(sentry.transactions()) == 2)
    stream.deadline()
    stream.span(*numbered(2 * LIMIT))
    stream.finish()
    last = parts_of(sentry)[-1]
    assert (last.number, last.outcome, last.status) == (2, "evicted", "aborted")
    assert last.names() == ["second"]
    assert "20 span(s) of 'stream' were made after" in caplog.text
    other.read()


# -- spans


def test_open_spans_arrive_once_and_later(init):
    """A span that is open at a split is sent when it has ended, with its whole duration."""
    sentry = init(_experiments=FULL)
    stream = Stream()
    outer = stream.open_span("outer")
    stream.span(*numbered(12))
    inner = stream.open_span("inner")
    stream.deadline()
    stream.span("in inner")
    stream.leave(inner)
    stream.deadline()
    stream.span("in outer")
    stream.leave(outer)
    stream.finish()
    found = parts_of(sentry)
    assert [part.names() for part in found] == [
        numbered(9),
        numbered(3, start=9),
        ["inner", "in inner"],
        ["outer", "in outer"],
    ]
    spans = {span["description"]: span for part in found for span in part.event["spans"]}
    assert spans["outer"]["parent_span_id"] == found[0].span_id
    for name in ["inner", "in outer", *numbered(12)]:
        assert spans[name]["parent_span_id"] == outer.span_id
    assert spans["in inner"]["parent_span_id"] == inner.span_id
    assert spans["outer"]["start_timestamp"] < found[1].event["start_timestamp"]


def test_more_spans_open_than_the_limit(init):
    """There is little room to make: the SDK drops what it must, and its count says how many."""
    sentry = init(_experiments=FULL)
    stream = Stream()
    spans = [stream.open_span(name) for name in numbered(LIMIT - 1)]
    stream.span("kept", *["lost"] * 5)
    for span in reversed(spans):
        stream.leave(span)
    stream.span("afterwards")
    stream.finish()
    found = parts_of(sentry)
    assert [part.names() for part in found] == [[*numbered(LIMIT - 1), "kept"], ["afterwards"]]
    if COUNTS_DROPS:
        assert found[0].event["_meta"]["spans"][""]["len"] == LIMIT + 5
        assert "spans" not in found[1].event.get("_meta", {})


def test_spans_still_open_at_the_end(init):
    """They are dropped by the SDK as in any transaction, and counted once, by the last part."""
    sentry = init()
    stream = Stream()
    stream.open_span("never left")
    stream.deadline()
    stream.finish()
    found = parts_of(sentry)
    assert names(found) == []
    if COUNTS_DROPS:
        assert "spans" not in found[0].event.get("_meta", {})
        assert found[1].event["_meta"]["spans"][""]["len"] == 1


def test_outgoing_headers(init):
    """`sentry-trace` names the part that runs, or its innermost span; the baggage is the same.

    The first part is the caller's child; the others are the first one's.
    """
    sentry = init()
    trace_id, span_id = "771a43a4192642f0b136d5159a501700", "1234567890abcdef"
    stream = Stream(headers=[("sentry-trace", f"{trace_id}-{span_id}-1")])
    headers = []

    def note():
        headers.append((sentry_sdk.get_traceparent(), sentry_sdk.get_baggage()))

    stream.do(note)
    stream.deadline()
    stream.do(note)
    inner = stream.open_span("inner")
    stream.deadline()
    stream.do(note)
    stream.leave(inner)
    stream.do(note)
    stream.finish()
    first, second, third = transactions(sentry)
    assert {part.trace_id for part in (first, second, third)} == {trace_id}
    parents = [part.parent_span_id for part in (first, second, third)]
    assert parents == [span_id, first.span_id, first.span_id]
    ids = [first.span_id, second.span_id, inner.span_id, third.span_id]
    assert [header for header, _ in headers] == [f"{trace_id}-{id_}-1" for id_ in ids]
    assert len({baggage for _, baggage in headers}) == 1


def test_each_part_tells_the_request(init):
    """Request, user, tags and the transaction's own data; but nothing that is set later."""
    sentry = init()
    stream = Stream("/told")

    def tell():
        sentry_sdk.set_user({"id": "7"})
        sentry_sdk.set_tag("tenant", "a")
        transaction = sentry_sdk.Scope.get_current_scope().transaction
        transaction.set_tag("kind", "sse")
        transaction.set_data("topic", "prices")

    stream.do(tell)
    stream.deadline()
    stream.do(lambda: sentry_sdk.Scope.get_current_scope().transaction.set_tag("late", "yes"))
    stream.finish()
    found = parts_of(sentry)
    assert [part.event["tags"].get("late") for part in found] == [None, "yes"]
    assert [part.data["http.response.stream.chunks"] for part in found] == [1, 2]
    for part in found:
        assert part.event["request"]["url"] == "http://localhost/told"
        assert part.event["user"] == {"id": "7"}
        assert (part.event["tags"]["tenant"], part.event["tags"]["kind"]) == ("a", "sse")
        if "http.response.stream" not in part.event["contexts"]:  # sends data since 2.12
            assert part.data["topic"] == "prices"


# -- races


@pytest.fixture
def frequent_switches():
    """Let threads alternate as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def child_spans(root, thread):
    """Spans without a scope, which threads would share."""
    for number in range(50):
        outer = start_child(root, f"outer {thread} {number}")
        for inner in range(3):
            start_child(outer, f"inner {thread} {number} {inner}").finish()
        outer.finish()


@pytest.mark.parametrize("deadlines", [False, True])
def test_threads_make_spans(init, frequent_switches, deadlines):
    """Splits at any moment, by the limit and by the clock, neither lose nor double a span.

    At the limit at least half of the spans have ended: no part is almost empty.
    """
    sentry = init(_experiments=FULL)
    stream = Stream()
    over = threading.Event()

    def expire():
        while deadlines and not over.is_set():
            stream._opened.expire()

    def make():
        root = sentry_sdk.Scope.get_current_scope().transaction
        try:
            in_threads(*(partial(child_spans, root, thread) for thread in range(4)))
        finally:
            over.set()

    in_threads(expire, partial(stream.do, make))
    stream.finish()
    found = parts_of(sentry)
    counted = Counter(names(found))
    assert (len(counted), set(counted.values())) == (4 * 50 * 4, {1})
    if not deadlines:
        assert min(len(part.spans) for part in found[:-1]) >= LIMIT // 2


def test_deadline_and_close_at_once(init, frequent_switches):
    """Whoever is first: each span arrives once, and the last part has the real outcome."""
    rounds = 50
    sentry = init()
    for _ in range(rounds):
        stream = Stream()
        outer = stream.open_span("outer")
        stream.span("first")
        stream.leave(outer)
        start = threading.Barrier(2)
        in_threads(
            lambda: (start.wait(), stream._opened.expire()),  # noqa: B023
            lambda: (start.wait(), stream.finish()),  # noqa: B023
        )
    streams = {}
    for part in transactions(sentry):
        streams.setdefault(part.trace_id, []).append(part)
    assert len(streams) == rounds
    for found in map(checked, streams.values()):
        assert len(found) in (1, 2)
        assert sorted(names(found)) == ["first", "outer"]
        assert found[-1].outcome == "completed"


# -- hooks


def test_hanging_hook(init):
    """`before_send_transaction` that never returns takes one worker from the other streams.

    Not one for each deadline of the stream: they are a few.
    """
    hung, go_on = threading.Event(), threading.Event()

    def before_send_transaction(event, hint):
        if event["request"]["url"].endswith("/hang"):
            hung.set()
            go_on.wait(60)
        return event

    sentry = init(before_send_transaction=before_send_transaction)
    try:
        hanging = Stream("/hang", response_timeout=0.1)
        assert hung.wait(10)
        other = Stream("/other", response_timeout=0.1)
        sentry.wait_for(lambda: len(sentry.transactions()) == 8)
        hanging.span("meanwhile")
        other.finish()
    finally:
        go_on.set()
    hanging.finish()
    assert "meanwhile" in names(transactions(sentry))


def test_raising_hook(init):
    """It loses the part that it raises for, at a deadline or at the limit; the stream goes on."""

    def before_send_transaction(event, hint):
        if any(span["description"] == "fatal" for span in event["spans"]):
            raise ValueError("no")
        return event

    sentry = init(before_send_transaction=before_send_transaction, _experiments=FULL)
    stream = Stream()
    stream.span("fatal")
    stream.deadline()
    stream.span("fatal", *numbered(LIMIT - 1))
    stream.span("last")
    stream.finish()
    (last,) = transactions(sentry)
    assert (last.number, last.outcome, last.names()) == (3, "completed", ["last"])


def test_hook_that_makes_spans(init):
    """They belong to the part that runs; there is no end of parts that beget parts."""

    def before_send_transaction(event, hint):
        with start_span("hook"):
            return event

    sentry = init(before_send_transaction=before_send_transaction, _experiments=FULL)
    stream = Stream()
    stream.span(*numbered(3 * LIMIT))
    stream.finish()
    counted = Counter(names(parts_of(sentry)))
    assert all(counted[name] == 1 for name in numbered(3 * LIMIT))
    assert counted["hook"] == len(sentry.transactions()) - 1


# -- memory


def live_spans(lifecycle):
    kind = Span if lifecycle == "static" else sentry_sdk.traces.StreamedSpan
    # Those that only the garbage collector frees are no matter.
    gc.collect()
    # Not isinstance(): a lazy object of Django's would have to be made for it.
    return sum(issubclass(type(found), kind) for found in gc.get_objects())


def test_memory_is_bounded(init, lifecycle):
    """However long a stream, no more spans are kept than the limit; or none, if each is sent."""
    sentry = init(lifecycle, **({"_experiments": FULL} if lifecycle == "static" else {}))
    before = live_spans(lifecycle)
    stream = Stream()
    for _ in range(8):
        stream.span(*numbered(50))
        sentry_sdk.get_client().flush()
        assert live_spans(lifecycle) - before <= (LIMIT + 1 if lifecycle == "static" else 1)
    stream.finish()
    found = parts_of(sentry) if lifecycle == "static" else sentry.roots()
    assert Counter(names(found)) == Counter(8 * numbered(50))
    if lifecycle == "stream":
        assert [root.outcome for root in found] == ["completed"]
        assert "http.response.stream.part" not in found[0].data


def test_unsampled(init):
    """Nothing is sent of a trace that is not sampled, and nothing kept for later."""
    sentry = init(_experiments=FULL, traces_sample_rate=0)
    before = live_spans("static")
    stream = Stream(response_timeout=0.1)
    stream.span(*numbered(50))
    assert live_spans("static") - before <= 1  # the root
    assert stream.do(sentry_sdk.get_traceparent).endswith("-0")
    stream.finish()
    assert not sentry.transactions()


@pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="this SDK has no stream lifecycle")
def test_no_deadline_in_the_stream_lifecycle(init):
    """A segment ends once, so its deadline would end it."""
    init("stream")
    before = stats().pending_deadlines
    stream = Stream()
    assert stats().pending_deadlines == before
    stream.finish()


@pytest.mark.filterwarnings("ignore:Transaction-based profiling:DeprecationWarning")
def test_profile(init, profilers):
    """The transaction profiler's profile ends with the view, and is sent with the first part."""
    sentry = init(profiles_sample_rate=1.0)
    stream = Stream(in_view=lambda: threading.Event().wait(0.2))  # it looks at 101 Hz
    stream.deadline()
    stream.finish()
    first, _ = parts_of(sentry)
    (profile,) = sentry.items("profile")
    (profiled,) = profile["transactions"]
    assert profiled["id"] == first.event["event_id"]
    assert profiled["trace_id"] == first.trace_id


# -- ASGI


@pytest.mark.parametrize("streaming", [True, False])
def test_asgi(init, streaming):
    """An ASGI stream is sent in parts, too; what is done after a plain response is not."""
    sentry = init(_experiments=FULL)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"chunk", "more_body": streaming})
        for name in numbered(35):
            with start_span(name):
                await asyncio.sleep(0)
        if streaming:
            await send({"type": "http.response.body", "body": b""})

    asyncio.run(read(SentryMiddleware(app, on_timeout="continue")))
    found = transactions(sentry)
    if streaming:
        found = parts_of(sentry, name=found[0].name)
        assert [len(part.spans) for part in found] == [10, 10, 10, 5]
        assert found[-1].outcome == "completed"
    else:
        assert [len(part.spans) for part in found] == [LIMIT]


# -- "finish": what comes too late


@pytest.mark.parametrize("late", [numbered(7), []])
def test_late_spans_are_counted(init, lifecycle, caplog, late):
    """With "finish", spans made after the deadline are lost: the log says so once, at close.

    In the stream lifecycle they are not.
    """
    sentry = init(lifecycle)
    before = stats().lost_spans
    stream = Stream(on_timeout="finish")
    stream.span("in time")
    stream.deadline()
    stream.span(*late)
    assert not caplog.records
    stream.finish()
    stream.close()
    assert sentry.root().outcome == "timed_out"
    lost = len(late) if lifecycle == "static" else 0
    assert sentry.root().names() == ["in time", *late[lost:]]
    assert stats().lost_spans == before + lost
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(lost)
    assert not lost or "7 span(s) of 'stream' were made after" in caplog.text


def test_signals_are_no_late_spans(init, caplog):
    """Django sends some at every close: that is nothing to warn of."""
    sentry = init(integration=DjangoIntegration(response_timeout=0.1))
    client = WsgiClient(serve(lambda request: StreamingHttpResponse(iter([b"chunk"]))))
    assert sentry.root().outcome == "timed_out"
    assert client.read() == b"chunk"
    assert not caplog.records
