"""``trace_stream``: the span of a generator, and that nobody else can tell."""

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import inspect
import os
import pickle
import re
import sys
import threading
import typing
import warnings

import pytest
import sentry_sdk
from django.db import connection
from django.http import StreamingHttpResponse
from django.utils.decorators import method_decorator
from harness import LIFECYCLES, Exchange, Received, assert_accepted, start_span
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from views import serve

import vendored_integration
from vendored_integration import DjangoIntegration, trace_stream


def transaction(name="request"):
    """Start what all else is a child of, in the lifecycle that the SDK is initialised with."""
    experiments = sentry_sdk.get_client().options["_experiments"] or {}
    if experiments.get("trace_lifecycle") == "stream":
        return sentry_sdk.traces.start_span(name=name)
    return sentry_sdk.start_transaction(name=name)


class Seen:
    """A span that has arrived, seen alike in either lifecycle."""

    def __init__(self, name, op, status, data, start, end, parent):
        self.name = name
        self.op = op
        self.status = status
        self.data = data
        self.start = start
        self.end = end
        self.parent = parent


def seen(sentry):
    """The spans that have arrived, without their roots, in the order of their starts."""
    spans = []
    for event in sentry.transactions():
        root = event["contexts"]["trace"]["span_id"]
        names = {root: event["transaction"]}
        names.update((span["span_id"], span["description"]) for span in event["spans"])
        spans += [
            Seen(
                span["description"],
                span["op"],
                # Up to 2.33 it is a tag.
                span.get("status") or span.get("tags", {}).get("status"),
                span.get("data", {}),
                span["start_timestamp"],
                span["timestamp"],
                names[span["parent_span_id"]],
            )
            for span in event["spans"]
        ]
    streamed = sentry.spans()
    names = {span["span_id"]: span["name"] for span in streamed}
    spans += [
        Seen(
            span["name"],
            span["attributes"].get("sentry.op"),
            span["status"],
            span["attributes"],
            span["start_timestamp"],
            span["end_timestamp"],
            names[span["parent_span_id"]],
        )
        for span in streamed
        if not span["is_segment"]
    ]
    return sorted(spans, key=lambda span: span.start)


def parents(sentry):
    """The parent's name of each span that has arrived, which must be there once."""
    spans = seen(sentry)
    found = {span.name: span.parent for span in spans}
    assert len(found) == len(spans)
    return found


def static_or_stream(lifecycle, static, stream):
    return static if lifecycle == "static" else stream


def run(coroutine):
    """Drive a coroutine that waits for nothing, in the running context."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def throw(generator, error):
    """Throw an error into a generator, sync or async."""
    return run(generator.athrow(error)) if inspect.isasyncgen(generator) else generator.throw(error)


def close(generator):
    """Close a generator, sync or async."""
    return run(generator.aclose()) if inspect.isasyncgen(generator) else generator.close()


def active():
    """The name of the span that is active here."""
    span = sentry_sdk.Scope.get_current_scope()._span
    return span and (getattr(span, "name", None) or getattr(span, "description", None))


@trace_stream(name="numbers")
def numbers(count=2):
    for number in range(count):
        yield number


@trace_stream(name="numbers")
async def async_numbers(count=2):
    for number in range(count):
        yield number


async def collect(generator):
    return [value async for value in generator]


# -- the span ----------------------------------------------------------------------


def test_one_span_from_the_first_step_to_the_end(sentry):
    """Not from the call, not until the collection, and none for a chunk."""
    with transaction():
        generator = numbers()
        with start_span("before"):
            pass
        assert list(generator) == [0, 1]
        with start_span("after"):
            pass
    before, span, after = seen(sentry)
    assert (span.name, span.op, span.parent) == ("numbers", "function", "request")
    assert before.end <= span.start <= span.end <= after.start


def test_one_span_of_an_async_generator(sentry):
    """As of a sync one."""
    with transaction():
        generator = async_numbers()
        with start_span("before"):
            pass
        assert asyncio.run(collect(generator)) == [0, 1]
        with start_span("after"):
            pass
    before, span, after = seen(sentry)
    assert (span.name, span.op, span.parent) == ("numbers", "function", "request")
    assert before.end <= span.start <= span.end <= after.start


def test_name_by_default_is_the_function_s(sentry):
    """With its module, as ``sentry_sdk.trace`` has it."""

    @trace_stream
    def rows():
        yield 1

    with transaction():
        list(rows())
    (span,) = seen(sentry)
    assert span.name == f"{__name__}.{rows.__qualname__}"


def test_name_op_and_attributes(sentry):
    """What the decorator is told stands on the span."""

    @trace_stream(name="all rows", op="export", attributes={"table": "orders", "limit": 5})
    def rows():
        yield 1

    with transaction():
        list(rows())
    (span,) = seen(sentry)
    assert (span.name, span.op) == ("all rows", "export")
    assert (span.data["table"], span.data["limit"]) == ("orders", 5)


def test_what_the_body_does_are_children(sentry):
    """Spans, and generators within, also those that yield from each other."""

    @trace_stream(name="inner")
    def inner():
        with start_span("deepest"):
            yield 1

    @trace_stream(name="outer")
    def outer():
        with start_span("work"):
            pass
        result = yield from inner()
        assert result is None
        for number in inner_two():
            yield number

    @trace_stream(name="inner two")
    def inner_two():
        yield 2

    with transaction():
        assert list(outer()) == [1, 2]
    assert parents(sentry) == {
        "outer": "request",
        "work": "outer",
        "inner": "outer",
        "deepest": "inner",
        "inner two": "outer",
    }


def test_recursion(sentry):
    """Each generator of one function is the child of the one that iterates it."""

    @trace_stream
    def walk(depth):
        with start_span(f"level {depth}"):
            yield depth
            if depth:
                yield from walk(depth - 1)

    with transaction():
        assert list(walk(2)) == [2, 1, 0]
    found = [(span.name, span.parent) for span in seen(sentry)]
    name = f"{__name__}.{walk.__qualname__}"
    assert found == [
        (name, "request"),
        ("level 2", name),
        (name, "level 2"),
        ("level 1", name),
        (name, "level 1"),
        ("level 0", name),
    ]


def test_streaming_response(sentry):
    """The purpose: in a request's body, with its queries."""

    @trace_stream(name="export")
    def export():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 17")
            yield str(cursor.fetchone()[0]).encode()

    app = serve(lambda request: StreamingHttpResponse(export()))
    assert Exchange(app).read() == b"17"
    root = sentry.root()
    assert root.outcome == "completed"
    assert root.parent_of("export") is None
    assert root.parent_of("SELECT 17") == "export"


