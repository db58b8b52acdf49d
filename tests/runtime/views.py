"""The Django project that the runtime tests serve: a test sets the view it wants."""

import inspect

from django.urls import clear_url_caches, path

_view = None


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
