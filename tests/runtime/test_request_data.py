"""The request data of what is sent: body, cookies, user. They are taken when the view returns."""

import asyncio
import contextlib
import gc
import json
import weakref

import pytest
import sentry_sdk
from django.conf import settings
from django.core.files.uploadhandler import MemoryFileUploadHandler
from django.http import HttpResponse, StreamingHttpResponse
from django.utils.functional import SimpleLazyObject
from side_by_side import FORM, UPLOAD
from support.apps import ASYNC_BODIES, as_async, at_close, open_stream, serve, serve_asgi
from support.asgi import read
from support.sdk import start_span

from vendored_integration import DjangoIntegration

pytestmark = pytest.mark.filterwarnings("ignore:The send_default_pii option")

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
        with start_span("SELECT the user"):
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


def post(body, content_type, method="POST"):
    """What a client sends."""
    headers = [("content-type", content_type), ("cookie", "flavour=oat")]
    return {"method": method, "body": body, "headers": headers}


def run(kind, view, body=b"", content_type=FORM_TYPE, deadline=None, app=None, method="POST"):
    """Serve a request to its end.

    :param deadline: called before the body's end.
    :return: what the client has got, and how often the body has been read (WSGI).
    """
    way = "asgi-django" if kind == "asgi" else "wsgi-django"
    client = open_stream(way, app or app_of(kind, view), **post(body, content_type, method))
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


# -- the body ----------------------------------------------------------------------------------


@pytest.fixture
def handled(monkeypatch):
    """What the upload handlers have been given."""
    monkeypatch.setattr(settings, "FILE_UPLOAD_HANDLERS", [__name__ + ".Handler"])
    Handler.files = []
    return Handler.files


class Handler(MemoryFileUploadHandler):
    def new_file(self, *args, **kwargs):
        self.files.append(args)
        super().new_file(*args, **kwargs)


def reads_form(request):
    return request.POST["a"].encode()


def reads_json(request):
    return str(json.loads(request.body)["a"]).encode()


def reads_body(request):
    return request.body[2:3]


def reads_upload(request):
    return request.FILES["f"].read()[:0] + request.POST["a"].encode()


def reads_part(request):
    return request.read(3)[2:]


def reads_nothing(request):
    return b"1"


#: What a view reads of which body, and what the events have of it.
READ = {
    "form": (reads_form, FORM, FORM_TYPE, {"a": "1", "b": "2"}),
    "form, as bytes": (reads_body, FORM, FORM_TYPE, {"a": "1", "b": "2"}),
    "json": (reads_json, b'{"a": 1}', "application/json", {"a": 1}),
    "text": (reads_body, b"a=1", "text/plain", ""),
    "upload": (reads_upload, UPLOAD, UPLOAD_TYPE, {"a": "1", "f": ""}),
    "nothing of a form": (reads_nothing, FORM, FORM_TYPE, None),
    "nothing of json": (reads_nothing, b'{"a": 1}', "application/json", None),
    "nothing of an upload": (reads_nothing, UPLOAD, UPLOAD_TYPE, None),
    "a part of a form": (reads_part, FORM, FORM_TYPE, None),
}


def cases():
    """How each body is read, and what else is so of its request."""
    for kind in KINDS:
        streams = kind in ("stream", "asgi")
        for what, (*_, data) in READ.items():
            yield kind, what, "not sampled"
            if streams or data is not None:  # else it is read as in stock
                yield kind, what, ""
                if kind != "return":
                    yield kind, what, "past its deadline"
            if streams:
                yield kind, what, "fails"


@pytest.mark.parametrize(("kind", "what", "how"), list(cases()))
def test_body(start, handled, kind, what, how):
    """What was read is in the transaction, and each event: of the view, the body, close().

    What was not read is the client's, which may be sending it still; a worker that waits for
    it is killed. No handler of an upload that the view has rejected runs, which would leave a
    file behind.
    """
    reads, body, content_type, data = READ[what]
    timeout = {"response_timeout": 0.05} if how == "past its deadline" else {}
    sentry = start(kind, timeout, traces_sample_rate=0.0 if how == "not sampled" else 1.0)

    def capture(where):
        # In a view, the SDK itself reads what it can.
        if data is not None or kind in ("stream", "asgi") or where == "in close()":
            sentry_sdk.capture_message(where)
            expected.append(where)

    def view(request):
        answer = reads(request)
        if data is not None:
            capture("in the view")
        return chunks(answer)

    def chunks(answer):
        yield answer
        capture("in the body")
        if how == "fails":
            expected.append("half-way")
            raise ValueError("half-way")

    expected = []
    with contextlib.ExitStack() as around:
        around.enter_context(at_close(lambda: capture("in close()")))
        if how == "fails":
            around.enter_context(pytest.raises(ValueError, match="half-way"))
        sent, read = run(kind, view, body, content_type, deadline=timeout and sentry.root)
        assert sent == b"1"
        assert kind == "asgi" or (read > 0) == (reads is not reads_nothing)
    assert bool(handled) == (reads is reads_upload)
    assert sorted(sentry.messages()) == sorted(expected)
    if how != "not sampled":
        sentry.root()
    for event in sentry.errors() + sentry.transactions():
        assert event["request"].get("data") == data
        assert event["request"]["cookies"] == {"flavour": "oat"}
        assert event["request"]["method"] == "POST"


