"""What must hold on every server, in both lifecycles; see conftest.py."""

import contextlib
import json
import time
import uuid

import pytest
from running import FILE_CONTENT, STREAM_OP

STREAMS = ["/stream/", "/stream-async/", "/stream-async-view/", "/stream-async-view-sync-body/"]
CHUNKS = [b"chunk 0\n", b"chunk 1\n", b"chunk 2\n"]

STREAM_TIMES = [
    "http.response.stream.time_to_first_chunk",
    "http.response.stream.produce_time",
    "http.response.stream.send_time",
    "http.response.stream.longest_gap",
    "http.server.return_time",
]

every_stream = pytest.mark.parametrize("path", STREAMS)


def need_concurrency(live, path):
    if not live.server.concurrent:
        pytest.skip("one request at a time")
    need_asyncio(live, path)


def need_asyncio(live, path):
    if "async" in path and not live.server.asyncio:
        pytest.skip("greenlets and asyncio")


def goes_through(live, path):
    """Whether Django hands a body's chunks on one by one: it runs the other kind to its end."""
    return (live.server.interface == "asgi") == (path in ("/stream-async/", "/stream-async-view/"))


def check_chunk_spans(trace):
    spans = [span for span in trace.spans if span.name.startswith("chunk")]
    assert [span.name for span in spans] == ["chunk 0", "chunk 1", "chunk 2"]
    for span in spans:
        assert span.parent_span_id == trace.span_id
        assert trace.start <= span.start <= span.end <= trace.end


@every_stream
def test_complete_stream(live, request_id, path):
    """The spans of a generator are the transaction's children; it lasts until the end.

    Stock ends the transaction before the first chunk: the spans are lost, and the
    duration is the view's. So for an async generator, which Django runs in a loop under
    WSGI; and for a sync one under ASGI, which it runs to its end in a thread.
    """
    sent_at = time.monotonic()
    with live.main.held(path, request_id) as (response, gate):
        held_from = time.monotonic()
        time.sleep(0.05)  # waits for nothing: a time that must show up in the data
        held = (time.monotonic() - held_from) * 1000
        held_until = time.time()
        gate.open()
        received = response.read()
    elapsed = (time.monotonic() - sent_at) * 1000

    assert received.body == b"".join(CHUNKS)
    trace = live.main.the_transaction(request_id)
    check_chunk_spans(trace)
    live.main.check_outcome(trace, "completed", "ok")
    assert (trace.name, trace.op) == (path, STREAM_OP)
    assert trace.end >= held_until
    assert trace.data["http.response.stream.chunks"] == 3
    assert trace.data["http.response.body.size"] == len(received.body)
    assert "http.response.stream.open_db_connections" not in trace.data
    for name in STREAM_TIMES:
        # Milliseconds. The server cannot have taken longer than the client waited.
        assert 0 <= trace.data[name] <= elapsed, name
    assert trace.data["http.response.stream.produce_time"] >= held
    if goes_through(live, path):
        assert trace.data["http.response.stream.longest_gap"] >= held


@every_stream
def test_streams_one_after_the_other(live, path):
    """Nothing of a request is left in its thread, or in its connection, for the next one."""
    request_ids = [uuid.uuid4().hex for _ in range(3)]
    assert live.main.fetch_on_one_connection(path, request_ids) == [b"".join(CHUNKS)] * 3
    traces = [live.main.the_transaction(request_id) for request_id in request_ids]
    assert len({trace.trace_id for trace in traces}) == 3
    for trace in traces:
        check_chunk_spans(trace)


@pytest.mark.parametrize("path", ["/plain/", "/plain-async/"])
def test_response_that_is_not_a_stream(live, request_id, path):
    """An ordinary response has an ordinary transaction, with no data about streaming."""
    assert live.main.fetch(path, request_id).body == b"plain\n"
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, None, "ok")
    assert trace.op == "http.server"
    assert [name for name in trace.data if "response.stream." in name] == []


@pytest.mark.parametrize("path", ["/stream-fails/", "/stream-fails-async/"])
def test_error_in_mid_stream(live, request_id, path):
    """One error, one event, in the trace of a transaction that failed.

    The server's own logger reports the error, too. The SDK must recognise it as the one
    that it has seen, whatever context each of them ran in. Its stack trace has no frame of
    the integration: Sentry groups by frames. It carries the request, what the view has said
    about it, and the error's chain of causes.
    """
    live.main.fetch_failing(path + "?page=2", request_id, method="POST", body=b'{"posted": 1}')
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, "failed", "internal_error")
    event = live.main.check_one_error(trace, "RuntimeError", "in mid-stream of " + request_id)
    # Where Django itself was handling an error, that comes before.
    cause, value = event["exception"]["values"][-2:]
    assert (cause["type"], cause["value"]) == ("LookupError", "cause in " + request_id)
    frames = value["stacktrace"]["frames"]
    assert frames[-1]["function"] == "stream_fails"
    modules = [frame["module"] for frame in frames]
    assert [name for name in modules if name.startswith(("sentry", "vendored"))] == []
    request = event["request"]
    assert request["method"] == "POST"
    assert request["url"].endswith(path)
    assert request["query_string"] == "page=2"
    assert request["data"] == {"posted": 1}
    assert event["user"]["id"] == "user of " + request_id
    assert event["tags"]["tagged"] == "in the view"
    crumbs = [crumb.get("message") for crumb in event["breadcrumbs"]["values"]]
    assert [text for text in crumbs if text and text.startswith("in the")] == [
        "in the view",
        "in the body",
    ]


