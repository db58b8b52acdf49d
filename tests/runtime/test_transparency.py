"""The application and the server cannot tell that the integration is there."""

import traceback
from wsgiref.util import FileWrapper

import pytest
import sentry_sdk
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from support.apps import serve, wsgi_app
from support.sdk import start_span
from support.wsgi import WsgiClient, make_environ

from vendored_integration.wsgi import SentryWsgiMiddleware


def returning(response):
    """A traced application that returns this object."""
    return SentryWsgiMiddleware(wsgi_app(lambda: response))


class Recorder:
    """A response that records what is done to it, and raises where it is told to."""

    def __init__(self, *chunks, close_error=None):
        self.chunks = chunks
        self.calls = []
        self.close_error = close_error

    def __iter__(self):
        self.calls.append("iter")
        for chunk in self.chunks:
            self.calls.append("next")
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self):
        self.calls.append("close")
        if self.close_error is not None:
            raise self.close_error


def drive(app, steps):
    """Do to a response what the steps say; return what a server sees of it."""
    seen = []
    client = WsgiClient(app)
    iterator = None
    for step in steps:
        try:
            if step == "iter":
                iterator = iter(client.response)
            elif step == "next":
                seen.append(next(iterator))
            else:
                client.close()
        except BaseException as error:
            seen.append((type(error), error.args))
    return seen, client.status, client.headers


SERVERS_DO = {
    "all": ["iter", "next", "next", "next", "close"],
    "hang up": ["iter", "next", "close"],
    "close at once": ["close"],
    "iter and close": ["iter", "close"],
    "close twice": ["iter", "next", "close", "close"],
    "go on after close": ["iter", "next", "close", "next", "next"],
    "next after the end": ["iter", "next", "next", "next", "next", "close"],
    "iter twice": ["iter", "next", "iter", "next", "next", "close"],
}


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("steps", SERVERS_DO.values(), ids=SERVERS_DO)
@pytest.mark.parametrize(
    "last",
    [b"b", ValueError("v"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), OSError(5)],
    ids=lambda last: type(last).__name__,
)
def test_same_calls_same_results(init, steps, last, streaming):
    """Whatever a server does: the same results, and the same calls of the response."""
    init()
    bare, traced = Recorder(b"a", last), Recorder(b"a", last)
    traced.streaming = streaming
    assert drive(returning(traced), steps) == drive(wsgi_app(lambda: bare), steps)
    assert traced.calls == bare.calls


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("error", [AttributeError("x"), StopIteration(3), SystemExit(1)])
def test_close_error_reaches_the_server(init, error, streaming):
    """The very error that close() raised, once for each close()."""
    init()
    response = Recorder(close_error=error)
    response.streaming = streaming
    client = WsgiClient(returning(response))
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            client.close()
        assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        StopIteration(3),
        SystemExit(0),
        KeyboardInterrupt(),
        RuntimeError("PEP 479"),
    ],
)
def test_error_of_the_application_reaches_the_server(init, error):
    """Raised before there is a response; a StopIteration does not become a RuntimeError."""
    sentry = init()
    error.__cause__ = cause = StopIteration()

    def app(environ, start_response):
        raise error

    with pytest.raises(type(error)) as caught:
        WsgiClient(SentryWsgiMiddleware(app))
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
    assert len(sentry.roots()) == 1


def test_error_of_the_body_reaches_the_server(init):
    """With its own cause, no context, and a traceback without our reporting of it."""
    init()
    cause = KeyError("cause")

    def body():
        yield b"a"
        raise ValueError("x") from cause

    client = WsgiClient(returning(body()))
    with pytest.raises(ValueError, match="x") as caught:
        client.read()
    assert (caught.value.__cause__, caught.value.__context__) == (cause, None)
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame for frame in frames if "vendored_integration" in frame.filename]
    assert len(ours) == 1  # the iterator's next()
    names = [frame.name for frame in frames if frame not in ours]
    assert names == ["test_error_of_the_body_reaches_the_server", "read", "body"]


def test_length_is_the_response_s(init):
    """wsgiref and waitress make Content-Length of a response with one chunk."""
    init()
    client = WsgiClient(returning([b"one"]))
    assert len(client.response) == 1
    assert client.read() == b"one"
    unsized = WsgiClient(returning(iter([b"one"])))
    assert not hasattr(unsized.response, "__len__")
    unsized.read()


def test_a_sequence_can_be_read_again(init):
    """A middleware that looks at a list response before it passes it on."""
    init()
    client = WsgiClient(returning([b"a", b"b"]))
    assert b"".join(client.response) == b"ab"
    assert client.read() == b"ab"


def test_iterations_are_counted_together(init):
    """A middleware that takes the first chunk and leaves the rest to the server."""
    sentry = init()
    client = WsgiClient(returning(iter([b"a", b"bc", b"def"])))
    assert next(iter(client.response)) == b"a"
    assert client.read() == b"bcdef"
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.stream.chunks"] == 3
    assert root.data["http.response.body.size"] == 6


def test_iter_of_the_iterator_does_not_start_again(init):
    """Werkzeug's test client calls iter() on what iter() has given it."""
    sentry = init()
    response = WsgiClient(returning([b"a", b"b"])).response
    iterator = iter(response)
    assert next(iterator) == b"a"
    assert list(iter(iterator)) == [b"b"]
    response.close()
    assert len(sentry.roots()) == 1


