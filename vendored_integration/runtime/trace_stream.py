"""``trace_stream``: one span for a generator, from its first step to its end.

Guarantees:

* The span is the active one while a step of the generator runs, and only then. The
  generator has a current scope of its own (a fork of the one at its first step),
  which is put in and taken out around each step: generators that are iterated in
  turns know nothing of each other's spans, nor does whoever iterates them.
* The span ends once, whatever ends the generator: its end, an error, ``close()``,
  ``aclose()``, the garbage collector. A generator that never starts has none.
* A caller cannot tell the difference: it gets a generator of the same kind, with the
  same values, errors and return value, for ``send``, ``throw`` and ``close``, too.
  What is wrong with the arguments is said by the call and not by the first step.
* Without a transaction that is sampled, nothing is made, and little is done.

How: the generator that the caller gets drives the one of the function. It is not
``yield from``, which closes the inner generator for a ``GeneratorExit`` that is
thrown, and drops what it returns then (see PEP 380).
"""

import functools
import inspect
import sys
import weakref
from asyncio import CancelledError
from contextvars import Context
from datetime import timedelta
from time import perf_counter
from types import AsyncGeneratorType, MethodType
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncGenerator,
    Callable,
    Dict,
    Generator,
    Mapping,
    Optional,
    TypeVar,
    overload,
)

import sentry_sdk.scope
from sentry_sdk.utils import qualname_from_function

from . import sdk
from .frames import hidden
from .log import internal_error
from .registry import registry
from .scheduler import scheduler

if TYPE_CHECKING:
    _partial = functools.partial[Any]
else:
    _partial = functools.partial

F = TypeVar("F", bound="Callable[..., Any]")

#: What ends a generator that somebody has no more use for; no errors.
_CANCELLATIONS = (GeneratorExit, CancelledError)

