"""What has gone wrong before, with this project's prototype, the SDK or others."""

import contextlib
import contextvars
import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path

import pytest
import sentry_sdk.integrations.wsgi as stock
from django.db import connection
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from harness import Exchange, start_span
from views import serve

from vendored_integration.wsgi import SentryWsgiMiddleware

HERE = Path(__file__).parent


def python(code, *args, **environ):
    """Run code in a fresh interpreter, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def stream(*chunks):
    """A streaming view with these chunks."""

    def view(request):
        def body():
            for chunk in chunks:
                with start_span("chunk"):
                    yield chunk

        return StreamingHttpResponse(body())

    return view


def application(make_body, django):
    """A traced application, of Django or not, that streams what a function makes."""
    if django:
        return serve(lambda request: StreamingHttpResponse(make_body()))

    def app(environ, start_response):
        start_response("200 OK", [])
        return make_body()

    return SentryWsgiMiddleware(app)


def test_stock_middleware_gives_one_transaction(sentry):
    """Trap 1: the variable that tells of an outer middleware is shared with stock's."""
    assert Exchange(stock.SentryWsgiMiddleware(serve(stream(b"a")))).read() == b"a"
    # (in the stream lifecycle stock's loses the body's spans to traces of their own)
    assert [root.name for root in sentry.roots() if root.name != "chunk"] == ["/"]
    sentry.clear()
    # The other way round nothing is lost of the stream.
    Exchange(SentryWsgiMiddleware(stock.SentryWsgiMiddleware(serve(stream(b"a"))))).read()
    assert "chunk" in sentry.root().names()
    assert sentry.root().outcome == "completed"


@pytest.mark.parametrize("django", [True, False])
def test_body_that_closes_its_own_response(sentry, django):
    """Trap 3: close() within a step, where the context is entered; a token can be reset there."""
    variable = contextvars.ContextVar("variable")

    class Body:
        def __init__(self):
            self.token = variable.set("the view's")

        def __iter__(self):
            return self

        def __next__(self):
            exchange.close()
            return b"a"

        def close(self):
            variable.reset(self.token)

    exchange = Exchange(application(Body, django))
    assert next(iter(exchange.response)) == b"a"
    assert sentry.root().outcome == "completed"  # nothing had been sent, nothing was cut short


@pytest.mark.fault(
    "`close()` comes from another thread, in mid-chunk",
    client="what it had got by then",
    log="nothing",
    sink="one transaction, at once",
)
@pytest.mark.parametrize("django", [True, False])
def test_close_from_another_thread_in_mid_next(sentry, caplog, django):
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

    exchange = Exchange(application(Body, django))
    thread = threading.Thread(target=list, args=(exchange.response,))
    thread.start()
    assert entered.wait(10)
    exchange.close()
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
        Exchange(application(Response, django=False)).read()
    assert sentry.root().names() == ["in iter"]
    assert sentry.root().outcome == ("failed" if fails else "completed")
    assert len(sentry.errors()) == fails


def test_closed_after_the_next_request_has_begun(sentry):
    """Trap 9: a response is finished from its own context."""
    first = Exchange(serve(stream(b"a")), "/first")

    def view(request):
        first.read()
        with start_span("of the second"):
            return HttpResponse(b"b")

    Exchange(serve(view), "/second").read()
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    by_outcome = {root.outcome: root for root in sentry.roots()}
    assert "chunk" in by_outcome["completed"].names()
    assert "of the second" in by_outcome[None].names()
    assert "of the second" not in by_outcome["completed"].names()


@pytest.mark.parametrize(
    ("first", "errors"),
    [("sentry_sdk.integrations.django", 1), ("vendored_integration", 0)],
)
def test_stock_set_up_first_is_reported_once(first, errors):
    """Trap 10: ours does nothing then, which must be said, loudly and once."""
    out = python(
        f"""
        import logging, sys
        import sentry_sdk
        from {first} import DjangoIntegration as First
        logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
        sentry_sdk.init(integrations=[First()])
        from vendored_integration import DjangoIntegration
        for _ in range(2):
            sentry_sdk.init(integrations=[DjangoIntegration()])
        """
    )
    assert out.count("ERROR The stock DjangoIntegration was set up earlier") == errors
    assert len(out.splitlines()) == errors


@pytest.mark.parametrize("streaming", [False, True])
def test_environ_is_let_go(init, streaming):
    """Trap 15: uWSGI reuses it; nothing of ours holds it after close()."""
    init()

    class Environ(dict):
        pass

    def app(environ, start_response):
        start_response("200 OK", [])
        return iter([b"a"]) if streaming else [b"a"]

    environ = Environ(Exchange(lambda environ, start: []).environ)
    gone = weakref.ref(environ)
    response = SentryWsgiMiddleware(app)(environ, lambda *args: None)
    response.close()
    del environ
    gc.collect()
    assert gone() is None
    assert response is not None


def test_dropped_response_is_free_at_once(init):
    """Trap 20: neither the deadline nor the registry keeps it alive."""
    sentry = init()
    exchange = Exchange(serve(stream(b"a")))
    gone = weakref.ref(exchange.response)
    exchange.response = None
    assert gone() is None  # by reference counting: there is no cycle
    assert sentry.root().outcome == "abandoned"


