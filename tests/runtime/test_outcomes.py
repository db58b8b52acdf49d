"""How a response ended, as the ingest is told."""

import gc
import threading

import pytest
import sentry_sdk
from django.http import FileResponse, StreamingHttpResponse
from harness import TRACE_HEAD, Exchange, start_span, static_status
from views import serve

from vendored_integration import DjangoIntegration
from vendored_integration.wsgi import SentryWsgiMiddleware

TIMES = (
    "http.response.stream.time_to_first_chunk",
    "http.response.stream.produce_time",
    "http.response.stream.send_time",
    "http.server.return_time",
)


def streaming(*chunks, headers=None, status=200):
    """A view whose streaming response makes a span for each chunk."""

    def view(request):
        def body():
            for number, chunk in enumerate(chunks):
                with start_span(f"chunk {number}"):
                    if isinstance(chunk, BaseException):
                        raise chunk
                    yield chunk

        return StreamingHttpResponse(body(), headers=headers, status=status)

    return view


def test_completed(sentry, lifecycle):
    """A stream that was read to its end: all spans, all data, status from HTTP."""
    exchange = Exchange(serve(streaming(b"a", b"bc", b"def")), "/export")
    assert exchange.read() == b"abcdef"
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.status == "ok"
    assert root.data["http.response.stream.chunks"] == 3
    assert root.data["http.response.body.size"] == 6
    # Up to 2.11 the SDK itself does not send it.
    assert root.data.get("http.response.status_code", 200) == 200
    for number in range(3):
        assert root.parent_of(f"chunk {number}") is None
    for name in TIMES:
        assert root.data[name] >= 0
    assert (
        root.data["http.response.stream.time_to_first_chunk"]
        >= root.data["http.server.return_time"]
    )


def test_times_tell_a_slow_client_from_a_slow_generator(init):
    """produce_time is inside next(), send_time between two of them; in milliseconds."""
    sentry = init()
    exchange = Exchange(serve(streaming(b"a", b"b")))
    steps = iter(exchange.response)
    next(steps)
    threading.Event().wait(0.05)  # the client is slow here
    next(steps)
    exchange.close()
    data = sentry.root().data
    assert data["http.response.stream.send_time"] >= 50
    assert data["http.response.stream.produce_time"] < data["http.response.stream.send_time"]


def test_http_error_status_is_kept(sentry, lifecycle):
    """The outcome says how the stream ended, the status what HTTP said."""
    Exchange(serve(streaming(b"no", status=404))).read()
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.status == ("not_found" if lifecycle == "static" else "error")


def test_cancelled(sentry, lifecycle):
    """Closed before its end: the client hung up. Clean-up of the body is still traced."""

    def view(request):
        def body():
            try:
                while True:
                    yield b"event"
            finally:
                with start_span("clean up"):
                    pass

        return StreamingHttpResponse(body())

    exchange = Exchange(serve(view))
    steps = iter(exchange.response)
    next(steps), next(steps)
    exchange.close()
    root = sentry.root()
    assert root.outcome == "cancelled"
    assert root.status == static_status(lifecycle, "cancelled")
    assert root.data["http.response.stream.chunks"] == 2
    assert root.parent_of("clean up") is None
    assert not sentry.errors()


def test_failed(sentry, lifecycle):
    """The body raised: one event, in the trace, and the same error for the server."""
    error = ValueError("half-way")
    exchange = Exchange(serve(streaming(b"a", error)))
    with pytest.raises(ValueError, match="half-way") as caught:
        exchange.read()
    assert caught.value is error
    root = sentry.root()
    assert root.outcome == "failed"
    assert root.status == static_status(lifecycle, "internal_error")
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id
    assert event["transaction"] == root.name
    assert event["exception"]["values"][-1]["mechanism"]["handled"] is False
    # (the event's span is the chunk's, or the root once that has been left)
    assert event["contexts"]["trace"]["span_id"] in root.span_ids


def test_error_in_close_is_reported_and_raised(sentry, lifecycle):
    """Not even an AttributeError of a response's close() is swallowed."""

    class Response(list):
        def close(self):
            raise AttributeError("in close")

    def app(environ, start_response):
        start_response("200 OK", [])
        return Response([b"a"])

    exchange = Exchange(SentryWsgiMiddleware(app, finish_on="close"))
    assert b"".join(exchange.response) == b"a"
    with pytest.raises(AttributeError, match="in close"):
        exchange.close()
    root = sentry.root()
    assert root.status == static_status(lifecycle, "internal_error")
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id


