"""``trace_stream``: one span for a generator, from its first step to its end.

Guarantees:

* The span is the active one while a step of the generator runs, and only then. The
  generator has a current scope of its own, which is set around each step: generators that
  are iterated in turns know nothing of each other's spans, nor does whoever iterates them.
* The span ends once, whatever ends the generator: its end, an error, ``close()``,
  ``aclose()``, or being dropped. A generator that never starts has none.
* Values, errors, return values, ``send`` and ``throw`` pass through. Wrong arguments raise
  at the call and not at the first step: a view still answers with status 500 then.
* Without a sampled transaction nothing is made.

How: the caller gets a *driver*, a generator around that of the function. While there is a
span, the driver takes each step in the generator's scope. ``GeneratorExit`` closes the inner
generator, as with ``yield from`` (PEP 380).
"""

import functools
import inspect
import sys
import weakref
from asyncio import CancelledError
from contextvars import copy_context
from datetime import timedelta
from time import perf_counter
from types import coroutine
from typing import Any, AsyncGenerator, Callable, Generator, Mapping, Optional, TypeVar, overload

import sentry_sdk.scope
from sentry_sdk.utils import qualname_from_function

from . import spans
from .process import hide_frames, internal_error, is_collecting
from .registry import workers

F = TypeVar("F", bound="Callable[..., Any]")

#: What is raised in a generator that nobody wants more of. These are no errors.
_CANCELLATIONS = (GeneratorExit, CancelledError)

# Set without tokens: a step of an async generator may end in another context than it began.
_get_scope = sentry_sdk.scope._current_scope.get
_set_scope = sentry_sdk.scope._current_scope.set


@overload
def trace_stream(function: F) -> F: ...


@overload
def trace_stream(
    *,
    name: "Optional[str]" = None,
    op: str = "function",
    attributes: "Optional[Mapping[str, Any]]" = None,
) -> "Callable[[F], F]": ...


