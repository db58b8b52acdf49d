"""An ASGI server shuts down with streams open: what the ingest has been sent by then."""

import asyncio
import logging
import threading

import pytest
from asgi_server import KINDS, Connection, plain_app, streaming_app
from django.core.exceptions import RequestAborted
from harness import static_status
from test_asgi import held
from test_process import run

from vendored_integration.asgi import SentryMiddleware, flush_at_shutdown

STARTUP = {"type": "lifespan.startup"}
SHUTDOWN = {"type": "lifespan.shutdown"}


def knows_lifespan(app):
    """An application that knows the protocol, as Starlette does."""

    async def application(scope, receive, send):
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})

    return application


async def shut_down(lifespan, *open_ones):
    """What uvicorn does: cancel the tasks, not wait for them, and end the lifespan."""
    for connection in open_ones:
        connection.hang_up("cancel")
    lifespan.deliver(SHUTDOWN)
    assert await lifespan.end() is None
    return [message["type"] for message in lifespan.messages]


def started(app):
    lifespan = Connection(app, type="lifespan")
    lifespan._incoming.get_nowait()
    lifespan.deliver(STARTUP)
    return lifespan


def served(kind):
    """An application that streams, and what a server is given of it."""

    def app(body):
        if kind == "django":
            return flush_at_shutdown(streaming_app("django", body))
        return SentryMiddleware(knows_lifespan(plain_app(body)))

    return app


def requests_of(sentry):
    """Those that the transport has been given, without telling the SDK to flush."""
    segments = [span for item in sentry.items("span") for span in item["items"]]
    return len(sentry.items("transaction")) + sum(span["is_segment"] for span in segments)


@pytest.mark.parametrize("kind", KINDS)
def test_open_streams(sentry, lifecycle, monkeypatch, kind):
    """Each is cancelled, sent once, and flushed before the server hears of the end."""

    async def main():
        app = served(kind)(held(asyncio.Event()))
        lifespan = started(app)
        connections = [Connection(app, f"/{number}") for number in range(3)]
        for connection in connections:
            await connection.sent(1)
        with monkeypatch.context() as patch:
            patch.setattr(
                sentry, "flush", lambda timeout, callback=None: flushed.append(requests_of(sentry))
            )
            said = await shut_down(lifespan, *connections)
        for connection in connections:
            await connection.end()
        return said

    flushed = []
    assert asyncio.run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert flushed == [3]
    assert [root.outcome for root in sentry.roots()] == ["cancelled"] * 3
    assert {root.status for root in sentry.roots()} == {static_status(lifecycle, "cancelled")}
    assert not sentry.errors()


def test_a_stream_that_does_not_end(init, lifecycle):
    """It does not hear of the cancellation, as a thread does not: abandoned, and sent once."""
    sentry = init(lifecycle, shutdown_timeout=0.2)

    async def main():
        release = asyncio.Event()

        async def body():
            yield b"a"
            try:
                await release.wait()
            except asyncio.CancelledError:
                await release.wait()

        app = served("plain")(body)
        lifespan, connection = started(app), Connection(app)
        await connection.sent(1)
        await shut_down(lifespan, connection)
        sentry.wait_for(sentry.roots)
        release.set()
        await connection.end()

    asyncio.run(main())
    root = sentry.root()
    assert root.outcome == "abandoned"
    assert root.status == static_status(lifecycle, "aborted")


def test_streams_of_another_loop(init):
    """A shutdown ends the responses of its own event loop, not those of the process."""
    sentry = init(shutdown_timeout=0.2)
    app = served("plain")
    opened, ended = threading.Event(), threading.Event()

    async def other():
        release = asyncio.Event()
        connection = Connection(app(held(release)))
        await connection.sent(1)
        opened.set()
        while not ended.is_set():
            await asyncio.sleep(0.01)
        release.set()
        await connection.end()

    async def main():
        await shut_down(started(app(None)))

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert opened.wait(60)
    asyncio.run(main())
    assert not sentry.roots()
    ended.set()
    thread.join()
    assert sentry.root().outcome == "completed"