def test_hang_up_in_mid_stream(sentry, lifecycle):
    """The server closes the response: the span has ended before its transaction."""
    app = serve(lambda request: StreamingHttpResponse(numbers()))
    exchange = Exchange(app)
    assert next(iter(exchange.response)) == b"0"
    exchange.close()
    (span,) = [span for span in seen(sentry) if span.name == "numbers"]
    assert span.status == static_or_stream(lifecycle, "cancelled", "ok")


# -- active only while a step runs --------------------------------------------------


@trace_stream(name="outer a")
def holder_a():
    with start_span("held by a"):
        yield 1
        with start_span("inside of a"):
            yield 2


@trace_stream(name="outer b")
def holder_b():
    with start_span("held by b"):
        yield 1
        with start_span("inside of b"):
            yield 2


HELD = {
    "outer a": "request",
    "held by a": "outer a",
    "inside of a": "held by a",
    "outer b": "request",
    "held by b": "outer b",
    "inside of b": "held by b",
}


def test_interleaved(sentry):
    """Generators in turns, with spans open across yields: each keeps to itself."""
    with transaction():
        a, b = holder_a(), holder_b()
        assert [next(a), next(b), next(a), next(b)] == [1, 1, 2, 2]
        # In the wrong order, too: each leaves its own spans only.
        assert [next(a, None), next(b, None)] == [None, None]
    assert parents(sentry) == HELD


def test_whoever_iterates_keeps_the_active_span(sentry):
    """Between the steps, and when the generator's end comes after the block's."""
    with transaction():
        a = holder_a()
        with start_span("mine"):
            next(a)
            assert active() == "mine"
            with start_span("my child"):
                next(a)
        assert active() == "request"
        a.close()
        assert active() == "request"
        with start_span("mine, later"):
            pass
    found = parents(sentry)
    assert (found["mine"], found["my child"], found["mine, later"]) == (
        "request",
        "mine",
        "request",
    )
    assert (found["outer a"], found["held by a"], found["inside of a"]) == (
        "mine",
        "outer a",
        "held by a",
    )


def test_async_interleaved_while_they_wait(sentry):
    """Steps of two generators that wait at the same time, in one context.

    As with a scheduler that has no context for each of its tasks.
    """

    class Wait:
        def __await__(self):
            yield

    def holder(name):
        @trace_stream(name=f"outer {name}")
        async def holder():
            await Wait()
            with start_span(f"held by {name}"):
                await Wait()
                yield 1
                with start_span(f"inside of {name}"):
                    await Wait()
                    yield 2

        return holder()

    with transaction():
        a, b = holder("a"), holder("b")
        for _ in range(2):
            steps = [a.__anext__(), b.__anext__()]
            while steps:
                for step in list(steps):
                    try:
                        step.send(None)
                    except StopIteration:
                        steps.remove(step)
                    assert active() == "request"
        run(a.aclose())
        run(b.aclose())
    assert parents(sentry) == HELD


def test_async_interleaved_in_tasks(sentry):
    """The same with asyncio, which has."""

    def holder(name):
        @trace_stream(name=f"outer {name}")
        async def holder():
            await asyncio.sleep(0)
            with start_span(f"held by {name}"):
                await asyncio.sleep(0)
                yield 1
                with start_span(f"inside of {name}"):
                    await asyncio.sleep(0)
                    yield 2

        return holder()

    async def main():
        assert await asyncio.gather(collect(holder("a")), collect(holder("b"))) == [[1, 2]] * 2
        assert active() == "request"

    with transaction():
        asyncio.run(main())
    assert parents(sentry) == HELD


def test_each_step_in_another_context(sentry):
    """Nothing is held that belongs to the context of an earlier step."""
    with transaction():
        a, b = holder_a(), run(wrapped_async(holder_a))
        for _ in range(3):
            context = contextvars.copy_context()
            context.run(next, a, None)
            assert context.run(active) == "request"
        context.run(run, b.aclose())
    assert parents(sentry) == {name: HELD[name] for name in HELD if name.endswith("a")}


async def wrapped_async(function):
    async def wrapped():
        for value in function():
            yield value

    return wrapped()


def test_each_async_step_in_another_context(sentry):
    """Also a step that has begun in one context and ends in another."""

    @trace_stream(name="waiting")
    async def waiting():
        with start_span("held"):
            await Suspend()
            yield 1
            with start_span("inside"):
                await Suspend()

    with transaction():
        generator = waiting()
        for _ in range(2):
            step = generator.__anext__()
            context, other = contextvars.copy_context(), contextvars.copy_context()
            assert context.run(step.send, None) == "suspended"
            with pytest.raises((StopIteration, StopAsyncIteration)):
                other.run(step.send, None)
            assert [context.run(active), other.run(active)] == ["request"] * 2
    assert parents(sentry) == {"waiting": "request", "held": "waiting", "inside": "held"}


def test_generator_moves_between_threads(sentry):
    """Its parent is where it has begun, and no thread keeps its scope."""
    a = holder_a()
    left = []

    def step():
        next(a, None)
        left.append(active())

    with transaction():
        next(a)
        for _ in range(2):
            thread = threading.Thread(target=contextvars.Context().run, args=(step,))
            thread.start()
            thread.join(10)
    assert left == [None, None]
    assert parents(sentry) == {name: HELD[name] for name in HELD if name.endswith("a")}


