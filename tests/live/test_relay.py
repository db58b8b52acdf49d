"""The check that every test in this directory ends with can fail."""

import copy
import uuid
from typing import Any, Callable, Dict

import pytest
from relay import complaints

Event = Dict[str, Any]


@pytest.fixture
def transaction() -> Event:
    trace_id, span_id = uuid.uuid4().hex, uuid.uuid4().hex[:16]
    return {
        "type": "transaction",
        "event_id": uuid.uuid4().hex,
        "platform": "python",
        "transaction": "/stream/",
        "start_timestamp": "2026-01-01T00:00:00.000000Z",
        "timestamp": "2026-01-01T00:00:01.000000Z",
        "contexts": {"trace": {"trace_id": trace_id, "span_id": span_id, "status": "ok"}},
        "spans": [
            {
                "trace_id": trace_id,
                "span_id": uuid.uuid4().hex[:16],
                "parent_span_id": span_id,
                "start_timestamp": "2026-01-01T00:00:00.100000Z",
                "timestamp": "2026-01-01T00:00:00.200000Z",
            }
        ],
    }


def test_nothing_to_complain_about(transaction: Event) -> None:
    """A transaction as the SDK makes it passes."""
    assert complaints(transaction) == []


def _part_of_a_stream(event: Event) -> None:
    trace = event["contexts"]["trace"]
    trace["parent_span_id"] = uuid.uuid4().hex[:16]
    trace["links"] = [
        {
            "trace_id": trace["trace_id"],
            "span_id": uuid.uuid4().hex[:16],
            "sampled": True,
            "attributes": {"sentry.link.type": "previous_part"},
        }
    ]


def test_links_are_kept(transaction: Event) -> None:
    """Relay takes the link of a part to the one before it, and hands it on."""
    from sentry_relay.processing import StoreNormalizer

    _part_of_a_stream(transaction)
    links = copy.deepcopy(transaction["contexts"]["trace"]["links"])
    assert complaints(transaction) == []
    assert StoreNormalizer().normalize_event(transaction)["contexts"]["trace"]["links"] == links


def _link_to_no_span(event: Event) -> None:
    _part_of_a_stream(event)
    event["contexts"]["trace"]["links"][0]["span_id"] = "the first"


def _unknown_status(event: Event) -> None:
    event["contexts"]["trace"]["status"] = "hung_up"


def _end_that_is_no_time(event: Event) -> None:
    event["timestamp"] = "later"


def _end_before_start(event: Event) -> None:
    event["timestamp"] = "2025-01-01T00:00:00.000000Z"


def _span_without_start(event: Event) -> None:
    del event["spans"][0]["start_timestamp"]


def _no_trace(event: Event) -> None:
    del event["contexts"]["trace"]["trace_id"]


@pytest.mark.parametrize(
    "damage",
    [
        _unknown_status,
        _end_that_is_no_time,
        _end_before_start,
        _span_without_start,
        _no_trace,
        _link_to_no_span,
    ],
)
def test_complaints(transaction: Event, damage: Callable[[Event], None]) -> None:
    """What Relay would remove, and what it would refuse, is reported."""
    damaged = copy.deepcopy(transaction)
    damage(damaged)
    assert len(complaints(damaged)) == 1
