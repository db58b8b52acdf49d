"""Whatever a request, an application and a server do: the integration cannot be noticed.

Each example is played twice, see hostile.py: in a process that has never heard of Sentry,
and here. What server and application see of each other must be the same; and Sentry gets
one transaction, with nothing in it of another request.

    pytest runtime/test_hostile.py --hypothesis-profile thorough

tries 5,000 inputs for each test and lifecycle.
"""

import asyncio
import atexit
import gc
import json
import logging
import pickle
import re
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import hostile
import pytest
import sentry_sdk
from asgi_server import ASYNC_BODIES
from harness import assert_accepted, start_span
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import vendored_integration
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

HERE = Path(__file__).parent

# -- what is drawn -----------------------------------------------------------------------

MISSING = st.just(hostile.MISSING)
ERROR = st.sampled_from(sorted(hostile.ERRORS))
TEXT = st.one_of(
    st.text(st.characters(codec="latin-1"), max_size=8),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3),
    st.sampled_from(["", "%", "%00", "%ff%fe", "\0", "\r\n", "a=b;c", "\xff", "\udcff"]),
)
HUGE = st.just(("huge", 70_000))
NUMBER = st.sampled_from(["", "-1", "1e3", "0x10", " 7", "7", "\u0663", "nan"])
TRACE = st.sampled_from(
    [
        "",
        "-",
        "0" * 32 + "-" + "0" * 16 + "-1",
        "1" * 32 + "-" + "2" * 16 + "-1",
        "1" * 32 + "-" + "2" * 16 + "-0",
        "1" * 32 + "-" + "2" * 16 + "-",
        "1" * 33 + "-" + "2" * 17,
        "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
        "\udcff" * 32 + "-" + "2" * 16 + "-1",
    ]
)
BAGGAGE = st.one_of(
    st.sampled_from(
        [
            "sentry-",
            "sentry-trace_id=" + "1" * 32 + ",sentry-sample_rate=x,sentry-sample_rand=y",
            "sentry-sample_rate=2,sentry-sample_rand=-1",
            "sentry-sample_rate=nan,sentry-sample_rand=inf",
            "sentry-sampled=maybe,sentry-trace_id=",
            "a=b;sentry-x=%ff,=,;,sentry-y",
            "sentry-a=" + "%" * 9000,
        ]
    ),
    st.lists(st.tuples(TEXT, TEXT), max_size=3).map(
        lambda pairs: ",".join(f"sentry-{name}={value}" for name, value in pairs)
    ),
)
# What a WSGI server may hand over, and what only a broken one does.
WRONG = st.sampled_from([None, 7, b"bytes"])
ENVIRON = st.lists(
    st.one_of(
        st.tuples(
            st.just("REQUEST_METHOD"),
            st.sampled_from(["POST", "HEAD", "OPTIONS", "get", "", "G T", "\0", "\xc4", "\udcff"])
            | MISSING,
        ),
        st.tuples(
            st.sampled_from(
                ["PATH_INFO", "QUERY_STRING", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PROTOCOL"]
            ),
            TEXT | HUGE | MISSING,
        ),
        st.tuples(
            st.sampled_from(["CONTENT_LENGTH", "SERVER_PORT", "HTTP_CONTENT_LENGTH"]),
            NUMBER | TEXT | MISSING,
        ),
        st.tuples(
            st.sampled_from(
                [
                    "CONTENT_TYPE",
                    "HTTP_",
                    "HTTP_COOKIE",
                    "HTTP_HOST",
                    "HTTP_USER_AGENT",
                    "HTTP_X",
                    "HTTP_X_FORWARDED_FOR",
                    "HTTP_X_FORWARDED_HOST",
                    "HTTP_X_FORWARDED_PROTO",
                    "HTTP_X_REAL_IP",
                    "HTTP_\u20ac",
                    "REMOTE_ADDR",
                    "REQUEST_URI",
                ]
            ),
            TEXT | HUGE,
        ),
        st.tuples(st.sampled_from(["HTTP_SENTRY_TRACE", "HTTP_TRACEPARENT"]), TRACE | TEXT | HUGE),
        st.tuples(st.just("HTTP_BAGGAGE"), BAGGAGE | TEXT | HUGE),
        st.tuples(
            st.sampled_from(["wsgi.url_scheme", "wsgi.input", "wsgi.errors", "wsgi.multithread"]),
            MISSING | WRONG,
        ),
        st.tuples(
            st.just("wsgi.file_wrapper"),
            st.sampled_from([("function", None), ("class", None)]) | WRONG,
        ),
    ),
    max_size=5,
)
WRONG_ENVIRON = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "CONTENT_LENGTH",
                "HTTP_BAGGAGE",
                "HTTP_COOKIE",
                "HTTP_HOST",
                "HTTP_SENTRY_TRACE",
                "HTTP_USER_AGENT",
                "HTTP_X",
                "HTTP_X_FORWARDED_FOR",
                "HTTP_X_REAL_IP",
                "PATH_INFO",
                "QUERY_STRING",
                "REMOTE_ADDR",
                "REQUEST_METHOD",
                "SCRIPT_NAME",
                "SERVER_NAME",
                "SERVER_PORT",
            ]
        ),
        WRONG,
    ),
    max_size=2,
)