def test_scope_that_is_left_open_across_a_step_stays_the_generator_s(sentry):
    """``with new_scope()`` around a yield: its tags are there when it goes on, only there."""

    @trace_stream
    def body():
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("where", "generator")
            yield
            sentry_sdk.capture_message("inside")

    with transaction():
        generator = body()
        next(generator)
        sentry_sdk.capture_message("outside")
        next(generator, None)
    tags = {event["message"]: event.get("tags", {}) for event in sentry.errors()}
    assert tags["inside"]["where"] == "generator"
    assert "where" not in tags["outside"]


def test_tags_go_where_they_went(sentry):
    """``set_tag`` in a body belongs to the request, and is there after the end."""

    @trace_stream
    def body():
        sentry_sdk.set_tag("from", "body")
        yield

    with sentry_sdk.isolation_scope(), transaction():
        list(body())
        sentry_sdk.capture_message("after")
    assert sentry.errors()[0]["tags"]["from"] == "body"


def test_error_event_belongs_to_the_span(sentry):
    """What is reported in a step names the span as its own."""

    @trace_stream(name="numbers")
    def body():
        sentry_sdk.capture_message("in the body")
        yield sentry_sdk.Scope.get_current_scope()._span.span_id

    with transaction():
        (span_id,) = body()
    assert sentry.errors()[0]["contexts"]["trace"]["span_id"] == span_id


# -- the end -------------------------------------------------------------------------


@trace_stream(name="body")
def failing():
    yield 1
    raise ValueError("inside")


def test_status_ok(sentry, lifecycle):
    """The static lifecycle has none for what went well, as stock's spans."""
    with transaction():
        list(numbers())
    (span,) = seen(sentry)
    assert span.status == static_or_stream(lifecycle, None, "ok")


def test_status_of_an_error(sentry, lifecycle):
    """An error ends the span with it, and nothing is reported by us."""
    with transaction(), contextlib.suppress(ValueError):
        list(failing())
    (span,) = seen(sentry)
    assert span.status == static_or_stream(lifecycle, "internal_error", "error")
    assert sentry.errors() == []


def test_status_of_an_error_that_is_thrown(sentry, lifecycle):
    """As of one that the body raises; one that it handles is none."""

    @trace_stream(name="body")
    def body():
        with contextlib.suppress(KeyError):
            yield 1
        yield 2

    with transaction():
        generator = body()
        next(generator)
        assert generator.throw(KeyError("handled")) == 2
        with pytest.raises(ValueError, match="thrown"):
            generator.throw(ValueError("thrown"))
    (span,) = seen(sentry)
    assert span.status == static_or_stream(lifecycle, "internal_error", "error")


def test_status_of_close(sentry, lifecycle):
    """Nobody wants more of it: no error."""
    with transaction():
        generator = numbers()
        next(generator)
        generator.close()
        generator.close()
        assert next(generator, None) is None
        with start_span("after"):
            pass
    span, after = seen(sentry)
    assert span.status == static_or_stream(lifecycle, "cancelled", "ok")
    assert span.end <= after.start


def test_status_of_aclose(sentry, lifecycle):
    """As of close()."""
    with transaction():
        generator = async_numbers()
        run(generator.__anext__())
        run(generator.aclose())
        run(generator.aclose())
        with start_span("after"):
            pass
    span, after = seen(sentry)
    assert span.status == static_or_stream(lifecycle, "cancelled", "ok")
    assert span.end <= after.start


def test_status_of_cancelled_error(sentry, lifecycle):
    """A task that is cancelled while it waits in a step: the error gets to the body."""
    caught = []

    @trace_stream(name="body")
    async def body():
        yield asyncio.current_task()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    async def main():
        generator = body()
        task = asyncio.current_task()
        assert await generator.__anext__() is task
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError) as raised:
            await generator.__anext__()
        assert [raised.value] == caught
        if hasattr(task, "uncancel"):
            task.uncancel()

    with transaction():
        asyncio.run(main())
    (span,) = seen(sentry)
    assert span.status == static_or_stream(lifecycle, "cancelled", "ok")
    assert sentry.errors() == []


@pytest.mark.parametrize("function", [numbers, async_numbers])
@pytest.mark.parametrize("end", ["close", "throw", "drop"])
def test_never_started_has_no_span(sentry, function, end):
    """Nothing has run, so there is nothing to tell of."""
    with transaction():
        generator = function()
        if end == "close":
            close(generator)
        elif end == "throw":
            with pytest.raises(ValueError, match="early"):
                throw(generator, ValueError("early"))
        del generator
    assert seen(sentry) == []


@pytest.mark.parametrize("cycle", [False, True])
def test_dropped(sentry, lifecycle, cycle):
    """The collector ends the span, and the body is closed at once."""
    closed = []

    @trace_stream(name="body")
    def body():
        try:
            yield 1
        finally:
            closed.append(True)

    with transaction():
        generator = body()
        next(generator)
        holder = [generator]
        if cycle:
            holder.append(holder)
        del generator, holder
        gc.collect()
        assert closed == [True]
        sentry.wait_for(lambda: lifecycle == "static" or seen_names(sentry))
    (span,) = seen(sentry)
    assert (span.name, span.parent) == ("body", "request")
    assert span.status == static_or_stream(lifecycle, "cancelled", "ok")


def seen_names(sentry):
    return [span["name"] for span in sentry.spans() if not span["is_segment"]]