def test_ingest_that_hangs(init, monkeypatch):
    """The server's exit is held up no longer than the SDK may take at the end of a process."""
    sentry = init(shutdown_timeout=0.2)
    hung, release = threading.Event(), threading.Event()

    def flush(timeout, callback=None):
        hung.set()
        release.wait(60)

    monkeypatch.setattr(sentry, "flush", flush)
    said = asyncio.run(shut_down_at_once(served("plain")(None)))
    assert said[-1] == "lifespan.shutdown.complete"
    assert hung.is_set()
    release.set()


async def shut_down_at_once(app):
    return await shut_down(started(app))


def test_option_that_is_no_number(init, caplog):
    """What is wrong with it is logged, and the server goes on."""
    init(shutdown_timeout="soon")
    said = asyncio.run(shut_down_at_once(served("plain")(None)))
    assert said[-1] == "lifespan.shutdown.complete"
    assert "internal error while a server shuts down" in caplog.text


def test_no_asyncio(init, monkeypatch):
    """In a loop of another library, such as trio's, nothing of asyncio's is used."""
    sentry = init()
    seen = []
    monkeypatch.setattr(sentry, "flush", lambda timeout, callback=None: seen.append(timeout))
    messages = [STARTUP, SHUTDOWN]

    async def receive():
        return messages.pop(0)

    async def send(message):
        pass

    served_by_hand = served("plain")(None)({"type": "lifespan"}, receive, send)
    with pytest.raises(StopIteration):
        served_by_hand.send(None)
    assert len(seen) == 1


def test_startup_that_fails(sentry):
    """An application that knows the protocol, and fails, does so as without us."""

    async def app(scope, receive, send):
        await receive()
        raise ValueError("no database")

    async def main():
        lifespan = started(flush_at_shutdown(app))
        return await lifespan.end()

    assert str(asyncio.run(main())) == "no database"


def test_an_application_that_returns_at_once(sentry):
    """It is answered for, as one that raises is; other connections are the application's."""

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await plain_app(held(release))(scope, receive, send)

    async def main():
        nonlocal release
        release = asyncio.Event()
        release.set()
        wrapped = flush_at_shutdown(app)
        lifespan, connection = started(wrapped), Connection(wrapped)
        assert await connection.end() is None
        return await shut_down(lifespan), connection.chunks

    release = None
    said, chunks = asyncio.run(main())
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert chunks == [b"a", b"b"]


# -- what asyncio logs of it ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("logger", "error", "events"),
    [
        ("asyncio", asyncio.CancelledError(), 0),
        ("asyncio", RequestAborted(), 0),
        ("asyncio", ValueError("a failing task"), 1),
        ("app", asyncio.CancelledError(), 1),
        ("app", RequestAborted(), 1),
    ],
)
def test_hang_ups_that_asyncio_logs(sentry, logger, error, events):
    """Nobody was left to catch them, and they are no errors; what others log is their decision.

    Django's task that listens to the client is left behind when its request is cancelled.
    """
    logging.getLogger(logger).error("Task exception was never retrieved", exc_info=error)
    assert len(sentry.errors()) == events


# -- a process that drives an application itself -------------------------------------------

SCRIPT = """
import asyncio
from asgi_server import Connection, plain_app
from vendored_integration.asgi import SentryMiddleware

init(transport=Printing())
async def body():
    yield b"a"
    await asyncio.Event().wait()
app = SentryMiddleware(plain_app(body))
async def main():
    connections.append(Connection(app, "/open"))
    await connections[-1].sent(1)
connections = []
"""


def test_end_of_asyncio_run():
    """asyncio.run() cancels what is left."""
    lines = run(SCRIPT + "asyncio.run(main())")
    assert lines == ["cancelled None", "flush"]


def test_loop_that_is_left_as_it_is():
    """A loop that stops, and is never closed: the end of the process ends the stream, once."""
    lines = run(
        SCRIPT
        + """
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
# Or Python complains of a pending task that is destroyed, as it does without us.
connections[0].task._log_destroy_pending = False
"""
    )
    assert lines == ["abandoned None", "flush"]