def test_iterating_without_keeping_the_response(init):
    """``for chunk in app(...)`` drops the response before the first chunk."""
    sentry = init()
    app = returning(iter([b"a", b"b"]))
    chunks = list(iter(app(make_environ(), lambda *args: None)))
    assert chunks == [b"a", b"b"]
    assert sentry.root().data["http.response.stream.chunks"] == 2


def test_chunks_that_are_not_bytes(init):
    """A server complains of them; we do not."""
    init()
    client = WsgiClient(returning(iter(["text", None])))
    assert list(client.response) == ["text", None]
    client.close()


def test_start_response_is_called_as_the_application_does(init):
    """Status, headers and exc_info go through; so does the write callable."""
    init()
    calls = []

    def start_response(*args):
        calls.append(args)
        return "write"

    def app(environ, start):
        assert start("200 OK", [("A", "b")]) == "write"
        assert start("500 No", [], (None, None, None)) == "write"
        return []

    SentryWsgiMiddleware(app)(make_environ(), start_response).close()
    assert calls == [
        ("200 OK", [("A", "b")]),
        ("500 No", [], (None, None, None)),
    ]


def test_environ_is_not_changed(init):
    """The application gets the server's environ, with nothing added."""
    init()
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return []

    client = WsgiClient(SentryWsgiMiddleware(app))
    client.close()
    assert seen == client.environ


# -- files -----------------------------------------------------------------------


def test_file_wrapper_is_the_server_s_own(sentry, tmp_path):
    """gunicorn, waitress and wsgiref look for their class; the transaction ends at close."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    client = WsgiClient(
        serve(lambda request: FileResponse(path.open("rb"))),
        **{"wsgi.file_wrapper": FileWrapper},
    )
    assert type(client.response) is FileWrapper
    assert not sentry.roots()
    file = client.response.filelike
    assert client.read() == b"x" * 1000
    assert file.closed
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.body.size"] == 1000
    assert "django.core.cache.close_caches" in root.names()


class Download:
    """What has a read() and is no file of the system: from a storage elsewhere, generated."""

    def __init__(self, error=None):
        self.chunks = [b"a", b"b", b""]
        self.error = error
        self.closed = False

    def read(self, size=-1):
        if self.error is not None and len(self.chunks) == 2:
            raise self.error
        with start_span("read"):
            return self.chunks.pop(0)

    def close(self):
        self.closed = True


def test_file_that_only_the_application_can_read(sentry):
    """It is read within its request, whatever wrapper it is in."""
    download = Download()
    client = WsgiClient(
        serve(lambda request: FileResponse(download)), **{"wsgi.file_wrapper": FileWrapper}
    )
    assert client.read() == b"ab"
    assert download.closed
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.names().count("read") == 3


def test_file_that_fails_to_be_read(sentry):
    """It was `completed`, and the error an event of the server's log, in another trace."""
    client = WsgiClient(
        serve(lambda request: FileResponse(Download(OSError("it has gone")))),
        **{"wsgi.file_wrapper": FileWrapper},
    )
    with pytest.raises(OSError, match="it has gone"):
        client.read()
    root = sentry.root()
    assert root.outcome == "failed"
    (event,) = sentry.errors()
    assert event["contexts"]["trace"]["trace_id"] == root.trace_id


def test_file_itself_where_the_wrapper_is_a_function(sentry, tmp_path):
    """uWSGI's wrapper returns the file, and compares what it gets back by identity."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    given = []

    def file_wrapper(file, block_size=8192):
        given.append(file)
        return file

    client = WsgiClient(
        serve(lambda request: FileResponse(path.open("rb"))),
        **{"wsgi.file_wrapper": file_wrapper},
    )
    assert [client.response] == given
    client.close()
    assert client.response.closed
    assert sentry.root().outcome == "completed"


def test_file_wrapper_of_another_framework(init, tmp_path):
    """A file that the application wraps itself is closed as before, and traced."""
    sentry = init()
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    client = WsgiClient(SentryWsgiMiddleware(app), **{"wsgi.file_wrapper": FileWrapper})
    file = client.response.filelike
    assert not sentry.roots()
    client.close()
    assert file.closed
    assert len(sentry.roots()) == 1


def test_abandoned_file_response(init, tmp_path):
    """A file wrapper that is dropped without close() is noticed, too."""
    sentry = init()
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        client = WsgiClient(
            SentryWsgiMiddleware(
                lambda environ, start: start("200 OK", []) and environ["wsgi.file_wrapper"](file)
            ),
            **{"wsgi.file_wrapper": FileWrapper},
        )
        client.response = None
        assert sentry.root().outcome == "abandoned"


@pytest.mark.parametrize(
    "view",
    [
        lambda request: HttpResponse(b"plain", headers={"X-Own": "1"}),
        lambda request: HttpResponse(status=304),
        lambda request: StreamingHttpResponse(iter([b"a", b"", b"b"])),
        lambda request: HttpResponse(status=500),
    ],
)
def test_django_sends_the_same(init, view):
    """Status, headers and bytes of Django's responses are what they are without us."""
    init()
    traced = WsgiClient(serve(view))
    traced_body = traced.read()
    sentry_sdk.init()
    bare = WsgiClient(serve(view))
    assert (traced.status, traced.headers, traced_body) == (
        bare.status,
        bare.headers,
        bare.read(),
    )
