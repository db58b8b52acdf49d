"""The check that the tests' transactions are shown to can fail."""

import copy

import pytest
from support.apps import streaming_app
from support.relay import complaints
from support.sdk import start_span
from support.wsgi import WsgiClient


def link(event, **changes):
    """Link a transaction to another one, as a part of a stream is linked."""
    trace = event["contexts"]["trace"]
    trace["links"] = [{"trace_id": trace["trace_id"], "span_id": "0123456789abcdef", **changes}]


@pytest.mark.parametrize(
    "damage",
    [
        lambda event: event["contexts"]["trace"].update(status="hung_up"),
        lambda event: link(event, span_id="the first"),
        lambda event: event["contexts"]["trace"].pop("trace_id"),
        lambda event: event["spans"][0].pop("start_timestamp"),
        lambda event: event.update(timestamp="later"),
        lambda event: event.update(timestamp="2025-01-01T00:00:00.000000Z"),  # before the start
    ],
)
def test_complaints(init, damage):
    """What Relay would remove, and what it would refuse, is reported."""

    def body():
        with start_span("step"):
            yield b"a"

    sentry = init("static")
    WsgiClient(streaming_app("wsgi-plain", body)).read()
    event = copy.deepcopy(sentry.transactions()[0])
    link(event)
    assert complaints(copy.deepcopy(event)) == []
    damage(event)
    assert len(complaints(event)) == 1
