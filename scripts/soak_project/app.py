"""The Django project that is soaked. Set up by the environment:

SOAK_DSN   where the sink is
SOAK_FILE  the file that is served
"""

import gc
import json
import os
import sys
import threading

import django
import sentry_sdk
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.urls import path

from vendored_integration import DjangoIntegration, stats

settings.configure(
    SECRET_KEY="soak",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    LOGGING_CONFIG=None,
)
sentry_sdk.init(
    dsn=os.environ["SOAK_DSN"],
    traces_sample_rate=1.0,
    auto_session_tracking=False,
    # Only the bodies' own spans, which are counted.
    integrations=[DjangoIntegration(middleware_spans=False, signals_spans=False)],
    # Kept for each thread of the server: full after a few errors, not after thousands.
    max_breadcrumbs=10,
    # Nothing may be dropped: the client waits when the sink lags, long before this is full.
    transport_queue_size=10_000,
    _experiments={"transport_compression_level": 0, "transport_zlib_compression_level": 0},
)
django.setup()


class Soaked(Exception):
    pass


def work(number):
    # Up to 2.14 a span had no name, only a description.
    return sentry_sdk.start_span(op="soak", description=f"chunk {number}")


def plain(request, number):
    return HttpResponse(b"plain\n")


def stream(request, number):
    def body():
        for index in range(4):
            with work(index):
                chunk = b"chunk %d\n" % index
            yield chunk

    return StreamingHttpResponse(body())


def file(request, number):
    return FileResponse(open(os.environ["SOAK_FILE"], "rb"))


def hang_up(request, number):
    """More than any socket buffer holds: it ends when the client has gone, and not before."""

    def body():
        with work(0):
            chunk = b"x" * 65536
        while True:
            yield chunk

    return StreamingHttpResponse(body())


def error(request, number):
    raise Soaked(number)


def stream_error(request, number):
    def body():
        with work(0):
            chunk = b"chunk 0\n"
        yield chunk
        with work(1):
            raise Soaked(number)

    return StreamingHttpResponse(body())


urlpatterns = [
    path("plain/<int:number>", plain),
    path("stream/<int:number>", stream),
    path("file/<int:number>", file),
    path("hang-up/<int:number>", hang_up),
    path("error/<int:number>", error),
    path("stream-error/<int:number>", stream_error),
]

django_application = get_wsgi_application()


def state():
    """What there is in this process while no request is served."""
    gc.collect()
    return {
        "pid": os.getpid(),
        "blocks": sys.getallocatedblocks(),
        "stats": stats().as_dict(),
        "threads": len(os.listdir("/proc/self/task")),
        "thread_names": sorted(thread.name for thread in threading.enumerate()),
    }


def application(environ, start_response):
    """Django, and `/-/state`, which is not traced."""
    if environ["PATH_INFO"] != "/-/state":
        return django_application(environ, start_response)
    body = json.dumps(state()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
