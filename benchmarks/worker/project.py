"""The Django project that is measured: one view a kind of work, no middleware, no database."""

import os
import tempfile

import django
from django.conf import settings
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

CHUNK = b"x"
FILE_SIZE = 64 * 1024  # bytes


def plain(request):
    return HttpResponse(b"ok")


def stream(request, chunks):
    return StreamingHttpResponse(CHUNK for _ in range(chunks))


async def astream(request, chunks):
    async def body():
        for _ in range(chunks):
            yield CHUNK

    return StreamingHttpResponse(body())


def error(request):
    raise ValueError("for the benchmark")


def file(request):
    return FileResponse(open(_file_to_send(), "rb"))


_path = None


def _file_to_send():
    global _path
    if _path is None:
        handle, _path = tempfile.mkstemp(prefix="vendored-integration-benchmark-")
        os.write(handle, b"x" * FILE_SIZE)
        os.close(handle)
        import atexit

        atexit.register(os.remove, _path)
    return _path


urlpatterns = [
    path("plain", plain),
    path("stream/<int:chunks>", stream),
    path("astream/<int:chunks>", astream),
    path("error", error),
    path("file", file),
]


def configure():
    """Set Django up, before the system that watches it: as `manage.py` and a WSGI file do."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="project",
        SECRET_KEY="benchmark",
        LOGGING_CONFIG=None,
        MIDDLEWARE=[],
        USE_TZ=True,
    )
    django.setup()


def wsgi():
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def asgi():
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()
