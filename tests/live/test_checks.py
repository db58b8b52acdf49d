"""What a server's process says of itself: its counters, and what is wrong with it."""

import json

import pytest
from running import INTEGRATION

pytestmark = pytest.mark.skipif(INTEGRATION != "ours", reason="stock says nothing")


def state(running):
    return json.loads(running.fetch("/state/", "state").body)


def test_stream_is_counted(live, request_id):
    """In the process that has served it, by its outcome, whatever the server."""
    before = state(live.main)["stats"]
    live.main.fetch("/stream/", request_id)
    live.main.the_transaction(request_id)
    after = state(live.main)["stats"]
    assert after["pid"] == before["pid"]
    assert after["interfaces"] == [live.server.interface]
    grown = {
        outcome: number - before["streaming"][outcome]
        for outcome, number in after["streaming"].items()
        if number != before["streaming"][outcome]
    }
    assert grown == {"completed": 1}
    assert after["internal_errors"] == 0
    assert (after["threads"] > 0) == live.server.threads


def test_server_without_threads(live):
    """uWSGI without --enable-threads: it is found, and the log says so, once."""
    expected = [] if live.server.threads else ["vendored_integration.W003"]
    assert state(live.main)["findings"] == expected
    assert live.main.process.output.count("vendored_integration.W003") == len(expected)