CHUNK = st.one_of(
    st.binary(max_size=4),
    st.sampled_from(
        [
            "text",
            "\udcff",
            7,
            None,
            ("bytearray", b"ab"),
            ("memoryview", b"abc"),
            ("object", None),
            ("list", [b"x"]),
            ("iterator", [b"y"]),
        ]
    ),
)
HEADERS = st.one_of(
    st.lists(
        st.tuples(
            st.sampled_from(["Content-Length", "content-length", "X", "", "\xff", 7]),
            NUMBER | TEXT | st.none(),
        )
        | st.sampled_from([None, 7, "ab", ()]),
        max_size=3,
    ).map(lambda pairs: ("list", pairs)),
    st.sampled_from([None, 7, "headers"]),
    st.lists(st.tuples(TEXT, TEXT), max_size=2).map(lambda pairs: ("iterator", pairs)),
)
STATUS = st.sampled_from(
    ["200 OK", "304 Not Modified", "500 No", "200", "", "x", "9" * 40, "\udcff", b"200 OK"]
    + [200, None]
)
START = st.tuples(
    STATUS,
    HEADERS,
    st.sampled_from([None, None, "none", "ValueError", "HostileError", "SystemExit"]),
)
GOOD_START = st.just(("200 OK", ("list", [("X", "y")]), None))
STARTS = st.one_of(GOOD_START.map(lambda start: [start]), st.lists(START, max_size=3))

STEP = st.one_of(
    st.tuples(st.just("chunk"), CHUNK),
    st.tuples(st.just("chunk"), CHUNK),
    st.tuples(st.just("raise"), ERROR),
    st.tuples(st.just("start"), START),
    st.just(("close response", None)),
)
STEPS = st.lists(STEP, max_size=5)
ODD_BODY = st.fixed_dictionaries(
    {
        "kind": st.just("iterator"),
        "steps": st.lists(STEP | st.just(("close", None)), max_size=5),
        "iter": st.sampled_from(["self", "self", "other", "none"]) | ERROR,
        "close": st.sampled_from(
            [None, "method", "method", "property", "raising property", "number", "None"]
            + ["classmethod"]
        ),
        "close error": st.none() | ERROR,
        "len": st.none() | st.integers(-1, 2) | st.sampled_from(["ValueError", "HostileError"]),
    }
)
BODY = st.one_of(
    st.fixed_dictionaries(
        {
            "kind": st.just("generator"),
            "steps": STEPS,
            "finally": st.none() | st.just("yield") | ERROR,
        }
    ),
    st.fixed_dictionaries({"kind": st.sampled_from(["list", "tuple", "getitem"]), "steps": STEPS}),
    st.fixed_dictionaries(
        {
            "kind": st.just("whole"),
            "value": st.sampled_from([None, 7, ("file", b"ab"), ("bytearray", b"ab")]),
        }
    ),
    ODD_BODY,
    ODD_BODY,
)
# As servers do, and as none should.
SERVER = st.one_of(
    st.just(["iter", "next", "next", "next", "next", "next", "next", "close"]),
    st.just(["len", "iter", "next", "close"]),
    st.just(["iter", "next"]),
    st.lists(st.sampled_from(["iter", "next", "next", "next", "len", "close"]), max_size=8),
)
_numbers = iter(range(10**9))
REQUEST = st.builds(lambda: next(_numbers))

