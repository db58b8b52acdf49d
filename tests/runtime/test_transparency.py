"""The application and the server cannot tell that the integration is there.

test_hostile.py compares what both see; here is what that cannot see.
"""

import contextlib
import traceback
from wsgiref.util import FileWrapper

import pytest
from django.http import FileResponse
from support.apps import serve, streaming_app
from support.sdk import start_span
from support.wsgi import WsgiClient, make_environ

from vendored_integration.wsgi import SentryWsgiMiddleware


def test_traceback_of_the_body_s_error(init):
    """It is without our reporting of it."""
    init()

    def body():
        yield b"a"
        raise ValueError("x")

    client = WsgiClient(streaming_app("wsgi-plain", body))
    with pytest.raises(ValueError, match="x") as caught:
        client.read()
    frames = traceback.extract_tb(caught.value.__traceback__)
    ours = [frame for frame in frames if "vendored_integration" in frame.filename]
    assert len(ours) == 1  # the iterator's next()
    names = [frame.name for frame in frames if frame not in ours]
    assert names == ["test_traceback_of_the_body_s_error", "read", "body"]


def test_iterations_are_counted_together(init):
    """A middleware that takes the first chunk and leaves the rest to the server."""
    sentry = init()
    client = WsgiClient(streaming_app("wsgi-plain", lambda: iter([b"a", b"bc", b"def"])))
    assert next(iter(client.response)) == b"a"
    assert client.read() == b"bcdef"
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.stream.chunks"] == 3
    assert root.data["http.response.body.size"] == 6


def test_iterating_without_keeping_the_response(init):
    """``for chunk in app(...)`` drops the response; Werkzeug's client calls iter() once more."""
    sentry = init()
    app = streaming_app("wsgi-plain", lambda: iter([b"a", b"b"]))
    iterator = iter(app(make_environ(), lambda *args: None))
    assert next(iterator) == b"a"
    assert list(iter(iterator)) == [b"b"]
    del iterator
    assert sentry.root().data["http.response.stream.chunks"] == 2


# -- files -----------------------------------------------------------------------


@pytest.mark.parametrize("server", ["gunicorn", "waitress", "django", "uwsgi"])
def test_file_wrapper_is_the_server_s_own(sentry, tmp_path, server):
    """gunicorn, waitress and wsgiref look for their class; the transaction ends at close.

    waitress has the file by another name; of the class in Django's own tests nothing is
    known. uWSGI's wrapper is a function that returns the file, and it compares identities.
    """
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    file = path.open("rb")
    wrapped = []

    class Wrapper(FileWrapper):
        def __init__(self, *args):
            super().__init__(*args)
            wrapped.append(self)

    class Unknown:
        def __init__(self, file, block_size=8192):
            wrapped.append(self)

        def __iter__(self):
            return iter([file.read()])

        def close(self):
            file.close()

    class Buffer(Unknown):
        def __init__(self, file, block_size=8192):
            super().__init__(file)
            self.file = file

        def prepare(self, size=None):
            pass

    def wrapper(file, block_size=8192):
        wrapped.append(file)
        return file

    wrappers = {"gunicorn": Wrapper, "waitress": Buffer, "django": Unknown, "uwsgi": wrapper}
    client = WsgiClient(
        serve(lambda request: FileResponse(file)), **{"wsgi.file_wrapper": wrappers[server]}
    )
    assert [client.response] == wrapped
    assert not sentry.roots()
    assert client.read() == b"x" * 1000
    assert file.closed
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.data["http.response.body.size"] == 1000
    assert "django.core.cache.close_caches" in root.names()


class Download:
    """What has a read() and is no file of the system: from a storage elsewhere, generated."""

    def __init__(self, error=None):
        self.chunks = [b"a", error or b"b", b""]
        self.closed = False

    def read(self, size=-1):
        with start_span("read"):
            chunk = self.chunks.pop(0)
            if isinstance(chunk, OSError):
                raise chunk
            return chunk

    def close(self):
        self.closed = True


@pytest.mark.parametrize("error", [None, OSError("it has gone")])
def test_file_that_only_the_application_can_read(sentry, error):
    """It is read within its request, whatever wrapper it is in; an error is of its trace."""
    download = Download(error)
    client = WsgiClient(
        serve(lambda request: FileResponse(download)), **{"wsgi.file_wrapper": FileWrapper}
    )
    with pytest.raises(OSError, match="it has gone") if error else contextlib.nullcontext():
        client.read()
    assert download.closed
    root = sentry.root()
    assert (root.outcome, root.names().count("read")) == (
        ("failed", 2) if error else ("completed", 3)
    )
    if error:
        sentry.one_error(root)


def test_dropped_file(init, tmp_path):
    """A file wrapper that is dropped without close() is noticed, too. Flask's, say."""
    sentry = init()
    path = tmp_path / "file"
    path.write_bytes(b"x")

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    client = WsgiClient(SentryWsgiMiddleware(app), **{"wsgi.file_wrapper": FileWrapper})
    with client.response.filelike:
        client.drop()
        assert sentry.root().outcome == "abandoned"
