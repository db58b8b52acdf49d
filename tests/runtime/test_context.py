"""Bindings of context variables: seen where they should be, and nowhere else."""

import contextvars
import decimal
import gc
import threading

import asgiref
import pytest
import sentry_sdk
import structlog
from django.core.signals import request_finished, request_started
from django.http import StreamingHttpResponse
from django.utils import translation
from harness import Exchange, start_span
from structlog.contextvars import bound_contextvars, get_contextvars
from views import serve

from vendored_integration.wsgi import SentryWsgiMiddleware

request_id = contextvars.ContextVar("request_id")

# Before 3.9.1 (the newest for Python 3.8 is 3.8.1) contexts share a dict of a Local's
# attributes: to delete one is to delete it everywhere, with or without us.
LOCALS_FOLLOW_CONTEXTS = tuple(map(int, asgiref.__version__.split("."))) >= (3, 9, 1)


@pytest.fixture(autouse=True)
def in_a_context_of_its_own():
    """What a test leaves in its thread's context must not reach the next test."""
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def report():
    """What a body sees, as bytes."""
    return f"{get_contextvars().get('id', '-')} {request_id.get('-')};".encode()


def binding_view(value, body):
    """A view whose bindings have been left, or overwritten, when the body runs."""

    def view(request):
        with bound_contextvars(id=value):
            token = request_id.set(value)
            try:
                return StreamingHttpResponse(body())
            finally:
                request_id.reset(token)

    return view


def test_two_requests_interleaved_on_one_thread(sentry):
    """Each body sees its own bindings and its own trace, chunk by chunk."""

    def body():
        for number in range(3):
            with start_span(f"{get_contextvars()['id']}{number}"):
                yield report()

    first = Exchange(serve(binding_view("A", body)), "/a")
    second = Exchange(serve(binding_view("B", body)), "/b")
    steps = [iter(first.response), iter(second.response)]
    seen = b"".join(next(step) for _ in range(3) for step in steps)
    assert seen == b"A A;B B;" * 3
    for exchange in (first, second):
        exchange.close()
    sentry.wait_for(lambda: len(sentry.roots()) == 2)
    a, b = sentry.roots()
    assert a.trace_id != b.trace_id
    assert [name for name in a.names() if name[0] == "A"] == ["A0", "A1", "A2"]
    assert [name for name in b.names() if name[0] == "B"] == ["B0", "B1", "B2"]
    assert not [name for name in a.names() if name[0] == "B"]
    assert report() == b"- -;"


@pytest.mark.parametrize("django", [True, False])
@pytest.mark.parametrize("chunks_first", [True, False])
def test_dropped_body_is_cleaned_up_in_its_own_context(init, django, chunks_first):
    """A response that nobody closes may be dropped while another request runs."""
    init()
    variable = contextvars.ContextVar("variable", default="the server's")
    seen = []

    def body():
        try:
            yield b"a"
            yield b"b"
        finally:
            seen.append(variable.get())

    def view(request):
        variable.set("the request's")
        return StreamingHttpResponse(body())

    def app(environ, start_response):
        variable.set("the request's")
        start_response("200 OK", [])
        return body()

    def serve_one():
        exchange = Exchange(serve(view) if django else SentryWsgiMiddleware(app))
        variable.set("the server's")
        chunks = iter(exchange.response)
        assert next(chunks) == b"a"
        if chunks_first:
            del chunks
            exchange.response = None
        else:
            exchange.response = None
            del chunks

    contextvars.copy_context().run(serve_one)
    gc.collect()
    assert seen == ["the request's"]


def test_finally_of_a_body_can_reset_its_tokens(init):
    """close() runs the generator's clean-up where the generator ran."""
    init()
    failures = []

    def body():
        token = request_id.set("inner")
        try:
            yield b"a"
            yield b"b"
        finally:
            try:
                request_id.reset(token)
            except ValueError as error:
                failures.append(error)

    exchange = Exchange(serve(lambda request: StreamingHttpResponse(body())))
    next(iter(exchange.response))
    exchange.close()
    assert not failures


def test_request_signals_share_a_context(init):
    """What request_started has set, request_finished can reset."""
    init()
    failures, tokens = [], []

    def started(**kwargs):
        tokens.append(request_id.set("request"))

    def finished(**kwargs):
        try:
            request_id.reset(tokens.pop())
        except ValueError as error:
            failures.append(error)

    request_started.connect(started)
    request_finished.connect(finished)
    try:
        Exchange(serve(lambda request: StreamingHttpResponse(iter([b"a"])))).read()
    finally:
        request_started.disconnect(started)
        request_finished.disconnect(finished)
    assert not failures