PLAIN_WSGI = st.fixed_dictionaries(
    {
        "server": st.just("wsgi"),
        "kind": st.just("plain"),
        "environ": st.one_of(st.just([]), ENVIRON, WRONG_ENVIRON),
        "starts": STARTS,
        "writes": st.lists(CHUNK, max_size=2),
        "error": st.none() | st.none() | ERROR,
        "body": BODY,
        "steps": SERVER,
    }
)
DJANGO_WSGI = st.fixed_dictionaries(
    {
        "server": st.just("wsgi"),
        "kind": st.just("django"),
        "environ": st.one_of(st.just([]), ENVIRON, WRONG_ENVIRON),
        "streaming": st.sampled_from([True, True, False]),
        "error": st.none() | st.none() | ERROR,
        "body": BODY,
        "steps": SERVER,
    }
)

BYTES = TEXT.map(lambda text: text.encode("utf-8", "surrogatepass"))
NAME = st.sampled_from(
    [b"baggage", b"cookie", b"host", b"sentry-trace", b"traceparent", b"user-agent", b"x", b""]
    + [b"x-forwarded-for", b"x-forwarded-host", b"content-length", b"content-type", b"\xff", b"X"]
)
SCOPE_HEADERS = st.one_of(
    st.lists(
        st.tuples(NAME, BYTES | TRACE.map(lambda text: text.encode("utf-8", "replace")))
        | st.tuples(st.just(b"baggage"), BAGGAGE.map(lambda text: text.encode("utf-8", "replace"))),
        max_size=3,
    ),
    st.sampled_from([[("text", "text")], [None], [(b"a",)], [(None, None)], None, 7]),
    st.just(("list", [(b"host", b"localhost"), (b"host", b"again")])),
    MISSING,
)
ADDRESS = st.one_of(
    st.sampled_from([None, (), ("a",), ("a", None), (None, None), ("a", "b", "c"), 7, "ab"]),
    MISSING,
)
SCOPE = st.lists(
    st.one_of(
        st.tuples(
            st.just("type"), st.sampled_from(["http", "websocket", "lifespan", "mqtt", "", None, 7])
        ),
        st.tuples(
            st.just("method"),
            st.sampled_from(["POST", "HEAD", "get", "", "\xff", None, 7]) | MISSING,
        ),
        st.tuples(
            st.sampled_from(["path", "root_path", "scheme"]), TEXT | HUGE | MISSING | st.none()
        ),
        st.tuples(st.just("raw_path"), BYTES | MISSING | st.none()),
        st.tuples(st.just("query_string"), BYTES | MISSING | st.sampled_from([None, "text", 7])),
        st.tuples(st.just("headers"), SCOPE_HEADERS),
        st.tuples(st.sampled_from(["client", "server"]), ADDRESS),
        st.tuples(
            st.sampled_from(["endpoint", "route", "state", "extensions", "asgi"]),
            st.sampled_from([None, 7, ("object", None)]),
        ),
    ),
    max_size=4,
)
MESSAGE_HEADERS = st.one_of(
    st.lists(
        st.sampled_from([(b"Content-Length", b"3"), (b"content-length", b"x"), (b"x", b"y"), 7, ()])
    ).map(lambda pairs: ("list", pairs)),
    st.sampled_from([None, 7]),
    st.just(("iterator", [(b"content-length", b"3"), (b"x", b"y")])),
)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"type": st.just("http.response.start")},
        optional={
            "status": st.sampled_from([200, 304, 404, 500, 99, -1, None, "200", 200.5]),
            "headers": MESSAGE_HEADERS,
            "trailers": st.booleans(),
        },
    ),
    st.fixed_dictionaries(
        {"type": st.just("http.response.body")},
        optional={
            "body": CHUNK,
            "more_body": st.booleans() | st.sampled_from([None, 7]),
        },
    ),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(
                [
                    "http.response.pathsend",
                    "http.response.zerocopysend",
                    "http.response.trailers",
                    "http.response.push",
                    "http.disconnect",
                    "websocket.accept",
                    "websocket.send",
                    "lifespan.startup.complete",
                    "unknown",
                    "",
                    None,
                    7,
                ]
            )
        }
    ),
    st.just({}),
).map(lambda message: ("dict", message))
ODD_MESSAGE = st.one_of(
    MESSAGE,
    st.sampled_from(
        [None, 7, "text", b"bytes", ("list", [])]
        + [("subclass", {"type": "http.response.body", "body": b"x"})]
    ),
)
INCOMING = st.lists(
    st.sampled_from(
        [
            ("dict", {"type": "http.request", "body": b"x", "more_body": True}),
            ("dict", {"type": "http.request"}),
            ("dict", {"type": "http.disconnect"}),
            ("dict", {"type": "websocket.disconnect", "code": 1006}),
            ("dict", {"type": "lifespan.startup"}),
            ("dict", {"type": None}),
            ("dict", {}),
            ("object", None),
        ]
    )
    | ERROR,
    max_size=4,
)
GOOD_ACTIONS = st.just(
    [
        ("send", ("dict", {"type": "http.response.start", "status": 200, "headers": []})),
        ("send", ("dict", {"type": "http.response.body", "body": b"a", "more_body": True})),
        ("send", ("dict", {"type": "http.response.body"})),
    ]
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), ODD_MESSAGE),
        st.tuples(st.just("send"), ODD_MESSAGE),
        st.just(("receive", None)),
        st.tuples(st.just("wrong call"), st.sampled_from(["send", "receive"])),
        st.tuples(st.just("raise"), ERROR),
    ),
    max_size=6,
)
REFUSED = st.none() | st.tuples(st.integers(1, 4), ERROR)
PLAIN_ASGI = st.fixed_dictionaries(
    {
        "server": st.just("asgi"),
        "kind": st.just("plain"),
        "scope": st.one_of(st.just([]), SCOPE),
        "actions": st.one_of(GOOD_ACTIONS, ACTIONS),
        "swallows": st.booleans(),
        "incoming": INCOMING,
        "refused": REFUSED,
    }
)
ASYNC_STEPS = st.lists(
    st.one_of(st.tuples(st.just("chunk"), CHUNK), st.tuples(st.just("raise"), ERROR)), max_size=5
)
DJANGO_ASGI = st.fixed_dictionaries(
    {
        "server": st.just("asgi"),
        "kind": st.just("django"),
        "scope": st.one_of(st.just([]), SCOPE),
        "error": st.none() | st.none() | ERROR,
        "body": st.fixed_dictionaries(
            {
                "kind": st.sampled_from(["generator", "iterator"]),
                "steps": ASYNC_STEPS,
                "finally": st.none() | ERROR,
                "iter": st.sampled_from(["self", "self", "other", "none"]) | ERROR,
                "close": st.booleans(),
                "close error": st.none() | ERROR,
            }
        ),
        "incoming": INCOMING,
        "refused": REFUSED,
    }
)

