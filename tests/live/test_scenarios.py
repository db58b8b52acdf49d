"""What must hold on every server, in both lifecycles; see conftest.py."""

import json
import time
import uuid
from collections import Counter
from typing import Dict, List

import pytest
from client import Gate, Recorder, Response
from running import FILE_CONTENT, Live, Running
from seen import Trace, errors

STREAMS = ["/stream/", "/stream-async/", "/stream-async-view/", "/stream-async-view-sync-body/"]

STREAM_TIMES = [
    "http.response.stream.time_to_first_chunk",
    "http.response.stream.produce_time",
    "http.response.stream.send_time",
    "http.server.return_time",
]


def check_status(live: Live, trace: Trace, static: str, stream: str = "ok") -> None:
    """The stream lifecycle knows only `ok` and `error`."""
    assert trace.status == (stream if live.lifecycle == "stream" else static)


def need_concurrency(live: Live, path: str) -> None:
    if not live.server.concurrent:
        pytest.skip("one request at a time")
    need_asyncio(live, path)


def need_asyncio(live: Live, path: str) -> None:
    if "async" in path and not live.server.asyncio:
        pytest.skip("greenlets and asyncio")


def check_chunk_spans(trace: Trace, count: int) -> None:
    for index in range(count):
        span = trace.named(f"chunk {index}")
        assert span.parent_span_id == trace.span_id
        assert trace.start <= span.start <= span.end <= trace.end


@pytest.mark.parametrize("path", STREAMS)
def test_complete_stream(live: Live, request_id: str, path: str) -> None:
    """The spans of a generator are the transaction's children; it lasts until the end.

    Stock ends the transaction before the first chunk: the spans are lost, and the
    duration is the view's. So for an async generator, which Django runs in a loop under
    WSGI; and for a sync one under ASGI, which it runs to its end in a thread.
    """
    sent_at = time.monotonic()
    with Gate() as gate, live.main.open(f"{path}?n=3&gate={gate.port}", request_id) as response:
        gate.wait_until_reached()
        held_from = time.monotonic()
        time.sleep(0.05)  # waits for nothing: a time that must show up in the data
        held = (time.monotonic() - held_from) * 1000
        held_until = time.time()
        gate.open()
        received = response.read()
    elapsed = (time.monotonic() - sent_at) * 1000

    assert received.body == b"chunk 0\nchunk 1\nchunk 2\n"
    trace = live.main.the_transaction(request_id)
    check_chunk_spans(trace, 3)
    check_status(live, trace, "ok")
    assert trace.name == path
    assert trace.end >= held_until
    assert trace.outcome == "completed"
    assert trace.data["http.response.stream.chunks"] == 3
    assert trace.data["http.response.body.size"] == len(received.body)
    for name in STREAM_TIMES:
        # Milliseconds. The server cannot have taken longer than the client waited.
        assert 0 <= trace.data[name] <= elapsed, name
    assert trace.data["http.response.stream.produce_time"] >= held


@pytest.mark.parametrize("path", STREAMS)
def test_streams_one_after_the_other(live: Live, path: str) -> None:
    """Nothing of a request is left in its thread for the next one."""
    request_ids = [uuid.uuid4().hex for _ in range(3)]
    for request_id in request_ids:
        live.main.fetch(path, request_id)
    traces = [live.main.the_transaction(request_id) for request_id in request_ids]
    assert len({trace.trace_id for trace in traces}) == 3
    for trace in traces:
        check_chunk_spans(trace, 3)


@pytest.mark.parametrize("path", STREAMS)
def test_streams_at_the_same_time(live: Live, path: str) -> None:
    """Two open streams in one process keep their spans apart."""
    need_concurrency(live, path)
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    with Gate() as first_gate, Gate() as second_gate, live.main.open(
        f"{path}?n=2&gate={first_gate.port}", first
    ) as first_response:
        first_gate.wait_until_reached()
        with live.main.open(f"{path}?n=3&gate={second_gate.port}", second) as second_response:
            second_gate.wait_until_reached()
            first_gate.open()
            first_response.read()
            second_gate.open()
            second_response.read()
    for request_id, count in (first, 2), (second, 3):
        trace = live.main.the_transaction(request_id)
        check_chunk_spans(trace, count)
        names = trace.names()
        assert len([name for name in names if name.startswith("chunk")]) == count
        assert trace.outcome == "completed"