@pytest.mark.parametrize("path", ["/error/", "/error-async/"])
def test_error_in_the_view(live, request_id, path):
    """What stock gets right stays right: an error before there is a response."""
    assert live.main.fetch(path, request_id).status == 500
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, None, "internal_error")
    live.main.check_one_error(trace, "RuntimeError", "in the view of " + request_id)


def test_client_hangs_up(live, request_id):
    """The server's write fails, it closes the response early: `cancelled`, no error."""
    if live.server.interface == "asgi":
        pytest.skip("see test_asgi.py: Django runs such a body to its end first")
    with live.main.held("/stream-endless/", request_id) as (response, gate):
        response.read_headers()
        response.hang_up()
        gate.open()
        trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, "cancelled", "cancelled")
    # What the generator does when it is closed belongs to the request, too.
    assert trace.named("clean up after GeneratorExit").parent_span_id == trace.span_id
    errors = [event["exception"]["values"][-1]["value"] for event in live.main.sink.errors()]
    # uWSGI raises an OSError of its own and shows it to sys.excepthook, which the SDK
    # watches. So it is with stock.
    allowed = ["write error"] if live.server.needs == "uwsgi" else []
    assert [error for error in errors if error not in allowed] == []


@pytest.mark.parametrize(
    ("method", "path"),
    [*(("HEAD", path) for path in [*STREAMS, "/file/"]), ("GET", "/stream-not-modified/")],
)
def test_response_without_a_body(live, request_id, method, path):
    """A server need not iterate the body for HEAD, nor for a 304; that is no hang-up."""
    assert live.main.fetch(path, request_id, method=method).body == b""
    live.main.check_outcome(live.main.the_transaction(request_id), "completed", "ok")


@pytest.mark.parametrize("path", ["/file/", "/file-in-memory/"])
def test_file(live, request_id, path):
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
    assert received.body == (FILE_CONTENT if path == "/file/" else b"in memory" * 1000)
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, "completed", "ok")
    if path == "/file/" and live.server.backpressure:
        assert trace.end >= unread_until


@every_stream
def test_deadline(live, request_id, path):
    """A stream is open longer than `response_timeout`: its transaction arrives meanwhile.

    It arrives once: what happens at close() changes nothing any more.
    """
    running = live.get("impatient")
    with running.held(path + "?n=2", request_id) as (response, gate):
        if live.server.threads:
            trace = running.wait_for_transaction(request_id)
            running.check_outcome(trace, "timed_out", "deadline_exceeded")
        else:
            # Its deadline passes; there is no thread and no other request to notice.
            time.sleep(0.5)
        gate.open()
        assert response.read().body == b"".join(CHUNKS[:2])
    after_close = running.the_transaction(request_id)
    if live.server.threads:
        assert (after_close.status, after_close.data) == (trace.status, trace.data)
    else:
        assert after_close.outcome in ("timed_out", "completed")


@every_stream
def test_too_many_open_responses(live, path):
    """At more than `max_open_responses` the oldest is `evicted`; its stream goes on."""
    need_concurrency(live, path)
    running = live.get("crowded")
    oldest, newest = uuid.uuid4().hex, uuid.uuid4().hex
    with running.held(path, oldest) as (oldest_response, oldest_gate), running.held(
        path, newest
    ) as (newest_response, newest_gate):
        running.check_outcome(running.wait_for_transaction(oldest), "evicted", "aborted")
        newest_gate.open()
        newest_response.read()
        oldest_gate.open()
        assert oldest_response.read().body == b"".join(CHUNKS)
    assert running.the_transaction(oldest).outcome == "evicted"
    assert running.the_transaction(newest).outcome == "completed"


@pytest.mark.fault(
    "`close()` never comes",
    client="what the server sends instead",
    log="nothing",
    sink="`abandoned`, as soon as the response is garbage",
)
@pytest.mark.parametrize("around", ["drop", "drop-started"])
def test_abandoned_response(live, request_id, around):
    """A middleware forgets the response without close(): its transaction is not lost."""
    if live.server.interface == "asgi":
        pytest.skip("there is no response to forget")
    before = len(live.main.process.output)
    received = live.main.fetch("/stream/", request_id, headers={"X-Around": around})
    assert received.body == b"dropped\n"
    live.main.check_outcome(live.main.the_transaction(request_id), "abandoned", "aborted")
    assert live.main.sink.errors() == []
    assert "Traceback" not in live.main.process.output[before:]