def test_dropped_and_goes_on(sentry, lifecycle):
    """A body that yields once more when it is collected: its span ends nevertheless."""

    @trace_stream(name="body")
    def body():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    unraisable = []
    with transaction(), unraisable_to(unraisable):
        generator = body()
        next(generator)
        del generator
        gc.collect()
        sentry.wait_for(lambda: lifecycle == "static" or seen_names(sentry))
        with start_span("after"):
            pass
    assert len(unraisable) == 1  # Python's own
    span, after = seen(sentry)
    assert span.name == "body"
    assert span.end <= after.start


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_async_dropped_without_a_loop(sentry, lifecycle, waits, cycle):
    """Nobody could await its end, and the span still ends.

    In a cycle, the collector may close the inner generator first.
    """

    @trace_stream(name="body")
    async def body():
        try:
            yield 1
        finally:
            if waits:
                await Suspend()

    unraisable = []
    with transaction(), unraisable_to(unraisable):
        generator = body()
        run(generator.__anext__())
        holder = [generator]
        if cycle:
            holder.append(holder)
        del generator, holder
        # (some need two collections for it)
        gc.collect()
        gc.collect()
        sentry.wait_for(lambda: lifecycle == "static" or seen_names(sentry))
    # That of Python itself, for a body that waits.
    assert len(unraisable) == waits
    (span,) = seen(sentry)
    assert span.name == "body"


def test_async_dropped_in_a_loop(sentry, lifecycle):
    """The loop closes it, as it would without us: a ``finally`` may wait.

    Also in a cycle, where the collector comes upon the inner generator by itself.
    """
    closed = []

    @trace_stream(name="body")
    async def body():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            with start_span("clean up"):
                closed.append(True)

    async def main():
        for cycle in (False, True):
            generator = body()
            await generator.__anext__()
            holder = [generator]
            if cycle:
                holder.append(holder)
            del generator, holder
            gc.collect()
            while len(closed) < 1 + cycle:
                await asyncio.sleep(0)
        await asyncio.sleep(0)

    unraisable = []
    with transaction(), unraisable_to(unraisable):
        asyncio.run(main())
        sentry.wait_for(lambda: lifecycle == "static" or seen_names(sentry).count("body") == 2)
    assert unraisable == []
    spans = seen(sentry)
    assert sorted(span.name for span in spans) == ["body", "body", "clean up", "clean up"]
    assert {span.parent for span in spans if span.name == "clean up"} == {"body"}


def test_loop_shuts_down(sentry):
    """It closes each generator once: the inner one is not known to it."""
    closed = []
    faults = []

    @trace_stream(name="body")
    async def body():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    kept = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: faults.append(context)
        )
        for _ in range(10):
            kept.append(body())
            await kept[-1].__anext__()

    with transaction():
        asyncio.run(main())
    assert closed == [True] * 10
    assert faults == []
    assert [span.name for span in seen(sentry)] == ["body"] * 10


def test_loop_s_hooks_are_as_they_were(sentry):
    """What the generator does without is there for all others."""
    hooks = []

    async def main():
        hooks.append(sys.get_asyncgen_hooks())
        await collect(async_numbers())
        hooks.append(sys.get_asyncgen_hooks())

    with transaction():
        asyncio.run(main())
    assert hooks[0] == hooks[1]
    assert hooks[0].finalizer is not None


def stream_only(lifecycle):
    if lifecycle != "stream":
        pytest.skip("a span of the static lifecycle is sent with its transaction")


def test_collector_does_not_run_the_user_s_hook(init, lifecycle):
    """It may run while a lock is held that the hook wants."""
    stream_only(lifecycle)
    threads = {}

    def hook(span, hint):
        threads[span["name"]] = threading.get_ident()
        return span

    sentry = init("stream")
    # At first it was no option of its own.
    sentry_sdk.get_client().options["_experiments"]["before_send_span"] = hook
    with transaction():
        kept, dropped = numbers(), trace_stream(name="dropped")(lambda: (yield))()
        next(kept)
        next(dropped)
        kept.close()
        del dropped
        gc.collect()
        sentry.wait_for(lambda: "dropped" in seen_names(sentry))
    assert threads["numbers"] == threading.get_ident()
    assert threads["dropped"] != threading.get_ident()