@pytest.mark.parametrize("path", ["/plain/", "/plain-async/"])
def test_response_that_is_not_a_stream(live: Live, request_id: str, path: str) -> None:
    """An ordinary response has an ordinary transaction, with no data about streaming."""
    assert live.main.fetch(path, request_id).body == b"plain\n"
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "ok")
    assert [name for name in trace.data if "response.stream." in name] == []


def check_one_error(running: Running, trace: Trace, message: str) -> None:
    (event,) = errors(running.sink, message)
    # Nor one without the exception, from the server's log.
    assert len(running.sink.errors()) == 1, running.sink.describe()
    context = event["contexts"]["trace"]
    assert context["trace_id"] == trace.trace_id
    assert context["span_id"] in trace.span_ids
    assert event["transaction"] == trace.name


@pytest.mark.parametrize("path", ["/stream-fails/", "/stream-fails-async/"])
def test_error_in_mid_stream(live: Live, request_id: str, path: str) -> None:
    """One error, one event, in the trace of a transaction that failed.

    The server's own logger reports the error, too. The SDK must recognise it as the one
    that it has seen, whatever context each of them ran in. Its stack trace has no frame of
    the integration: Sentry groups by frames.
    """
    assert b"never" not in live.main.fetch_failing(path, request_id)
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "internal_error", "error")
    assert trace.outcome == "failed"
    check_one_error(live.main, trace, "in mid-stream of " + request_id)
    # Where Django itself was handling an error, that comes before.
    value = live.main.sink.errors()[0]["exception"]["values"][-1]
    frames = value["stacktrace"]["frames"]
    assert frames[-1]["function"] == "stream_fails"
    modules = [frame["module"] for frame in frames]
    assert [name for name in modules if name.startswith(("sentry", "vendored"))] == []


@pytest.mark.parametrize("path", ["/stream-labelled-fails/", "/stream-labelled-fails-async/"])
def test_what_an_error_in_mid_stream_carries(live: Live, request_id: str, path: str) -> None:
    """The request, what the view has said about it, and the error's chain of causes."""
    live.main.fetch_failing(path + "?page=2", request_id, "POST", b'{"posted": 1}')
    trace = live.main.the_transaction(request_id)
    check_one_error(live.main, trace, "labelled in " + request_id)
    (event,) = errors(live.main.sink, "labelled in " + request_id)
    request = event["request"]
    assert request["method"] == "POST"
    assert request["url"].endswith(path)
    assert request["query_string"] == "page=2"
    assert request["data"] == {"posted": 1}
    assert event["user"]["id"] == "user of " + request_id
    assert event["tags"]["tagged"] == "in the view"
    crumbs = [crumb.get("message") for crumb in event["breadcrumbs"]["values"]]
    assert [crumb for crumb in crumbs if crumb in ("in the view", "in the body")] == [
        "in the view",
        "in the body",
    ]
    # Where Django itself was handling an error, that comes before.
    assert [(value["type"], value["value"]) for value in event["exception"]["values"][-2:]] == [
        ("LookupError", "cause in " + request_id),
        ("RuntimeError", "labelled in " + request_id),
    ]


@pytest.mark.parametrize("path", ["/error/", "/error-async/"])
def test_error_in_the_view(live: Live, request_id: str, path: str) -> None:
    """What stock gets right stays right: an error before there is a response."""
    assert live.main.fetch(path, request_id).status == 500
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "internal_error", "error")
    check_one_error(live.main, trace, "in the view of " + request_id)


def test_client_hangs_up(live: Live, request_id: str) -> None:
    """The server's write fails, it closes the response early: `cancelled`, no error."""
    if live.server.interface == "asgi":
        pytest.skip("see test_asgi.py: Django runs such a body to its end first")
    with Gate() as gate, live.main.open(
        f"/stream-endless/?gate={gate.port}", request_id
    ) as response:
        response.read_headers()
        gate.wait_until_reached()
        response.hang_up()
        gate.open()
        trace = live.main.the_transaction(request_id)
    check_status(live, trace, "cancelled")
    assert trace.outcome == "cancelled"
    # What the generator does when it is closed belongs to the request, too.
    assert trace.named("clean up after GeneratorExit").parent_span_id == trace.span_id
    found = live.main.sink.errors()
    if live.server.needs == "uwsgi":
        # uWSGI raises an OSError of its own and shows it to sys.excepthook, which the
        # SDK watches. So it is with stock.
        found = [event for event in found if event not in errors(live.main.sink, "write error")]
    assert found == []


