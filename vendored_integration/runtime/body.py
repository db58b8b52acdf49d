"""A Django streaming body sees the bindings that were there when its response was made.

As a task does that is made there: what a middleware or a view had bound
(``with bound_contextvars(request_id=…)``) when it made the response is still bound in the
generator, though the ``with`` block has been left since. Stock, and Django alone, iterate
the body when these bindings are gone.

``StreamingHttpResponse`` is patched where it takes a body, and remembers the context.
While the body is iterated, and while its own ``close()`` runs, what has been left since
is set again in the request's context: the very context, not a copy, so that the body can
reset the tokens of the view, and whoever comes later sees what it has set. All else is as
it is: what has been bound since, and what decides about the bytes (:func:`_decides`).
"""

import asyncio
import functools
import sys
import weakref
from contextvars import Context, ContextVar, Token, copy_context
from types import AsyncGeneratorType
from typing import Any, Callable, FrozenSet, List, Optional, Tuple

import sentry_sdk.scope

from . import asgiref
from .context import SENTRY_VARIABLES
from .exchange import HttpExchange, current_exchange
from .frames import hidden
from .log import internal_error

#: The attribute of a streaming response that holds its BodyContext.
_ATTRIBUTE = "_vendored_integration_body"

_UNSET: Any = object()
_isolation_scope = sentry_sdk.scope._isolation_scope
_current_scope = sentry_sdk.scope._current_scope


class BodyContext:
    """What was bound when a streaming response was made, and is to be set for its body."""

    __slots__ = ("generators", "_made_in", "_bindings", "_entered", "_left_elsewhere")

    def __init__(self) -> None:
        #: The async generators that the response was given, which it does not close: the
        #: last one is iterated, and may read those before it.
        self.generators: "List[weakref.ref[Any]]" = []
        self._made_in: "Optional[Context]" = copy_context()
        self._bindings: "List[_Binding]" = []
        self._entered = False
        # Whether they had to stay set, see leave().
        self._left_elsewhere = False

    def __reduce__(self) -> "Tuple[Any, ...]":
        # A response that can be copied or pickled still can be.
        return (BodyContext, ())

    @property
    def sees_more(self) -> bool:
        """Whether there is anything to set."""
        return bool(self._bindings)

    @property
    def in_force(self) -> "FrozenSet[ContextVar[Any]]":
        """The variables that have the body's values, and are nobody else's concern."""
        if not self._entered and not self._left_elsewhere:
            return frozenset()
        return frozenset(binding.variable for binding in self._bindings)

    def find(self, now: Context, before: Context) -> None:
        """Find out which bindings have been left since.

        :param now: the request's context, in which the body is going to be iterated.
        :param before: what that was when the request began.
        """
        # A response that is served once more has nothing of the first request.
        made_in, self._made_in, self._bindings = self._made_in, None, []
        if made_in is None:
            return
        for variable, value in made_in.items():
            current = now.get(variable, _UNSET)
            if current is value or variable in SENTRY_VARIABLES or _decides(variable, value):
                continue
            earlier = before.get(variable, _UNSET)
            if asgiref.is_local(variable):
                held, has, had = map(asgiref.held_by_local, (value, current, earlier))
                keys = {
                    key: item
                    for key, item in held.items()
                    if _was_left(item, has.get(key, _UNSET), had.get(key, _UNSET))
                }
                if keys:
                    self._bindings.append(_OfLocal(variable, keys))
            elif _was_left(value, current, earlier):
                self._bindings.append(_Binding(variable, value))
        scope = made_in.get(_current_scope)
        if scope is not now.get(_current_scope) and (
            made_in.get(_isolation_scope) is now.get(_isolation_scope)
        ):
            self._bindings.append(_Binding(_current_scope, scope))  # made within new_scope()

    def enter(self) -> None:
        """Set what has been left, in the running context."""
        if not self._entered:
            self._entered = True
            for binding in self._bindings:
                binding.set()

    def leave(self) -> None:
        """Undo :meth:`enter`; what the body has set instead is kept, as without us."""
        if not self._entered:
            return
        self._entered = False
        try:
            for binding in self._bindings:
                binding.unset()
        except ValueError:
            # In a copy, or in another task: nobody else is there, and in the context of the
            # body somebody is.
            self._left_elsewhere = True

    def call(self, function: "Callable[[], Any]") -> Any:
        """Call something of the body's, with what has been left."""
        if self._entered:
            return function()
        self.enter()
        try:
            return function()
        finally:
            self.leave()

    async def aclose(self) -> None:
        """Close what is iterated now, and not when the garbage collector finds it."""
        last = True
        while self.generators:
            generator = self.generators.pop()()
            # A task of the application's may be waiting in it, or may go on reading it.
            if (
                generator is None
                or _has_ended(generator)
                or getattr(generator, "ag_running", False)
            ):
                pass
            elif last or await _is_let_go(generator):
                await _aclose(generator)
            last = False


class _Binding:
    """A variable, and its value for the body."""

    __slots__ = ("variable", "value", "_token")

    def __init__(self, variable: "ContextVar[Any]", value: Any) -> None:
        self.variable = variable
        self.value = value
        # Of what the variable was before; as long as the body has set it to something else.
        self._token: "Optional[Token[Any]]" = None

    def set(self) -> None:
        if self._token is None:
            self._token = self.variable.set(self.value)

    def unset(self) -> None:
        """
        :raises ValueError: in another context.
        """
        # The body may have set it, and go back to this value when it is closed.
        if self._token is not None and self.variable.get(_UNSET) is self.value:
            token, self._token = self._token, None
            self.variable.reset(token)


