"""``trace_stream``: the span of a generator, and that nobody else can tell."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import re
import sys
import threading
import time
import weakref
from datetime import datetime, timedelta
from functools import partial

import pytest
import sentry_sdk
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.apps import DJANGO_WAYS, open_stream, streaming_app
from support.sdk import (
    HAS_STATIC_LIFECYCLE,
    HAS_STREAM_LIFECYCLE,
    start_span,
    status_of,
    streams,
)

from vendored_integration import trace_stream


def transaction():
    """Start what all else is a child of, in the lifecycle that the SDK is initialised with."""
    if streams():
        return sentry_sdk.traces.start_span(name="request")
    return sentry_sdk.start_transaction(name="request")


def spans_of(sentry):
    """The spans of the one transaction, in the order of their starts."""
    return sorted(sentry.root().spans, key=lambda span: span.start)


def parents(sentry):
    """The parent's name of each span, which must be there once; ``None``: the transaction."""
    root = sentry.root()
    return {name: root.parent_of(name) for name in root.names()}


def set_span_hook(hook):
    """Set ``before_send_span``, which has been an experiment before it was an option."""
    options = sentry_sdk.get_client().options
    options["before_send_span"] = options["_experiments"]["before_send_span"] = hook


def wait_for_dropped(sentry, lifecycle, name):
    """Wait until a worker has ended the span of a generator that was dropped."""
    if lifecycle == "stream":
        sentry.wait_for(lambda: name in [span["name"] for span in sentry.spans()])


def drop(generators, in_cycle=False):
    """Drop what is in a list, at once or for the collector to find."""
    if in_cycle:
        generators.append(list(generators))
        generators[-1].append(generators[-1])
    generators.clear()
    gc.collect()


def active():
    """The name of the span that is active here."""
    span = sentry_sdk.Scope.get_current_scope()._span
    return span and (getattr(span, "name", None) or getattr(span, "description", None))


# -- sync and async twins --------------------------------------------------------------


class Suspend:
    """Wait for whoever drives the coroutine."""

    def __await__(self):
        return (yield "suspended")


def as_async(function):
    """Return an async generator function that does the same; it waits for a ``Suspend``."""

    @functools.wraps(function)
    async def async_function(*args):
        generator = function(*args)
        resume, argument = generator.send, None
        while True:
            try:
                value = resume(argument)
            except StopIteration:
                return
            finally:
                argument = None
            try:
                argument = await value if isinstance(value, Suspend) else (yield value)
                resume = generator.send
            except BaseException as error:
                resume, argument = generator.throw, error

    return async_function


@pytest.fixture(params=["sync", "async"])
def twin(request):
    """Return a generator function as it is, or the async one that does the same."""
    return as_async if request.param == "async" else lambda function: function


@pytest.fixture
def traced(twin):
    """Trace a generator function, sync and async; the span has its name."""
    return lambda function: trace_stream(name=function.__name__)(twin(function))


def run(coroutine):
    """Drive a coroutine that waits for nothing, in the running context."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def send(generator, value=None):
    return run(generator.asend(value)) if inspect.isasyncgen(generator) else generator.send(value)


def throw(generator, error):
    return run(generator.athrow(error)) if inspect.isasyncgen(generator) else generator.throw(error)


def close(generator):
    return run(generator.aclose()) if inspect.isasyncgen(generator) else generator.close()


def values(generator):
    """Iterate a generator to its end."""
    return run(collect(generator)) if inspect.isasyncgen(generator) else list(generator)


async def collect(generator):
    return [value async for value in generator]


@contextlib.contextmanager
def unraisable_to(found):
    """Keep what goes wrong where nobody can be told, up to the block's end."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: found.append(describe(args.exc_value)[:2])
    try:
        yield
        gc.collect(1)
    finally:
        sys.unraisablehook = before


def numbers():
    yield 0
    yield 1


def failing():
    yield 1
    raise ValueError("inside")


# -- the span ----------------------------------------------------------------------


def test_one_span_from_the_first_step_to_the_end(sentry, lifecycle, twin):
    """Not from the call, not until the collection, and none for a chunk.

    By default the name is the function's with its module, as ``sentry_sdk.trace`` has it.
    """
    attributes = {"table": "orders", "limit": 5}
    with transaction():
        generator = trace_stream(twin(numbers))()
        with start_span("before"):
            pass
        assert values(generator) == [0, 1]
        with start_span("after"):
            pass
        values(trace_stream(name="rows", op="export", attributes=attributes)(twin(numbers))())
    before, span, after, rows = spans_of(sentry)
    assert (span.name, span.op) == (f"{__name__}.numbers", "function")
    # The static lifecycle has no status of what went well, as stock's spans.
    assert span.status == ("" if lifecycle == "static" else "ok")
    assert before.end <= span.start <= span.end <= after.start
    assert (rows.name, rows.op) == ("rows", "export")
    assert (rows.data["table"], rows.data["limit"]) == ("orders", 5)
    assert set(parents(sentry).values()) == {None}


