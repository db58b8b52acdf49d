"""The check that the tests' transactions are shown to can fail."""

import uuid

import pytest
from sentry_relay.processing import StoreNormalizer
from support.relay import complaints


@pytest.fixture
def part():
    """A transaction as the SDK makes it: a part of a stream, with a link to the one before."""
    trace_id, span_id, before = uuid.uuid4().hex, uuid.uuid4().hex[:16], uuid.uuid4().hex[:16]
    link = {
        "trace_id": trace_id,
        "span_id": before,
        "sampled": True,
        "attributes": {"sentry.link.type": "previous_part"},
    }
    trace = {"trace_id": trace_id, "span_id": span_id, "status": "ok", "links": [link]}
    span = {
        "trace_id": trace_id,
        "span_id": uuid.uuid4().hex[:16],
        "parent_span_id": span_id,
        "start_timestamp": "2026-01-01T00:00:00.100000Z",
        "timestamp": "2026-01-01T00:00:00.200000Z",
    }
    return {
        "type": "transaction",
        "event_id": uuid.uuid4().hex,
        "platform": "python",
        "transaction": "/stream/",
        "start_timestamp": "2026-01-01T00:00:00.000000Z",
        "timestamp": "2026-01-01T00:00:01.000000Z",
        "contexts": {"trace": {**trace, "parent_span_id": before}},
        "spans": [span],
    }


def test_nothing_to_complain_about(part):
    """Relay takes the link of a part to the one before it, and hands it on."""
    links = [dict(link) for link in part["contexts"]["trace"]["links"]]
    assert complaints(part) == []
    assert StoreNormalizer().normalize_event(part)["contexts"]["trace"]["links"] == links


@pytest.mark.parametrize(
    "damage",
    [
        lambda part: part["contexts"]["trace"].update(status="hung_up"),
        lambda part: part["contexts"]["trace"]["links"][0].update(span_id="the first"),
        lambda part: part["contexts"]["trace"].pop("trace_id"),
        lambda part: part["spans"][0].pop("start_timestamp"),
        lambda part: part.update(timestamp="later"),
        lambda part: part.update(timestamp="2025-01-01T00:00:00.000000Z"),  # before the start
    ],
)
def test_complaints(part, damage):
    """What Relay would remove, and what it would refuse, is reported."""
    damage(part)
    assert len(complaints(part)) == 1
