"""The Django project that is measured: a view for each kind of work, no middleware, no database."""

import tempfile
import threading

import django
from django.conf import settings
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

CHUNK = b"x"

_file = tempfile.NamedTemporaryFile()  # noqa: SIM115 (there as long as the process)
_file.write(b"x" * 64 * 1024)
_file.flush()

arrived = threading.Semaphore(0)
go_on = threading.Semaphore(0)


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
    return FileResponse(open(_file.name, "rb"))


def wait(request):
    """A view that is at work until it may go on."""
    arrived.release()
    go_on.acquire()
    return HttpResponse(b"ok")


urlpatterns = [
    path("plain", plain),
    path("stream/<int:chunks>", stream),
    path("astream/<int:chunks>", astream),
    path("error", error),
    path("file", file),
    path("wait", wait),
]


def configure():
    """As in a settings file: a system is set up after this, and before Django."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="project",
        SECRET_KEY="benchmark",
        LOGGING_CONFIG=None,
        MIDDLEWARE=[],
        USE_TZ=True,
    )


def applications():
    """The WSGI and the ASGI application."""
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.wsgi import WSGIHandler

    django.setup()
    return WSGIHandler(), ASGIHandler()
