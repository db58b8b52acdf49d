"""The request data of what is sent: body, cookies, user. They are taken when the view returns."""

import asyncio
import gc
import json
import logging
import weakref

import pytest
import sentry_sdk
from django.conf import settings
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.core.signals import request_finished
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.functional import SimpleLazyObject
from support.apps import ASYNC_BODIES, as_async, open_stream, serve, serve_asgi
from support.asgi import read
from support.sdk import start_span

from vendored_integration import DjangoIntegration

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option")

FORM = b"a=1&b=2"
UPLOAD = (
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nabc\r\n'
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
)
FORM_TYPE = "application/x-www-form-urlencoded"
UPLOAD_TYPE = "multipart/form-data; boundary=x"

#: What a request is answered with: a plain response that ends at the return or at its close(),
#: or a stream, under WSGI and ASGI.
OPEN = ["close", "stream", *(["asgi"] if ASYNC_BODIES else [])]
KINDS = ["return", *OPEN]


class User:
    pk, email, is_authenticated = 7, "ada@example.org", True

    def get_username(self):
        return "ada"


USER = {"id": "7", "email": "ada@example.org", "username": "ada"}


class Users:
    """Middleware's part: the user is looked up when somebody asks for it."""

    def __init__(self):
        self.queries = 0

    def of(self, request):
        request.user = SimpleLazyObject(self._look_up)

    def _look_up(self):
        self.queries += 1
        return User()


def app_of(kind, view):
    """An application of Django's.

    :param view: does what the view does, and returns an iterable of chunks.
    """

    def wsgi_view(request):
        chunks = view(request)
        if kind == "stream":
            return StreamingHttpResponse(chunks)
        return HttpResponse(b"".join(chunks))

    async def asgi_view(request):
        chunks = view(request)
        return StreamingHttpResponse(as_async(lambda: chunks)())

    return serve_asgi(asgi_view) if kind == "asgi" else serve(wsgi_view)


def headers_of(content_type):
    return [("content-type", content_type), ("cookie", "flavour=oat")]


def run(kind, view, body=b"", content_type=FORM_TYPE, deadline=None, app=None):
    """Serve a request to its end.

    :param deadline: called before the body's end.
    :return: what the client has got, and how often the body has been read (WSGI).
    """
    way = "asgi-django" if kind == "asgi" else "wsgi-django"
    request = {"method": "POST", "body": body, "headers": headers_of(content_type)}
    client = open_stream(way, app or app_of(kind, view), **request)
    if deadline:
        deadline()
    sent = client.read()
    return sent, 0 if kind == "asgi" else client.environ["wsgi.input"].reads


@pytest.fixture
def start(init, lifecycle):
    """Initialise the SDK for one kind of response."""

    def start(kind, integration=None, **options):
        finish_on = "close" if kind == "close" else "return"
        return init(
            lifecycle,
            DjangoIntegration(finish_on=finish_on, **(integration or {})),
            **{"send_default_pii": True, **options},
        )

    return start


@pytest.fixture
def error_in_close():
    """Something logs an error when all has been sent."""

    def finished(**kwargs):
        logging.getLogger("app").error("in close()")

    request_finished.connect(finished)
    yield
    request_finished.disconnect(finished)


# -- what was read ---------------------------------------------------------------------------


def reads_form(request):
    return request.POST["a"].encode()


def reads_json(request):
    return str(json.loads(request.body)["a"]).encode()


def reads_body(request):
    return request.body[2:3]


def reads_upload(request):
    return request.FILES["f"].read()[:0] + request.POST["a"].encode()