PLANS = {
    "wsgi": PLAIN_WSGI,
    "wsgi-django": DJANGO_WSGI,
    "asgi": PLAIN_ASGI,
    **({"asgi-django": DJANGO_ASGI} if ASYNC_BODIES else {}),
}
WRAP = {"wsgi": SentryWsgiMiddleware, "asgi": SentryMiddleware}

# -- the test ----------------------------------------------------------------------------


class Bare:
    """The process that has no SDK."""

    def __init__(self):
        self._process = None

    def play(self, plan):
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "hostile.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            atexit.register(self.stop)
        pickle.dump(plan, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)

    def stop(self):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(10)
            self._process.stdout.close()
            self._process = None


@pytest.fixture(scope="module")
def bare():
    bare = Bare()
    yield bare
    bare.stop()


#: What mark() leaves.
MARKS = re.compile(r"request (\d+) ")


def mark(request, what):
    """Leave something of a request in its data, as applications do."""
    sentry_sdk.set_tag("request", str(request))
    sentry_sdk.add_breadcrumb(message=f"request {request} {what}")
    with start_span(f"request {request} {what}"):
        pass


@pytest.fixture
def marked(monkeypatch):
    """Requests leave their marks; what Django logs of each is not kept by pytest."""
    monkeypatch.setattr(hostile, "mark", mark)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])


# What a body raises while it is collected, Python only prints.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", PLANS)
def test_hostile(init, lifecycle, bare, marked, kind):
    """The same is seen with and without us; one transaction, and nothing of another request."""
    sentry = init(lifecycle)

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(PLANS[kind])
    def example(plan):
        plan["request"] = next(_numbers)
        expected = bare.play(plan)
        sentry.clear()
        sentry_sdk.get_isolation_scope().clear()
        assert hostile.play(plan, WRAP[plan["server"]]) == expected
        changes = plan.get("environ", plan.get("scope"))
        called = any(what == "called" for what, *_ in expected)
        assert_own_data(sentry, plan["request"], well_formed=called and not changes)
        if ("type", "lifespan") not in changes:  # what that sets is the process's
            assert_nothing_outside()

    example()
    gc.collect()  # while what its garbage raises is ignored
    sentry.clear()  # Relay may find fault with what such a client has sent


def owners(sentry):
    """The requests whose transactions have arrived."""
    found = []
    for root in sentry.roots():
        # In the stream lifecycle a span that a step makes when the response has been closed
        # is a segment of its own.
        if root.op.endswith(".server"):
            marks = set(MARKS.findall("".join(root.names())))
            assert len(marks) <= 1, root
            found += marks
    return found


