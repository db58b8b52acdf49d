"""ContextPreservingExecutor: tasks in their submitter's context, futures as ever."""

import asyncio
import contextvars
import functools
import threading
import uuid
import weakref
from contextlib import nullcontext

import pytest
import sentry_sdk
import structlog
from structlog.contextvars import bound_contextvars, get_contextvars
from support.apps import streaming_app
from support.sdk import start_span
from support.wsgi import WsgiClient

from vendored_integration.executor import ContextPreservingExecutor

variable = contextvars.ContextVar("variable", default="-")

TIMEOUT = 10

needs_to_thread = pytest.mark.skipif(
    not hasattr(asyncio, "to_thread"), reason="asyncio.to_thread is new in Python 3.9"
)


@pytest.fixture(params=["threading", "no-threading"])
def sentry(request, init, lifecycle):
    """What the SDK sends, with its own patch of ThreadPoolExecutor.submit on and off."""
    return init(lifecycle, default_integrations=request.param == "threading")


@pytest.fixture
def executor():
    with ContextPreservingExecutor(max_workers=2) as executor:
        yield executor


def in_default_executor(executor, coroutine_function):
    """Run a coroutine in a loop with this default executor; return its result."""

    async def main():
        asyncio.get_running_loop().set_default_executor(executor)
        return await coroutine_function()

    return asyncio.run(main())


def run_in_executor(function, *args):
    return asyncio.get_running_loop().run_in_executor(None, function, *args)


def to_thread(function, *args):
    return asyncio.to_thread(function, *args)


IN_LOOP = [run_in_executor, pytest.param(to_thread, marks=needs_to_thread)]


def serve_body(function):
    """Run a function as the only step of a streaming body."""

    def body():
        function()
        yield b"done"

    assert WsgiClient(streaming_app("wsgi-django", body)).read() == b"done"


# -- the submitter's context


def test_tasks_belong_where_they_are_submitted(sentry):
    """Their spans are children of the span that was active, also if that has ended since.

    They see what was bound then. What they report has the submitter's tags and trace.
    """

    def task(name):
        sentry_sdk.capture_message(name)
        with start_span(name):
            return name, get_contextvars().get("id"), variable.get()

    def step():
        sentry_sdk.set_tag("step", "tagged")
        release = threading.Event()
        with ContextPreservingExecutor(max_workers=2) as executor:
            for _ in range(2):
                executor.submit(release.wait, TIMEOUT)
            token = variable.set("outer")
            with start_span("outer"), bound_contextvars(id="outer"):
                submitted = executor.submit(task, "submitted")
                mapped = executor.map(task, ["mapped 0", "mapped 1"])
            variable.reset(token)
            release.set()
            assert executor.submit(task, "in root").result(TIMEOUT) == ("in root", None, "-")
            results = [submitted.result(TIMEOUT), *mapped]
        assert results == [(n, "outer", "outer") for n in ("submitted", "mapped 0", "mapped 1")]

    serve_body(step)
    root = sentry.root()
    for name in "submitted", "mapped 0", "mapped 1":
        assert root.parent_of(name) == "outer"
    assert root.parent_of("in root") is None
    assert len(sentry.errors()) == 4
    for event in sentry.errors():
        assert event["contexts"]["trace"]["trace_id"] == root.trace_id
        assert (event["tags"]["step"], event["transaction"]) == ("tagged", root.name)


def test_tasks_that_start_at_the_same_time_have_the_same_parent(sentry, monkeypatch):
    """The SDK makes a span's id when it is first asked for: two tasks can ask at once."""
    together = threading.Barrier(2)
    first = threading.local()
    make_id = uuid.uuid4

    def meet_in_first_id():
        if threading.current_thread().name.startswith("task") and not hasattr(first, "id"):
            first.id = True
            together.wait(TIMEOUT)
        return make_id()

    def task(name):
        with start_span(name):
            pass

    def step():
        with ContextPreservingExecutor(2, "task") as executor, start_span("outer"):
            list(executor.map(task, ["task 0", "task 1"]))

    monkeypatch.setattr(uuid, "uuid4", meet_in_first_id)
    serve_body(step)
    root = sentry.root()
    assert [root.parent_of(name) for name in ("task 0", "task 1")] == ["outer", "outer"]


