"""What is left out for a request that is not sampled, and what is not."""

import io
import logging

import pytest
import sentry_sdk
from django.core.signals import request_finished, request_started
from django.db.models import QuerySet
from django.http import HttpResponse
from sentry_sdk.utils import logger as sdk_logger
from support.apps import serve
from support.sdk import start_span
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration
from vendored_integration.wsgi import SentryWsgiMiddleware


@pytest.fixture
def receiver():
    called = []

    def receive(sender, **kwargs):
        called.append(kwargs["signal"])

    request_started.connect(receive)
    request_finished.connect(receive)
    yield called
    request_started.disconnect(receive)
    request_finished.disconnect(receive)


@pytest.mark.parametrize("sampled", ["0", "1"])
def test_caller_decides_on_sampling(init, receiver, sampled):
    """Signals reach their receivers, outgoing requests say what they said.

    Only of a sampled request something is sent: with the spans of receivers, which are the
    integration's.
    """
    sentry = init(integration=DjangoIntegration(finish_on="close"))
    headers = []

    def view(request):
        with start_span("mine"):
            scope = sentry_sdk.Scope.get_current_scope()
            headers.extend(scope.iter_trace_propagation_headers())
        return HttpResponse(b"x")

    trace_id = "0123456789abcdef" * 2
    WsgiClient(serve(view), HTTP_SENTRY_TRACE=f"{trace_id}-0123456789abcdef-{sampled}").read()
    found = dict(headers)["sentry-trace"].split("-")
    assert (found[0], found[2]) == (trace_id, sampled)
    assert receiver == [request_started, request_finished]
    names = [root.names() for root in sentry.roots()]
    assert [sum("receive" in name for name in each) for each in names] == [2] * int(sampled)


@pytest.mark.parametrize("debug", [True, False])
def test_debug_messages(init, debug):
    """The SDK's own log is what ``debug`` says, as with stock."""
    init(traces_sample_rate=0.0, debug=debug)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    sdk_logger.addHandler(handler)
    try:
        WsgiClient(serve(lambda request: HttpResponse(b"x"))).read()
    finally:
        sdk_logger.removeHandler(handler)
    assert ("Discarding" in written.getvalue()) == debug


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_request_data_are_those_of_the_requests_beginning(init, rate):
    """Also where the application changes ``environ`` before there is an event."""
    sentry = init(traces_sample_rate=rate)

    def app(environ, start_response):
        environ.update(
            HTTP_HOST="changed", HTTP_X_HEADER="changed", QUERY_STRING="changed", PATH_INFO="/c"
        )
        raise ValueError("in the application")

    environ = {"HTTP_HOST": "a.test", "HTTP_X_HEADER": "sent", "QUERY_STRING": "a=1"}
    environ["SERVER_PORT"] = 8000  # not as WSGI wants it
    with pytest.raises(ValueError, match="in the application"):
        WsgiClient(SentryWsgiMiddleware(app), **environ)
    (event,) = sentry.errors()
    request = event["request"]
    assert request["headers"]["X-Header"] == "sent"
    assert request["query_string"] == "a=1"
    assert request["method"] == "GET"
    assert request["env"]["SERVER_PORT"] == 8000
    assert request["url"] == "http://a.test/"


def test_query_sets_in_an_event_are_not_evaluated(init):
    """The integration names them by where they are from."""
    sentry = init()
    sentry_sdk.capture_event({"message": "x", "extra": {"found": QuerySet(), "other": object()}})
    (event,) = sentry.errors()
    assert event["extra"]["found"].startswith("<QuerySet from django.db.models.query at 0x")
    assert event["extra"]["other"].startswith("<object object at 0x")