def assert_own_data(sentry, request, well_formed):
    """Whatever has been sent is of one request; and of this one there is one transaction."""
    request = str(request)
    if well_formed and request not in owners(sentry):
        # The response has been dropped, or is in a cycle with what holds it.
        gc.collect()
        sentry.wait_for(lambda: request in owners(sentry))
    # (one of an earlier example may come late, when it is collected)
    found = owners(sentry)
    assert len(found) == len(set(found))
    event(f"{found.count(request)} transactions")
    for sent in [*sentry.transactions(), *sentry.errors()]:
        text = json.dumps(sent)
        tag = (sent.get("tags") or {}).get("request")
        assert len({*MARKS.findall(text), *([tag] if tag else [])}) <= 1, text
        if well_formed and sent.get("type") == "transaction":
            assert_accepted(sent)


def assert_nothing_outside():
    """Nothing of a request is left where the next one begins, and other threads and tasks."""
    scope = sentry_sdk.get_isolation_scope()
    assert "request" not in scope._tags
    assert not MARKS.search(repr(scope._breadcrumbs))


# -- what has been found -----------------------------------------------------------------


def start_response(status, headers, exc_info=None):
    pass


def wsgi(app, **environ):
    """Call an application as a WSGI server does; return the response."""
    return app(hostile.make_environ(environ.items()), start_response)


def asgi(app, **scope):
    """Serve an ASGI request; return the messages."""
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        if "headers" in message:
            message = {**message, "headers": list(message["headers"])}
        sent.append(message)

    # (asyncio.run() looks at what its task has raised)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(app(hostile.make_scope(scope.items()), receive, send))
    finally:
        loop.close()
    return sent


def broken_sampler(context):
    raise ZeroDivisionError("in the sampler")


@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({"HTTP_X_FORWARDED_FOR": 7, "REQUEST_METHOD": None}, {}),
        ({}, {"traces_sampler": broken_sampler}),
    ],
    ids=["header", "sampler"],
)
def test_wsgi_request_that_the_sdk_fails_at(init, lifecycle, caplog, environ, options):
    """It is served all the same, kept apart from others; its errors are reported."""
    sentry = init(lifecycle, **options)

    def app(environ, start_response):
        sentry_sdk.set_tag("request", "this one")
        start_response("200 OK", [])
        yield b"a"
        raise ValueError("in the body")

    response = wsgi(SentryWsgiMiddleware(app), **environ)
    steps = iter(response)
    assert next(steps) == b"a"
    with pytest.raises(ValueError, match="in the body"):
        next(steps)
    response.close()
    # (some releases of the SDK look after a sampler themselves)
    assert {record.name for record in caplog.records} <= {"vendored_integration"}
    (error,) = sentry.errors()
    assert error["tags"]["request"] == "this one"
    assert not owners(sentry)
    assert_nothing_outside()


@pytest.mark.parametrize(
    ("scope", "options"),
    [({"headers": None, "type": 7}, {}), ({}, {"traces_sampler": broken_sampler})],
    ids=["header", "sampler"],
)
def test_asgi_request_that_the_sdk_fails_at(init, lifecycle, caplog, scope, options):
    """The same in ASGI."""
    sentry = init(lifecycle, **options)
    called = []

    async def app(scope, receive, send):
        sentry_sdk.set_tag("request", "this one")
        called.append(scope["type"])
        raise ValueError("in the application")

    with pytest.raises(ValueError, match="in the application"):
        asgi(SentryMiddleware(app), **scope)
    assert called == [scope.get("type", "http")]
    # (some releases of the SDK look after a sampler themselves)
    assert {record.name for record in caplog.records} <= {"vendored_integration"}
    (error,) = sentry.errors()
    assert error["tags"]["request"] == "this one"
    assert_nothing_outside()


def test_headers_that_can_be_read_once(init):
    """ASGI allows any iterable: it is the server that reads it."""
    init()

    async def app(scope, receive, send):
        headers = iter([(b"content-length", b"1")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"a"})

    assert asgi(SentryMiddleware(app))[0]["headers"] == [(b"content-length", b"1")]