READ = {
    "form": (reads_form, FORM, FORM_TYPE, {"a": "1", "b": "2"}),
    "form, as bytes": (reads_body, FORM, FORM_TYPE, {"a": "1", "b": "2"}),
    "json": (reads_json, b'{"a": 1}', "application/json", {"a": 1}),
    "text": (reads_body, b"a=1", "text/plain", ""),
    "upload": (reads_upload, UPLOAD, UPLOAD_TYPE, {"a": "1", "f": ""}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", READ)
def test_what_was_read(start, lifecycle, kind, what):
    """The transaction has it, and each event: in the view, in the body, in close().

    It was gone for all but the first unless something kept the request alive by accident.
    """
    read, body, content_type, data = READ[what]
    sentry = start(kind)

    def view(request):
        answer = read(request)
        sentry_sdk.capture_message("in the view")
        return chunks(answer)

    def chunks(answer):
        yield answer
        sentry_sdk.capture_message("in the body")

    assert run(kind, view, body, content_type)[0] == b"1"
    events = sentry.errors()
    assert len(events) == 2
    if lifecycle == "static":
        sentry.root()
        events += sentry.transactions()
    for event in events:
        assert event["request"]["data"] == data
        assert event["request"]["cookies"] == {"flavour": "oat"}
        assert event["request"]["method"] == "POST"


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("traces_sample_rate", [1.0, 0.0])
def test_event_in_close(start, error_in_close, kind, traces_sample_rate):
    """Django has let the request go by then. Sampled or not, the event has its data."""
    sentry = start(kind, traces_sample_rate=traces_sample_rate)
    run(kind, lambda request: [reads_form(request)], FORM)
    (event,) = sentry.errors()
    assert event["request"]["data"] == {"a": "1", "b": "2"}
    assert event["request"]["cookies"] == {"flavour": "oat"}


@pytest.mark.parametrize("kind", OPEN[1:])
@pytest.mark.parametrize("traces_sample_rate", [1.0, 0.0])
def test_error_of_the_body(start, kind, traces_sample_rate):
    """The same, of the error that has ended a stream."""
    sentry = start(kind, traces_sample_rate=traces_sample_rate)

    def view(request):
        return chunks(reads_form(request))

    def chunks(answer):
        yield answer
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        run(kind, view, FORM)
    (event,) = sentry.errors()
    assert event["request"]["data"] == {"a": "1", "b": "2"}
    assert event["request"]["cookies"] == {"flavour": "oat"}


@pytest.mark.parametrize("kind", OPEN)
def test_after_the_deadline(start, lifecycle, kind):
    """What is sent by a worker, and what comes later, has the same data."""
    sentry = start(kind, {"response_timeout": 0.05})

    def view(request):
        return chunks(request.POST["a"].encode())

    def chunks(answer):
        yield answer
        if kind != "close":
            sentry_sdk.capture_message("late")

    run(kind, view, FORM, deadline=lambda: sentry.root())
    events = sentry.errors() + sentry.transactions()
    assert len(events) == (kind != "close") + (lifecycle == "static")
    for event in events:
        assert event["request"]["data"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize("kind", OPEN)
def test_events_do_not_share_data(start, kind):
    """A hook that changes one event does not change the next."""

    data = []

    def processor(event, hint):
        data.append(dict(event["request"]["data"]))
        event["request"]["data"]["a"] = "changed"
        return event

    sentry = start(kind, traces_sample_rate=0.0)

    def finished(**kwargs):
        sentry_sdk.Scope.get_current_scope().add_event_processor(processor)
        sentry_sdk.capture_message("first")
        sentry_sdk.capture_message("second")

    request_finished.connect(finished)
    try:
        run(kind, lambda request: [reads_form(request)], FORM)
    finally:
        request_finished.disconnect(finished)
    assert [seen.pop("a") for seen in data] == ["1", "1"]
    assert len(sentry.errors()) == 2


# -- what was not read -------------------------------------------------------------------------


@pytest.fixture
def handled(monkeypatch):
    """What the upload handlers have been given."""
    monkeypatch.setattr(settings, "FILE_UPLOAD_HANDLERS", [__name__ + ".Handler"])
    Handler.files = []
    return Handler.files


class Handler(TemporaryFileUploadHandler):
    def new_file(self, *args, **kwargs):
        super().new_file(*args, **kwargs)
        self.files.append(self.file)


@pytest.mark.parametrize("deadline", [False, True])
@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize(
    ("body", "content_type"),
    [(FORM, FORM_TYPE), (b'{"a": 1}', "application/json"), (UPLOAD, UPLOAD_TYPE)],
)
def test_what_was_not_read(start, error_in_close, handled, kind, body, content_type, deadline):
    """It is the client's, which may be sending it still; a worker that waits is killed.

    Not at the return, nor at a deadline, nor in close(), nor for an event: and no handler of
    an upload that the view has rejected runs, which would leave a file behind.
    """
    sentry = start(kind, {"response_timeout": 0.05} if deadline else {})

    def view(request):
        return chunks()

    def chunks():
        yield b"no"
        if kind != "close":
            sentry_sdk.capture_message("in the body")

    sent, read = run(kind, view, body, content_type, deadline=sentry.root if deadline else None)
    assert sent == b"no"
    sentry.root()
    assert read == 0
    assert not handled
    assert len(sentry.errors()) == (1 if kind == "close" else 2)
    for event in sentry.errors() + sentry.transactions():
        assert "data" not in event["request"]
        assert event["request"]["cookies"] == {"flavour": "oat"}


@pytest.mark.parametrize("kind", OPEN)
def test_what_was_read_in_part(start, error_in_close, kind):
    """The rest is left alone, too."""
    sentry = start(kind)
    sent, read = run(kind, lambda request: [request.read(1)], FORM)
    assert sent == b"a"
    assert read == (kind != "asgi")
    assert "data" not in sentry.errors()[0]["request"]


@pytest.mark.parametrize("kind", OPEN)
def test_next_request(start, kind):
    """In the same thread, or task (httpx.ASGITransport): an event in the view has all there is."""
    sentry = start(kind)
    views = []

    def view(request):
        Users().of(request)
        views.append(request)
        if len(views) == 2:
            sentry_sdk.capture_message("in the second view")
        return [b"x"]

    if kind == "asgi":
        app = app_of(kind, view)

        async def twice(scope, receive, send):
            request = await receive()
            for _ in range(2):
                messages = [request]

                async def receive_again(messages=messages):
                    return messages.pop() if messages else await asyncio.Event().wait()

                await app(dict(scope), receive_again, send)

        asyncio.run(
            read(twice, method="POST", body=FORM, headers=headers_of(FORM_TYPE), slow=False)
        )
    else:
        run(kind, view, FORM)
        run(kind, view, FORM)
    (event,) = sentry.errors()
    assert event["request"]["data"] == {"a": "1", "b": "2"}
    assert USER.items() <= event["user"].items()


def test_body_of_the_response_reads_that_of_the_request(start):
    """An answer to an upload that comes while it is read, or a proxy."""
    sentry = start("stream")

    def view(request):
        return iter(lambda: request.read(2), b"")

    assert run("stream", view, FORM)[0] == FORM
    assert sentry.root().outcome == "completed"


@pytest.mark.parametrize("kind", OPEN)
def test_body_that_is_too_long(start, lifecycle, kind):
    """Whether it was read or not: that is said in its place, as with stock."""
    sentry = start(kind, max_request_body_size="small")
    _, read = run(kind, lambda request: [b"no"], b"x" * 2000)
    assert read == 0
    sentry.root()
    for event in sentry.transactions():
        assert event["_meta"]["request"]["data"][""]["rem"] == [["!config", "x"]]


# -- the user ------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["by nobody", "by the view"])
@pytest.mark.parametrize("kind", KINDS)
def test_user(start, lifecycle, error_in_close, kind, asked):
    """Looked up as in stock, once, for a transaction; and by nobody when that is over."""
    sentry = start(kind)
    users = Users()
    queries = []

    def view(request):
        users.of(request)
        if asked == "by the view":
            request.user.is_authenticated  # noqa: B018
        return chunks()

    def chunks():
        queries.append(users.queries)
        yield b"x"

    run(kind, view)
    sentry.root()
    expected = 1 if asked == "by the view" or lifecycle == "static" else 0
    assert users.queries == expected
    if kind in ("stream", "asgi"):
        assert queries == [expected]  # by the return
    if asked == "by the view" or lifecycle == "static":
        for event in sentry.transactions() + (sentry.errors() if kind != "return" else []):
            assert USER.items() <= event["user"].items()


@pytest.mark.parametrize("asked", ["by nobody", "by the view"])
@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("traces_sample_rate", [0.0, None])
def test_user_of_a_request_that_is_not_sampled(
    start, error_in_close, kind, asked, traces_sample_rate
):
    """No query for an event that may never be made; a user who is known is in it."""
    sentry = start(kind, traces_sample_rate=traces_sample_rate)
    users = Users()

    def view(request):
        users.of(request)
        if asked == "by the view":
            request.user.is_authenticated  # noqa: B018
        return [b"x"]

    run(kind, view)
    (event,) = sentry.errors()
    if asked == "by the view":
        assert users.queries == 1
        assert USER.items() <= event["user"].items()
    else:
        assert users.queries == 0
        assert "username" not in event.get("user", {})


@pytest.mark.parametrize("kind", KINDS)
def test_user_of_the_scope_comes_first(start, kind):
    """What the application has set itself."""
    sentry = start(kind)

    def view(request):
        Users().of(request)
        sentry_sdk.set_user({"id": "mine"})
        return chunks()

    def chunks():
        yield b"x"
        sentry_sdk.capture_message("in the body")

    run(kind, view)
    sentry.root()
    for event in sentry.errors() + sentry.transactions():
        assert event["user"]["id"] == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_user_that_cannot_be_looked_up(start, lifecycle, kind, caplog):
    """The database has gone."""
    sentry = start(kind)

    def fail():
        raise OSError("no database")

    def view(request):
        request.user = SimpleLazyObject(fail)
        return [request.POST["a"].encode()]

    assert run(kind, view, FORM)[0] == b"1"
    sentry.root()
    for event in sentry.transactions():
        assert event["request"]["data"] == {"a": "1", "b": "2"}
    assert not sentry.errors()
    assert not [record for record in caplog.records if "vendored" in record.name]


@pytest.mark.parametrize("kind", KINDS)
def test_query_for_the_user_is_no_span(init, kind):
    """As with stock, where the transaction has ended by then."""
    finish_on = "close" if kind == "close" else "return"
    sentry = init("static", DjangoIntegration(finish_on=finish_on), send_default_pii=True)
    seen = []

    def look_up():
        with start_span("SELECT the user"):
            seen.append("query")
        return User()

    def view(request):
        request.user = SimpleLazyObject(look_up)
        return [b"x"]

    run(kind, view)
    assert sentry.root().names().count("SELECT the user") == 0
    assert seen == ["query"]


# -- how long it is kept ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_request_is_not_kept(start, kind):
    """By whatever keeps the scopes of the request: a task, an error that is looked at."""
    start(kind)
    requests, scopes = [], []

    def view(request):
        requests.append(weakref.ref(request))
        scopes.append(sentry_sdk.Scope.get_isolation_scope())
        scopes.append(sentry_sdk.Scope.get_current_scope())
        return [request.POST["a"].encode()]

    run(kind, view, FORM)
    gc.collect()
    assert requests[0]() is None


# -- Django REST framework ---------------------------------------------------------------------


@pytest.fixture
def rest_framework(monkeypatch):
    pytest.importorskip("rest_framework")
    from rest_framework.settings import api_settings

    monkeypatch.setattr(settings, "REST_FRAMEWORK", {"UNAUTHENTICATED_USER": None}, raising=False)
    api_settings.reload()
    from rest_framework.views import APIView

    def view_of(handle, kind):
        """A view of the framework's."""

        class View(APIView):
            authentication_classes = permission_classes = ()

            def post(self, request):
                chunks = handle(request)
                if kind == "stream":
                    return StreamingHttpResponse(chunks)
                return HttpResponse(b"".join(chunks))

        return View.as_view()

    return view_of


@pytest.mark.parametrize(
    ("kind", "read"),
    [("return", True), ("close", True), ("close", False), ("stream", True), ("stream", False)],
)
@pytest.mark.parametrize("content_type", ["application/json", FORM_TYPE])
def test_rest_framework(start, rest_framework, kind, content_type, read):
    """Its parsers have read the body: what they have made of it."""
    sentry = start(kind)
    body = FORM if content_type == FORM_TYPE else b'{"a": "1"}'

    def handle(request):
        answer = request.data["a"].encode() if read else b"1"
        return chunks(answer)

    def chunks(answer):
        yield answer
        if kind == "stream":
            sentry_sdk.capture_message("in the body")

    sent, reads = run(kind, None, body, content_type, app=serve(rest_framework(handle, kind)))
    assert sent == b"1"
    sentry.root()
    expected = {"a": "1", "b": "2"} if content_type == FORM_TYPE else {"a": "1"}
    for event in sentry.errors() + sentry.transactions():
        assert event["request"].get("data") == (expected if read else None)
    assert read or reads == 0
