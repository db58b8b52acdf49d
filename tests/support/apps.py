"""The Django project of the runtime tests, and applications that stream, for each interface.

Importing this configures Django. A test sets the one view that answers every path.
"""

import asyncio
import contextlib
import functools
import inspect
from typing import Any

import django
from django.conf import settings
from django.core.signals import request_finished
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import clear_url_caches, path

from .asgi import AsgiClient
from .wsgi import WsgiClient

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEBUG=False,
        LOGGING_CONFIG=None,
        ROOT_URLCONF=__name__,
        SECRET_KEY="test",
        USE_TZ=True,
    )
    django.setup()

#: Below 4.2 a Django body is a sync one, which the ASGI handler iterates in the event loop.
ASYNC_BODIES = django.VERSION >= (4, 2)
#: Below 5.0 Django looks no more at what the client does once it has read the request.
DJANGO_LISTENS = django.VERSION >= (5, 0)
#: Below 6.0 it streams in a task of its own, which does not hear of the cancellation.
DJANGO_STREAMS_APART = (5, 0) <= django.VERSION < (6, 0)

#: How a streaming application is served: the interface, and Django or only the middleware.
WAYS = ["wsgi-plain", "wsgi-django", "asgi-plain", *(["asgi-django"] if ASYNC_BODIES else [])]
DJANGO_WAYS = [way for way in WAYS if "django" in way]
ASGI_WAYS = [way for way in WAYS if "asgi" in way]

# -- Django ----------------------------------------------------------------------------

_view: Any = None


def serve(view):
    """Serve this view at every path, and return the WSGI application."""
    from django.core.handlers.wsgi import WSGIHandler

    _route(view)
    return WSGIHandler()


def serve_asgi(view):
    """Serve this view, sync or async, at every path, and return the ASGI application."""
    from django.core.handlers.asgi import ASGIHandler

    _route(view)
    return ASGIHandler()


def dispatch(request, rest=""):
    return _view(request)


async def dispatch_async(request, rest=""):
    return await _view(request)


def _route(view):
    global _view
    _view = view
    wanted = dispatch_async if inspect.iscoroutinefunction(view) else dispatch
    if urlpatterns[0].callback is not wanted:
        urlpatterns[:] = _patterns(wanted)
        clear_url_caches()


def _patterns(view):
    return [path("<path:rest>", view), path("", view)]


urlpatterns = _patterns(dispatch)


def plain(request):
    """A view that does not stream."""
    return HttpResponse(b"ab")


def stream(request):
    """A view that does."""
    return StreamingHttpResponse(iter([b"a", b"b"]))


@contextlib.contextmanager
def at_close(function):
    """Have something done in each response's ``close()``, when Django has let the request go."""

    def finished(**kwargs):
        function()

    request_finished.connect(finished)
    try:
        yield
    finally:
        request_finished.disconnect(finished)


# -- applications that stream ------------------------------------------------------------


def as_async(function):
    """Make an async generator function of a generator function."""

    @functools.wraps(function)
    async def body(*args):
        chunks = function(*args)
        try:
            for chunk in chunks:
                yield chunk
                await asyncio.sleep(0)
        finally:
            getattr(chunks, "close", lambda: None)()

    return body


def wsgi_app(body, status="200 OK", headers=(), view=lambda: None):
    """A WSGI application that streams what a generator function yields."""

    def app(environ, start_response):
        view()
        start_response(status, list(headers))
        return body()

    return app


def asgi_app(body, status=200, headers=(), view=lambda: None):
    """An ASGI application that does so; it listens to its client, as Starlette does."""
    headers = [(name.encode(), value.encode()) for name, value in headers]

    async def stream(send):
        view()
        await send({"type": "http.response.start", "status": status, "headers": headers})
        chunks = body()
        try:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await chunks.aclose()
        await send({"type": "http.response.body"})

    async def listen(receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def app(scope, receive, send):
        tasks = [asyncio.ensure_future(stream(send)), asyncio.ensure_future(listen(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(ended[0], Exception):
            raise ended[0]

    return app


def streaming_app(way, body, view=lambda: None, status=200, headers=(), **options):
    """A traced application that streams what a generator function yields, in one of the WAYS.

    :param body: may be an async one for ASGI.
    :param view: is called before the response is made.
    :param options: of the middleware; Django's are those of the integration.
    """
    from vendored_integration.asgi import SentryMiddleware
    from vendored_integration.wsgi import SentryWsgiMiddleware

    interface, framework = way.split("-")
    if interface == "asgi" and not inspect.isasyncgenfunction(body):
        body = as_async(body)
    if framework == "plain" and interface == "wsgi":
        return SentryWsgiMiddleware(wsgi_app(body, f"{status} Said", headers, view), **options)
    if framework == "plain":
        return SentryMiddleware(asgi_app(body, status, headers, view), **options)

    def respond():
        view()
        response = StreamingHttpResponse(body(), status=status)
        for name, value in headers:
            response[name] = value
        return response

    async def async_view(request):
        return respond()

    return serve(lambda request: respond()) if interface == "wsgi" else serve_asgi(async_view)


def open_stream(way, app, path="/", **request):
    """Send a request to an application of one of the WAYS."""
    return (WsgiClient if way.startswith("wsgi") else AsgiClient)(app, path, **request)