def test_what_the_body_does_are_children(sentry):
    """Spans, and generators within, also one of the same function."""

    def walk(depth):
        with start_span(f"work {depth}"):
            yield depth
            if depth:
                yield from trace_stream(name=f"walk {depth - 1}")(walk)(depth - 1)

    with transaction():
        assert list(trace_stream(name="walk 1")(walk)(1)) == [1, 0]
    assert parents(sentry) == {
        "walk 1": None,
        "work 1": "walk 1",
        "walk 0": "work 1",
        "work 0": "walk 0",
    }


@pytest.mark.parametrize("way", DJANGO_WAYS)
@pytest.mark.parametrize("read", [True, False], ids=["read", "hung up on"])
def test_streaming_response(sentry, lifecycle, way, read):
    """The purpose: in a request's body, with its queries; ended before its transaction."""

    @trace_stream(name="export")
    def export():
        sql = connection.cursor().execute if way.startswith("wsgi") else start_span
        sql("SELECT 17")
        yield b"17"
        yield b"18"

    client = open_stream(way, streaming_app(way, export))
    if read:
        assert client.read() == b"1718"
    else:
        client.take(1)
        client.hang_up()
    root = sentry.root()
    assert root.outcome == ("completed" if read else "cancelled")
    assert root.parent_of("export") is None
    if way.startswith("wsgi"):
        assert root.parent_of("SELECT 17") == "export"
    if not read:
        assert root.named("export").status == status_of(lifecycle, "cancelled")


@pytest.mark.parametrize("rate", [None, 0.0, 1.0])
def test_nothing_is_made_without_a_sampled_transaction(init, lifecycle, traced, rate):
    """A generator alone is no transaction, and does not make one."""

    def body():
        yield sentry_sdk.Scope.get_current_scope()

    sentry = init(lifecycle, traces_sample_rate=rate)
    assert values(traced(body)()) == [sentry_sdk.Scope.get_current_scope()]
    if rate != 1.0:
        with transaction():
            assert values(traced(body)()) == [sentry_sdk.Scope.get_current_scope()]
    assert sentry.transactions() == sentry.spans() == []


def test_fault_of_ours_is_logged(sentry, traced, monkeypatch, caplog):
    """The generator goes on, without a span."""

    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    with transaction():
        monkeypatch.setattr(sentry_sdk, "start_span", broken)
        if hasattr(sentry_sdk, "traces"):
            monkeypatch.setattr(sentry_sdk.traces, "start_span", broken)
        assert values(traced(numbers)()) == [0, 1]
        monkeypatch.undo()
        assert active() == "request"
    assert [record.name for record in caplog.records] == ["vendored_integration"]
    assert parents(sentry) == {}


# -- active only while a step runs --------------------------------------------------


def holder(name):
    """A body with a span that stays open across its steps."""
    with start_span(f"held by {name}"):
        yield 1
        with start_span(f"inside of {name}"):
            yield 2


def waiting_holder(name):
    """The same, and each step waits."""
    for value in holder(name):
        yield Suspend()
        yield value
        yield Suspend()


def held(*names):
    """The parents of the spans of these holders."""
    found = {f"outer {name}": None for name in names}
    found.update({f"held by {name}": f"outer {name}" for name in names})
    return {**found, **{f"inside of {name}": f"held by {name}" for name in names}}


def test_in_turns(sentry, twin):
    """Generators in turns, with spans open across yields: each keeps to itself.

    So does whoever iterates, also when a generator's end comes after the end of a block, or
    in another thread's context, which keeps nothing of it.
    """
    with transaction():
        a, b = (trace_stream(name=f"outer {name}")(twin(holder))(name) for name in "ab")
        with start_span("mine"):
            assert send(a) == send(b) == 1
            assert active() == "mine"
            with start_span("my child"):
                assert send(a) == send(b) == 2
            assert active() == "mine"
        close(a)
        elsewhere = contextvars.Context()
        assert elsewhere.run(values, b) == []
        assert elsewhere.run(active) is None
        assert active() == "request"
        with start_span("mine, later"):
            pass
    assert parents(sentry) == {
        **held("a", "b"),
        "outer a": "mine",
        "outer b": "mine",
        "mine": None,
        "my child": "mine",
        "mine, later": None,
    }