@pytest.mark.parametrize("status", [None, "200"])
def test_status_that_is_no_number(sentry, status):
    """What is wrong with it the server says, and the request is traced."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"a"})

    sent = asgi(SentryMiddleware(app))
    assert [message.get("status", "body") for message in sent] == [status, "body"]
    assert sentry.root().op == "http.server"


def test_error_that_cannot_be_looked_at(init, lifecycle):
    """The server gets it, and not what became of the SDK when it looked."""
    init(lifecycle)
    error = hostile.HostileError()

    def app(environ, start_response):
        raise error

    async def asgi_app(scope, receive, send):
        raise error

    for serve in (
        lambda: wsgi(SentryWsgiMiddleware(app)),
        lambda: asgi(SentryMiddleware(asgi_app)),
        lambda: asgi(SentryMiddleware(asgi_app), headers=None),
    ):
        # Not by pytest, which looks.
        try:
            serve()
        except BaseException as caught:
            found = caught is error
        assert found


def test_transport_that_raises(init, lifecycle, monkeypatch):
    """An application that has returned, or raised, has done so."""
    sentry = init(lifecycle)

    def broken(envelope):
        raise ZeroDivisionError("in the transport")

    monkeypatch.setattr(sentry, "capture_envelope", broken)
    errors = iter([ValueError("of the application"), None] * 2)

    def app(environ, start_response):
        error = next(errors)
        if error is not None:
            raise error
        return [b"a"]

    async def asgi_app(scope, receive, send):
        app(None, None)

    with pytest.raises(ValueError, match="of the application"):
        wsgi(SentryWsgiMiddleware(app))
    response = wsgi(SentryWsgiMiddleware(app))
    assert list(response) == [b"a"]
    response.close()
    with pytest.raises(ValueError, match="of the application"):
        asgi(SentryMiddleware(asgi_app))
    assert asgi(SentryMiddleware(asgi_app)) == []


def test_log_handler_that_raises(init, monkeypatch):
    """What cannot be logged is not the application's fault."""
    init(traces_sampler=broken_sampler)

    class Broken(logging.Handler):
        def emit(self, record):
            raise ZeroDivisionError("in the handler")

    monkeypatch.setattr(logging.getLogger("vendored_integration"), "handlers", [Broken()])
    response = wsgi(SentryWsgiMiddleware(lambda environ, start_response: [b"a"]))
    assert list(response) == [b"a"]
    response.close()


def test_file_that_takes_no_close(sentry):
    """A server's wrapper with a close() that cannot be replaced is traced, and closed."""

    class Wrapper:
        __slots__ = ("closed",)

        def __iter__(self):
            return iter([b"a"])

        def close(self):
            self.closed = True

    wrapper = Wrapper()
    response = wsgi(
        SentryWsgiMiddleware(lambda environ, start_response: wrapper),
        **{"wsgi.file_wrapper": Wrapper},
    )
    assert list(response) == [b"a"]
    response.close()
    assert wrapper.closed
    assert sentry.root().outcome == "completed"


def test_object_that_answers_everything_is_no_file(init, lifecycle):
    """Where a file is whatever has `fileno` (uWSGI): its steps are the request's all the same."""
    sentry = init(lifecycle)

    class Everything:
        def __getattr__(self, name):
            return self

        def __call__(self):
            return self

        def __iter__(self):
            sentry_sdk.set_tag("request", "this one")
            yield b"a"

    response = wsgi(
        SentryWsgiMiddleware(lambda environ, start_response: Everything()),
        **{"wsgi.file_wrapper": lambda file: file},
    )
    assert list(response) == [b"a"]
    response.close()
    assert sentry.root().outcome == "completed"
    assert_nothing_outside()


@pytest.mark.parametrize("make", [tempfile.TemporaryFile, tempfile.NamedTemporaryFile])
def test_what_asks_another_object_for_its_fileno_is_a_file(sentry, make):
    """The server gets the very object back: uWSGI compares identities."""
    with make() as file:
        response = wsgi(
            SentryWsgiMiddleware(lambda environ, start_response: file),
            **{"wsgi.file_wrapper": lambda file: file},
        )
        assert response is file
        response.close()
    assert sentry.root().outcome == "completed"


@pytest.mark.parametrize("file_wrapper", [None, BytesIO], ids=["body", "file"])
def test_method_that_cannot_be_compared(sentry, file_wrapper):
    """There is no transaction, as the SDK fails at it; but the response ends with its close()."""
    response = wsgi(
        SentryWsgiMiddleware(lambda environ, start_response: BytesIO(b"a")),
        **{"REQUEST_METHOD": ("hostile", None), "wsgi.file_wrapper": file_wrapper},
    )
    assert list(response) == [b"a"]
    response.close()
    assert vendored_integration.stats().open_responses == 0