def test_server_sees_what_the_application_has_set(init):
    """An outer middleware or an access log reads variables after the application."""
    init()

    def app(environ, start_response):
        request_id.set("from the application")
        start_response("200 OK", [])
        return body()

    def body():
        yield b"a"
        request_id.set("from the body")

    def run():
        exchange = Exchange(SentryWsgiMiddleware(app))
        assert request_id.get() == "from the application"
        exchange.read()
        assert request_id.get() == "from the body"

    contextvars.Context().run(run)


def test_server_sees_what_a_django_body_has_set(init):
    """A body that has a context of its own is no exception."""
    init()

    def body():
        request_id.set("from the body")
        yield b"a"

    def run():
        Exchange(serve(lambda request: StreamingHttpResponse(body()))).read()
        assert request_id.get() == "from the body"

    contextvars.Context().run(run)


def test_late_close_does_not_bring_back_old_bindings(init):
    """uWSGI may close a file response after the next request has begun."""
    init()

    def app(environ, start_response):
        start_response("200 OK", [])
        return body()

    def body():
        yield b"a"
        request_id.set("first request")

    def run():
        exchange = Exchange(SentryWsgiMiddleware(app))
        list(exchange.response)
        request_id.set("second request")
        exchange.close()
        assert request_id.get() == "second request"

    contextvars.Context().run(run)


def test_sentry_scopes_do_not_leak_into_the_server(sentry):
    """While a stream is open, the server's thread is outside of its request."""

    def view(request):
        sentry_sdk.set_tag("tenant", "A")
        return StreamingHttpResponse(iter([b"a"]))

    exchange = Exchange(serve(view))
    sentry_sdk.capture_message("from the server")
    exchange.read()
    (event,) = sentry.errors()
    assert "tenant" not in event.get("tags", {})
    assert event["contexts"]["trace"]["trace_id"] != sentry.root().trace_id


def test_scope_of_the_view_is_the_body_s(sentry):
    """A body that is made within new_scope() keeps that scope's tags, in the same trace."""

    def view(request):
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("tenant", "A")
            return StreamingHttpResponse(body())

    def body():
        sentry_sdk.capture_message("from the body")
        yield b"a"

    Exchange(serve(view)).read()
    (event,) = sentry.errors()
    assert event["tags"]["tenant"] == "A"
    assert event["contexts"]["trace"]["trace_id"] == sentry.root().trace_id


def test_response_made_elsewhere_is_traced_in_its_request(sentry):
    """A response that a bare thread has made has no scopes of the request."""
    made = []

    def body():
        with start_span("in the body"):
            yield report()

    def make():
        request_id.set("thread")
        made.append(StreamingHttpResponse(body()))

    thread = threading.Thread(target=contextvars.Context().run, args=(make,))
    thread.start()
    thread.join()
    assert Exchange(serve(lambda request: made[0])).read() == b"- thread;"
    root = sentry.root()
    assert root.parent_of("in the body") is None
    assert root.outcome == "completed"


def test_wrapped_streaming_content_runs_where_it_was_created(init):
    """A middleware that replaces the content (gzip does) does not lose the context."""
    init()
    inner = binding_view("A", lambda: iter(()))

    def view(request):
        response = inner(request)
        response.streaming_content = (report() for _ in range(1))
        return response

    assert Exchange(serve(view)).read() == b"A A;"


@pytest.mark.skipif(not LOCALS_FOLLOW_CONTEXTS, reason="asgiref is too old")
def test_language_is_what_it_is_without_us(init):
    """Django's own settings of a block that was left: they decide about the bytes."""
    init()

    def view(request):
        with translation.override("fr"), translation.override("de"):
            return StreamingHttpResponse(translation.get_language().encode() for _ in range(1))

    for _ in range(2):  # the second finds what the first has left in this thread
        assert Exchange(serve(view)).read() == translation.get_language().encode() != b"de"


def test_decimals_are_what_they_are_without_us(init):
    """A context of theirs that was left decides about the bytes, too."""
    init()

    def body():
        yield str(decimal.Decimal(1) / 7).encode()

    def view(request):
        with decimal.localcontext() as context:
            context.prec = 3
            return StreamingHttpResponse(body())

    for _ in range(2):  # the second finds what the first has left in this thread
        assert Exchange(serve(view)).read() == str(decimal.Decimal(1) / 7).encode() != b"0.143"


def test_streaming_response_can_still_be_copied(init):
    """A context can be neither copied nor pickled, and must not stand in the way."""
    import copy
    import pickle

    init()
    response = StreamingHttpResponse([b"a", b"b"])
    assert b"".join(copy.deepcopy(response)) == b"ab"
    assert b"".join(pickle.loads(pickle.dumps(response))) == b"ab"
    assert b"".join(copy.copy(response)) == b"ab"


# -- as without us ---------------------------------------------------------------------