LOG_CONTEXTS = [path.replace("/stream", "/stream-log-context") for path in STREAMS]


def log_context(name):
    """What is seen by the view and by two steps of the generator if this is bound."""
    return [{"structlog": name, "contextvars": name}] * 3


def lines_of(response):
    return [json.loads(line) for line in response.body.splitlines()]


@pytest.mark.parametrize("path", LOG_CONTEXTS)
def test_log_context(live, request_id, path):
    """A generator sees what a middleware bound around the view; the next one does not."""
    bound = live.main.fetch(path, request_id, headers={"X-Log-Context": "mine"})
    assert lines_of(bound) == log_context("mine")
    # Often enough to meet every thread of the server.
    for _ in range(8):
        assert lines_of(live.main.fetch(path, request_id)) == log_context("-")


@pytest.mark.parametrize("path", LOG_CONTEXTS)
def test_streams_at_the_same_time(live, path):
    """Two generators, with steps in turn, keep spans and bindings apart; ASGI: in one thread."""
    need_concurrency(live, path)
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    with contextlib.ExitStack() as stack:
        held = {
            name: stack.enter_context(
                live.main.held(path, name, headers={"X-Log-Context": "of " + name})
            )
            for name in (first, second)
        }
        for name, (response, gate) in held.items():
            gate.open()
            assert lines_of(response.read()) == log_context("of " + name)
    for name in first, second:
        trace = live.main.the_transaction(name)
        assert [span for span in trace.names() if span.startswith("in ")] == ["in of " + name] * 2
        assert trace.outcome == "completed"


@pytest.mark.parametrize("path", ["/echo/", "/echo-async/"])
def test_request_with_a_body(live, request_id, path):
    """The view reads what is posted, and streams it back."""
    content = b'{"posted": "' + b"x" * 50_000 + b'"}'
    received = live.main.fetch(path, request_id, method="POST", body=content)
    assert received.body == b"%d bytes\n" % len(content) + content
    trace = live.main.the_transaction(request_id)
    live.main.check_outcome(trace, "completed", "ok")
    assert trace.data["http.response.stream.chunks"] == 2
    assert trace.data["http.response.body.size"] == len(received.body)


DATABASES = ["/stream-database/", "/stream-database-async/", "/stream-database-async-view/"]


@pytest.mark.parametrize("path", DATABASES)
def test_query_in_a_generator(live, request_id, path):
    """A query that a generator makes is a child of the span around it.

    An async one makes it with asgiref's `sync_to_async`, as the ORM's async methods do;
    what that needs to know of the request is in the context, too. The sync views have opened
    the connection that their streams keep.
    """
    need_asyncio(live, path)
    assert live.main.fetch(path, request_id).body == b"42\n"
    trace = live.main.the_transaction(request_id)
    assert trace.named("generator").parent_span_id == trace.span_id
    assert trace.named("SELECT 42").parent_span_id == trace.named("generator").span_id
    assert trace.named("SELECT 42").op == "db"
    opened = live.server.interface == "wsgi" and path != "/stream-database-async-view/"
    connections = trace.data.get("http.response.stream.open_db_connections")
    assert connections == (1 if opened else None)


def session_of(running, fetch, path):
    """How the session of a request has ended: exited, errored, crashed."""
    running.flush()
    running.sink.clear()
    fetch(path, uuid.uuid4().hex)
    # They are sent when asked for, and a request's ends after its transaction.
    for _ in range(100):
        running.flush()
        for session in running.sink.sessions():
            (counts,) = session["aggregates"]
            return {key: number for key, number in counts.items() if key != "started"}
    raise AssertionError("no session:\n" + running.sink.describe())


def test_session(live):
    """A stream has a release-health session; one that fails counts as a view that fails."""
    assert session_of(live.main, live.main.fetch, "/stream/") == {"exited": 1}
    failed = session_of(live.main, live.main.fetch, "/error/")
    assert failed != {"exited": 1}
    assert session_of(live.main, live.main.fetch_failing, "/stream-fails/") == failed


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("HEAD", path) for path in ("/plain/", "/stream/", "/stream-async/", "/file/")),
        *(("GET", path) for path in ("/plain/", "/plain-async/", "/error/", "/error-async/")),
        *(("GET", path) for path in ("/missing/", "/file/", "/file-in-memory/")),
        *(("GET", path) for path in ("/stream-fails/", "/stream-fails-async/")),
        *(("GET", path) for path in [*STREAMS, *DATABASES, "/stream-not-modified/"]),
    ],
)
def test_client_receives_the_same(live, request_id, method, path):
    """Status, headers and body are those without Sentry, and those with stock."""
    if "fails" in path and not live.server.ends_failed:
        pytest.skip("the client waits for ever, with and without Sentry")
    if "database-async" in path and not live.server.asyncio_threads:
        pytest.skip("it hangs, with and without us")
    received = live.main.fetch(path, request_id, method=method)
    for integration in "none", "stock":
        other = live.get(integration, integration).fetch(path, request_id, method=method)
        assert received.comparable == other.comparable
