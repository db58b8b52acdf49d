"""A Django streaming body runs in the context that its response was created in.

As ``asyncio.create_task`` does for tasks: what a middleware or a view had bound
(``with bound_contextvars(request_id=…)``) when it made the response is still
bound in the generator, though the ``with`` block has been left since.

``StreamingHttpResponse`` is patched where it takes a body: the context is
remembered, and the body's own ``close()``, which Django calls when the response is
closed, is made to run in it; a generator's ``finally`` block thus finds the tokens
that it got from its own context.
"""

import asyncio
import functools
import types
from contextvars import Context, copy_context
from typing import (
    Any,
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    List,
    Optional,
    Tuple,
)

from .asgiref import move, run_moved
from .context import publish, run_in
from .exchange import HttpExchange, current_exchange
from .frames import hidden
from .log import internal_error

#: The attribute of a streaming response that holds its BodyContext.
_ATTRIBUTE = "_vendored_integration_body"


class BodyContext:
    """The context that a streaming response was created in."""

    __slots__ = ("context", "generators", "_published")

    def __init__(self) -> None:
        self.context: Context = copy_context()
        #: The async generators that the response was given, which it does not close.
        self.generators: "List[AsyncGenerator[Any, Any]]" = []
        self._published: Context = self.context

    def __reduce__(self) -> "Tuple[Any, ...]":
        # A response that can be copied or pickled still can be.
        return (BodyContext, ())

    def begin(self) -> None:
        """The body is iterated, in this thread: what it changes from now on is news."""
        move(self.context)
        self._published = self.context.copy()

    def publish(self) -> None:
        """Set in the running context what the body has changed since."""
        publish(self.context, self._published)
        self._published = self.context.copy()

    async def aclose(self) -> None:
        """Close what is iterated now, and not when the garbage collector finds it.

        An error goes where it goes otherwise: to the loop's exception handler.
        """
        if self.generators:
            move(self.context)  # closers may have been run in another thread
        # The last one iterates those before it.
        while self.generators:
            generator = self.generators.pop()
            try:
                await in_context(self.context, generator.aclose())
            except Exception as error:
                try:
                    loop = asyncio.get_running_loop()
                except RuntimeError:
                    return  # it has ended, and what waited in it is being collected
                loop.call_exception_handler(
                    {
                        "message": "an error occurred during closing of asynchronous "
                        f"generator {generator!r}",
                        "exception": error,
                        "asyncgen": generator,
                    }
                )


@types.coroutine
def in_context(context: Context, awaitable: Any) -> "Generator[Any, Any, Any]":
    """Await something in a context, within the running task: one step at a time.

    The task stays the same, so that ``asyncio.current_task()``, timeouts and task
    groups are none the wiser; what is awaited between two steps is awaited by it.
    """
    steps = awaitable.__await__()
    step = getattr(steps, "send", None)
    if step is None:  # a plain iterator: Cython's, or one written by hand
        step = lambda _: next(steps)  # noqa: E731
    try:
        yielded = run_in(context, step, None)
    except StopIteration as stop:
        return stop.value  # nothing had to be waited for
    while True:
        try:
            advance, argument = step, [(yield yielded)]
        except GeneratorExit:
            close = getattr(steps, "close", None)
            if close is not None:
                run_in(context, close)
            raise
        except BaseException as error:
            throw = getattr(steps, "throw", None)
            if throw is None:
                raise
            advance, argument = throw, [error]
        try:
            yielded = run_in(context, _advance, advance, argument)
        except StopIteration as stop:
            return stop.value


def _advance(step: "Callable[[Any], Any]", argument: "List[Any]") -> Any:
    # Taken out: the traceback of an error holds the frames, and these must not hold it.
    return step(argument.pop())


class _InContext:
    """A callable that runs another one in a body's context."""

    __slots__ = ("_context", "_function")

    def __init__(self, context: Context, function: "Callable[[], Any]") -> None:
        self._context = context
        self._function = function

    def __call__(self) -> Any:
        return run_moved(self._context, self._function)

    def __reduce__(self) -> "Tuple[Any, ...]":
        return (_itself, (self._function,))