def test_error_in_close_after_failed_body(sentry):
    """Both errors are reported, both in the request's trace."""

    class Body:
        def __iter__(self):
            yield b"a"
            raise ValueError("in body")

        def close(self):
            raise KeyError("in close")

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    exchange = Exchange(SentryWsgiMiddleware(app))
    with pytest.raises(KeyError, match="in close"):
        exchange.read()
    root = sentry.root()
    assert root.outcome == "failed"
    assert [event["exception"]["values"][-1]["type"] for event in sentry.errors()] == [
        "ValueError",
        "KeyError",
    ]
    for event in sentry.errors():
        assert event["contexts"]["trace"]["trace_id"] == root.trace_id
        assert event["request"]["url"] == "http://localhost/"


def test_timed_out(init, lifecycle):
    """Past response_timeout the transaction is sent, while the response stays open."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.2))
    exchange = Exchange(serve(streaming(b"a", b"b", b"c")))
    steps = iter(exchange.response)
    next(steps)
    root = sentry.root()
    assert root.outcome == "timed_out"
    assert root.status == static_status(lifecycle, "deadline_exceeded")
    assert root.data["http.response.stream.chunks"] == 1
    # The rest of the body goes on as if nothing had happened, and tells nothing new.
    assert list(steps) == [b"b", b"c"]
    exchange.close()
    again = sentry.root()
    assert (again.span_id, again.outcome) == (root.span_id, "timed_out")
    assert again.data["http.response.stream.chunks"] == 1


def test_error_after_the_deadline_is_in_the_trace(init, lifecycle):
    """The transaction is gone by then, but not its trace, nor the request's data."""
    sentry = init(lifecycle, DjangoIntegration(response_timeout=0.1))
    exchange = Exchange(serve(streaming(b"a", ValueError("late"))), "/late")
    steps = iter(exchange.response)
    next(steps)
    root = sentry.root()
    with pytest.raises(ValueError, match="late"):
        next(steps)
    exchange.close()
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id
    assert event["request"]["url"] == "http://localhost/late"
    assert sentry.root().outcome == "timed_out"


def test_deadline_counts_from_the_return(init):
    """However long the view has taken: its stream has the whole response_timeout."""
    timeout = 2.0
    sentry = init(integration=DjangoIntegration(response_timeout=timeout))

    def view(request):
        threading.Event().wait(timeout)
        return streaming(b"a")(request)

    exchange = Exchange(serve(view))
    with pytest.raises(TimeoutError):
        sentry.root(timeout=0.3)
    assert exchange.read() == b"a"
    assert sentry.root().outcome == "completed"


def test_response_timeout_none_never_ends_it(init):
    """None: no deadline at all."""
    sentry = init(integration=DjangoIntegration(response_timeout=None))
    exchange = Exchange(serve(streaming(b"a")))
    steps = iter(exchange.response)
    next(steps)
    with pytest.raises(TimeoutError):
        sentry.root(timeout=0.3)
    exchange.close()
    assert sentry.root().outcome == "cancelled"


def test_abandoned(sentry, lifecycle):
    """Dropped without close(): the garbage collector tells, not the deadline."""
    exchange = Exchange(serve(streaming(b"a", b"b")))
    next(iter(exchange.response))
    exchange.response = None
    gc.collect()
    root = sentry.root()
    assert root.outcome == "abandoned"
    assert root.status == static_status(lifecycle, "aborted")
    assert not sentry.errors()


def test_evicted(init, lifecycle):
    """At more than max_open_responses open, the oldest is finished at once, and lives on."""
    sentry = init(lifecycle, DjangoIntegration(max_open_responses=2))
    app = serve(streaming(b"a", b"b"))
    exchanges = [Exchange(app, f"/{number}") for number in range(3)]
    root = sentry.root()
    assert root.outcome == "evicted"
    assert root.status == static_status(lifecycle, "aborted")
    assert [exchange.read() for exchange in exchanges] == [b"ab"] * 3
    sentry.wait_for(lambda: len(sentry.roots()) == 3)
    assert sorted(root.outcome for root in sentry.roots()) == [
        "completed",
        "completed",
        "evicted",
    ]