@pytest.mark.parametrize("way", ["closed", "collected"])
def test_ended_elsewhere_belongs_to_its_own_request(init, lifecycle, way):
    """The span has the attributes of the request that it has begun in."""
    stream_only(lifecycle)
    sentry = init("stream")
    with sentry_sdk.isolation_scope():
        sentry_sdk.Scope.get_isolation_scope().set_attribute("whose", "mine")
        with transaction():
            generator = numbers()
            next(generator)
    with sentry_sdk.isolation_scope():
        sentry_sdk.Scope.get_isolation_scope().set_attribute("whose", "somebody else's")
        if way == "closed":
            generator.close()
        del generator
        gc.collect()
    sentry.wait_for(lambda: seen_names(sentry))
    (span,) = seen(sentry)
    assert span.data["whose"] == "mine"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_generator_is_ended_by_the_parent(sentry, lifecycle):
    """The child's copy says nothing."""
    with transaction():
        generator = numbers()
        next(generator)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            try:
                generator.close()
                os._exit(0 if not seen_names(sentry) else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        generator.close()
    assert parents(sentry) == {"numbers": "request"}


# -- transparency --------------------------------------------------------------------


class Suspend:
    """Wait for whoever drives the coroutine."""

    def __await__(self):
        return (yield "suspended")


@contextlib.contextmanager
def unraisable_to(found):
    before, sys.unraisablehook = (
        sys.unraisablehook,
        lambda args: found.append(describe(args.exc_value)[:2]),
    )
    try:
        yield
        gc.collect(1)
    finally:
        sys.unraisablehook = before


#: How a generator may end, or be made to: by name, since each use wants a new one.
ERRORS = {
    error.__name__: error
    for error in (
        ValueError,
        StopIteration,
        StopAsyncIteration,
        GeneratorExit,
        KeyboardInterrupt,
        asyncio.CancelledError,
    )
}


def describe(error):
    """All that can be seen of an error, and the lines of the generator that it went through."""
    if error is None:
        return None
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        # The frame of a generator that had not started is that of the driver.
        if frame.f_code in SCRIPTED and traceback.tb_lineno != frame.f_code.co_firstlineno:
            frames.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return (
        type(error),
        str(error),
        frames,
        describe(error.__cause__),
        describe(error.__context__),
        error.__suppress_context__,
    )


def scripted(script, log):
    """A generator that does as the script says, and logs what it sees."""
    for action, argument in script:
        log.append((action, describe(sys.exc_info()[1])))
        if action == "return":
            return argument
        if action == "raise":
            raise ERRORS[argument]("raised")
        try:
            log.append(((yield argument), describe(sys.exc_info()[1])))
        except BaseException as error:
            log.append(("caught", describe(error)))
            if action == "yield":
                raise
            if action == "translate":
                raise KeyError("translated")  # noqa: B904
            # "swallow"
        finally:
            log.append("finally")
    return None


async def async_scripted(script, log):
    """The same, which may also wait."""
    for action, argument in script:
        log.append((action, describe(sys.exc_info()[1])))
        if action == "return":
            return
        if action == "raise":
            raise ERRORS[argument]("raised")
        try:
            if action == "wait":
                log.append(((await Suspend()), describe(sys.exc_info()[1])))
            else:
                log.append(((yield argument), describe(sys.exc_info()[1])))
        except BaseException as error:
            log.append(("caught", describe(error)))
            if action in ("yield", "wait"):
                raise
            if action == "translate":
                raise KeyError("translated")  # noqa: B904
        finally:
            log.append("finally")


SCRIPTED = {scripted.__code__, async_scripted.__code__}


def observe(function, *args):
    """What comes of a call: a value, or an error."""
    try:
        return "returned", function(*args)
    except BaseException as error:
        return "raised", describe(error), getattr(error, "value", None)


def ignores_exit(script):
    """Whether a generator may go on when it is collected: ours tells it so twice."""
    return any(action == "swallow" for action, _ in script)


def drive(make, script, calls):
    """Everything that can be seen of a generator that is called so."""
    log = []
    result = []
    with unraisable_to(result):
        generator = make(script, log)
        for name, argument in calls:
            if name == "throw":
                argument = ERRORS[argument]("thrown")
            args = () if name in ("close", "__next__") else (argument,)
            result.append(observe(getattr(generator, name), *args))
            result.append(inspect.getgeneratorstate(generator))
        before_dropped = list(result), list(log)
        del generator
    return before_dropped if ignores_exit(script) else (result, log)


def drive_async(make, script, calls, wakings):
    """The same of an async one. What it waits for comes, or fails, as ``wakings`` say."""
    log = []
    result = []
    wakings = iter(wakings)
    with unraisable_to(result):
        generator = make(script, log)
        for name, argument in calls:
            if name == "athrow":
                argument = ERRORS[argument]("thrown")
            args = () if name in ("aclose", "__anext__") else (argument,)
            step = getattr(generator, name)(*args)
            seen = observe(step.send, None)
            result.append(seen)
            while seen[0] == "returned":
                waking, argument = next(wakings, ("send", None))
                if waking == "throw":
                    argument = ERRORS[argument]("woken")
                seen = observe(getattr(step, waking), argument)
                result.append(seen)
            result.append(generator.ag_running)
        before_dropped = list(result), list(log)
        del step, generator
    return before_dropped if ignores_exit(script) else (result, log)


VALUES = st.sampled_from([None, 1, "text"])
NAMES = st.sampled_from(sorted(ERRORS))
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["yield", "swallow", "translate"]), VALUES),
    st.tuples(st.sampled_from(["yield", "swallow", "translate"]), VALUES),
    st.tuples(st.just("return"), VALUES),
    st.tuples(st.just("raise"), NAMES),
)
CALLS = st.one_of(
    st.just(("__next__", None)),
    st.tuples(st.just("send"), VALUES),
    st.tuples(st.just("throw"), NAMES),
    st.just(("close", None)),
)
ASYNC_ACTIONS = st.one_of(ACTIONS, st.just(("wait", None)))
ASYNC_CALLS = st.one_of(
    st.just(("__anext__", None)),
    st.tuples(st.just("asend"), VALUES),
    st.tuples(st.just("athrow"), NAMES),
    st.just(("aclose", None)),
)
# (no GeneratorExit: nobody throws one there, and Python before 3.13 does not, either)
WAKINGS = st.one_of(
    st.tuples(st.just("send"), VALUES),
    st.tuples(st.just("throw"), NAMES.filter(lambda name: name != "GeneratorExit")),
)


@contextlib.contextmanager
def maybe_transaction(traced):
    if not traced:
        yield
        return
    with transaction():
        yield


@pytest.fixture(params=["traced", "untraced"])
def maybe(request, init):
    """Within a transaction, or without."""
    init()
    return functools.partial(maybe_transaction, request.param == "traced")


def differential(test):
    """Many examples for each of the two values of a fixture."""
    # A thread of the SDK that an earlier test has started uses random.random().
    test = pytest.mark.filterwarnings("ignore:Do not use the `random` module")(test)
    return settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])(
        test
    )


@differential
@given(script=st.lists(ACTIONS, max_size=6), calls=st.lists(CALLS, max_size=8))
def test_sync_is_as_without_us(maybe, script, calls):
    """Values, errors with their causes, contexts and frames, states, what is collected."""
    with maybe():
        traced = drive(trace_stream(scripted), script, calls)
    assert traced == drive(scripted, script, calls)


@differential
@given(
    script=st.lists(ASYNC_ACTIONS, max_size=6),
    calls=st.lists(ASYNC_CALLS, min_size=1, max_size=8),
    wakings=st.lists(WAKINGS, max_size=4),
)
def test_async_is_as_without_us(maybe, script, calls, wakings):
    """The same, and errors that arrive while a step waits."""
    with maybe():
        traced = drive_async(trace_stream(async_scripted), script, calls, wakings)
    assert traced == drive_async(async_scripted, script, calls, wakings)