def test_async_in_turns_while_they_wait(sentry):
    """Steps that wait at the same time, in one context, or begin and end in several."""
    with transaction():
        a, b = (trace_stream(name=f"outer {name}")(as_async(waiting_holder))(name) for name in "ab")
        for _ in range(2):
            steps = [a.__anext__(), b.__anext__()]
            while steps:
                for step in list(steps):
                    context = contextvars.copy_context()
                    run_step = step.send if step is steps[0] else partial(context.run, step.send)
                    try:
                        assert run_step(None) == "suspended"
                    except StopIteration:
                        steps.remove(step)
                    assert active() == context.run(active) == "request"
        close(b)
        close(a)  # each leaves its own spans only
    assert parents(sentry) == held("a", "b")


def test_scope_that_is_left_open_across_a_step_stays_the_generator_s(sentry, traced):
    """``with new_scope()`` around a yield: its tags are there when it goes on, only there."""

    def body():
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("where", "generator")
            yield
            sentry_sdk.capture_message("inside")

    with sentry_sdk.isolation_scope(), transaction():
        generator = traced(body)()
        send(generator)
        sentry_sdk.capture_message("outside")
        values(generator)
    tags = {event["message"]: event.get("tags") for event in sentry.errors()}
    assert tags == {"inside": {"where": "generator"}, "outside": None}


# -- the end -------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("way", ["close", "drop", "drop in a cycle"])
def test_nobody_wants_more(sentry, lifecycle, traced, way, goes_on):
    """The span ends with the body's clean-up, also if the body yields once more then."""

    def body():
        try:
            yield 1
        finally:
            with start_span("clean up"):
                pass
            if goes_on:
                yield 2

    unraisable = []
    with transaction(), unraisable_to(unraisable):
        generators = [traced(body)()]
        send(generators[0])
        if way == "close":
            with pytest.raises(RuntimeError) if goes_on else contextlib.nullcontext():
                close(generators[0])
            close(generators[0])
            assert values(generators[0]) == []
        drop(generators, way == "drop in a cycle")
        wait_for_dropped(sentry, lifecycle, "body")
        with start_span("after"):
            pass
    assert bool(unraisable) == (goes_on and way != "close")  # Python's own complaint
    span, clean_up, after = spans_of(sentry)
    assert (span.name, clean_up.name) == ("body", "clean up")
    assert parents(sentry)["body"] is None
    if way != "drop in a cycle":  # there, the collector may close the inner generator first
        assert parents(sentry)["clean up"] == "body"
    assert span.end <= after.start
    if not goes_on:
        assert span.status == status_of(lifecycle, "cancelled")


@pytest.mark.parametrize("way", ["drop", "drop in a cycle", "keep"])
def test_async_is_closed_by_its_loop(sentry, lifecycle, way):
    """When it is dropped, or when the loop shuts down: once, and its ``finally`` may wait.

    The inner generator is not known to the loop: they would be closed at the same time.
    """
    closed, faults, kept = [], [], []

    @trace_stream(name="body")
    async def body():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            with start_span("clean up"):
                closed.append(True)

    async def main():
        hooks = sys.get_asyncgen_hooks()
        asyncio.get_running_loop().set_exception_handler(lambda loop, fault: faults.append(fault))
        kept.append(body())
        assert await kept[0].__anext__() == 1
        assert sys.get_asyncgen_hooks() == hooks
        if way == "keep":
            return
        drop(kept, way == "drop in a cycle")
        while not closed:
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    with transaction(), unraisable_to(faults):
        asyncio.run(main())
        wait_for_dropped(sentry, lifecycle, "body")
    assert closed == [True]
    assert faults == []
    assert parents(sentry) == {"body": None, "clean up": "body"}


