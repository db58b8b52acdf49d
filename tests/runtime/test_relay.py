"""The check that the tests' transactions are shown to can fail."""

import copy

import pytest
from support.apps import streaming_app
from support.relay import complaints
from support.wsgi import WsgiClient


@pytest.mark.parametrize(
    "damage",
    [
        lambda event: event["contexts"]["trace"].update(status="hung_up"),
        lambda event: event.update(timestamp="2025-01-01T00:00:00.000000Z"),  # before the start
    ],
)
def test_complaints(init, damage):
    """What Relay would remove, and what it would refuse, is reported."""

    sentry = init("static")
    WsgiClient(streaming_app("wsgi-plain", lambda: iter([b"a"]))).read()
    event = copy.deepcopy(sentry.transactions()[0])
    assert complaints(copy.deepcopy(event)) == []
    damage(event)
    assert len(complaints(event)) == 1