def test_async_closed_while_it_waits(maybe):
    """A coroutine that waits in a step is closed, and dropped: the body cleans up."""

    def observe_close(make):
        log = []
        with unraisable_to(log):
            generator = make([("wait", None)], log)

            coroutine = collect(generator)
            assert coroutine.send(None) == "suspended"
            coroutine.close()
            # (from Python 3.13 on it has cleaned up by now)
            log.append("closed")
            del coroutine, generator
        return log

    with maybe():
        traced = observe_close(trace_stream(async_scripted))
    assert traced == observe_close(async_scripted)
    assert "finally" in traced


@pytest.mark.parametrize("name", ["numbers", "async_numbers"])
def test_objects_are_generators(maybe, name):
    """Of the same kind and name."""
    generator = globals()[name]()
    with maybe():
        assert inspect.isgenerator(generator) == (name == "numbers")
        assert inspect.isasyncgen(generator) == (name != "numbers")
        assert not inspect.isawaitable(generator)
        assert f"generator object {name} at" in repr(generator)
        assert (generator.__name__, generator.__qualname__) == (name, name)


def test_return_value(maybe):
    """``yield from`` gives what the generator returns."""

    @trace_stream
    def body():
        yield 1
        return "value"

    def outside():
        return (yield from body())

    with maybe():
        generator = outside()
        next(generator)
        with pytest.raises(StopIteration) as stop:
            next(generator)
    assert stop.value.value == "value"


def test_generator_that_iterates_itself(maybe):
    """Is told so as ever."""

    @trace_stream
    def body():
        yield next(generator)

    with maybe():
        generator = body()
        with pytest.raises(ValueError, match="generator already executing"):
            next(generator)


def test_error_keeps_no_cycle(maybe):
    """An error that is thrown in is free when it is handled, without the collector."""

    class Thrown(Exception):
        freed = False

        def __del__(self):
            Thrown.freed = True

    @trace_stream
    def body():
        with contextlib.suppress(Thrown):
            yield 1
        yield 2

    gc.disable()
    try:
        with maybe():
            generator = body()
            next(generator)
            assert generator.throw(Thrown()) == 2
            assert Thrown.freed
    finally:
        gc.enable()


def test_event_shows_the_same_frames(sentry):
    """Of a body's error: none of ours (they would change how Sentry groups it)."""

    async def iterate():
        async for _ in async_failing():
            pass

    @trace_stream
    async def async_failing():
        yield 1
        raise ValueError("inside")

    for call in (lambda: list(failing()), lambda: asyncio.run(iterate())):
        with transaction():
            try:
                call()
            except ValueError:
                sentry_sdk.capture_exception()
    for event, body in zip(sentry.errors(), ["failing", "async_failing"]):
        frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
        assert frames[-1]["function"].endswith(body)
        assert not [
            frame
            for frame in frames
            if "trace_stream.py" in frame["filename"]
            and not frame["filename"].endswith("test_trace_stream.py")
        ]


@pytest.mark.parametrize("options", [{}, {"traces_sample_rate": 0.0}])
def test_nothing_is_sent_without_a_sampled_transaction(init, options):
    """A generator alone is no transaction, and does not make one."""
    sentry = init(**options)
    assert list(numbers()) == [0, 1]
    assert sentry.transactions() == []
    if options:
        with transaction():
            assert list(numbers()) == [0, 1]
        assert sentry.transactions() == []


def test_no_segment_without_one(init, lifecycle):
    """In the stream lifecycle, where a span without a parent would be a segment."""
    sentry = init(lifecycle)
    assert list(numbers()) == [0, 1]
    assert sentry.spans() == []
    assert sentry.transactions() == []


def test_without_a_client():
    """Where Sentry is not set up at all."""
    sentry_sdk.init()
    assert list(numbers()) == [0, 1]
    assert asyncio.run(collect(async_numbers())) == [0, 1]


def test_fault_of_ours_is_logged(sentry, monkeypatch, caplog):
    """The generator goes on, without a span."""

    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    with transaction():
        monkeypatch.setattr(sentry_sdk, "start_span", broken)
        if hasattr(sentry_sdk, "traces"):
            monkeypatch.setattr(sentry_sdk.traces, "start_span", broken)
        assert list(numbers()) == [0, 1]
        monkeypatch.undo()
        assert active() == "request"
    assert [record.name for record in caplog.records] == ["vendored_integration"]
    assert seen(sentry) == []


# -- many at once --------------------------------------------------------------------


class Actor:
    """A traced generator that does as it is told, and the model of its spans."""

    def __init__(self, name, is_async):
        self.name = name
        self.is_async = is_async
        self.generator = trace_stream(name=name)(_async_act if is_async else _act)()
        #: The names of its open spans, the active one last; empty: not started.
        self.open = []
        #: A step that is waiting.
        self.waiting = None

    def step(self, action):
        """Take a step. Its action runs inside; what comes out is the active span there."""
        if not self.is_async:
            return self.generator.send(action)
        return self._go_on(self.generator.asend(action))

    def _go_on(self, step):
        try:
            step.send(None)
        except StopIteration as stop:
            self.waiting = None
            return stop.value
        except BaseException:
            self.waiting = None
            raise
        self.waiting = step
        return self.open[-1]

    def wake(self):
        return self._go_on(self.waiting)


def _leave(held):
    while held:
        held.pop().__exit__(None, None, None)


def _act():
    held = []
    try:
        while True:
            action = yield active()
            if action == "return":
                return
            action(held)
    finally:
        _leave(held)


async def _async_act():
    held = []
    try:
        while True:
            action = yield active()
            if action == "return":
                return
            if action == "wait":
                await Suspend()
            else:
                action(held)
    finally:
        _leave(held)