@pytest.mark.skipif(
    not HAS_STREAM_LIFECYCLE, reason="a span of the static lifecycle is sent with its transaction"
)
@pytest.mark.parametrize("cycle", [False, True])
def test_ended_elsewhere(init, traced, cycle):
    """The span is of the request that it has begun in. The collector runs no hook of the user's.

    It may run while a lock is held that the hook wants. Though the hooks hang in all workers,
    a span's end is that of its generator.
    """
    threads = {}
    released = threading.Event()

    def hook(span, hint):
        threads[span["name"]] = threading.get_ident()
        if span["name"] == "failing":
            released.wait(20)
        return span

    sentry = init("stream")
    set_span_hook(hook)
    with sentry_sdk.isolation_scope() as scope:
        scope.set_attribute("whose", "mine")
        with transaction():
            closed = traced(numbers)()
            hanging = [traced(failing)() for _ in range(9)]
            last = [trace_stream(name="last")(numbers)()]
            assert [*map(send, (closed, *hanging, *last))] == [0, *[1] * 9, 0]
    with sentry_sdk.isolation_scope() as scope:
        scope.set_attribute("whose", "somebody else's")
        close(closed)
        drop(hanging, cycle)
        drop(last, cycle)
    dropped_by = time.time()
    released.set()
    wait_for_dropped(sentry, "stream", "last")
    root = sentry.root()
    assert {span.data["whose"] for span in root.spans} == {"mine"}
    assert root.named("last").end <= dropped_by
    assert threads["numbers"] == threading.get_ident()
    assert threads["failing"] != threading.get_ident()
    assert threads["last"] != threading.get_ident()


@pytest.mark.skipif(not HAS_STREAM_LIFECYCLE, reason="needs the stream lifecycle")
def test_clock_is_set_back(init, monkeypatch):
    """The span of a generator that is dropped does not end before it has started."""

    class Tomorrow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=1)

    sentry = init("stream")
    with transaction():
        generators = [trace_stream(name="dropped")(numbers)()]
        with monkeypatch.context() as patched:
            patched.setattr(sentry_sdk.traces, "datetime", Tomorrow)
            send(generators[0])
        drop(generators)
        wait_for_dropped(sentry, "stream", "dropped")
    assert 0 <= sentry.root().named("dropped").duration < 3600


@pytest.mark.skipif(
    not hasattr(sentry_sdk.tracing_utils, "is_ignored_span"), reason="the SDK ignores no spans"
)
def test_ignored_span_is_dropped(init, traced, caplog):
    """With ``ignore_spans`` the SDK makes a span that has no time."""
    ignored = {"ignore_spans": ["numbers"]}
    options = {"_experiments": ignored} if HAS_STATIC_LIFECYCLE else ignored
    sentry = init("stream", **options)
    with transaction():
        generators = [traced(numbers)(), traced(failing)()]
        assert [send(generator) for generator in generators] == [0, 1]
        drop(generators)
        wait_for_dropped(sentry, "stream", "failing")
    assert parents(sentry) == {"failing": None}
    assert caplog.records == []


# -- transparency --------------------------------------------------------------------

#: How a generator may end, or be made to.
ERRORS = [ValueError, StopIteration, StopAsyncIteration, asyncio.CancelledError]


def describe(error):
    """All that can be seen of an error."""
    if error is None:
        return None
    context = describe(error.__cause__), describe(error.__context__), error.__suppress_context__
    return type(error), str(error), context


def scripted(script, log):
    """A generator that does as the script says, and logs what it sees."""
    for action, argument in script:
        log.append((action, describe(sys.exc_info()[1])))
        if action == "return":
            return argument
        if action == "raise":
            raise argument("raised")
        try:
            log.append((yield Suspend() if action == "wait" else argument))
        except BaseException as error:
            log.append(describe(error))
            if action == "translate":
                raise KeyError("translated")  # noqa: B904
            if action != "swallow" or isinstance(error, GeneratorExit):
                raise
        finally:
            log.append("finally")
    return None


def observe(function, *args):
    """What comes of a call: a value, or an error."""
    try:
        return "returned", function(*args)
    except BaseException as error:
        return "raised", describe(error), getattr(error, "value", None)


def drive(make, script, calls, wakings):
    """Everything that can be seen of a generator that is called so.

    :param wakings: how what an async one waits for comes, or fails.
    """
    log = []
    step = None
    with unraisable_to(log):
        generator = make(script, log)
        for name, argument in calls:
            if name == "throw":
                argument = argument("thrown")
            args = [] if name == "close" else [argument]
            if inspect.isgenerator(generator):
                log.append(observe(getattr(generator, name), *args))
                continue
            step = getattr(generator, f"a{name}")(*args)
            log.append(observe(step.send, None))
            while log[-1][0] == "returned":
                error = wakings.pop() if wakings else None
                resume = partial(step.throw, error("woken")) if error else partial(step.send, None)
                log.append(observe(resume))
        del generator, step
    return log


@pytest.fixture(params=["traced", "untraced"])
def maybe(request, init):
    """Within a transaction, or without."""
    init()
    return transaction if request.param == "traced" else contextlib.nullcontext