class _OfLocal(_Binding):
    """Some attributes of a Local, which holds all of its attributes in one variable."""

    __slots__ = ()

    def set(self) -> None:
        if self._token is None:
            held = asgiref.held_by_local(self.variable.get(None))
            self._token = self.variable.set(asgiref.local_with({**held, **self.value}))

    def unset(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        held = asgiref.held_by_local(self.variable.get(None))
        before = asgiref.held_by_local(token.old_value)
        # What the body has set is its own from now on.
        self.value = {
            key: item for key, item in self.value.items() if held.get(key, _UNSET) is item
        }
        left = {key: item for key, item in held.items() if key not in self.value}
        left.update((key, before[key]) for key in self.value if key in before)
        self.variable.reset(token)
        if not asgiref.same(left, before):
            self.variable.set(asgiref.local_with(left))


def _was_left(value: Any, current: Any, earlier: Any) -> bool:
    """Whether a binding has been left: what is neither was made later, or around this one."""
    return current is not value and (_is_nothing(current) or current is earlier)


def _has_ended(generator: Any) -> bool:
    return getattr(generator, "ag_frame", generator) is None


async def _is_let_go(generator: Any) -> bool:
    """Whether nobody else has a generator any more, once the loop has closed what read it."""
    if not hasattr(sys, "getrefcount"):
        return False
    # The loop makes a task that closes it, and that task does.
    for _ in range(3):
        # The argument, and the variables of this function and of the one that calls it.
        if sys.getrefcount(generator) <= 3:
            return True
        await asyncio.sleep(0)
    return sys.getrefcount(generator) <= 3


async def _aclose(generator: Any) -> None:
    """Close a generator. An error goes where it goes otherwise: to the loop's handler."""
    try:
        await generator.aclose()
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


def _is_nothing(value: Any) -> bool:
    """Whether a variable is as good as unset: what a block leaves that knows no tokens."""
    return value is _UNSET or value is None or value is ...  # structlog's


def _decides(variable: "ContextVar[Any]", value: Any) -> bool:
    """Whether a variable decides how something is written, or where it runs."""
    return (
        asgiref.is_own(variable)
        or type(value) is getattr(sys.modules.get("decimal"), "Context", None)
        or any(asgiref.is_of(local, variable) for local in _locals_of_django())
    )


@functools.lru_cache(maxsize=None)
def _locals_of_django() -> "Tuple[Any, ...]":
    """Language, time zone, URL settings."""
    from django.urls import base
    from django.utils import timezone
    from django.utils.translation import trans_real

    return (base._prefixes, base._urlconfs, timezone._active, trans_real._active)


class _OfBody:
    """A callable that runs another one with what a body sees."""

    __slots__ = ("_body", "_function")

    def __init__(self, body: BodyContext, function: "Callable[[], Any]") -> None:
        self._body = body
        self._function = function

    def __call__(self) -> Any:
        return self._body.call(self._function)

    def __eq__(self, other: object) -> bool:
        return bool(self._function == (other._function if type(other) is _OfBody else other))

    def __hash__(self) -> int:
        return hash(self._function)

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
        closers[known:] = [_OfBody(body, closer) for closer in closers[known:]]
        # Whatever else has an aclose() may be meant to live longer.
        if type(self._iterator) is AsyncGeneratorType:
            body.generators.append(weakref.ref(self._iterator))

    StreamingHttpResponse._set_streaming_content = _set_streaming_content


def patch_asgi_handler() -> None:
    """Have Django's ASGI handler tell what it sends, and close the generator at once.

    Django leaves that to the garbage collector.
    """
    from django.core.handlers.asgi import ASGIHandler

    send_response = ASGIHandler.send_response

    @functools.wraps(send_response)
    async def _send_response(self: Any, response: Any, send: Any) -> None:
        body = body_context(response)
        exchange = current_exchange()
        if isinstance(exchange, HttpExchange):
            exchange.respond(response.streaming)
            if body is not None:
                _begin(body, exchange)
                if body.sees_more:
                    send = _out_of(body, send)
        try:
            await send_response(self, response, send)
        except GeneratorExit:
            raise  # the loop is closed, or the task dropped: nothing can be awaited
        except BaseException:
            if body is not None:
                await body.aclose()
            raise
        else:
            if body is not None:
                await body.aclose()
        finally:
            if body is not None:
                _end(body)
                if isinstance(exchange, HttpExchange):
                    # For what the SDK remembers: Django sends in a task of its own.
                    exchange.sent_in = copy_context()

    ASGIHandler.send_response = _send_response


def _begin(body: BodyContext, exchange: HttpExchange) -> None:
    try:
        body.find(copy_context(), exchange.before)
        body.enter()
    except Exception:
        internal_error("internal error; a body may not see what was bound")


def _out_of(body: BodyContext, send: "Callable[[Any], Any]") -> "Callable[[Any], Any]":
    """Return a ``send`` that shows the server nothing of what the body alone sees."""

    async def _send(message: Any) -> Any:
        _end(body)
        try:
            return await send(message)
        finally:
            # After the last one Django closes the response.
            if message.get("type") != "http.response.body" or message.get("more_body"):
                body.enter()

    return _send


def _end(body: BodyContext) -> None:
    try:
        body.leave()
    except Exception:
        internal_error("internal error at the end of a body")


__name__ = hidden(__name__)