# Set and got without tokens, which could not be used in another context than the one
# that the step has begun in.
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

    :raises TypeError: what is decorated is not a generator function, or an argument is not of
        its type.
    """
    for argument, value in ("name", name), ("op", op):
        if not isinstance(value, str) and (argument, value) != ("name", None):
            raise TypeError(f"trace_stream: {argument} must be a string, got {value!r}")
    if attributes is not None and not isinstance(attributes, Mapping):
        raise TypeError(f"trace_stream: attributes must be a mapping, got {attributes!r}")

    def decorate(function: "Callable[..., Any]") -> _TracedFunction:
        _check(function)
        return _TracedFunction(
            function, name or qualname_from_function(function) or "", op, dict(attributes or {})
        )

    return decorate if function is None else decorate(function)


def _function_of(function: Any) -> Any:
    """Return what is called in the end, as :mod:`inspect` does; older ones stop too early."""
    while True:
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, functools.partial):
            function = function.func
        else:
            return function


def _is_traceable(function: Any) -> bool:
    function = _function_of(function)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _check(function: Any) -> None:
    if _is_traceable(function):
        return
    if isinstance(function, (classmethod, staticmethod)):
        kind = f"a {type(function).__name__}"
        hint = f"put @{type(function).__name__} above @trace_stream"
        function = function.__func__
    elif isinstance(function, str):
        raise TypeError(
            "trace_stream takes its arguments by name: "
            f"write @trace_stream(name={function!r}) instead"
        )
    elif inspect.iscoroutinefunction(function):
        kind, hint = "a coroutine function", "use @sentry_sdk.trace for it"
    elif callable(function):
        kind = "a function without yield" if inspect.isfunction(function) else "no function"
        hint = "put @trace_stream next to the function that has the yield"
    else:
        kind, hint = "no function", "decorate the generator function, not what it returns"
    label = getattr(function, "__qualname__", None) or repr(function)
    raise TypeError(
        f"trace_stream wants a generator function, sync or async; {label} is {kind}: {hint}"
    )


class _TracedFunction(_partial):
    """A generator function whose generators are traced.

    A ``partial``, because :mod:`inspect` looks into one for the function: it finds a
    generator function. Else it looks and behaves like a function, methods included.
    """

    _function: Any
    _drive: "Callable[[Any, _Trace], Any]"
    _span_name: str
    _op: str
    _attributes: "Dict[str, Any]"

    def __new__(
        cls, function: Any, span_name: str, op: str, attributes: "Dict[str, Any]"
    ) -> "_TracedFunction":
        self = super().__new__(cls, function)
        functools.update_wrapper(self, function)
        # Not .func: that of a partial is what the partial calls, without its arguments.
        self._function = function
        self._drive = _drive_async if inspect.isasyncgenfunction(_function_of(function)) else _drive
        self._span_name = span_name
        self._op = op
        self._attributes = attributes
        return self

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        inner = self._function(*args, **kwargs)
        trace = _Trace(self)
        outer = self._drive(inner, trace)
        outer.__name__ = inner.__name__
        outer.__qualname__ = inner.__qualname__
        trace.outer = weakref.ref(outer)
        return outer

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        # What only functions have: __code__, __defaults__ and so on.
        if name == "_function":
            raise AttributeError(name)
        return getattr(self._function, name)

    def __reduce__(self) -> Any:
        # As functions: pickled by name, and its own copy.
        return self.__qualname__

    def __repr__(self) -> str:
        return repr(self._function)


class _Trace:
    """The span of one generator, and the scope that its steps run in."""

    __slots__ = ("_function", "_isolation_scope", "_process", "_span", "_started", "outer", "scope")

    def __init__(self, function: _TracedFunction) -> None:
        self._function = function
        self._span: Any = None
        #: The current scope of the steps; ``None``: there is no span, leave it alone.
        self.scope: Any = None
        #: Refers to the generator that the caller has, without keeping it alive.
        self.outer: "Callable[[], Any]" = _nothing

    def begin(self) -> None:
        """Start the span if there is something to be the child of. The first step follows."""
        outside = _get_scope()
        try:
            root = sdk.root_span()
            if root is None or not root.sampled:
                return
            function = self._function
            _set_scope(sdk.fork_current_scope())
            self._span = sdk.start_child(function._span_name, function._op, function._attributes)
            self._isolation_scope, self.scope = sdk.scope_variables()
            self._process = registry.process
            self._started = perf_counter()
            if sdk.is_sent_at_its_end(self._span):
                scheduler.poll()  # somebody has to run what end() submits
        except Exception:
            internal_error("internal error; a generator is not traced")
        finally:
            _set_scope(outside)

    def end(self, error: "Optional[BaseException]" = None) -> None:
        """End the span, if there is one and it has not ended yet.

        :param error: what has ended the generator, other than its own end.
        """
        span, self._span = self._span, None
        if span is None:
            return
        try:
            if self._process != registry.process:
                return  # forked since: the parent ends it
            cancelled = isinstance(error, _CANCELLATIONS)
            scopes = (self._isolation_scope, self.scope)
            if not sdk.is_sent_at_its_end(span):
                sdk.end_child(span, error, cancelled)
                return
            if self.outer() is not None:
                outside = sdk.scope_variables()
                # Whoever closes it may be another request.
                sdk.restore_scopes(scopes)
                try:
                    sdk.end_child(span, error, cancelled)
                finally:
                    sdk.restore_scopes(outside)
                return
            # The generator is being collected. That may happen anywhere, also while
            # this thread holds a lock that sending wants; and in any context.
            elapsed = timedelta(seconds=perf_counter() - self._started)
            job = functools.partial(_end_elsewhere, scopes, span, elapsed)
            scheduler.submit(functools.partial(Context().run, job))
        except Exception:
            internal_error("internal error while ending the span of a generator")


class _LastResort:
    """Held by a generator that is being closed: ends the span if that does not.

    The generator may yield, or await something though there is no loop. If it is
    being collected, it is gone then. Not ``_Trace.__del__``: of a cycle, the collector
    would end the span before the body has cleaned up.
    """

    __slots__ = ("_trace",)

    def __init__(self, trace: _Trace) -> None:
        self._trace = trace

    def __del__(self) -> None:
        self._trace.end(GeneratorExit())


def _nothing() -> None:
    pass


def _end_elsewhere(scopes: "tuple[Any, Any]", span: Any, elapsed: timedelta) -> None:
    sdk.restore_scopes(scopes)
    # Not the time of day, which may have been set back since.
    span.end(span.start_timestamp + elapsed)


def _drive(
    steps: "Generator[Any, Any, Any]", trace: _Trace, whole: bool = True
) -> "Generator[Any, Any, Any]":
    """Drive a generator, each step in the trace's scope.

    :param whole: the trace begins and ends with it. If not, these are the steps of
        something that an async generator awaits.
    """
    if whole:
        trace.begin()
    traced = trace.scope is not None
    closing = None
    resume, argument = steps.send, None
    while True:
        if traced:
            outside = _get_scope()
        try:
            if traced:
                _set_scope(trace.scope)
            value = resume(argument)
        except StopIteration as stop:
            if whole:
                trace.end()
            return stop.value
        except BaseException as error:
            if whole:
                trace.end(error)
            raise
        finally:
            argument = None  # an error that holds its frames must not be held by one
            if traced:
                # Not what it was: the step may have left a scope of its own open.
                trace.scope = _get_scope()
                _set_scope(outside)
        # The next step does not run in here: an error that the generator swallows
        # would be the context of its later ones.
        try:
            argument = yield value
            resume = steps.send
        except BaseException as error:
            resume, argument = steps.throw, error
            if traced and whole and isinstance(error, GeneratorExit):
                closing = _LastResort(trace)  # noqa: F841


class _Step:
    """A step of an async generator, to be awaited."""

    __slots__ = ("_step", "_trace")

    def __init__(self, step: Any, trace: _Trace) -> None:
        self._step = step
        self._trace = trace

    def __await__(self) -> "Generator[Any, Any, Any]":
        return _drive(self._step, self._trace, whole=False)


async def _drive_async(
    generator: "AsyncGeneratorType[Any, Any]", trace: _Trace
) -> "AsyncGenerator[Any, Any]":
    """Drive an async generator. While it waits, the trace's scope is not current."""
    trace.begin()
    traced = trace.scope is not None
    resume: "Callable[[Any], Any]" = functools.partial(_first_step, generator)
    argument: Any = None
    closing = None
    while True:
        try:
            step = resume(argument)
            argument = None
            value = await (_Step(step, trace) if traced else step)
        except StopAsyncIteration:
            trace.end()
            return
        except BaseException as error:
            trace.end(error)
            raise
        try:
            argument = yield value
            resume = generator.asend
        except BaseException as error:
            if generator.ag_frame is None:
                # The collector has closed it first. It would take the error, and go on.
                trace.end(error)
                raise
            resume, argument = generator.athrow, error
            if traced and isinstance(error, GeneratorExit):
                closing = _LastResort(trace)  # noqa: F841


def _first_step(generator: "AsyncGenerator[Any, Any]", value: None) -> Any:
    """Return the first step, and leave the generator to the one that drives it.

    The event loop has to look after that one alone: it would close both when it shuts
    down, at the same time. What the collector finds is not closed before the driver
    either, which the loop can await. Without a loop there is nothing to await.
    """
    hooks = sys.get_asyncgen_hooks()
    finalizer = None if hooks.finalizer is None else _leave_alone
    sys.set_asyncgen_hooks(firstiter=None, finalizer=finalizer)
    try:
        return generator.asend(value)  # where a generator takes the hooks
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _leave_alone(generator: Any) -> None:
    pass


__name__ = hidden(__name__)