@pytest.mark.parametrize("kind", ["return", "close"])
def test_unread_body_of_a_plain_response(start, lifecycle, kind):
    """As in stock a transaction has it, read when the view has returned; a segment has none."""
    sentry = start(kind)
    _, reads = run(kind, lambda request: [b"1"], FORM)
    sentry.root()
    data = [event["request"]["data"] for event in sentry.transactions()]
    expected = [{"a": "1", "b": "2"}] if lifecycle == "static" else []
    assert (data, reads > 0) == (expected, lifecycle == "static")


@pytest.mark.parametrize("kind", [kind for kind in OPEN if kind != "close"])
def test_form_of_a_put(start, kind):
    """``request.POST`` is empty then, and has read nothing. The rest is the client's."""
    sentry = start(kind)

    def view(request):
        assert not request.POST
        return [b"1"]

    assert run(kind, view, FORM, method="PUT") == (b"1", 0)
    sentry.root()
    assert not [event for event in sentry.transactions() if "data" in event["request"]]


@pytest.mark.parametrize("kind", OPEN)
def test_events_do_not_share_data(start, kind):
    """A hook that changes one event does not change the next."""
    data = []

    def processor(event, hint):
        data.append(dict(event["request"]["data"]))
        event["request"]["data"]["a"] = "changed"
        return event

    start(kind, traces_sample_rate=0.0)

    def capture():
        sentry_sdk.Scope.get_current_scope().add_event_processor(processor)
        sentry_sdk.capture_message("first")
        sentry_sdk.capture_message("second")

    with at_close(capture):
        run(kind, lambda request: [reads_form(request)], FORM)
    assert [seen["a"] for seen in data] == ["1", "1"]


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

    app = app_of(kind, view)

    async def twice(scope, receive, send):
        request = await receive()
        for _ in range(2):
            messages = [request]

            async def receive_again(messages=messages):
                return messages.pop() if messages else await asyncio.Event().wait()

            await app(dict(scope), receive_again, send)

    if kind == "asgi":
        asyncio.run(read(twice, **post(FORM, FORM_TYPE)))
    else:
        for _ in range(2):
            run(kind, view, FORM, app=app)
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


@pytest.mark.parametrize("rate", [1.0, 0.0, None])
@pytest.mark.parametrize("asked", ["by nobody", "by the view"])
@pytest.mark.parametrize("kind", KINDS)
def test_user(start, lifecycle, kind, asked, rate):
    """Looked up as in stock, once, for a transaction, by the return; its query is no span.

    No query for an event that may never be made; a user who is known is in it.
    """
    sentry = start(kind, traces_sample_rate=rate)
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

    with at_close(lambda: sentry_sdk.capture_message("in close()")):
        run(kind, view)
    expected = int(asked == "by the view" or (lifecycle == "static" and rate == 1.0))
    assert users.queries == expected
    if kind in ("stream", "asgi"):
        assert queries == [expected]
    if rate:
        assert ("SELECT the user" in sentry.root().names()) == (asked == "by the view")
    events = sentry.errors() + sentry.transactions()
    assert len(events) == 1 + bool(rate and lifecycle == "static")
    for event in events:
        assert (USER.items() <= event.get("user", {}).items()) == expected


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
def test_user_that_cannot_be_looked_up(start, kind, caplog):
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

    return APIView


@pytest.mark.parametrize(
    ("kind", "read"),
    [("return", True), ("close", True), ("stream", True), ("stream", False)],
)
@pytest.mark.parametrize("content_type", ["application/json", FORM_TYPE])
def test_rest_framework(start, rest_framework, kind, content_type, read):
    """Its parsers have read the body: what they have made of it."""
    sentry = start(kind)
    is_form = content_type == FORM_TYPE

    class View(rest_framework):
        authentication_classes = permission_classes = ()

        def post(self, request):
            answer = request.data["a"].encode() if read else b"1"
            if kind == "stream":
                return StreamingHttpResponse(chunks(answer))
            return HttpResponse(answer)

    def chunks(answer):
        yield answer
        sentry_sdk.capture_message("in the body")

    app = serve(View.as_view())
    sent, reads = run(kind, None, FORM if is_form else b'{"a": "1"}', content_type, app=app)
    assert sent == b"1"
    sentry.root()
    expected = {"a": "1", "b": "2"} if is_form else {"a": "1"}
    for event in sentry.errors() + sentry.transactions():
        assert event["request"].get("data") == (expected if read else None)
    assert read or reads == 0
