"""Plain responses of a Django project, with stock's integration or with ours.

    python side_by_side.py (stock|ours) (static|stream) (wsgi|asgi)

Prints as JSON, for each request of :data:`REQUESTS`, all that a server, an ingest and the
application can see. Run as a process of its own: an integration is set up once in each.
"""

import asyncio
import contextvars
import functools
import gc
import json
import logging
import re
import sys
import threading
from pathlib import Path

import django
import sentry_sdk
from django.conf import settings
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    HttpResponseRedirect,
    JsonResponse,
)
from django.urls import path
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.asgi import read
from support.wsgi import Body, make_environ

FORM = b"a=1&b=2"
UPLOAD = (
    b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\nabc\r\n'
    b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
)
UNSAMPLED = ("sentry-trace", "0123456789abcdef" * 2 + "-0123456789abcdef-0")
MULTIPART = ("content-type", "multipart/form-data; boundary=x")
JSON = ("content-type", "application/json")

token_of = contextvars.ContextVar("token_of", default="-")
#: What the server and the application see of a request, in its order.
seen = []
#: What is sent of it.
sent = []
#: Release health, of all requests.
sessions = []


class Handler(TemporaryFileUploadHandler):
    def new_file(self, *args, **kwargs):
        seen.append("upload handler")
        super().new_file(*args, **kwargs)


class Input(Body):
    def read(self, *args):
        seen.append("read")
        return super().read(*args)

    readline = read


# -- the views -----------------------------------------------------------------------------


def plain(request):
    sentry_sdk.set_tag("by", "the view")
    return HttpResponse("ok")


def json_response(request):
    return JsonResponse({"data": json.loads(request.body)})


def form(request):
    return HttpResponse(request.POST["a"])


def upload(request):
    return HttpResponse(request.FILES["f"].read())


def part(request):
    return HttpResponse(request.read(3))


def user(request):
    return HttpResponse(request.user.username)


def parsed_data(request):
    """As Django REST framework, and middleware that parses bodies: also where there is none."""
    request.data = {}
    return HttpResponse("ok")


def not_modified(request):
    return HttpResponseNotModified()


def redirect(request):
    return HttpResponseRedirect("/plain")


def raises(request):
    raise ValueError("in the view")


def exits(request):
    raise SystemExit(3)


def reports(request):
    sentry_sdk.add_breadcrumb(message="seen")
    logging.getLogger("app").error("in the view")
    return HttpResponse("ok", status=503)


def sets_a_variable(request):
    token = token_of.set("the view's")
    response = HttpResponse("ok")
    response._resource_closers.append(lambda: token_of.reset(token))
    return response


async def async_view(request):
    return HttpResponse("ok")


VIEWS = [plain, json_response, form, upload, part, user, not_modified, redirect, raises, exits]
VIEWS += [reports, sets_a_variable, parsed_data, async_view]

#: Name -> what is not as the name says, and as in other requests.
REQUESTS = {
    "plain": {},
    "head": {"path": "plain", "method": "HEAD"},
    "404": {"path": "no-such-path"},
    "not_modified": {},
    "parsed_data": {},
    "redirect": {},
    "raises": {},
    "exits": {},
    "reports": {},
    "async_view": {},
    "sets_a_variable": {},
    "form": {"body": FORM},
    "form that is not read": {"path": "plain", "body": FORM},
    "form that is read in part": {"path": "part", "body": FORM},
    "json": {"path": "json_response", "body": b'{"a": 1}', "header": JSON},
    "too long": {"path": "json_response", "body": b'["%s"]' % (b"x" * 200_000)},
    "upload": {"body": UPLOAD, "header": MULTIPART},
    "upload that is not read": {"path": "plain", "body": UPLOAD, "header": MULTIPART},
    "user": {},
    "user that nobody asks for": {"path": "plain"},
    **{
        f"{name}, not sampled": {"path": name, "header": UNSAMPLED}
        for name in ("plain", "user", "reports", "raises")
    },
    "not closed": {"path": "plain", "close": 0},
    "closed twice": {"path": "plain", "close": 2},
}
#: An exit there is that of a thread.
WSGI_ONLY = ("exits", "not closed", "closed twice")


# -- the server ----------------------------------------------------------------------------


class Keep(Transport):
    """Tells what an ingest would get."""

    def capture_envelope(self, envelope):
        for item in envelope.items:
            payload = item.payload.json
            if item.headers["type"] == "sessions":
                sessions.extend(payload["aggregates"])
                continue
            for one in payload["items"] if item.headers["type"] == "span" else [payload]:
                sent.append({"type": item.headers["type"], **one})


def make_request(path, body=b"", method=None, header=("accept", "*/*"), session=""):
    """The arguments that WSGI's environ and ASGI's scope are made from."""
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "cookie": f"flavour=oat; sessionid={session}",
        header[0]: header[1],
    }
    method = method or ("POST" if body else "GET")
    return {"path": "/" + path, "method": method, "body": body, "headers": headers.items()}


def serve(application, close=1, **request):
    """Serve one request as a server does; what is seen by then goes to ``seen``."""

    def start_response(status, headers, exc_info=None):
        seen.append(["start_response", status, sorted(headers)])

    request = make_request(**request)
    given = {
        "QUERY_STRING": "q=1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.input": Input(request["body"]),
    }
    environ = make_environ(**request, **given)
    response = None
    try:
        response = application(environ, start_response)
        seen.append(["returned", type(response).__name__, hasattr(response, "__len__")])
        seen.append(["sent by then", [event["type"] for event in sent]])
        seen.append(["variable", token_of.get()])
        sentry_sdk.capture_message("from the server")
        seen.append(b"".join(response).decode())
    except BaseException as error:
        seen.append(repr(error))
    seen.append("iterated")
    for _ in range(close):
        try:
            if response is not None:
                response.close()
        except BaseException as error:
            seen.append(repr(error))
    seen.append(["closed, variable", token_of.get()])