def _itself(function: "Callable[[], Any]") -> "Callable[[], Any]":
    return function


def body_context(response: Any) -> "Optional[BodyContext]":
    """Return the context that a response was created in, if it is Django's and streaming."""
    found = attribute(response, _ATTRIBUTE)
    return found if type(found) is BodyContext else None


def attribute(response: Any, name: str) -> Any:
    """Return an attribute of the application's response, or ``None``, whatever it answers."""
    try:
        return getattr(response, name, None)
    except Exception:
        return None


def patch_streaming_response() -> None:
    """Have every ``StreamingHttpResponse`` remember the context it is created in."""
    from django.http import StreamingHttpResponse

    set_content = StreamingHttpResponse._set_streaming_content

    @functools.wraps(set_content)
    def _set_streaming_content(self: Any, value: Any) -> None:
        closers = self._resource_closers
        known = len(closers)
        set_content(self, value)
        body = body_context(self)
        if body is None:
            body = BodyContext()
            setattr(self, _ATTRIBUTE, body)
        closers[known:] = [_InContext(body.context, closer) for closer in closers[known:]]
        # Whatever else has an aclose() may be meant to live longer.
        if isinstance(self._iterator, AsyncGenerator):
            body.generators.append(self._iterator)

    StreamingHttpResponse._set_streaming_content = _set_streaming_content

    # Under WSGI the response that the server has takes care of the steps.
    if hasattr(StreamingHttpResponse, "__aiter__"):
        aiter_ = StreamingHttpResponse.__aiter__

        @functools.wraps(aiter_)
        def __aiter__(self: Any) -> "AsyncIterator[Any]":
            body = body_context(self)
            steps = aiter_(self)
            return steps if body is None else _async_steps(body, steps)

        StreamingHttpResponse.__aiter__ = __aiter__
    else:
        # Up to Django 4.1 the ASGI handler iterates as the WSGI handler does.
        iter_ = StreamingHttpResponse.__iter__

        @functools.wraps(iter_)
        def __iter__(self: Any) -> "Iterator[Any]":
            body = body_context(self)
            steps: "Iterator[Any]" = iter_(self)
            if body is None or current_exchange() is None:
                return steps
            return _steps(body, steps)

        StreamingHttpResponse.__iter__ = __iter__


async def _async_steps(body: BodyContext, steps: Any) -> "AsyncIterator[Any]":
    """Iterate a response that an ASGI server sends."""
    context = body.context
    _begins(body)
    try:
        while True:
            try:
                part = await in_context(context, steps.__anext__())
            except StopAsyncIteration:
                break
            yield part
    finally:
        await in_context(context, steps.aclose())
        _ends(body)


def _steps(body: BodyContext, steps: "Iterator[Any]") -> "Iterator[Any]":
    _begins(body)
    try:
        while True:
            try:
                part = run_in(body.context, next, steps)
            except StopIteration:
                break
            yield part
    finally:
        _ends(body)


def _begins(body: BodyContext) -> None:
    try:
        body.begin()
        exchange = current_exchange()
        if isinstance(exchange, HttpExchange):
            exchange.body_begins(body)
    except Exception:
        internal_error("internal error while beginning a body")


def _ends(body: BodyContext) -> None:
    try:
        body.publish()
    except Exception:
        internal_error("internal error while ending a body")


def patch_asgi_handler() -> None:
    """Have Django's ASGI handler tell what it sends, and close the generator at once.

    Django leaves that to the garbage collector; up to 4.2, the iteration as well.
    """
    from django.core.handlers.asgi import ASGIHandler

    send_response = ASGIHandler.send_response

    @functools.wraps(send_response)
    async def _send_response(self: Any, response: Any, send: Any) -> None:
        body = body_context(response)
        exchange = current_exchange()
        if isinstance(exchange, HttpExchange):
            exchange.respond(response.streaming, body)
        try:
            await send_response(self, response, send)
        except GeneratorExit:
            raise  # the loop is closed, or the task dropped: nothing can be awaited
        except BaseException:
            if body is not None:
                await body.aclose()
            raise
        if body is not None:
            await body.aclose()

    ASGIHandler.send_response = _send_response


__name__ = hidden(__name__)
