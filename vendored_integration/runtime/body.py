"""A Django streaming body runs in the context that its response was created in.

As ``asyncio.create_task`` does for tasks: what a middleware or a view had bound
(``with bound_contextvars(request_id=…)``) when it made the response is still
bound in the generator, though the ``with`` block has been left since.

``StreamingHttpResponse`` is patched in one place, where it takes a body: the
context is remembered, and the body's own ``close()``, which Django calls when
the response is closed, is made to run in it; a generator's ``finally`` block
thus finds the tokens that it got from its own context.
"""

import functools
from contextvars import Context, copy_context
from typing import Any, Callable, Optional, Tuple

from .context import publish, run_in
from .frames import hidden

#: The attribute of a streaming response that holds its BodyContext.
_ATTRIBUTE = "_vendored_integration_body"


class BodyContext:
    """The context that a streaming response was created in."""

    __slots__ = ("context", "_published")

    def __init__(self) -> None:
        self.context: Context = copy_context()
        self._published: Context = self.context

    def __reduce__(self) -> "Tuple[Any, ...]":
        # A response that can be copied or pickled still can be.
        return (BodyContext, ())

    def begin(self) -> None:
        """Take the variables as they are now for what is known outside."""
        self._published = self.context.copy()

    def publish(self) -> None:
        """Set in the running context what the body has changed since."""
        publish(self.context, self._published)
        self._published = self.context.copy()


class _InContext:
    """A callable that runs another one in a body's context."""

    __slots__ = ("_context", "_function")

    def __init__(self, context: Context, function: "Callable[[], Any]") -> None:
        self._context = context
        self._function = function

    def __call__(self) -> Any:
        return run_in(self._context, self._function)

    def __reduce__(self) -> "Tuple[Any, ...]":
        return (_itself, (self._function,))


def _itself(function: "Callable[[], Any]") -> "Callable[[], Any]":
    return function


def body_context(response: Any) -> "Optional[BodyContext]":
    """Return the context that a response was created in, if it is Django's and streaming."""
    found = getattr(response, _ATTRIBUTE, None)
    return found if isinstance(found, BodyContext) else None


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

    StreamingHttpResponse._set_streaming_content = _set_streaming_content


__name__ = hidden(__name__)