def test_never_iterated_is_not_cancelled(init):
    """A server does not iterate the response to HEAD, or a 304."""
    sentry = init(integration=DjangoIntegration(**TRACE_HEAD))
    Exchange(serve(streaming(b"a")), method="HEAD").close()
    assert sentry.root().outcome == "completed"
    assert sentry.root().status == "ok"


def test_head_that_is_iterated_in_part_is_not_cancelled(init):
    """Some servers take the first chunk of a HEAD response before they close it."""
    sentry = init(integration=DjangoIntegration(**TRACE_HEAD))
    exchange = Exchange(serve(streaming(b"a", b"b")), method="HEAD")
    next(iter(exchange.response))
    exchange.close()
    assert sentry.root().outcome == "completed"


@pytest.mark.parametrize(
    ("length", "outcome"), [("2", "completed"), ("3", "cancelled"), ("x", "cancelled")]
)
def test_content_length_that_was_sent_is_complete(init, length, outcome):
    """Servers stop at Content-Length, without asking for the chunk after the last."""
    sentry = init()
    exchange = Exchange(serve(streaming(b"a", b"b", b"c", headers={"Content-Length": length})))
    steps = iter(exchange.response)
    next(steps), next(steps)
    exchange.close()
    assert sentry.root().outcome == outcome


def test_file_response_without_file_wrapper(sentry, tmp_path):
    """A server without wsgi.file_wrapper iterates a file response as any other."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    exchange = Exchange(serve(lambda request: FileResponse(path.open("rb"))))
    assert exchange.read() == b"x" * 10_000
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.body.size"] == 10_000


def test_transaction_of_the_view_is_left_alone(init):
    """One that is open when the view returns is neither the request's nor ended with it."""
    sentry = init()

    def view(request):
        mine = sentry_sdk.start_transaction(op="export", name="export")
        mine.__enter__()
        return StreamingHttpResponse(body(mine))

    def body(mine):
        yield b"a"
        mine.__exit__(None, None, None)
        yield b"b"

    exchange = Exchange(serve(view), "/path")
    steps = iter(exchange.response)
    assert next(steps) == b"a"
    exchange.close()
    root = sentry.root()
    assert (root.op, root.outcome) == ("http.server", "cancelled")


def test_unsampled(init, lifecycle):
    """Nothing is sent for a transaction that is not sampled, and nothing breaks."""
    sentry = init(lifecycle, traces_sample_rate=0)
    exchange = Exchange(serve(streaming(b"a", ValueError("seen"))))
    with pytest.raises(ValueError, match="seen"):
        exchange.read()
    assert not sentry.roots()
    assert len(sentry.errors()) == 1


def test_without_tracing(init):
    """traces_sample_rate=None: errors are still reported, with the request."""
    sentry = init(traces_sample_rate=None)
    exchange = Exchange(serve(streaming(b"a", ValueError("seen"))), "/path")
    with pytest.raises(ValueError, match="seen"):
        exchange.read()
    assert not sentry.roots()
    (event,) = sentry.errors()
    assert event["request"]["url"] == "http://localhost/path"


def test_session_ends_with_the_response(init):
    """Release health: one session a request, errored if the stream fails."""
    sentry = init(auto_session_tracking=True)
    Exchange(serve(streaming(b"a"))).read()
    failing = Exchange(serve(streaming(b"a", ValueError("no"))))
    sentry_sdk.get_client().session_flusher.flush()
    count = sum(
        aggregate.get("exited", 0)
        for session in sentry.sessions()
        for aggregate in session["aggregates"]
    )
    assert count == 1
    with pytest.raises(ValueError, match="no"):
        failing.read()
    sentry_sdk.get_client().session_flusher.flush()
    last = sentry.sessions()[-1]["aggregates"]
    assert sum(a.get("errored", 0) + a.get("crashed", 0) for a in last) == 1


@pytest.mark.fault(
    "`close()` comes twice",
    client="what it had got by then",
    log="nothing",
    sink="one transaction, with the outcome of the first",
)
def test_second_close_changes_nothing(sentry, caplog):
    """Outcome, status and counters are those of the first ending."""
    exchange = Exchange(serve(streaming(b"a", b"b")))
    next(iter(exchange.response))
    exchange.close()
    exchange.close()
    root = sentry.root()
    assert root.outcome == "cancelled"
    assert root.data["http.response.stream.chunks"] == 1
    assert not caplog.records