def serve_asgi(application, **request):
    """The same under ASGI."""

    async def observed(scope, receive, send):
        async def observed_send(message):
            seen.append(sorted((key, repr(value)) for key, value in message.items()))
            sentry_sdk.capture_message("from the server")
            await send(message)

        await application(scope, receive, observed_send)

    error = asyncio.run(read(observed, query_string=b"q=1", **make_request(**request))).error
    seen.append([repr(error), repr(error and error.__cause__)])
    seen.append(["closed, variable", token_of.get()])


# -- what is compared ----------------------------------------------------------------------

#: Of these the values differ from run to run.
VOLATILE = {"event_id", "timestamp", "start_timestamp", "end_timestamp", "server_name", "modules"}
VOLATILE |= {"thread.id", "thread.name", "process.pid"}
#: What threads of the SDK send comes at any time: sorted before and after the rest.
SENT_BY_THREADS = {"span": 0, "log": 2}
#: Of an event in a request that is not sampled, the span belongs to nothing that is sent.
UNSEEN = {"span_id", "parent_span_id", "op", "description", "data", "status"}
IDS = re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{16}\b")


class Comparable:
    """What was seen of one request, without what differs from run to run."""

    def __init__(self, session, sampled):
        self._ids = {}
        self._session = session
        self._sampled = sampled

    def of(self, value):
        if isinstance(value, dict):
            if "frames" in value:
                return self.frames(value["frames"])
            if "trace_id" in value and not self._sampled:
                value = {k: v for k, v in value.items() if k not in UNSEEN}
            return {k: self.of(v) for k, v in value.items() if k not in VOLATILE}
        if isinstance(value, list):
            return [self.of(v) for v in value]
        if isinstance(value, str):
            value = re.sub(r" at 0x[0-9a-f]+", "", value).replace(self._session, "session")
            value = value.replace("vendored_integration._vendor", "sentry_sdk.integrations")
            return IDS.sub(lambda m: f"id{self._ids.setdefault(m[0], len(self._ids))}", value)
        return value

    def frames(self, frames):
        """The application's and Django's."""
        return [
            frame["function"]
            for frame in frames
            if not frame.get("module", "").startswith(("sentry_sdk", "vendored_integration"))
        ]


def set_up_django():
    """Configure the project, with a database that has one user; return the user's session."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        FILE_UPLOAD_HANDLERS=[__name__ + ".Handler"],
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes"],
        LOGGING_CONFIG=None,
        # None of these are about migrations, and a strong hash takes its time.
        MIGRATION_MODULES={"auth": None, "contenttypes": None},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        ROOT_URLCONF=__name__,
        SECRET_KEY="test",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    )
    django.setup()
    from django.contrib.auth import get_user_model, login
    from django.contrib.sessions.backends.signed_cookies import SessionStore

    call_command("migrate", run_syncdb=True, verbosity=0)
    request = HttpRequest()
    request.session = SessionStore()
    login(request, get_user_model().objects.create_user("ada", "ada@example.org", "x"))
    request.session.save()
    return request.session.session_key


def main(who, lifecycle, interface):
    session = set_up_django()
    if who == "stock":
        from sentry_sdk.integrations.django import DjangoIntegration
    else:
        from vendored_integration import DjangoIntegration
    options = {"send_default_pii": True}
    if "send_default_pii" not in DEFAULT_OPTIONS:
        options = {}  # SDK 3 collects it by default
    elif lifecycle == "stream":
        options["_experiments"] = {"trace_lifecycle": "stream"}
    sentry_sdk.init(
        dsn="http://public@127.0.0.1:9/1",
        transport=Keep,
        traces_sample_rate=1.0,
        auto_enabling_integrations=False,
        integrations=[
            DjangoIntegration(middleware_spans=True, signals_spans=True),
            LoggingIntegration(event_level=logging.ERROR),
        ],
        release="test@1",
        **options,
    )
    application = WSGIHandler() if interface == "wsgi" else ASGIHandler()
    serve_it = serve if interface == "wsgi" else serve_asgi
    serve_it(application, path="plain")  # it patches itself then
    told = {}
    for name, request in REQUESTS.items():
        if interface == "asgi" and name in WSGI_ONLY:
            continue
        sentry_sdk.flush()
        del seen[:], sent[:]
        request = {"path": name, "session": session if "user" in name else "", **request}
        contextvars.copy_context().run(functools.partial(serve_it, application, **request))
        gc.collect()
        sentry_sdk.flush()
        sent.sort(key=lambda event: SENT_BY_THREADS.get(event["type"], 1))
        comparable = Comparable(session, "not sampled" not in name)
        told[name] = {"seen": seen[:], "sent": comparable.of(sent)}
    sentry_sdk.get_client().session_flusher.flush()
    ends = ("exited", "errored", "crashed")
    told["sessions"] = [sum(each.get(end, 0) for each in sessions) for end in ends]
    names = [thread.name for thread in threading.enumerate()]
    told["threads"] = [name for name in names if name.startswith("vendored_integration")]
    json.dump(told, sys.stdout)


urlpatterns = [path(view.__name__, view) for view in VIEWS]

if __name__ == "__main__":
    sys.modules["side_by_side"] = sys.modules["__main__"]
    _, *arguments = sys.argv
    sys.argv[1:] = []  # they are sent, too
    main(*arguments)
