"""Database connections that a hook opens when a transaction is sent."""

import threading

import pytest
from django.db import connection, connections
from support.apps import serve, stream
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration


def query():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@pytest.fixture
def on_disk(tmp_path, monkeypatch):
    """A database whose connections can be closed."""
    monkeypatch.setitem(connections.settings["default"], "NAME", str(tmp_path / "db"))
    connection.close()
    connection.connection = None
    monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / "db"))
    yield
    connection.close()
    connection.connection = None


@pytest.mark.parametrize("age", [0, 60])
def test_connection_of_a_hook_is_closed_as_others_are(init, on_disk, monkeypatch, age):
    """Sent after request_finished, when Django has closed what is too old."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", age)
    seen = []

    def processor(event, hint):
        query()
        seen.append(connection.connection is not None)
        return event

    sentry = init(before_send_transaction=processor)
    assert WsgiClient(serve(stream)).read() == b"ab"
    sentry.root()
    assert seen == [True]
    assert (connection.connection is not None) == (age > 0)


def test_connection_of_a_worker_is_closed(init, on_disk):
    """Nobody else would: the thread serves no request."""
    opened = []

    def processor(event, hint):
        query()
        opened.append((threading.current_thread().name, connections["default"]))
        assert opened[0][1].connection is not None
        return event

    sentry = init(
        integration=DjangoIntegration(response_timeout=0.05), before_send_transaction=processor
    )
    client = WsgiClient(serve(stream))
    client.take()
    assert sentry.root().outcome == "timed_out"
    client.close()
    ((thread, connection_there),) = opened
    assert thread.startswith("vendored_integration")
    sentry.wait_for(lambda: connection_there.connection is None)