@pytest.mark.parametrize(
    ("method", "path"),
    [*(("HEAD", path) for path in [*STREAMS, "/file/"]), ("GET", "/stream-not-modified/")],
)
def test_response_without_a_body(live: Live, request_id: str, method: str, path: str) -> None:
    """A server need not iterate the body for HEAD, nor for a 304; that is no hang-up."""
    assert live.main.fetch(path, request_id, method=method).body == b""
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "ok")
    assert trace.outcome == "completed"


@pytest.mark.parametrize("path", ["/file/", "/file-in-memory/"])
def test_file(live: Live, request_id: str, path: str) -> None:
    """A file goes through the server's `wsgi.file_wrapper`; the transaction ends after it.

    Under ASGI it goes through memory.
    """
    with live.main.open(path, request_id) as response:
        response.read_headers()
        # The server cannot have sent a large file while nobody reads. The time between is
        # for the two clocks.
        time.sleep(0.05)
        unread_until = time.time()
        received = response.read()
    expected = FILE_CONTENT if path == "/file/" else b"in memory" * 1000
    assert received.body == expected
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "ok")
    assert trace.outcome == "completed"
    if path == "/file/" and live.server.backpressure:
        assert trace.end >= unread_until


@pytest.mark.parametrize("path", STREAMS)
def test_deadline(live: Live, request_id: str, path: str) -> None:
    """A stream is open longer than `response_timeout`: its transaction arrives meanwhile.

    It arrives once: what happens at close() changes nothing any more.
    """
    with Gate() as gate, live.impatient.open(
        f"{path}?n=2&gate={gate.port}", request_id
    ) as response:
        gate.wait_until_reached()
        if live.server.threads:
            trace = live.impatient.wait_for_transaction(request_id)
            check_status(live, trace, "deadline_exceeded")
            assert trace.outcome == "timed_out"
        else:
            # Its deadline passes; there is no thread and no other request to notice.
            time.sleep(0.5)
        gate.open()
        assert response.read().body == b"chunk 0\nchunk 1\n"
    after_close = live.impatient.the_transaction(request_id)
    if live.server.threads:
        assert (after_close.status, after_close.data) == (trace.status, trace.data)
    else:
        assert after_close.outcome in ("timed_out", "completed")


@pytest.mark.parametrize("path", STREAMS)
def test_too_many_open_responses(live: Live, path: str) -> None:
    """At more than `max_open_responses` the oldest is `evicted`; its stream goes on."""
    need_concurrency(live, path)
    oldest, newest = uuid.uuid4().hex, uuid.uuid4().hex
    with Gate() as oldest_gate, Gate() as newest_gate, live.crowded.open(
        f"{path}?gate={oldest_gate.port}", oldest
    ) as oldest_response:
        oldest_gate.wait_until_reached()
        with live.crowded.open(f"{path}?gate={newest_gate.port}", newest) as newest_response:
            newest_gate.wait_until_reached()
            trace = live.crowded.wait_for_transaction(oldest)
            check_status(live, trace, "aborted")
            assert trace.outcome == "evicted"
            newest_gate.open()
            newest_response.read()
        oldest_gate.open()
        assert oldest_response.read().body == b"chunk 0\nchunk 1\nchunk 2\n"
    assert live.crowded.the_transaction(oldest).outcome == "evicted"
    assert live.crowded.the_transaction(newest).outcome == "completed"


@pytest.mark.fault(
    "`close()` never comes",
    client="what the server sends instead",
    log="nothing",
    sink="`abandoned`, as soon as the response is garbage",
)
@pytest.mark.parametrize("around", ["drop", "drop-started"])
def test_abandoned_response(live: Live, request_id: str, around: str) -> None:
    """A middleware forgets the response without close(): its transaction is not lost."""
    if live.server.interface == "asgi":
        pytest.skip("there is no response to forget")
    before = len(live.main.process.output)
    received = live.main.fetch("/stream/", request_id, headers={"X-Around": around})
    assert received.body == b"dropped\n"
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "aborted")
    assert trace.outcome == "abandoned"
    assert live.main.sink.errors() == []
    assert "Traceback" not in live.main.process.output[before:]