class ManyGenerators(RuleBasedStateMachine):
    """Interleaved, nested, waiting, abandoned generators: each span has its own parent.

    Each rule that makes a generator run may do so from within others.
    """

    def __init__(self):
        super().__init__()
        self.sentry = None

    @initialize(lifecycle=st.sampled_from(LIFECYCLES))
    def begin(self, lifecycle):
        self.lifecycle = lifecycle
        self.sentry = Received()
        sentry_sdk.init(
            dsn="http://public@127.0.0.1:9/1",
            transport=self.sentry,
            traces_sample_rate=1.0,
            integrations=[DjangoIntegration()],
            _experiments={"trace_lifecycle": "stream"} if lifecycle == "stream" else {},
        )
        # Whatever an example that failed has left there.
        sentry_sdk.Scope.get_current_scope()._span = None
        self.transaction = transaction()
        self.transaction.__enter__()
        self.held = []
        self.open = ["request"]
        self.actors = []
        self.parents = {}
        self.statuses = {}
        self.count = 0

    def name(self, kind):
        self.count += 1
        return f"{kind} {self.count}"

    def ready(self, among):
        return [actor for actor in among if actor.open and actor.waiting is None]

    def within(self, data, run, besides=()):
        """Call ``run`` with the names of the spans open where it runs: here, or in steps."""
        outer = [actor for actor in self.ready(self.actors) if actor not in besides]
        if not outer or not data.draw(st.booleans(), label="within another"):
            return run(self.open)
        actor = data.draw(st.sampled_from(outer), label="within")

        def action(held):
            self.within(
                data,
                lambda names: run(actor.open if names is self.open else names),
                (*besides, actor),
            )

        assert actor.step(action) == actor.open[-1]
        return None

    def over(self, actor, status):
        self.actors.remove(actor)
        if actor.open:
            status = status or "ok"
            known = {"ok": None} if self.lifecycle == "static" else {"cancelled": "ok"}
            if self.lifecycle == "stream":
                known["internal_error"] = "error"
            self.statuses[actor.name] = known.get(status, status)

    some = precondition(lambda self: self.sentry is not None and self.actors)
    some_ready = precondition(lambda self: self.sentry is not None and self.ready(self.actors))

    @precondition(lambda self: self.sentry is not None and len(self.actors) < 6)
    @rule(is_async=st.booleans())
    def make(self, is_async):
        self.actors.append(Actor(self.name("generator"), is_async))

    @some
    @rule(data=st.data())
    def start(self, data):
        actor = data.draw(st.sampled_from(self.actors))
        if actor.open:
            return

        def run(names):
            self.parents[actor.name] = names[-1]
            actor.open = [actor.name]
            assert actor.step(None) == actor.name

        self.within(data, run, (actor,))

    def act(self, data, action):
        actor = data.draw(st.sampled_from(self.ready(self.actors)))

        def run(names):
            assert actor.step(lambda held: action(actor, held)) == actor.open[-1]

        self.within(data, run, (actor,))

    @some_ready
    @rule(data=st.data())
    def make_a_span(self, data):
        def action(actor, held):
            name = self.name("span")
            self.parents[name] = actor.open[-1]
            with start_span(name):
                assert active() == name

        self.act(data, action)

    @some_ready
    @rule(data=st.data())
    def hold_a_span(self, data):
        def action(actor, held):
            name = self.name("held")
            self.parents[name] = actor.open[-1]
            actor.open.append(name)
            held.append(start_span(name))
            held[-1].__enter__()

        self.act(data, action)

    @some_ready
    @rule(data=st.data())
    def release_a_span(self, data):
        def action(actor, held):
            if held:
                held.pop().__exit__(None, None, None)
                actor.open.pop()

        self.act(data, action)

    @precondition(lambda self: self.sentry is not None)
    @rule()
    def hold_a_span_outside(self):
        name = self.name("outside")
        self.parents[name] = self.open[-1]
        self.open.append(name)
        self.held.append(start_span(name))
        self.held[-1].__enter__()

    @precondition(lambda self: self.sentry is not None and self.held)
    @rule()
    def release_a_span_outside(self):
        self.held.pop().__exit__(None, None, None)
        self.open.pop()

    @some_ready
    @rule(data=st.data())
    def wait(self, data):
        actor = data.draw(st.sampled_from(self.ready(self.actors)))
        if actor.is_async:
            self.within(data, lambda names: actor.step("wait"), (actor,))
            assert actor.waiting is not None

    @some
    @rule(data=st.data())
    def wake(self, data):
        actor = data.draw(st.sampled_from(self.actors))
        if actor.waiting is not None:
            self.within(data, lambda names: actor.wake(), (actor,))

    @some
    @rule(data=st.data())
    def cancel(self, data):
        actor = data.draw(st.sampled_from(self.actors))
        if actor.waiting is not None:
            with pytest.raises(asyncio.CancelledError):
                actor.waiting.throw(asyncio.CancelledError())
            self.over(actor, "cancelled")

    @some_ready
    @rule(data=st.data())
    def reach_the_end(self, data):
        actor = data.draw(st.sampled_from(self.ready(self.actors)))

        def run(names):
            with pytest.raises((StopIteration, StopAsyncIteration)):
                actor.step("return")

        self.within(data, run, (actor,))
        self.over(actor, "ok")

    @some_ready
    @rule(data=st.data())
    def fail(self, data):
        actor = data.draw(st.sampled_from(self.ready(self.actors)))

        def run(names):
            with pytest.raises(ValueError, match="told to"):
                throw(actor.generator, ValueError("told to"))

        self.within(data, run, (actor,))
        self.over(actor, "internal_error")

    @some
    @rule(data=st.data())
    def close(self, data):
        actor = data.draw(st.sampled_from(self.actors))
        if actor.waiting is None:
            self.within(data, lambda names: close(actor.generator), (actor,))
            self.over(actor, "cancelled")

    @some
    @rule(data=st.data(), cycle=st.booleans())
    def drop(self, data, cycle):
        actor = data.draw(st.sampled_from(self.actors))
        self.over(actor, "cancelled")
        if cycle:
            actor.itself = [actor]
        del actor
        gc.collect()

    @invariant()
    def nobody_else_has_noticed(self):
        if self.sentry is not None:
            assert active() == self.open[-1]

    def teardown(self):
        if self.sentry is None:
            return
        while self.actors:
            actor = self.actors[-1]
            self.over(actor, "cancelled")
            if actor.waiting is None:
                close(actor.generator)
            del actor
        gc.collect()
        while self.held:
            self.release_a_span_outside()
        self.transaction.__exit__(None, None, None)
        if self.lifecycle == "stream":
            self.sentry.wait_for(lambda: len(seen_names(self.sentry)) >= len(self.parents))
        assert parents(self.sentry) == self.parents
        statuses = {span.name: span.status for span in seen(self.sentry)}
        assert {name: statuses[name] for name in self.statuses} == self.statuses
        for event in self.sentry.transactions():
            assert_accepted(event)
        sentry_sdk.init()


