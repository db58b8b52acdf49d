"""Whatever a request, an application and a server do: the integration cannot be noticed.

Each example is played twice, see hostile.py: in a process that has never heard of Sentry,
and here. What server and application see of each other must be the same; and Sentry gets
one transaction, with nothing in it of another request.

    pytest runtime/test_hostile.py --hypothesis-profile thorough

tries 5,000 inputs for each test and lifecycle.
"""

import atexit
import contextvars
import gc
import itertools
import json
import logging
import pickle
import re
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
import sentry_sdk
from asgi_server import ASYNC_BODIES
from harness import assert_accepted, start_span
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

HERE = Path(__file__).parent

# -- what is drawn -----------------------------------------------------------------------

just, lists, none, sampled, tuples = st.just, st.lists, st.none(), st.sampled_from, st.tuples
numbers = itertools.count()


def plan(server, kind, **parts):
    """A strategy for plans, see hostile.py."""
    return st.fixed_dictionaries({"server": just(server), "kind": just(kind), **parts})


MISSING = just(hostile.MISSING)
ERROR = sampled(sorted(hostile.ERRORS))
# What scanners send.
TEXT = st.one_of(
    st.text(st.characters(codec="latin-1"), max_size=8),
    st.text(max_size=8),
    sampled(["", "%", "%00", "%ff%fe", "\0", "\r\n", "a=b;c", "\xff", "\udcff"]),
    just(("huge", 70_000)),
)
NUMBER = sampled(["", "-1", "1e3", "0x10", " 7", "7", "\u0663", "nan"])
TRACE = sampled(
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
BAGGAGE = sampled(
    [
        "sentry-",
        "sentry-trace_id=" + "1" * 32 + ",sentry-sample_rate=x,sentry-sample_rand=y",
        "sentry-sample_rate=2,sentry-sample_rand=-1",
        "sentry-sample_rate=nan,sentry-sample_rand=inf",
        "sentry-sampled=maybe,sentry-trace_id=",
        "a=b;sentry-x=%ff,=,;,sentry-y",
        "sentry-a=" + "%" * 9000,
    ]
)
METHOD = sampled(["POST", "HEAD", "OPTIONS", "get", "", "G T", "\xc4"])
# Adapters and test clients put in numbers, and None for what they do not know.
ENVIRON = lists(
    st.one_of(
        tuples(just("REQUEST_METHOD"), METHOD),
        tuples(sampled(["PATH_INFO", "QUERY_STRING", "SCRIPT_NAME"]), TEXT | MISSING),
        tuples(sampled(["CONTENT_LENGTH", "SERVER_PORT"]), NUMBER | TEXT | MISSING | just(80)),
        tuples(
            sampled(["CONTENT_TYPE", "HTTP_COOKIE", "HTTP_HOST", "HTTP_USER_AGENT", "HTTP_X"])
            | sampled(["HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP", "REMOTE_ADDR"]),
            TEXT | sampled([None, 7]),
        ),
        tuples(sampled(["HTTP_SENTRY_TRACE", "HTTP_TRACEPARENT"]), TRACE | TEXT),
        tuples(just("HTTP_BAGGAGE"), BAGGAGE | TEXT),
        tuples(just("wsgi.file_wrapper"), sampled([("function", None), ("class", None)])),
    ),
    max_size=5,
)

CHUNK = st.binary(max_size=4) | sampled(
    ["text", 7, None, ("bytearray", b"ab"), ("memoryview", b"abc")]
)
HEADERS = lists(
    tuples(sampled(["Content-Length", "content-length", "X", ""]), NUMBER | TEXT | just(7)),
    max_size=3,
).map(lambda pairs: ("list", pairs))
STATUS = sampled(["200 OK", "304 Not Modified", "500 No", "200", "", "x", 200])
EXC_INFO = sampled([None, None, "none", "ValueError", "SystemExit"])
START = tuples(STATUS, HEADERS, EXC_INFO)
STARTS = just([("200 OK", ("list", [("X", "y")]), None)]) | lists(START, max_size=3)

STEP = st.one_of(
    tuples(just("chunk"), CHUNK),
    tuples(just("chunk"), CHUNK),
    tuples(just("raise"), ERROR),
    tuples(just("start"), START),
    just(("close response", None)),
)
STEPS = lists(STEP, max_size=5)
ITER = sampled(["self", "self", "other", "none"]) | ERROR
ODD_BODY = st.fixed_dictionaries(
    {
        "kind": just("iterator"),
        "steps": lists(STEP | just(("close", None)), max_size=5),
        "iter": ITER,
        "close": sampled([None, "method", "method", "property", "None"]),
        "close error": none | ERROR,
        "len": none | st.integers(0, 2),
    }
)
GENERATOR = st.fixed_dictionaries(
    {"kind": just("generator"), "steps": STEPS, "finally": none | just("yield") | ERROR}
)
SEQUENCE = st.fixed_dictionaries(
    {"kind": sampled(["list", "tuple", "getitem", "file"]), "steps": STEPS}
)
BODY = GENERATOR | SEQUENCE | ODD_BODY | ODD_BODY
# As servers do, and as none should.
SERVER = st.one_of(
    just(["iter", "next", "next", "next", "next", "next", "next", "close"]),
    just(["len", "iter", "next", "close"]),
    just(["iter", "next"]),
    lists(sampled(["iter", "next", "next", "next", "len", "close"]), max_size=8),
)

BYTES = TEXT.map(lambda text: text if isinstance(text, tuple) else _encoded(text))
TRACE_BYTES = (TRACE | BAGGAGE).map(lambda text: _encoded(text))
SCOPE_HEADERS = (
    lists(
        tuples(
            sampled([b"cookie", b"host", b"user-agent", b"x", b"", b"x-forwarded-for"])
            | sampled([b"content-length", b"content-type", b"\xff"]),
            TEXT.filter(lambda text: isinstance(text, str)).map(lambda text: _encoded(text)),
        )
        | tuples(sampled([b"baggage", b"sentry-trace", b"traceparent"]), TRACE_BYTES),
        max_size=3,
    )
    | MISSING
)
SCOPE = lists(
    st.one_of(
        tuples(just("type"), sampled(["http", "websocket", "lifespan", "mqtt"])),
        tuples(just("method"), METHOD),
        tuples(sampled(["path", "root_path"]), TEXT | MISSING),
        tuples(sampled(["raw_path", "query_string"]), BYTES | MISSING),
        tuples(just("headers"), SCOPE_HEADERS),
        tuples(sampled(["client", "server"]), sampled([None, ("a", None)]) | MISSING),
    ),
    max_size=4,
)
MESSAGE_HEADERS = lists(
    sampled([(b"Content-Length", b"3"), (b"content-length", b"x"), (b"x", b"y")])
)
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {
            "type": just("http.response.start"),
            "status": sampled([200, 304, 404, 500, 99]),
            "headers": MESSAGE_HEADERS.map(lambda pairs: ("list", pairs))
            | MESSAGE_HEADERS.map(lambda pairs: ("iterator", pairs)),
        },
    ),
    st.fixed_dictionaries(
        {"type": just("http.response.body")},
        optional={"body": CHUNK, "more_body": st.booleans() | none},
    ),
    st.fixed_dictionaries(
        {
            "type": sampled(["http.response.pathsend", "http.response.zerocopysend"])
            | sampled(["http.response.trailers", "http.response.push", "http.disconnect"])
            | sampled(["websocket.accept", "websocket.send", "lifespan.startup.complete"])
            | sampled(["unknown", None])
        }
    ),
    just({}),
).map(lambda message: ("dict", message))
INCOMING = lists(
    sampled(
        [
            ("dict", {"type": "http.request", "body": b"x", "more_body": True}),
            ("dict", {"type": "http.request"}),
            ("dict", {"type": "http.disconnect"}),
            ("dict", {"type": "websocket.disconnect", "code": 1006}),
            ("dict", {"type": "lifespan.startup"}),
            ("dict", {}),
        ]
    )
    | ERROR,
    max_size=4,
)
GOOD_ACTIONS = [
    ("send", ("dict", {"type": "http.response.start", "status": 200, "headers": []})),
    ("send", ("dict", {"type": "http.response.body", "body": b"a", "more_body": True})),
    ("send", ("dict", {"type": "http.response.body"})),
]
ACTIONS = just(GOOD_ACTIONS) | lists(
    st.one_of(
        tuples(just("send"), MESSAGE),
        tuples(just("send"), MESSAGE),
        just(("receive", None)),
        tuples(just("raise"), ERROR),
    ),
    max_size=6,
)
ASYNC_BODY = st.fixed_dictionaries(
    {
        "kind": sampled(["generator", "iterator"]),
        "steps": lists(tuples(just("chunk"), CHUNK) | tuples(just("raise"), ERROR), max_size=5),
        "finally": none | ERROR,
        "iter": ITER,
        "close": st.booleans(),
        "close error": none | ERROR,
    }
)
RAISES = none | none | ERROR
WSGI = {"environ": just([]) | ENVIRON, "error": RAISES, "body": BODY, "steps": SERVER}
ASGI = {
    "scope": just([]) | SCOPE,
    "incoming": INCOMING,
    "refused": none | tuples(st.integers(1, 4), ERROR),
}
PLANS = {
    "wsgi": plan("wsgi", "plain", starts=STARTS, writes=lists(CHUNK, max_size=2), **WSGI),
    "wsgi-django": plan("wsgi", "django", streaming=sampled([True, True, False]), **WSGI),
    "asgi": plan("asgi", "plain", actions=ACTIONS, swallows=st.booleans(), **ASGI),
}
if ASYNC_BODIES:
    PLANS["asgi-django"] = plan("asgi", "django", error=RAISES, body=ASYNC_BODY, **ASGI)
