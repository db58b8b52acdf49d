"""The Django project that the runtime tests serve: a test sets the view it wants."""

from django.urls import path

_view = None


def serve(view):
    """Serve this view at every path, and return the WSGI application."""
    global _view
    from django.core.handlers.wsgi import WSGIHandler

    _view = view
    return WSGIHandler()


def dispatch(request, rest=""):
    return _view(request)


urlpatterns = [path("<path:rest>", dispatch), path("", dispatch)]
