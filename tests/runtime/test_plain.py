"""A plain response gets what stock gives it: its transaction ends when the application returns."""

import contextvars
import inspect
import json
import subprocess
import sys
from pathlib import Path
from wsgiref.util import FileWrapper

import pytest
import sentry_sdk
from django.http import HttpResponse, HttpResponseNotModified
from side_by_side import REQUESTS, WSGI_ONLY
from support.apps import ASYNC_BODIES, plain, serve, wsgi_app
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration, StreamAwareDjangoIntegration, stats
from vendored_integration.wsgi import SentryWsgiMiddleware

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option")

#: Each response whose transaction ends at its close().
ENDS_AT_CLOSE = [lambda: DjangoIntegration(finish_on="close"), StreamAwareDjangoIntegration]


# -- side by side with stock ---------------------------------------------------------------


@pytest.fixture(scope="module")
def side():
    """What one of the two integrations has told, in a process of its own."""
    told = {}

    def side(*arguments):
        if arguments not in told:
            script = Path(__file__).with_name("side_by_side.py")
            command = [sys.executable, str(script), *arguments]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True
            )
            told[arguments] = json.loads(done.stdout)
        return told[arguments]

    return side


@pytest.mark.parametrize(
    ("interface", "name"),
    [("wsgi", name) for name in REQUESTS]
    + [("asgi", name) for name in REQUESTS if name not in WSGI_ONLY and ASYNC_BODIES],
)
def test_as_with_stock(side, lifecycle, interface, name):
    """Spans, data, events, and what a server sees; when the body is read, and the user."""
    ours, stock = (side(who, lifecycle, interface)[name] for who in ("ours", "stock"))
    assert ours == stock


@pytest.mark.parametrize("what", ["sessions", "threads"])
@pytest.mark.parametrize("interface", ["wsgi", *(["asgi"] if ASYNC_BODIES else [])])
def test_process_as_with_stock(side, lifecycle, interface, what):
    """Release health; and nothing that waits for streams where there are none."""
    ours, stock = (side(who, lifecycle, interface)[what] for who in ("ours", "stock"))
    assert ours == stock


# -- finish_on -----------------------------------------------------------------------------


def test_ends_when_the_application_returns(sentry):
    """By default. What comes later makes nothing of it, and there is nothing to wait for."""
    client = WsgiClient(serve(plain))
    root = sentry.root()
    assert (root.status, root.outcome) == ("ok", None)
    assert not [key for key in root.data if "stream." in key]
    assert (stats().open_responses, stats().pending_deadlines) == (0, 0)
    assert client.read() == b"ab"
    assert "django.core.cache.close_caches" not in sentry.root().names()


@pytest.mark.parametrize("integration", ENDS_AT_CLOSE)
@pytest.mark.parametrize("view", [plain, lambda request: HttpResponseNotModified()])
def test_finish_on_close(init, lifecycle, integration, view):
    """All that Django does in close() belongs to it; it is none that is streaming, though."""
    sentry = init(lifecycle, integration())
    client = WsgiClient(serve(view))
    assert not sentry.roots()
    assert stats().open_responses == 1
    client.read()
    root = sentry.root()
    assert "django.core.cache.close_caches" in root.names()
    assert (root.status, root.outcome) == ("ok", None)
    assert not [key for key in root.data if "stream." in key]


def test_name_of_the_older_package():
    """Users of shr_span_recorder import it, and keep what they had."""
    assert issubclass(StreamAwareDjangoIntegration, DjangoIntegration)
    assert not StreamAwareDjangoIntegration(signals_spans=False).signals_spans


# -- close() -------------------------------------------------------------------------------

variable = contextvars.ContextVar("variable")


@pytest.mark.parametrize("finish_on", ["return", "close"])
@pytest.mark.parametrize("framework", ["django", "none"])
def test_close_runs_in_its_request(init, finish_on, framework):
    """In its context and scope, also if the server closes late; there a token can be reset.

    It was "created in a different Context", or the next request of the thread found it.
    """
    sentry = init(integration=DjangoIntegration(finish_on=finish_on))
    closed = []

    def set_up(path):
        token = variable.set(path)
        sentry_sdk.set_tag("path", path)

        def close():
            closed.append(variable.get())
            sentry_sdk.capture_message("in close()")
            variable.reset(token)

        return close

    def view(request):
        response = HttpResponse(b"plain")
        response._resource_closers.append(set_up(request.path))
        return response

    class Response(list):
        pass

    def app(environ, start_response):
        response = Response([b"plain"])
        response.close = set_up(environ["PATH_INFO"])
        start_response("200 OK", [])
        return response

    app = serve(view) if framework == "django" else SentryWsgiMiddleware(app, finish_on=finish_on)

    def run():
        client = WsgiClient(app, "/alone")
        assert variable.get("-") == "/alone"  # as without us
        client.read()
        assert variable.get("-") == "-"
        for client in [WsgiClient(app, "/first"), WsgiClient(app, "/second")]:
            assert client.read() == b"plain"

    contextvars.Context().run(run)
    assert closed == ["/alone", "/first", "/second"]
    assert [event["tags"]["path"] for event in sentry.errors()] == closed


# -- files ---------------------------------------------------------------------------------


class File(list):
    """A response with a file descriptor, which a server may send by itself."""

    def fileno(self):
        raise AssertionError("the server's business")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("file_wrapper", [FileWrapper, lambda file, size=0: file])
def test_file_is_handed_back(sentry, streaming, file_wrapper):
    """As in stock, where that does: uWSGI compares what it gets by its identity."""
    if not streaming and "file_wrapper" not in inspect.getsource(sentry_sdk.integrations.wsgi):
        pytest.skip("this release's own middleware hands out a wrapper")
    response = File([b"a"])
    response.streaming = streaming

    app = wsgi_app(lambda: response)
    client = WsgiClient(SentryWsgiMiddleware(app), **{"wsgi.file_wrapper": file_wrapper})
    if streaming and file_wrapper is FileWrapper:
        assert client.read() == b"a"  # not the server's class: it iterates it
    else:
        assert client.response is response
        client.close()
    assert sentry.root().status == "ok"
