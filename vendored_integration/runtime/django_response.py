"""The response that Django has made for a WSGI request.

What comes out of the application may be another one: of a monitoring tool that has patched
``WSGIHandler`` (New Relic), or of a WSGI middleware.
"""

import functools
import weakref
from contextvars import Context, ContextVar
from typing import Any

#: A weak reference to what Django's handler has answered the running request with.
django_response: "ContextVar[Any]" = ContextVar("vendored_integration_django_response")


def response_of_django(now: Context, before: Context, returned: Any) -> Any:
    """Return Django's response, if Django has made one, or what the application returned.

    :param now: the context of the request.
    :param before: what that was when the request began: it may have a test client's response.
    """
    reference = now.get(django_response)
    if reference is None or reference is before.get(django_response):
        return returned
    made = reference()
    return returned if made is None else made


def is_streaming(made: Any, returned: Any) -> bool:
    """Whether a response makes its chunks as it goes along.

    Django says so itself; of any other, whatever is not a plain sequence may.

    :param made: Django's response, if there is one.
    """
    streaming = getattr(made, "streaming", None)
    if isinstance(streaming, bool):
        return streaming
    return not isinstance(returned, (list, tuple))


def patch_get_response() -> None:
    """Have Django's WSGI handler tell its response."""
    from django.core.handlers.base import BaseHandler

    get_response = BaseHandler.get_response

    @functools.wraps(get_response)
    def _get_response(self: Any, request: Any) -> Any:
        response = get_response(self, request)
        django_response.set(weakref.ref(response))
        return response

    BaseHandler.get_response = _get_response