def test_closed_response_leaves_nothing_behind(init):
    """Trap 12: what a request held is free after its close(), without the collector."""
    init()

    class Held:
        pass

    variable = contextvars.ContextVar("variable")
    gone = []

    def app(environ, start_response):
        held = Held()
        gone.append(weakref.ref(held))
        variable.set(held)
        start_response("200 OK", [])
        return iter([b"a"])

    gc.collect()
    gc.disable()
    try:
        contextvars.Context().run(lambda: Exchange(SentryWsgiMiddleware(app)).read())
        assert gone[0]() is None
    finally:
        gc.enable()


def test_response_class_has_upstream_s_name(init):
    """Trap 19: code that looks for upstream's response class finds ours."""
    from vendored_integration._vendor.wsgi import _ScopedResponse

    init()
    exchange = Exchange(SentryWsgiMiddleware(lambda environ, start: iter([])))
    assert isinstance(exchange.response, _ScopedResponse)
    exchange.close()


ERROR_EVENT = """
    import json, sys
    sys.path[:0] = [{here!r}]
    which = sys.argv[1]
    import conftest
    from harness import Exchange, Received
    from views import serve
    import sentry_sdk
    from django.db import connection
    from django.http import HttpResponse, StreamingHttpResponse
    if which == "stock":
        from sentry_sdk.integrations.django import DjangoIntegration
        from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
    else:
        from vendored_integration import DjangoIntegration
        from vendored_integration.wsgi import SentryWsgiMiddleware
    received = Received()
    sentry_sdk.init(
        dsn="http://a@127.0.0.1:9/1", transport=received, traces_sample_rate=1.0,
        integrations=[DjangoIntegration(middleware_spans=True, cache_spans=True)],
        enable_db_query_source=True, db_query_source_threshold_ms=0,
        attach_stacktrace=True, project_root={root!r},
    )

    def body():
        yield b"a"
        connection.cursor().execute("select 1")
        sentry_sdk.capture_message("attach_stacktrace")
        raise ValueError("in the body")

    def view(request):
        if request.path == "/stream":
            return StreamingHttpResponse(body())
        connection.cursor().execute("select 2")
        raise ValueError("in the view")

    def app(environ, start_response):
        start_response("200 OK", [])
        return body()

    for application, path in ((serve(view), "/stream"), (serve(view), "/"), (SentryWsgiMiddleware(app), "/wsgi")):
        try:
            Exchange(application, path).read()
        except ValueError:
            pass
    frames = []
    for event in received.errors():
        stacks = [value["stacktrace"] for value in (event.get("exception") or {{}}).get("values", [])]
        stacks += [thread["stacktrace"] for thread in (event.get("threads") or {{}}).get("values", []) if thread.get("stacktrace")]
        frames.append([(frame["module"], frame["function"], frame.get("in_app")) for stack in stacks for frame in stack["frames"]])
    sources = [
        (span["data"].get("code.namespace"), span["data"].get("code.function"))
        for event in received.transactions() for span in event["spans"]
        if span.get("op") == "db" and (span.get("description") or "").startswith("select")
    ]
    print(json.dumps([frames, sources]))
"""


def test_frames_are_those_of_stock(tmp_path):
    """Trap 17: the same frames in errors and stack traces, and the same query sources.

    With ``project_root`` above the package, as in an editable install: there the
    frames of site-packages are not left out for where they are.
    """
    import vendored_integration

    root = str(Path(vendored_integration.__file__).parents[1])
    tests = str(HERE.parent)
    code = textwrap.dedent(ERROR_EVENT).format(here=str(HERE), root=root)
    prelude = (
        f"import sys; sys.path.insert(0, {tests!r}); import conftest; del sys.modules['conftest']\n"
        # Older releases of the SDK, on Python 3.14 and later.
        "import warnings; warnings.filterwarnings('ignore', '.asyncio.iscoroutinefunction')\n"
    )
    events = {which: json.loads(python(prelude + code, which)) for which in ("stock", "ours")}
    stock_frames, stock_sources = events["stock"]
    our_frames, our_sources = events["ours"]
    assert our_frames == stock_frames
    assert len(our_frames) == 5
    assert all(frames for frames in our_frames)
    # Stock loses the body's query; the view's is there with both.
    assert all(source in our_sources for source in stock_sources)
    assert len(our_sources) > len(stock_sources) > 0
    assert not [source for source in our_sources if "vendored" in str(source)]


def test_database_span_is_a_child_of_the_body_s_span(sentry):
    """Parents are what the application says."""

    def view(request):
        def body():
            with start_span("batch"):
                connection.cursor().execute("select 1")
                yield b"a"

        return StreamingHttpResponse(body())

    Exchange(serve(view)).read()
    assert sentry.root().parent_of("select 1") == "batch"


def test_file_response_with_new_streaming_content(sentry, tmp_path):
    """Trap 8: assigning streaming_content takes a file response out of file_wrapper's way."""
    from wsgiref.util import FileWrapper

    path = tmp_path / "file"
    path.write_bytes(b"x")

    def view(request):
        response = FileResponse(path.open("rb"))
        response.streaming_content = (chunk.upper() for chunk in response.streaming_content)
        return response

    exchange = Exchange(serve(view), **{"wsgi.file_wrapper": FileWrapper})
    assert exchange.read() == b"X"
    assert sentry.root().outcome == "completed"