VALUES = st.sampled_from([None, 1, "text"])
STEPS = [
    st.tuples(st.sampled_from(["yield", "swallow", "translate"]), VALUES),
    st.tuples(st.sampled_from(["yield", "wait"]), VALUES),
    st.tuples(st.just("return"), VALUES),
    st.tuples(st.just("raise"), st.sampled_from(ERRORS)),
]
SEND = ("send", None)
CALLS = [
    st.just(SEND),
    st.tuples(st.just("send"), VALUES),
    st.tuples(st.just("throw"), st.sampled_from(ERRORS)),
    st.just(("close", None)),
]


@given(
    script=st.lists(st.one_of(STEPS), max_size=6),
    calls=st.lists(st.one_of(CALLS), max_size=8),
    wakings=st.lists(st.sampled_from([None, *ERRORS]), max_size=4),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# A thread of the SDK that an earlier test has started uses random.random().
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
def test_is_as_without_us(maybe, twin, script, calls, wakings):
    """Values, errors with their causes, contexts, and what is collected."""
    function = twin(scripted)
    if function is scripted:
        script = [step for step in script if step[0] != "wait"]
    with maybe():
        traced = drive(trace_stream(function), script, calls, list(wakings))
    assert traced == drive(function, script, calls, list(wakings))


@pytest.mark.parametrize(
    ("script", "calls", "status"),
    [
        ([("yield", 1), ("raise", ValueError)], [SEND, SEND], "internal_error"),
        # One that the body handles is none, one that it lets through is.
        ([("swallow", 1), ("yield", 2)], [SEND, ("throw", KeyError)], "cancelled"),
        (
            [("swallow", 1), ("yield", 2)],
            [SEND, ("throw", KeyError), ("throw", ValueError)],
            "internal_error",
        ),
        # A task that is cancelled.
        ([("yield", 1)], [SEND, ("throw", asyncio.CancelledError)], "cancelled"),
        # Nothing has run, so there is nothing to tell of.
        ([("yield", 1)], [], None),
        ([("yield", 1)], [("close", None)], None),
        ([("yield", 1)], [("throw", ValueError)], None),
    ],
)
def test_status(sentry, lifecycle, traced, script, calls, status):
    """That of what has ended the generator, which is dropped after the calls."""
    with transaction():
        drive(traced(scripted), script, calls, [])
        if status is not None:
            wait_for_dropped(sentry, lifecycle, "scripted")
    expected = [] if status is None else [status_of(lifecycle, status)]
    assert [span.status for span in sentry.root().spans] == expected
    assert sentry.errors() == []


def test_async_closed_while_it_waits(maybe):
    """A coroutine that waits in a step is closed, and dropped: the body cleans up."""
    cleaned_up = []

    @trace_stream
    async def body():
        try:
            yield await Suspend()
        finally:
            cleaned_up.append(True)

    with maybe():
        coroutine = collect(body())
        assert coroutine.send(None) == "suspended"
        coroutine.close()
        del coroutine
    assert cleaned_up == [True]


def test_keeps_no_cycle(maybe, no_collector, traced):
    """Errors and generators are free when they are done with, without the collector."""

    class Held(Exception):
        pass

    def leaky(held):
        with contextlib.suppress(Held):
            yield 1
        yield 2

    with maybe():
        held, error = Held(), Held()
        gone = weakref.ref(held), weakref.ref(error)
        generator = traced(leaky)(held)
        del held
        send(generator)
        assert throw(generator, error) == 2
        del error
        assert gone[1]() is None
        close(generator)
        del generator
    assert gone[0]() is None


# -- the function --------------------------------------------------------------------


def undecorated(first, *, second="a"):
    yield first


async def async_undecorated(first, *, second="a"):
    yield first


@pytest.mark.parametrize("function", [undecorated, async_undecorated])
def test_function_and_generator_describe_themselves_as_before(maybe, function):
    """To whoever asks: Django asks whether a body is async. Wrong arguments raise at the call."""

    def describe(function):
        generator = function(1)
        return (
            inspect.signature(function),
            (function.__name__, function.__qualname__, function.__module__),
            (generator.__name__, generator.__qualname__),
            (inspect.isgenerator(generator), inspect.isasyncgen(generator)),
            inspect.ismethod(type("Class", (), {"method": function})().method),
            [observe(function, *args) for args in ((), (1, 2))],
        )

    with maybe():
        assert describe(trace_stream(function)) == describe(function)


async def coroutine():
    pass


@pytest.mark.parametrize(
    "function",
    [coroutine, transaction, trace_stream(numbers), classmethod(undecorated), "a name"],
)
def test_what_is_no_generator_function_is_refused(function):
    """With its name, and what to do."""
    with pytest.raises(TypeError, match=f"got {re.escape(repr(function))}. Put it next to"):
        trace_stream(function)