@pytest.mark.parametrize("submit", IN_LOOP)
def test_parallel_tasks_do_not_adopt_each_others_spans(sentry, submit):
    """Two tasks of one context run at the same time: no RuntimeError, no mixed spans.

    A copied context still has the original's scope, which holds the active span.
    """
    together = threading.Barrier(2, timeout=TIMEOUT)

    def task(name):
        together.wait()
        with start_span(name):
            together.wait()
            with start_span("in " + name):
                together.wait()
            together.wait()
        together.wait()

    async def both():
        await asyncio.gather(submit(task, "a"), submit(task, "b"))
        with start_span("afterwards"):
            pass

    serve_body(lambda: in_default_executor(ContextPreservingExecutor(2), both))
    root = sentry.root()
    assert [root.parent_of(name) for name in ("a", "b", "afterwards")] == [None, None, None]
    assert root.parent_of("in a") == "a"
    assert root.parent_of("in b") == "b"


# -- what a task changes


@pytest.mark.parametrize("submit", IN_LOOP)
def test_what_a_task_sets_stays_in_it(sentry, submit):
    """Neither the submitter nor the next task of the same thread sees it."""

    def task():
        seen = (
            variable.get(),
            get_contextvars(),
            sentry_sdk.Scope.get_isolation_scope()._tags.copy(),
        )
        variable.set("task")
        structlog.contextvars.bind_contextvars(id="task")
        sentry_sdk.set_tag("of", "task")
        sentry_sdk.Scope.get_current_scope().set_tag("also of", "task")
        # Left open: an error between start and end of a task's span.
        start_span("left open").__enter__()
        return seen

    async def main():
        seen = [await submit(task), await submit(task)]
        sentry_sdk.capture_message("of the submitter")
        return [*seen, (variable.get(), get_contextvars())]

    with sentry_sdk.isolation_scope():
        result = in_default_executor(ContextPreservingExecutor(1), main)
        assert sentry_sdk.Scope.get_current_scope()._span is None
    assert result == [("-", {}, {}), ("-", {}, {}), ("-", {})]
    (event,) = sentry.errors()
    assert "of" not in event.get("tags", {})
    assert "also of" not in event.get("tags", {})


def test_task_with_a_context_of_its_own(sentry, executor):
    """`submit(context.run, ...)` runs in that very context, which keeps what is set in it."""
    with sentry_sdk.isolation_scope() as isolation_scope:
        isolation_scope.set_tag("of", "the context")
        context = contextvars.copy_context()
    context.run(variable.set, "given")
    scope = context.run(sentry_sdk.Scope.get_current_scope)

    def task(value):
        seen = variable.get()
        variable.set(value)
        sentry_sdk.capture_message(value)
        return seen

    assert executor.submit(context.run, task, "first").result(TIMEOUT) == "given"
    with_partial = functools.partial(context.run, task)
    assert executor.submit(with_partial, value="second").result(TIMEOUT) == "first"
    assert context[variable] == "second"
    assert context.run(sentry_sdk.Scope.get_current_scope) is scope
    assert [event["tags"]["of"] for event in sentry.errors()] == ["the context"] * 2


# -- as in the standard library


def test_arguments_results_and_errors(sentry, executor):
    """All arguments get to the function, also those named as parameters of submit()."""

    def task(*args, **kwargs):
        return args, kwargs

    future = executor.submit(task, 1, fn=2, self=3, args=4, context=5)
    assert future.result(TIMEOUT) == ((1,), {"fn": 2, "self": 3, "args": 4, "context": 5})
    error = SystemExit("not an Exception")

    def fails():
        raise error

    assert executor.submit(fails).exception(TIMEOUT) is error
    assert executor.submit(next, iter(())).exception(TIMEOUT).__class__ is StopIteration
    assert list(executor.map(divmod, [7, 9], [2, 4])) == [(3, 1), (2, 1)]


# -- memory


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_task_outlives_it(sentry, no_collector, fails):
    """The context and the arguments are free when the task is done.

    Neither the thread, which waits for the next task, nor a future with a result holds
    them. An error's traceback does, as ever; when it goes, nothing waits for the garbage
    collector.
    """

    def task(held):
        if fails:
            raise ValueError("in a task")

    class Held:
        pass

    def submit():
        held, of_scope, argument = Held(), Held(), Held()
        variable.set(held)
        sentry_sdk.Scope.get_isolation_scope().set_extra("held", of_scope)
        return executor.submit(task, argument), [
            weakref.ref(it) for it in (held, of_scope, argument)
        ]

    with ContextPreservingExecutor(1) as executor:
        with sentry_sdk.isolation_scope():
            future, references = contextvars.copy_context().run(submit)
        with pytest.raises(ValueError, match="in a task") if fails else nullcontext():
            future.result(TIMEOUT)
        del future
        # The thread lets go of a task after it has set the future's result.
        executor.submit(int).result(TIMEOUT)
        assert [reference() for reference in references] == [None, None, None]
