"""What has gone wrong before, with this project's prototype, the SDK or others."""

import contextlib
import contextvars
import gc
import os
import threading
import weakref
from wsgiref.util import FileWrapper

import pytest
import sentry_sdk
import sentry_sdk.integrations.wsgi as stock
from django.db import connection
from django.http import FileResponse
from support.apps import WAYS, serve, streaming_app
from support.program import run
from support.sdk import start_span
from support.wsgi import WsgiClient, make_environ

import vendored_integration
from vendored_integration import DjangoIntegration, trace_stream
from vendored_integration.wsgi import SentryWsgiMiddleware


def one_chunk():
    with start_span("chunk"):
        yield b"a"


both = pytest.mark.parametrize("way", WAYS[:2])


def test_stock_middleware_gives_one_transaction(sentry):
    """Trap 1: the variable that tells of an outer middleware is shared with stock's."""
    app = streaming_app("wsgi-django", one_chunk)
    assert WsgiClient(stock.SentryWsgiMiddleware(app)).read() == b"a"
    # (in the stream lifecycle stock's loses the body's spans to traces of their own)
    assert [root.name for root in sentry.roots() if root.name != "chunk"] == ["/"]
    sentry.clear()
    # The other way round nothing is lost of the stream.
    WsgiClient(SentryWsgiMiddleware(stock.SentryWsgiMiddleware(app))).read()
    assert "chunk" in sentry.root().names()
    assert sentry.root().outcome == "completed"


@both
def test_body_that_closes_its_own_response(sentry, way):
    """Trap 3: close() within a step, where the context is entered; a token can be reset there."""
    variable = contextvars.ContextVar("variable")

    class Body:
        def __init__(self):
            self.token = variable.set("the view's")

        def __iter__(self):
            return self

        def __next__(self):
            client.close()
            return b"a"

        def close(self):
            variable.reset(self.token)

    client = WsgiClient(streaming_app(way, Body))
    client.take()
    assert sentry.root().outcome == "completed"  # nothing had been sent, nothing was cut short


@pytest.mark.fault(
    "`close()` comes from another thread, in mid-chunk",
    client="what it had got by then",
    log="nothing",
    sink="one transaction, at once",
)
@both
def test_close_from_another_thread_in_mid_next(sentry, caplog, way):
    """Trap 3: the context is entered by the thread that iterates."""
    entered, go_on = threading.Event(), threading.Event()

    class Body:
        def __iter__(self):
            return self

        def __next__(self):
            with start_span("step"):
                entered.set()
                assert go_on.wait(10)
            raise StopIteration

    client = WsgiClient(streaming_app(way, Body))
    thread = threading.Thread(target=list, args=(client.response,))
    thread.start()
    assert entered.wait(10)
    client.close()
    root = sentry.root()
    go_on.set()
    thread.join()
    assert root.outcome == "completed"  # nothing had been sent, nothing was cut short
    assert not caplog.records


@pytest.mark.parametrize("fails", [False, True])
def test_iter_runs_in_the_context(init, fails):
    """Trap 4: a response may do all of its work in iter(), and may fail there."""
    sentry = init()

    class Response:
        def __iter__(self):
            with start_span("in iter"):
                if fails:
                    raise ValueError("in iter")
                return iter([b"a"])

    with pytest.raises(ValueError, match="in iter") if fails else contextlib.nullcontext():
        WsgiClient(streaming_app("wsgi-plain", Response)).read()
    assert sentry.root().names() == ["in iter"]
    assert sentry.root().outcome == ("failed" if fails else "completed")
    assert len(sentry.errors()) == fails


