"""Whatever a request, an application and a server do: the integration cannot be noticed.

Each example is played twice, see hostile.py: without the SDK, and with it. What server and
application see of each other must be the same; and Sentry gets one transaction.

    pytest runtime/test_hostile.py --hypothesis-profile thorough

tries 5,000 inputs for each test and lifecycle.
"""

import contextvars
import gc
import itertools
import logging

import hostile
import pytest
import sentry_sdk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.apps import ASYNC_BODIES
from support.sdk import start_span

from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

# -- what is drawn -----------------------------------------------------------------------

just, lists, sampled, tuples = st.just, st.lists, st.sampled_from, st.tuples

MISSING, HUGE = just(hostile.MISSING), just(hostile.HUGE)
ERROR = sampled(sorted(hostile.ERRORS))
MAYBE_ERROR = st.none() | st.none() | ERROR
# In a task of Django's, the others end the event loop.
TASK_ERROR = sampled(sorted({*hostile.ERRORS} - {"KeyboardInterrupt", "SystemExit"}))
# What scanners send, and what gets lost on the way.
TEXT = st.text(st.characters(codec="latin-1"), max_size=8) | sampled(
    ["", "%", "%00", "%ff%fe", "\0", "\r\n", "a=b;c", "\xff"]
)
NUMBER = sampled(["", "-1", "1e3", "0x10", " 7", "7", "\u0663", "nan"])
TRACE = sampled(["-", "1" * 32 + "-" + "2" * 16 + "-0", "1" * 33 + "-" + "2" * 17])
BAGGAGE = sampled(["sentry-sample_rate=nan,sentry-sample_rand=inf", "a;sentry-x=%ff,=,;,sentry-y"])
METHOD = sampled(["POST", "HEAD", "OPTIONS", "get", "G T", "\xc4"])
HEADER = (
    tuples(sampled(["cookie", "host", "user-agent", "x", "x-forwarded-for"]), TEXT)
    | tuples(sampled(["sentry-trace", "traceparent"]), TRACE | TEXT)
    | tuples(just("baggage"), BAGGAGE | TEXT)
)
ENVIRON = lists(
    HEADER.map(lambda pair: ("HTTP_" + pair[0].upper().replace("-", "_"), pair[1]))
    | tuples(just("REQUEST_METHOD"), METHOD)
    | tuples(sampled(["PATH_INFO", "QUERY_STRING", "SCRIPT_NAME"]), TEXT | MISSING | HUGE)
    | tuples(sampled(["CONTENT_LENGTH", "SERVER_PORT"]), NUMBER | TEXT | MISSING)
    | tuples(sampled(["CONTENT_TYPE", "HTTP_COOKIE", "HTTP_X"]), TEXT | HUGE)
    | tuples(just("REMOTE_ADDR"), TEXT),
    max_size=5,
)
HEADERS = lists(HEADER, max_size=3).map(
    lambda pairs: [tuple(text.encode("latin-1", "replace") for text in pair) for pair in pairs]
)
SCOPE = lists(
    tuples(just("type"), sampled(["http", "websocket", "lifespan"]))
    | tuples(just("method"), METHOD)
    | tuples(sampled(["path", "root_path"]), TEXT)
    | tuples(just("query_string"), TEXT.map(lambda text: text.encode()))
    | tuples(just("headers"), HEADERS)
    | tuples(sampled(["client", "server"]), just(None) | MISSING),
    max_size=4,
)
CHUNK = tuples(just("chunk"), st.binary(max_size=4))
# A server complains of it; we do not.
ODD_CHUNK = tuples(just("chunk"), sampled(["text", None]))
STEP = CHUNK | CHUNK | tuples(just("raise"), ERROR)


def body_of(*kinds, step=STEP, error=MAYBE_ERROR):
    return st.fixed_dictionaries(
        {
            "kind": sampled(kinds),
            "steps": lists(step, max_size=5),
            "iter": error,
            "at_end": error,
        }
    )


START = tuples(
    sampled(["200 OK", "304 Not Modified", "500 No"]),
    lists(tuples(sampled(["Content-Length", "content-length", "X"]), NUMBER), max_size=3),
    sampled([None, None, "ValueError", "SystemExit"]),
)
SERVERS_DO = (
    ["iter", "next", "next", "next", "next", "close"],
    ["iter", "next", "close", "next", "next"],
    ["close"],
    ["iter", "close", "close"],
    ["iter", "next", "iter", "next", "next", "close"],
)
#: As servers do, and as none should; without a close() the response is dropped.
SERVER = sampled([*SERVERS_DO, ["iter", "next"]]) | lists(
    sampled(["iter", "next", "next", "next", "close"]), max_size=8
)
MESSAGE = (
    st.fixed_dictionaries(
        {
            "type": just("http.response.start"),
            "status": sampled([200, 304, 404, 500]),
            "headers": lists(sampled([(b"Content-Length", b"3"), (b"content-length", b"x")])),
        }
    )
    | st.fixed_dictionaries(
        {"type": just("http.response.body")},
        optional={"body": st.binary(max_size=4), "more_body": st.booleans()},
    )
    | st.fixed_dictionaries(
        {
            "type": sampled(
                ["http.response.pathsend", "http.response.trailers", "websocket.accept"]
            )
            | sampled(["websocket.send", "lifespan.startup.complete", "unknown"])
        }
    )
)
GOOD_ACTIONS = [
    ("send", {"type": "http.response.start", "status": 200, "headers": []}),
    ("send", {"type": "http.response.body", "body": b"a", "more_body": True}),
    ("send", {"type": "http.response.body"}),
]
ACTIONS = just(GOOD_ACTIONS) | lists(
    tuples(just("send"), MESSAGE)
    | tuples(just("send"), MESSAGE)
    | just(("receive", None))
    | tuples(just("raise"), ERROR),
    max_size=6,
)
REQUESTS = [
    (("type", "http.request"), ("body", b"x"), ("more_body", True)),
    (("type", "http.request"),),
    (("type", "http.disconnect"),),
]
OTHERS = [(("type", "websocket.disconnect"), ("code", 1006)), (("type", "lifespan.startup"),)]


