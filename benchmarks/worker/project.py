"""The Django project that is measured: one view a kind of work, no middleware, no database."""

import os
import tempfile
import threading

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
        os.close(handle)  # it goes with the directory of the benchmark
    return _path


_released = threading.Event()


def hold(request):
    """A stream that is open until /release is requested."""

    def body():
        yield CHUNK
        _released.wait()

    return StreamingHttpResponse(body())


def release(request):
    _released.set()
    return HttpResponse(b"ok")


arrived = threading.Semaphore(0)
go_on = threading.Semaphore(0)


def wait(request):
    """A view that is at work until it may go on."""
    arrived.release()
    go_on.acquire()
    return HttpResponse(b"ok")


urlpatterns = [
    path("wait", wait),
    path("hold", hold),
    path("release", release),
    path("plain", plain),
    path("stream/<int:chunks>", stream),
    path("astream/<int:chunks>", astream),
    path("error", error),
    path("file", file),
]


def settings_only():
    """Configure; a system is set up after this and before Django, as in a settings file."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="project",
        SECRET_KEY="benchmark",
        LOGGING_CONFIG=None,
        MIDDLEWARE=[],
        USE_TZ=True,
    )


def setup():
    django.setup()


def wsgi():
    from django.core.handlers.wsgi import WSGIHandler

    return WSGIHandler()


def asgi():
    from django.core.handlers.asgi import ASGIHandler

    return ASGIHandler()