@pytest.mark.parametrize("around", ["stock", "ours"])
@pytest.mark.parametrize("path", ["/plain/", *STREAMS])
def test_middleware_around_django(live: Live, request_id: str, path: str, around: str) -> None:
    """With a middleware of Sentry around Django, the SDK's or ours: one transaction."""
    received = live.main.fetch(path, request_id, headers={"X-Around": around})
    assert received.status == 200
    trace = live.main.the_transaction(request_id)
    assert trace.name == path
    if path in STREAMS and around == "ours":
        check_chunk_spans(trace, 3)


LOG_CONTEXTS = [
    "/stream-log-context/?",
    "/stream-log-context-async/?",
    "/stream-log-context-async-view/?",
    "/stream-log-context-async-view-sync-body/?",
]


def log_context(name: str) -> List[Dict[str, str]]:
    """What is seen by the view and by two steps of the generator if this is bound."""
    return [dict.fromkeys(["structlog", "logging"], name)] * 3


def lines_of(response: Response) -> List[Dict[str, str]]:
    return [json.loads(line) for line in response.body.splitlines()]


@pytest.mark.parametrize("path", LOG_CONTEXTS)
def test_log_context(live: Live, request_id: str, path: str) -> None:
    """A generator sees what a middleware bound around the view; the next one does not."""
    bound = live.main.fetch(path, request_id, headers={"X-Log-Context": "mine"})
    assert lines_of(bound) == log_context("mine")
    # Often enough to meet every thread of the server.
    for _ in range(8):
        assert lines_of(live.main.fetch(path, request_id)) == log_context("-")


@pytest.mark.parametrize("path", LOG_CONTEXTS)
def test_log_contexts_at_the_same_time(live: Live, path: str) -> None:
    """Two generators, with steps in turn, keep their bindings apart; under ASGI in one thread."""
    need_concurrency(live, path)
    with Gate() as first_gate, Gate() as second_gate, live.main.open(
        f"{path}gate={first_gate.port}", uuid.uuid4().hex, headers={"X-Log-Context": "first"}
    ) as first_response:
        first_gate.wait_until_reached()
        with live.main.open(
            f"{path}gate={second_gate.port}", uuid.uuid4().hex, headers={"X-Log-Context": "second"}
        ) as second_response:
            second_gate.wait_until_reached()
            first_gate.open()
            assert lines_of(first_response.read()) == log_context("first")
            second_gate.open()
            assert lines_of(second_response.read()) == log_context("second")


@pytest.mark.parametrize(
    "path", ["/stream-calls-out/", "/stream-calls-out-async/", "/stream-thread-calls-out/"]
)
def test_request_made_by_a_generator(live: Live, request_id: str, path: str) -> None:
    """The trace headers of an outgoing request name the body's trace, and a span of it."""
    if "thread" in path and not live.server.asyncio_threads:
        pytest.skip("it hangs, with and without us")
    with Recorder() as recorder:
        asked = live.main.fetch(f"{path}?port={recorder.port}", request_id)
        assert asked.body == b"first\n200\n"
    trace = live.main.the_transaction(request_id)
    (headers,) = recorder.headers
    trace_id, parent_id, sampled = headers["sentry-trace"].split("-")
    assert (trace_id, sampled) == (trace.trace_id, "1")
    (calling,) = [span for span in trace.spans if span.span_id == parent_id]
    assert calling.op == "http.client"
    assert calling.parent_span_id == trace.named("calls out").span_id
    assert trace.named("calls out").parent_span_id == trace.span_id
    baggage = dict(item.split("=") for item in headers["baggage"].replace(" ", "").split(","))
    assert baggage["sentry-trace_id"] == trace.trace_id


@pytest.mark.parametrize("path", ["/echo/", "/echo-async/"])
def test_request_with_a_body(live: Live, request_id: str, path: str) -> None:
    """The view reads what is posted, and streams it back."""
    content = b'{"posted": "' + b"x" * 50_000 + b'"}'
    received = live.main.fetch(path, request_id, method="POST", body=content)
    assert received.body == b"%d bytes\n" % len(content) + content
    trace = live.main.the_transaction(request_id)
    check_status(live, trace, "ok")
    assert trace.outcome == "completed"
    assert trace.data["http.response.stream.chunks"] == 2
    assert trace.data["http.response.body.size"] == len(received.body)