def plan(server, django, **parts):
    """A strategy for plans, see hostile.py."""
    known = {"server": just(server), "django": just(django)}
    return st.fixed_dictionaries({**known, **parts})


WSGI = {
    "request_data": just([]) | ENVIRON,
    "error": MAYBE_ERROR,
    "body": body_of(
        "generator", "list", "iterator", "closable", "plain", "file", step=STEP | ODD_CHUNK
    ),
    "steps": SERVER,
}
ASGI = {
    "request_data": just([]) | SCOPE,
    "incoming": lists(sampled(REQUESTS + OTHERS) | ERROR, max_size=4),
    "refused": st.none() | tuples(st.integers(1, 4), ERROR),
}
ASGI_DJANGO = {
    "request_data": just([]) | SCOPE,
    # (when its listener hears of more, is a race with the thread that renders errors)
    "incoming": just([REQUESTS[0], REQUESTS[1], "wait"]),
    "refused": st.none() | tuples(st.integers(1, 4), TASK_ERROR),
    "error": st.none() | st.none() | TASK_ERROR,
    "body": body_of(
        "generator",
        step=CHUNK | CHUNK | tuples(just("raise"), TASK_ERROR),
        error=sampled([None, "ValueError"]),
    ),
}
GOOD_START = [("200 OK", [("X", "y")], None)]
PLANS = {
    "wsgi": plan("wsgi", False, starts=just(GOOD_START) | lists(START, max_size=3), **WSGI),
    "wsgi-django": plan("wsgi", True, streaming=sampled([True, True, False]), **WSGI),
    "asgi": plan("asgi", False, actions=ACTIONS, swallows=st.booleans(), **ASGI),
}
if ASYNC_BODIES:
    PLANS["asgi-django"] = plan("asgi", True, **ASGI_DJANGO)
WRAP = {"wsgi": SentryWsgiMiddleware, "asgi": SentryMiddleware}


# -- the test ----------------------------------------------------------------------------


def play_without(plan):
    """Play a plan with the SDK switched off."""
    scope = sentry_sdk.Scope.get_global_scope()
    client = sentry_sdk.get_client()
    scope.set_client(None)
    try:
        return hostile.play(plan)
    finally:
        scope.set_client(client)


def known_plans():
    """Each error in each place, whatever a WSGI server does."""
    body = {"kind": "closable", "steps": [("chunk", b"a")], "iter": None, "at_end": None}
    known = {"server": "wsgi", "django": False, "request_data": []}
    known.update(error=None, starts=GOOD_START, steps=SERVERS_DO[0], body=body)
    last_steps = [
        ("chunk", "text"),
        ("chunk", None),
        *(("raise", error) for error in hostile.ERRORS),
    ]
    for kind in "generator", "list", "closable", "plain":
        for steps, last in itertools.product(SERVERS_DO, last_steps):
            made = {**body, "kind": kind, "steps": [*body["steps"], last]}
            yield {**known, "steps": steps, "body": made}
        for error in hostile.ERRORS:
            made = {**body, "kind": kind, "at_end": error}
            yield {**known, "steps": ["close", "close"], "body": made}
    for error in hostile.ERRORS:
        yield {**known, "error": error}
    yield {**known, "starts": [*GOOD_START, ("500 No", [], "ValueError")]}
    known.update(server="asgi", incoming=REQUESTS, refused=None, swallows=False)
    for error, sent in itertools.product(hostile.ERRORS, range(4)):
        yield {**known, "actions": [*GOOD_ACTIONS[:sent], ("raise", error)]}
        yield {**known, "actions": GOOD_ACTIONS, "refused": (sent, error)}


def test_known(init):
    """The server gets the very errors, with their causes; each close() is the application's."""
    init()
    for plan in known_plans():
        assert hostile.play(plan, WRAP[plan["server"]]) == play_without(plan), plan


# What a body raises while it is collected, Python only prints.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", PLANS)
def test_hostile(init, lifecycle, monkeypatch, kind):
    """The same is seen with and without us, and there is one transaction."""
    sentry = init(lifecycle)
    numbers = itertools.count()
    # pytest's handlers would keep what Django logs, and with it the responses.
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.NullHandler()])

    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(PLANS[kind])
    def example(plan):
        name = f"request {next(numbers)}"

        def mark():
            with start_span(name):
                pass

        def transactions():
            # In the stream lifecycle a span may be a segment of its own.
            return [root for root in sentry.roots() if name in root.names()]

        sentry.clear()
        expected = play_without(plan)
        assert hostile.play(plan, WRAP[plan["server"]], mark) == expected
        if any(what == "called" for what, *_ in expected) and not plan["request_data"]:
            if not transactions():
                gc.collect()  # the response has been dropped, or is in a cycle
            sentry.wait_for(transactions)
        assert len(transactions()) <= 1

    # What a request sets for its server goes with the copy: the SDK's last error, for one.
    contextvars.copy_context().run(example)
    gc.collect()  # while what its garbage raises is ignored
    sentry.clear()  # Relay may find fault with what such a client has sent