TestManyGenerators = ManyGenerators.TestCase
TestManyGenerators.settings = settings(
    deadline=None, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)


# -- the function --------------------------------------------------------------------


def undecorated(first: int, *, second: "str" = "a") -> typing.Iterator[int]:
    """What it does."""
    yield first


async def async_undecorated(first: int, *, second: "str" = "a") -> typing.AsyncIterator[int]:
    """What it does."""
    yield first


@pytest.mark.parametrize("function", [undecorated, async_undecorated])
@pytest.mark.parametrize("decorator", [trace_stream, trace_stream(name="x")])
def test_function_answers_as_before(function, decorator):
    """To whoever wants to know what it is: frameworks decide by it."""
    decorated = decorator(function)
    for question in (
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
        inspect.iscoroutinefunction,
        inspect.signature,
        inspect.getdoc,
        inspect.getsource,
        typing.get_type_hints,
        callable,
        repr,
        lambda function: function.__name__,
        lambda function: function.__qualname__,
        lambda function: function.__module__,
        lambda function: function.__defaults__,
        lambda function: function.__kwdefaults__,
        lambda function: function.__code__,
    ):
        assert question(decorated) == question(function)
    with pytest.raises(AttributeError):
        decorated.no_such_thing  # noqa: B018
    assert functools.wraps(decorated)(lambda: None).__name__ == function.__name__
    assert inspect.signature(functools.wraps(decorated)(lambda: None)) == inspect.signature(
        function
    )
    assert inspect.isgeneratorfunction(functools.partial(decorated, 1)) == (
        inspect.isgeneratorfunction(function)
    )


def test_function_is_pickled_and_copied_as_functions_are():
    """By its name (a process pool does it); the copy is itself."""
    assert pickle.loads(pickle.dumps(numbers)) is numbers
    assert copy.copy(numbers) is numbers
    assert copy.deepcopy([numbers])[0] is numbers


@pytest.mark.parametrize("args", [(), (1, 2), ("a", "b", "c")])
@pytest.mark.parametrize("function", [undecorated, async_undecorated])
def test_wrong_arguments_are_told_at_the_call(maybe, function, args):
    """Not by the first step, in mid-stream."""
    with maybe(), pytest.raises(TypeError) as before:
        function(*args)
    with maybe(), pytest.raises(TypeError) as now:
        trace_stream(function)(*args)
    assert str(now.value) == str(before.value)


class Methods:
    """A class with traced methods of each kind."""

    factor = 10

    @trace_stream
    def method(self, number):
        yield self.factor * number

    @classmethod
    @trace_stream
    def of_class(cls, number):
        yield cls.factor * number

    @staticmethod
    @trace_stream
    def static(number):
        yield 10 * number

    @trace_stream(name="async")
    async def async_method(self, number):
        yield self.factor * number

    @contextlib.contextmanager
    @trace_stream
    def manager(self, number):
        yield self.factor * number

    @method_decorator(lambda function: function)
    @trace_stream
    def with_method_decorator(self, number):
        yield self.factor * number

    @trace_stream
    def f(func, self, function):  # noqa: N805
        yield func, self, function


def test_methods(maybe):
    """Are bound as functions are."""
    methods = Methods()
    with maybe():
        assert list(methods.method(2)) == [20]
        assert list(Methods.method(methods, 2)) == [20]
        assert list(Methods.of_class(2)) == list(methods.of_class(2)) == [20]
        assert list(Methods.static(2)) == list(methods.static(2)) == [20]
        assert asyncio.run(collect(methods.async_method(2))) == [20]
        with methods.manager(2) as value:
            assert value == 20
        assert list(methods.with_method_decorator(2)) == [20]
        # No name of ours is in the way of the function's own.
        assert list(methods.f(self=1, function=2)) == [(methods, 1, 2)]
    assert inspect.ismethod(methods.method)
    assert methods.method.__self__ is methods
    assert methods.method == methods.method
    for name in ("method", "of_class", "static"):
        assert inspect.isgeneratorfunction(getattr(methods, name))
        assert list(inspect.signature(getattr(methods, name)).parameters) == ["number"]
    assert inspect.isasyncgenfunction(methods.async_method)


async def coroutine():
    pass


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (coroutine, "coroutine is a coroutine function: use @sentry_sdk.trace"),
        (maybe_transaction, "maybe_transaction is a function without yield: put @trace_stream"),
        (classmethod(undecorated), "undecorated is a classmethod: put @classmethod above"),
        (staticmethod(undecorated), "undecorated is a staticmethod: put @staticmethod above"),
        ("a name", "write @trace_stream\\(name='a name'\\)"),
        (undecorated(1), "is no function: decorate the generator function"),
        (int, "int is no function: put @trace_stream next to"),
        (property(undecorated), "is no function"),
    ],
)
def test_what_is_no_generator_function_is_refused(function, message):
    """With its name, and what to do."""
    with pytest.raises(TypeError, match=message):
        trace_stream(function)


@pytest.mark.parametrize("arguments", [{"name": 3}, {"op": None}, {"attributes": ["table"]}])
def test_wrong_arguments_are_refused(arguments):
    """By their names, when the function is decorated."""
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=f"{name} must be a .*, got {re.escape(repr(value))}"):
        trace_stream(**arguments)


def test_public_name():
    """Imported when it is asked for, without Django."""
    assert "trace_stream" in vendored_integration.__all__
    with pytest.raises(AttributeError):
        vendored_integration.no_such_name  # noqa: B018