def trace_stream(
    function: "Optional[Callable[..., Any]]" = None,
    *,
    name: "Optional[str]" = None,
    op: str = "function",
    attributes: "Optional[Mapping[str, Any]]" = None,
) -> Any:
    """Decorate a generator function, sync or async: each of its generators has a span.

    :param name: name of the span; by default that of the function, with its module.
    :param op: the span's operation.
    :param attributes: more data for the span (strings, numbers, booleans).

    :raises TypeError: what is decorated is not a generator function.
    """

    def decorate(function: "Callable[..., Any]") -> "Callable[..., Any]":
        if not (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            raise TypeError(
                f"trace_stream wants a generator function, sync or async, got {function!r}. Put "
                "it next to the function that has the yield, below @classmethod or "
                "@staticmethod; its arguments go by name: @trace_stream(name=...)"
            )
        drive: Any = _drive_async if inspect.isasyncgenfunction(function) else _drive
        span_name = name or qualname_from_function(function) or ""
        start_span = functools.partial(spans.start_child, span_name, op, dict(attributes or {}))

        @functools.wraps(function)
        def traced(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            span = _GeneratorSpan(start_span)
            driver = drive(generator, span)
            driver.__name__ = generator.__name__
            driver.__qualname__ = generator.__qualname__
            span.driver = weakref.ref(driver)
            return driver

        return traced

    return decorate if function is None else decorate(function)


class _GeneratorSpan:
    """The span of one generator, open in a ``with`` block, and the scope of its steps."""

    __slots__ = ("_context", "_span", "_start", "_start_time", "driver", "scope")

    #: The generator that the caller has; ``None`` once it is being collected (from Python 3.15
    #: on not yet, if the garbage collector has found it in a cycle).
    driver: "Callable[[], Any]"

    def __init__(self, start: "Callable[[], Any]") -> None:
        self._start = start
        #: The current scope of the steps; ``None``: there is no span.
        self.scope: Any = None

    def __enter__(self) -> None:
        """Start the span, if there is a sampled one to be its parent."""
        try:
            root = spans.root_span_of(sentry_sdk.Scope.get_current_scope())
            if root is None or not root.sampled:
                return
            with sentry_sdk.new_scope() as scope:
                self._span = self._start()
                # The span is to end in the scopes of its own request, whoever ends it.
                self._context = copy_context()
            self._start_time = perf_counter()
            if spans.is_sent_at_its_end(self._span):
                workers.start()  # __exit__ may not be able to
            self.scope = scope
        except Exception:
            internal_error("internal error; a generator is not traced")

    def __exit__(self, kind: Any, error: "Optional[BaseException]", traceback: Any) -> None:
        """End the span with the status of what has ended the generator."""
        if self.scope is None:
            return
        try:
            span, run = self._span, self._context.run
            is_dropped = self.driver() is None or is_collecting()
            if is_dropped and spans.is_sent_at_its_end(span):
                # This may be anywhere, also where a lock is held that a hook of the user's
                # (before_send_span) waits for. So a worker sends the span.
                elapsed = timedelta(seconds=perf_counter() - self._start_time)
                workers.submit(functools.partial(run, _end_after, span, elapsed))
            else:
                run(spans.end_child, span, error, isinstance(error, _CANCELLATIONS))
        except Exception:
            internal_error("internal error while ending the span of a generator")

    def steps(self, inner: Any) -> Any:
        """Return what takes the steps of ``inner`` in the generator's scope.

        :param inner: a generator, or a step of an async generator.
        :return: an object for ``yield from``, or ``await``.
        """
        return inner if self.scope is None else _steps_in_scope(inner, self)


def _end_after(span: Any, elapsed: timedelta) -> None:
    # Not the time of day, which may have been set back since.
    start = span.start_timestamp
    span.end(None if start is None else start + elapsed)  # None: one of ignore_spans


@coroutine  # makes it awaitable, too
def _steps_in_scope(inner: Any, span: _GeneratorSpan) -> "Generator[Any, Any, Any]":
    """Delegate to ``inner`` as ``yield from`` does, and set the scope around each step."""
    resume, argument = inner.send, None
    while True:
        outside = _get_scope()
        _set_scope(span.scope)
        try:
            value = resume(argument)
        except StopIteration as stop:
            return stop.value
        finally:
            # The step may have entered a new_scope() that a later one leaves.
            span.scope = _get_scope()
            _set_scope(outside)
            argument = None  # an error that was thrown in would be in a cycle with this frame
        # The next step does not run in the except clause: the error would become the
        # context of others that the generator raises.
        try:
            argument = yield value
            resume = inner.send
        except BaseException as error:
            resume, argument = inner.throw, error


def _drive(
    generator: "Generator[Any, Any, Any]", span: _GeneratorSpan
) -> "Generator[Any, Any, Any]":
    with span:
        return (yield from span.steps(generator))


async def _drive_async(
    generator: "AsyncGenerator[Any, Any]", span: _GeneratorSpan
) -> "AsyncGenerator[Any, Any]":
    with span:
        step: Any = _first_step(generator)
        while True:
            try:
                value = await span.steps(step)
            except StopAsyncIteration:
                return
            finally:
                step = None  # it refers to what was thrown in, as above
            try:
                step = generator.asend((yield value))
            except GeneratorExit:
                await span.steps(generator.aclose())
                raise
            except BaseException as error:
                # Awaited above, out of this clause: see _steps_in_scope.
                step = generator.athrow(error)


def _first_step(generator: "AsyncGenerator[Any, Any]") -> Any:
    """Return the first step, and hide the generator from the event loop.

    The loop closes the driver, which closes this one. It would close both at the same time.
    """
    hooks = sys.get_asyncgen_hooks()
    finalizer = None if hooks.finalizer is None else lambda generator: None
    sys.set_asyncgen_hooks(firstiter=None, finalizer=finalizer)
    try:
        return generator.asend(None)  # a generator takes the hooks here
    finally:
        sys.set_asyncgen_hooks(*hooks)


hide_frames()