@pytest.mark.parametrize(
    ("first", "errors"),
    [("sentry_sdk.integrations.django", 1), ("vendored_integration", 0)],
)
def test_stock_set_up_first_is_reported_once(first, errors):
    """Trap 10: ours does nothing then, which must be said, loudly and once."""
    lines = run(
        f"""
        import logging, sys
        import sentry_sdk
        from {first} import DjangoIntegration as First
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        sentry_sdk.init(integrations=[First()])
        from vendored_integration import DjangoIntegration
        for _ in range(2):
            sentry_sdk.init(integrations=[DjangoIntegration()])
        """,
        prelude="",
    )
    assert len(lines) == errors
    for line in lines:
        assert line.startswith("ERROR The stock DjangoIntegration was set up earlier")


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_request_holds_is_free_after_close(init, no_collector, lifecycle, streaming):
    """Trap 15: its environ, which uWSGI reuses, though the server keeps the response.

    Trap 12: what is in its context, without the collector.
    """
    init(lifecycle)
    with start_span("starts the SDK's own thread"):  # which keeps the scope it is started in
        pass
    variable = contextvars.ContextVar("variable")
    gone = []

    class Held(dict):
        def __init__(self, *args):
            super().__init__(*args)
            gone.append(weakref.ref(self))

    def app(environ, start_response):
        variable.set(Held())
        start_response("200 OK", [])
        return iter([b"a"]) if streaming else [b"a"]

    def serve():
        response = SentryWsgiMiddleware(app)(Held(make_environ()), lambda *args: None)
        response.close()
        return response

    response = contextvars.Context().run(serve)
    if lifecycle == "static":  # else the SDK's own scope has it, and spans wait with that
        gc.collect()
        assert gone[0]() is None
    del response
    if lifecycle == "stream":
        sentry_sdk.get_client().flush()
        gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_response_class_has_upstream_s_name(init):
    """Trap 19: code that looks for upstream's response class finds ours."""
    from vendored_integration._vendor.wsgi import _ScopedResponse

    init()
    client = WsgiClient(SentryWsgiMiddleware(lambda environ, start: iter([])))
    assert isinstance(client.response, _ScopedResponse)
    client.close()


def error_frames(event):
    """The functions in the stack traces of an event; none of them is ours."""
    frames = [
        frame
        for value in (event.get("exception") or event["threads"])["values"]
        for frame in value["stacktrace"]["frames"]
    ]
    assert not [frame for frame in frames if "vendored_integration" in frame["module"]]
    return [frame["function"] for frame in frames]


@both
def test_frames_are_those_of_stock(init, lifecycle, way):
    """Trap 17: in errors, in stack traces, and as the source of a query, none is ours.

    (Sentry groups errors by them.)

    With ``project_root`` above the package and the tests, as in an editable install: there
    the frames of site-packages are not left out for where they are.
    """
    sentry = init(
        lifecycle,
        DjangoIntegration(middleware_spans=True, cache_spans=True),
        enable_db_query_source=True,
        db_query_source_threshold_ms=0,
        attach_stacktrace=True,
        project_root=os.path.commonpath([vendored_integration.__file__, __file__]),
    )

    @trace_stream
    def body_with_query():
        yield b"a"
        connection.cursor().execute("select 1")
        sentry_sdk.capture_message("attach_stacktrace")
        raise ValueError("in the body")

    with pytest.raises(ValueError, match="in the body"):
        WsgiClient(streaming_app(way, body_with_query)).read()
    message, error = map(error_frames, sentry.errors())
    assert "body_with_query" in message
    assert error[-1] == "body_with_query"
    query = sentry.root().named("select 1")
    assert query.data["code.function"] == "body_with_query"

    def view_with_query(request):
        connection.cursor().execute("select 2")
        raise ValueError("in the view")

    WsgiClient(serve(view_with_query)).read()
    assert error_frames(sentry.errors()[-1])[-1] == "view_with_query"
    assert sentry.roots()[-1].named("select 2").data["code.function"] == "view_with_query"


def test_file_response_with_new_streaming_content(sentry, tmp_path):
    """Trap 8: assigning streaming_content takes a file response out of file_wrapper's way."""
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def view(request):
        response = FileResponse(path.open("rb"))
        response.streaming_content = (chunk.upper() for chunk in response.streaming_content)
        return response

    client = WsgiClient(serve(view), **{"wsgi.file_wrapper": FileWrapper})
    assert client.read() == b"X"
    assert sentry.root().outcome == "completed"