@pytest.mark.parametrize(
    "path",
    [
        "/stream-database/",
        "/stream-database-async-in-thread/",
        "/stream-database-async-view-in-thread/",
    ],
)
def test_query_in_a_generator(live: Live, request_id: str, path: str) -> None:
    """A query that a generator makes is a child of the span around it.

    An async one makes it with asgiref's `sync_to_async`, as the ORM's async methods do;
    what that needs to know of the request is in the context, too.
    """
    need_asyncio(live, path)
    assert live.main.fetch(path, request_id).body == b"42\n"
    trace = live.main.the_transaction(request_id)
    assert trace.named("generator").parent_span_id == trace.span_id
    assert trace.named("SELECT 42").parent_span_id == trace.named("generator").span_id
    assert trace.named("SELECT 42").op == "db"


def session_counts(running: Running) -> "Counter[str]":
    """How requests' sessions ended, as far as they have: exited, errored, crashed."""
    running.flush()
    counts: "Counter[str]" = Counter()
    for session in running.sink.sessions():
        for aggregate in session["aggregates"]:
            counts.update({key: n for key, n in aggregate.items() if key != "started"})
    return counts


def wait_for_session(running: Running) -> "Counter[str]":
    # They are sent when asked for, and a request's ends after its transaction.
    for _ in range(100):
        counts = session_counts(running)
        if counts:
            return counts
    raise AssertionError("no session:\n" + running.sink.describe())


def forget_sessions(running: Running) -> None:
    running.flush()
    running.sink.clear()


def test_session(live: Live, request_id: str) -> None:
    """The release-health session of a request lasts as long as its transaction."""
    forget_sessions(live.main)
    with Gate() as gate, live.main.open(f"/stream/?gate={gate.port}", request_id) as response:
        gate.wait_until_reached()
        if live.server.concurrent:
            assert session_counts(live.main) == {}
        gate.open()
        response.read()
    assert wait_for_session(live.main) == {"exited": 1}


def test_session_of_a_stream_that_fails(live: Live) -> None:
    """It counts as the session of a view that fails."""
    counts = []
    for path, fetch in (
        ("/error/", live.main.fetch),
        ("/stream-fails/", live.main.fetch_failing),
    ):
        forget_sessions(live.main)
        fetch(path, uuid.uuid4().hex)
        counts.append(wait_for_session(live.main))
    assert counts[0] == counts[1]
    assert counts[0] != {"exited": 1}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/plain/"),
        ("HEAD", "/plain/"),
        ("GET", "/error/"),
        ("GET", "/missing/"),
        ("GET", "/stream/"),
        ("HEAD", "/stream/"),
        ("GET", "/stream-async/"),
        ("HEAD", "/stream-async/"),
        ("GET", "/stream-async-view/"),
        ("GET", "/plain-async/"),
        ("GET", "/error-async/"),
        ("GET", "/stream-fails/"),
        ("GET", "/stream-fails-async/"),
        ("GET", "/stream-not-modified/"),
        ("GET", "/stream-database/"),
        ("GET", "/stream-database-async-in-thread/"),
        ("GET", "/stream-database-async-view-in-thread/"),
        ("GET", "/stream-async-view-sync-body/"),
        ("GET", "/file/"),
        ("HEAD", "/file/"),
        ("GET", "/file-in-memory/"),
    ],
)
def test_client_receives_the_same(live: Live, request_id: str, method: str, path: str) -> None:
    """Status, headers and body are those without Sentry, and those with stock."""
    if "fails" in path and not live.server.ends_failed:
        pytest.skip("the client waits for ever, with and without Sentry")
    if "async" in path and "database" in path and not live.server.asyncio_threads:
        pytest.skip("it hangs, with and without us")
    received = live.main.fetch(path, request_id, method)
    for integration in "none", "stock":
        other = live.other(integration).fetch(path, request_id, method)
        assert received.status == other.status
        assert received.comparable_headers == other.comparable_headers
        assert received.body == other.body
        assert received.complete == other.complete
