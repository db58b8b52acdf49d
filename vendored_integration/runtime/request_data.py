"""The request data of an open response: body, cookies, user.

Upstream takes them from Django's request when there is an event. That is too late for an
open response: Django lets the request go in ``close()``; the rest of its body belongs to a
client that may still be sending it, and a worker that waits for that is killed; the
database connections have been handed back.

So they are taken when the application returns: what it has read of the body, the cookies,
the user as stock would look it up. Later events get what was taken. After the return nothing
is read from the client, and nothing is queried.
"""

import copy
import functools
from typing import Any, Callable, Dict, Optional

import sentry_sdk

from .contexts import request_access
from .process import internal_error


class RequestData:
    """Upstream's event processor of a request, until its data are taken."""

    __slots__ = ("_processor", "_taken")

    def __init__(self, processor: "Callable[[Any, Any], Any]") -> None:
        self._processor = processor
        self._taken: "Optional[Dict[str, Any]]" = None

    def __call__(self, event: Any, hint: Any) -> Any:
        if self._taken is None:
            return self._processor(event, hint)
        taken = copy.deepcopy(self._taken)
        if "request" in taken:
            event.setdefault("request", {}).update(taken["request"])
        if "user" in taken:
            user = event.setdefault("user", {})
            for key, value in taken["user"].items():
                user.setdefault(key, value)
        return event

    def take(self) -> None:
        """Take the data now."""
        if self._taken is None:
            processor, self._processor = self._processor, _no_processor
            self._taken = {}
            self._taken = processor({}, {}) or {}


def _no_processor(event: Any, hint: Any) -> Any:
    return event


def take_request_data(root: Any, streaming: bool) -> None:
    """Take the data of the running context's request, for what is sent later.

    :param root: the adapter of its root span, or ``None``.
    :param streaming: whether its response is. Of another one all is taken, as in stock.
    """
    scope = sentry_sdk.Scope.get_current_scope()
    span = scope._span
    access: "Optional[str]" = "cached"
    if root is not None and root.looks_up_user:
        access = "query" if streaming else None
    token = request_access.set(access)
    try:
        scope._span = None  # as in stock, the query for the user is no span of the request's
        for holder in (scope, sentry_sdk.Scope.get_isolation_scope()):
            for processor in holder._event_processors:
                if isinstance(processor, RequestData):
                    processor.take()
    except Exception:
        internal_error("internal error; an event may lack its request's body and user")
    finally:
        scope._span = span
        request_access.reset(token)


def patch_request_data(upstream: Any) -> None:
    """Have upstream's Django integration make its event processors ours.

    :param upstream: the module ``vendored_integration._vendor.django``.
    """
    from vendored_integration._vendor.django import asgi

    for module, name in (
        (upstream, "_make_wsgi_request_event_processor"),
        (asgi, "_make_asgi_request_event_processor"),
    ):
        setattr(module, name, _making_request_data(getattr(module, name)))
    _spare_unread_body(upstream.DjangoRequestExtractor)
    upstream._set_user_info = _without_query(upstream._set_user_info)


def _making_request_data(make: "Callable[..., Any]") -> "Callable[..., Any]":
    @functools.wraps(make)
    def make_request_data(*args: Any) -> RequestData:
        return RequestData(make(*args))

    return make_request_data


def _spare_unread_body(extractor: Any) -> None:
    """Leave a body alone that the application has not read, once that has returned.

    And at any time one that is empty: most requests have none, and stock sends nothing of it.
    """
    from django.core.handlers.wsgi import WSGIRequest

    raw_data, parsed_body = extractor.raw_data, extractor.parsed_body

    def spares(request: Any) -> bool:
        if _is_read(request):
            return False
        if _has_no_body(request):
            # Stock sends ``request.data``, if there is such: that of Django REST framework's
            # requests, or what a middleware has set. Nothing has to be read for it.
            return type(request) is WSGIRequest and "data" not in vars(request)
        return bool(request_access.get())

    @functools.wraps(raw_data)
    def _raw_data(self: Any) -> Any:
        return b"" if spares(self.request) else raw_data(self)

    @functools.wraps(parsed_body)
    def _parsed_body(self: Any) -> Any:
        return None if spares(self.request) else parsed_body(self)

    extractor.raw_data, extractor.parsed_body = _raw_data, _parsed_body


def _is_read(request: Any) -> bool:
    """Whether the application has read its request's body. Django REST framework's, too."""
    return getattr(request, "_read_started", False) or hasattr(request, "_body")


def _has_no_body(request: Any) -> bool:
    """Whether a WSGI request says that it has no body. Under ASGI one may come without a length."""
    meta = request.META
    return "wsgi.input" in meta and meta.get("CONTENT_LENGTH") in (None, "", "0")


def _without_query(set_user_info: "Callable[[Any, Any], None]") -> "Callable[[Any, Any], None]":
    """Look no user up whom nobody has looked up, for an event that may never be made."""

    @functools.wraps(set_user_info)
    def _set_user_info(request: Any, event: Any) -> None:
        if request_access.get() != "cached" or _is_user_known(request):
            set_user_info(request, event)

    return _set_user_info


def _is_user_known(request: Any) -> bool:
    from django.utils.functional import LazyObject, empty

    user = getattr(request, "user", None)
    return not isinstance(user, LazyObject) or user._wrapped is not empty