WRAP = {"wsgi": SentryWsgiMiddleware, "asgi": SentryMiddleware}


def _encoded(text):
    return text.encode("utf-8", "surrogatepass")


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
# The SDK's thread that sends spans draws random numbers while hypothesis draws a plan.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module inside strategies")
@pytest.mark.parametrize("kind", PLANS)
def test_hostile(init, lifecycle, bare, marked, kind):
    """The same is seen with and without us; one transaction, and nothing of another request."""
    sentry = init(lifecycle)

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(PLANS[kind])
    def example(plan):
        plan["request"] = next(numbers)
        expected = bare.play(plan)
        sentry.clear()
        sentry_sdk.Scope.get_isolation_scope().clear()
        assert hostile.play(plan, WRAP[plan["server"]]) == expected
        changes = plan.get("environ", plan.get("scope"))
        called = any(what == "called" for what, *_ in expected)
        assert_own_data(sentry, plan["request"], well_formed=called and not changes)
        if ("type", "lifespan") not in changes:  # what that sets is the process's
            assert_nothing_outside()

    # What a request sets for its server goes with the copy: the SDK's last error, for one.
    contextvars.copy_context().run(example)
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
    scope = sentry_sdk.Scope.get_isolation_scope()
    assert "request" not in scope._tags
    assert not MARKS.search(repr(scope._breadcrumbs))
