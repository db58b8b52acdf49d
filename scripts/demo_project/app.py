"""The small Django project that the demo serves: five streams of a shop.

Nothing in the views knows which integration is at work. Set up by the environment:

    DEMO_INTEGRATION  stock | ours
    DEMO_DSN          where Sentry is
    DEMO_LIFECYCLE    static | stream

The working directory has shop.sqlite3 and catalogue.bin. The journal is written there: the
project's own log, a line for everything that a body did, whatever Sentry was told. The report
compares it with what Sentry received.
"""

import json
import os
import time
from contextlib import contextmanager
from contextvars import ContextVar

import django
import sentry_sdk
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models
from django.db.models import Avg
from django.http import FileResponse, StreamingHttpResponse
from django.urls import path

INTEGRATION = os.environ["DEMO_INTEGRATION"]
LIFECYCLE = os.environ["DEMO_LIFECYCLE"]


# -- the usual set-up


request_id = ContextVar("request_id", default=None)


def log_context(get_response):
    """What most middleware for logging does: bind for as long as the view runs."""

    def middleware(request):
        token = request_id.set(request.headers.get("X-Request-ID"))
        response = get_response(request)
        request_id.reset(token)
        # For the client, which looks its own trace up.
        response["X-Trace-Id"] = (sentry_sdk.get_traceparent() or "").split("-")[0]
        return response

    return middleware


settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[__name__ + ".log_context"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}},
)
if INTEGRATION == "ours":
    from vendored_integration import DjangoIntegration
else:
    from sentry_sdk.integrations.django import DjangoIntegration

sentry_sdk.init(
    dsn=os.environ["DEMO_DSN"],
    environment="demo-" + INTEGRATION,
    traces_sample_rate=1.0,
    # The same for both. Spans of middleware and signals would hide those of the bodies.
    integrations=[DjangoIntegration(middleware_spans=False, signals_spans=False)],
    _experiments={"trace_lifecycle": "stream"} if LIFECYCLE == "stream" else {},
)
django.setup()

# -- the journal


JOURNAL = open("journal", "a", buffering=1, encoding="utf-8")  # noqa: SIM115


class Journal:
    """Writes down what one body does.

    The name of the stream is passed along; `request_id`, from the log context, is on a line only
    if the context is still there.
    """

    def __init__(self, request):
        self.stream = request.headers["X-Request-ID"]

    def write(self, event, **fields):
        line = {"event": event, "stream": self.stream, "request_id": request_id.get(), **fields}
        JOURNAL.write(json.dumps(line) + "\n")

    def _query(self, execute, sql, params, many, context):
        self.write("span", op="db", name=sql)
        return execute(sql, params, many, context)

    @contextmanager
    def span(self, op, name):
        """A span as an application would make it, in either lifecycle."""
        if LIFECYCLE == "stream":
            span = sentry_sdk.traces.start_span(name=name, attributes={"sentry.op": op})
        else:
            span = sentry_sdk.start_span(op=op)
            span.description = name  # an argument of another name in old releases
        self.write("span", op=op, name=name)
        with span:
            yield

    def response(self, chunks, content_type):
        """A response of these chunks, with the queries and the end of the body written down."""

        def body():
            try:
                with connection.execute_wrapper(self._query):
                    yield from chunks
            except Exception as error:
                self.write("error", value=str(error))
                raise
            finally:
                self.write("end")

        return StreamingHttpResponse(body(), content_type=content_type)


# -- the shop


class Order(models.Model):
    customer = models.TextField()
    cents = models.IntegerField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


class OutOfPaper(Exception):
    pass


def export(request):
    """A CSV export: queries in batches, a span around each, one around them all."""
    Order.objects.exists()  # a query of the view, as most have one: it also makes the connection
    journal = Journal(request)

    def rows():
        with journal.span("export", "all orders"):
            yield "id,customer,cents\n"
            for start in range(0, 2000, 500):
                with journal.span("export.batch", f"rows {start}-{start + 499}"):
                    orders = Order.objects.order_by("pk")[start : start + 500]
                    text = "".join(f"{one.pk},{one.customer},{one.cents}\n" for one in orders)
                    time.sleep(0.08)  # the work that a real export would do
                yield text

    return journal.response(rows(), "text/csv")


def prices(request):
    """Server-sent events: as many as were asked for."""
    Order.objects.exists()
    journal = Journal(request)

    def events():
        for number in range(1, int(request.GET["n"]) + 1):
            with journal.span("sse.event", f"price {number}"):
                price = Order.objects.aggregate(price=Avg("cents"))["price"]
                text = f"id: {number}\ndata: {price:.0f}\n\n"
            yield text
            time.sleep(0.1)  # until the price changes

    return journal.response(events(), "text/event-stream")


def labels(request):
    """A print job that breaks down at the fourth of six labels."""
    journal = Journal(request)

    def pages():
        for number in range(1, 7):
            with journal.span("print.label", f"label {number}"):
                time.sleep(0.05)
                if number == 4:
                    raise OutOfPaper(f"no paper for label {number}")
            yield f"label {number}\n"

    return journal.response(pages(), "text/plain")


def catalogue(request):
    """A file, which gunicorn hands to sendfile()."""
    return FileResponse(open("catalogue.bin", "rb"), content_type="application/octet-stream")


urlpatterns = [
    path("export.csv", export),
    path("prices", prices),
    path("labels.txt", labels),
    path("catalogue.bin", catalogue),
]

application = get_wsgi_application()
