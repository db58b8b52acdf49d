"""An ASGI server shuts down with streams open: what the ingest has been sent by then."""

import asyncio
import threading

import pytest
from support.apps import ASGI_WAYS, as_async, asgi_app, streaming_app
from support.asgi import Connection, read
from support.program import run
from support.sdk import status_of

from vendored_integration.asgi import SentryMiddleware, flush_at_shutdown


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


def served(body, way="asgi-plain"):
    """An application that streams, and what a server is given of it."""
    if way == "asgi-django":
        return flush_at_shutdown(streaming_app(way, body))
    return SentryMiddleware(knows_lifespan(asgi_app(body)))


def held(release):
    async def body():
        yield b"a"
        await release.wait()
        yield b"b"

    return body


nothing = as_async(lambda: iter(()))


async def shut_down(lifespan, *open_ones):
    """What uvicorn does: cancel the tasks, not wait for them, and end the lifespan."""
    for connection in open_ones:
        await connection.hang_up("cancel")
    lifespan.deliver({"type": "lifespan.shutdown"})
    assert await lifespan.end() is None
    return [message["type"] for message in lifespan.messages]


async def start_and_shut_down(app):
    return await shut_down(Connection(app, type="lifespan"))


@pytest.fixture
def flushed(monkeypatch):
    """Have a transport note how many requests it has been given at each flush."""

    def flushed(sentry):
        found = []
        monkeypatch.setattr(sentry, "flush", lambda *args, **kw: found.append(len(sentry.ended())))
        return found

    return flushed


@pytest.mark.parametrize("way", ASGI_WAYS)
def test_open_streams(sentry, lifecycle, flushed, monkeypatch, way):
    """Each is cancelled, sent once, and flushed before the server hears of the end."""

    async def main():
        app = served(held(asyncio.Event()), way)
        lifespan = Connection(app, type="lifespan")
        connections = [Connection(app, f"/{number}") for number in range(3)]
        for connection in connections:
            await connection.sent(1)
        seen = flushed(sentry)
        said = await shut_down(lifespan, *connections)
        monkeypatch.undo()
        for connection in connections:
            await connection.end()
        return said, seen

    said, seen = asyncio.run(main())
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert seen == [3]
    assert [root.outcome for root in sentry.roots()] == ["cancelled"] * 3
    assert {root.status for root in sentry.roots()} == {status_of(lifecycle, "cancelled")}
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

        app = served(body)
        lifespan, connection = Connection(app, type="lifespan"), Connection(app)
        await connection.sent(1)
        await shut_down(lifespan, connection)
        sentry.wait_for(sentry.roots)
        release.set()
        await connection.end()

    asyncio.run(main())
    root = sentry.root()
    assert (root.outcome, root.status) == ("abandoned", status_of(lifecycle, "aborted"))


def test_streams_of_another_loop(init):
    """A shutdown ends the responses of its own event loop, not those of the process."""
    sentry = init(shutdown_timeout=0.2)
    opened, ended = threading.Event(), threading.Event()

    async def other():
        release = asyncio.Event()
        connection = Connection(served(held(release)))
        await connection.sent(1)
        opened.set()
        await asyncio.get_running_loop().run_in_executor(None, ended.wait)
        release.set()
        await connection.end()

    thread = threading.Thread(target=lambda: asyncio.run(other()))
    thread.start()
    assert opened.wait(60)
    asyncio.run(start_and_shut_down(served(nothing)))
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
    said = asyncio.run(start_and_shut_down(served(nothing)))
    assert said[-1] == "lifespan.shutdown.complete"
    assert hung.is_set()
    release.set()


def test_option_that_is_no_number(init, caplog):
    """What is wrong with it is logged, and the server goes on."""
    init(shutdown_timeout="soon")
    said = asyncio.run(start_and_shut_down(served(nothing)))
    assert said[-1] == "lifespan.shutdown.complete"
    assert "internal error while a server shuts down" in caplog.text


def test_no_asyncio(init, flushed):
    """In a loop of another library, such as trio's, nothing of asyncio's is used."""
    seen = flushed(init())
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        pass

    with pytest.raises(StopIteration):
        served(nothing)({"type": "lifespan"}, receive, send).send(None)
    assert seen == [0]


def test_startup_that_fails(sentry):
    """An application that knows the protocol, and fails, does so as without us."""

    async def app(scope, receive, send):
        await receive()
        raise ValueError("no database")

    connection = asyncio.run(read(flush_at_shutdown(app), type="lifespan"))
    assert str(connection.error) == "no database"


def test_an_application_that_returns_at_once(sentry):
    """It is answered for, as one that raises is; other connections are the application's."""
    stream = asgi_app(as_async(lambda: iter([b"a", b"b"])))

    async def app(scope, receive, send):
        if scope["type"] == "http":
            await stream(scope, receive, send)

    said = asyncio.run(start_and_shut_down(flush_at_shutdown(app)))
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asyncio.run(read(flush_at_shutdown(app))).chunks == [b"a", b"b"]


@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("asyncio.run(main())", "cancelled"),  # it cancels what is left
        # A loop that stops, and is never closed. (Or Python complains of a pending task.)
        (
            "loop = asyncio.new_event_loop()\n"
            "loop.run_until_complete(main())\n"
            "connections[0].task._log_destroy_pending = False\n",
            "abandoned",
        ),
    ],
)
def test_end_of_a_process_that_drives_an_application_itself(end, outcome):
    """Its open stream is sent, once."""
    lines = run(
        """
import asyncio
from support.apps import streaming_app
from support.asgi import Connection
init(transport=Printing())
async def body():
    yield b"a"
    await asyncio.Event().wait()
async def main():
    connections.append(Connection(streaming_app("asgi-plain", body)))
    await connections[-1].sent(1)
connections = []
"""
        + end
    )
    assert lines == [f"{outcome} None", "flush"]