@pytest.mark.parametrize("where", ["close", "body"])
def test_variable_that_is_reset_is_unset_for_the_next_request(init, where):
    """The user of one request was that of the next one in this thread."""
    init()
    seen = []

    class Response:
        def __iter__(self):
            yield b"a"
            if where == "body":
                request_id.reset(self.token)

        def close(self):
            if where == "close":
                request_id.reset(self.token)

    def app(environ, start_response):
        seen.append(request_id.get("-"))
        response = Response()
        response.token = request_id.set("alice")
        start_response("200 OK", [])
        return response

    application = SentryWsgiMiddleware(app)
    for _ in range(2):
        first = Exchange(application)
        assert request_id.get("-") == "alice"  # as without us, until it is reset
        first.read()
        assert request_id.get("-") == "-"
    assert seen == ["-", "-"]


@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_body_resets_a_token_of_the_view(sentry, read):
    """It was "created in a different Context" there, and the stream failed."""

    def view(request):
        return StreamingHttpResponse(body(request_id.set("alice")))

    def body(token):
        try:
            yield request_id.get().encode()
            yield request_id.get().encode()
        finally:
            request_id.reset(token)

    exchange = Exchange(serve(view))
    if read:
        assert exchange.read() == b"alicealice"
    else:
        next(iter(exchange.response))
        exchange.close()
    assert request_id.get("-") == "-"
    assert sentry.root().outcome == ("completed" if read else "cancelled")
    assert not sentry.errors()


def test_close_sees_what_the_body_has_set(init):
    """Django closes caches in there, which it finds in a context variable."""
    init()
    own = contextvars.ContextVar("own", default="-")
    seen = []

    def body():
        yield b"a"
        own.set("of the body")

    def finished(**kwargs):
        seen.append(own.get())

    request_finished.connect(finished)
    try:
        exchange = Exchange(serve(lambda request: StreamingHttpResponse(body())))
        assert b"".join(exchange.response) == b"a"
        assert own.get() == "of the body"  # an outer middleware's, before close()
        exchange.close()
    finally:
        request_finished.disconnect(finished)
    assert seen == ["of the body"]


def test_what_the_body_sets_in_place_of_a_binding_is_kept(init):
    """For close(), as without us."""
    init()
    own = contextvars.ContextVar("own", default="-")
    seen = []

    def view(request):
        token = own.set("view")
        try:
            return StreamingHttpResponse(body())
        finally:
            own.reset(token)

    def body():
        yield own.get().encode()
        own.set("body")

    def finished(**kwargs):
        seen.append(own.get())

    request_finished.connect(finished)
    try:
        assert Exchange(serve(view)).read() == b"view"
    finally:
        request_finished.disconnect(finished)
    assert seen == ["body"]


def test_response_that_is_served_twice(init):
    """The second request sees nothing of the first."""
    init()

    class Again(StreamingHttpResponse):
        def __iter__(self):
            yield get_contextvars().get("id", "-").encode()

    made = []

    def view(request):
        with bound_contextvars(id="alice"):
            made.append(made[0] if made else Again([]))
        return made[-1]

    assert Exchange(serve(view)).read() == b"alice"
    assert Exchange(serve(view)).read() == b"-"


def test_what_is_bound_later_is_seen(init):
    """By a middleware outside of the view, say."""
    init()
    outer = contextvars.ContextVar("outer", default="-")
    inner = contextvars.ContextVar("inner", default="-")

    def body():
        yield f"{outer.get()} {inner.get()}".encode()

    def view(request):
        outer.set("before")
        response = StreamingHttpResponse(body())
        inner.set("later")
        outer.set("later")
        return response

    assert Exchange(serve(view)).read() == b"later later"


def test_closer_where_the_body_was_not_iterated_by_us(init):
    """Django's test client, a command, another middleware in between: as it is without us."""
    init()
    failures = []

    def body():
        token = request_id.set("of the body")
        try:
            yield b"a"
        finally:
            try:
                request_id.reset(token)
            except ValueError as error:
                failures.append(error)

    with bound_contextvars(id="A"):
        response = StreamingHttpResponse(body())
    assert next(iter(response)) == b"a"
    response.close()
    assert not failures
    assert request_id.get("-") == "-"


@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_bindings_of_the_body_end_with_it(init, read):
    """What was set again for the body is nobody else's, and the body may change it.

    A body that is cut short ends in close(), which therefore sees what it sees.
    """
    init()
    seen = []

    def body():
        yield report()
        token = request_id.set("B")
        try:
            yield report()
        finally:
            request_id.reset(token)
            seen.append(report())

    def finished(**kwargs):
        seen.append(report())

    request_finished.connect(finished)
    try:
        exchange = Exchange(serve(binding_view("A", body)))
        steps = iter(exchange.response)
        assert next(steps) == b"A A;"
        assert next(steps) == b"A B;"
        assert report() == b"- -;"
        if read:
            assert list(steps) == []
        exchange.close()
    finally:
        request_finished.disconnect(finished)
    assert seen == [b"A A;", b"- -;" if read else b"A A;"]
    assert report() == b"- -;"
