"""Starlette and FastAPI within SentryMiddleware: alone, and with the SDK's own integrations.

The SDK enables those by itself where the frameworks are installed. They have middleware of
their own, within ours, which reports errors and gives names.
"""

import asyncio
import itertools
from pathlib import Path

import pytest
import sentry_sdk
from support.apps import as_async
from support.asgi import HANG_UPS, Connection, hang_up_after, read
from support.sdk import HAS_STATIC_LIFECYCLE, log_in_server, start_span, status_of

from vendored_integration.asgi import SentryMiddleware

pytest.importorskip("starlette")
pytest.importorskip("fastapi")

from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute

HERE = __name__


@pytest.fixture(params=["alone", "together"])
def together(request):
    """Whether the SDK's own integrations are enabled, as they are by default."""
    return request.param == "together"


@pytest.fixture
def sentry(init, lifecycle, together):
    # Whatever else is installed here is not enabled either.
    return init(lifecycle, auto_enabling_integrations=together)


class Passes(BaseHTTPMiddleware):
    """What most middleware of such applications is made of. Its responses are all streamed."""

    async def dispatch(self, request, call_next):
        return await call_next(request)


@pytest.fixture(params=[[], [Middleware(Passes)]], ids=["", "BaseHTTPMiddleware"])
def middleware(request):
    return request.param


# -- the application -------------------------------------------------------------------


async def plain(request):
    return PlainTextResponse("plain")


def three_chunks():
    for number in range(3):
        with start_span(f"chunk {number}"):
            yield b"chunk"


async def stream(request):
    return StreamingResponse(as_async(three_chunks)())


async def stream_sync(request):
    return StreamingResponse(three_chunks())


def answers(error):
    """An endpoint that raises."""

    async def endpoint(request):
        raise error

    return endpoint


async def endless(request):
    async def body():
        try:
            while True:
                yield b"chunk"
                await asyncio.sleep(0)
        finally:
            with start_span("clean up"):
                await asyncio.sleep(0)

    return StreamingResponse(body())


async def stream_fails(request):
    async def body():
        yield b"chunk"
        raise RuntimeError("half-way") from LookupError("cause")

    return StreamingResponse(body())


async def raises_404(request):
    raise HTTPException(404)


async def file(request):
    return FileResponse(__file__)


async def background(request):
    async def works():
        with start_span("background"):
            await asyncio.sleep(0)

    return StreamingResponse(three_chunks(), background=BackgroundTask(works))


async def background_fails(request):
    async def works():
        raise RuntimeError("in the background")

    return StreamingResponse(three_chunks(), background=BackgroundTask(works))


async def talk(websocket):
    await websocket.accept()
    while True:
        if await websocket.receive_text() == "fail":
            raise RuntimeError("while talking")
        await websocket.send_text("answer")


def application(middleware=()):
    """Made anew in each test: the SDK patches what makes the routes."""
    api = FastAPI()

    async def resource():
        yield 1
        with start_span("after"):
            await asyncio.sleep(0)

    async def failing_resource():
        yield 1
        raise RuntimeError("in the dependency")

    needs_resource, needs_failing_resource = Depends(resource), Depends(failing_resource)

    @api.get("/items/{item}")
    async def item(item, resource=needs_resource):
        return item

    @api.get("/stream")
    async def api_stream(resource=needs_resource):
        return StreamingResponse(as_async(three_chunks)())

    @api.get("/fails")
    async def api_fails():
        raise RuntimeError("in the view")

    @api.get("/dependency-fails")
    async def dependency_fails(resource=needs_failing_resource):
        return 1

    endpoints = {
        "/plain": plain,
        "/stream": stream,
        "/stream-sync": stream_sync,
        "/endless": endless,
        "/stream-fails": stream_fails,
        "/fails": answers(RuntimeError("in the view")),
        "/404": raises_404,
        "/500": answers(HTTPException(500)),
        "/file": file,
        "/background": background,
        "/background-fails": background_fails,
    }
    routes = [*itertools.starmap(Route, endpoints.items()), WebSocketRoute("/talk", talk)]
    mounts = [Mount("/sub", Starlette(routes=routes)), Mount("/api", api)]
    return SentryMiddleware(Starlette(routes=routes + mounts, middleware=list(middleware)))


# -- the tests -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name", "name_together"),
    [
        ("/stream", f"{HERE}.stream", "/stream"),
        ("/sub/stream", f"{HERE}.stream", "/stream"),
        ("/api/items/5", f"{HERE}.application.<locals>.item", "/items/{item}"),
        # No route: what the SDK calls generic requests, too.
        ("/nowhere", "http://localhost/nowhere", "http://localhost/nowhere"),
        ("/api/nowhere", "http://localhost/api/nowhere", "http://localhost/api/nowhere"),
    ],
)
def test_names(sentry, together, path, name, name_together):
    """By the endpoint; together, by the SDK's integration. Never none.

    From SDK 3 on always by the route: that of the mounted application, if it has none.
    """
    if not HAS_STATIC_LIFECYCLE:
        name = name_together = {"/api/nowhere": "/api"}.get(path, name_together)
    connection = asyncio.run(read(application(), path))
    assert connection.status == (404 if "nowhere" in path else 200)
    root = sentry.root()
    assert root.name.replace("localhost:80", "localhost") in ((name, name_together)[together], name)
    assert not sentry.errors()


CHUNKS = ["chunk 0", "chunk 1", "chunk 2"]


@pytest.mark.parametrize(
    ("path", "content", "status", "names"),
    [
        ("/stream", b"chunk" * 3, "ok", CHUNKS),
        ("/stream-sync", b"chunk" * 3, "ok", CHUNKS),
        # What is done after the response belongs to it.
        ("/api/stream", b"chunk" * 3, "ok", [*CHUNKS, "after"]),
        ("/background", b"chunk" * 3, "ok", [*CHUNKS, "background"]),
        # Plain ones are no streams, also where BaseHTTPMiddleware makes two messages of one.
        ("/plain", b"plain", "ok", []),
        ("/404", b"Not Found", "not_found", []),
        ("/500", b"Internal Server Error", "internal_error", []),
        ("/file", Path(__file__).read_bytes(), "ok", []),
    ],
)
def test_responses(sentry, lifecycle, together, middleware, path, content, status, names):
    """All spans, all data. The SDK's integration reports the exceptions above 499."""
    connection = asyncio.run(read(application(middleware), path))
    assert connection.error is None
    assert b"".join(connection.chunks) == content
    root = sentry.root()
    assert (root.op, root.status) == ("http.server", status_of(lifecycle, status))
    if path != "/file":  # Starlette's releases send it in different ways
        assert root.outcome == ("completed" if names else None)
    if names:
        assert root.data["http.response.stream.chunks"] == 3
        assert root.data["http.response.body.size"] == 15
    for name in names:
        # In older releases the SDK's integration makes a span of each middleware.
        assert root.parent_of(name) is None or together
    assert root.outcome != "cancelled"
    assert len(sentry.errors()) == (together and path == "/500")


@pytest.mark.parametrize(
    ("path", "message", "chunks", "outcome"),
    [
        # ServerErrorMiddleware answers 500, and raises for the server to log.
        ("/fails", "in the view", None, None),
        ("/api/fails", "in the view", None, None),
        # BaseHTTPMiddleware ends the body first, as if it were complete.
        ("/stream-fails", "half-way", 1, "failed"),
        # The transaction has failed; the stream had not.
        ("/background-fails", "in the background", 3, "completed"),
        # A FastAPI dependency with `yield`, after the response.
        ("/api/dependency-fails", "in the dependency", None, None),
    ],
)
def test_errors(sentry, lifecycle, together, middleware, path, message, chunks, outcome):
    """One event, wherever it is raised, also if the server logs it; that gets it with its cause."""
    connection = asyncio.run(read(application(middleware), path))
    if outcome is None:
        assert connection.status in (200, 500)
    else:
        assert len(connection.chunks) == chunks
    if outcome == "failed" and not together:  # the SDK's middleware cuts it off
        assert str(connection.error.__cause__) == "cause"
    log_in_server(connection.error)
    root = sentry.root()
    sentry.one_error(root)
    assert sentry.messages() == [message]
    assert root.outcome == outcome or "dependency" in path
    assert root.status == status_of(lifecycle, "internal_error")


@pytest.mark.parametrize("how", HANG_UPS)
def test_hang_up(sentry, lifecycle, middleware, how):
    """`cancelled`, and no event: Starlette makes a ClientDisconnect of the server's OSError."""
    # Starlette listens to the client only of servers that do not raise.
    asgi = {"version": "3.0", "spec_version": "2.3" if how == "message" else "2.4"}
    leaving = hang_up_after(application(middleware), 2, how, path="/endless", asgi=asgi)
    error = asyncio.run(leaving)
    if error is not None and how == "error":
        log_in_server(error)
    # (Starlette leaves the generator to the garbage collector, which knows of no request)
    (root,) = (root for root in sentry.roots() if root.op == "http.server")
    assert root.outcome == "cancelled"
    assert root.status == status_of(lifecycle, "cancelled")
    assert not sentry.errors()


@pytest.mark.parametrize("how", ["message", "error", "fail"])
def test_websocket(sentry, lifecycle, how):
    """A client that leaves is no error, though the endpoint lets WebSocketDisconnect out."""

    async def talk_to(app):
        connection = Connection(app, "/talk", type="websocket")
        connection.deliver({"type": "websocket.receive", "text": "hello"})
        while len(connection.messages) < 2:  # accepted, and answered
            await asyncio.sleep(0)
        if how == "message":
            connection.deliver({"type": "websocket.disconnect", "code": 1000, "reason": ""})
        else:
            if how == "error":
                await connection.hang_up("error")
            connection.deliver({"type": "websocket.receive", "text": how})
        connection.error = await connection.end()
        return connection

    connection = asyncio.run(talk_to(application()))
    log_in_server(connection.error)
    root = sentry.root()
    name = f"{HERE}.talk" if HAS_STATIC_LIFECYCLE else "/talk"
    assert (root.op, root.name, root.outcome) == ("websocket.server", name, None)
    if how == "fail":
        assert str(connection.error) == "while talking"
        sentry.one_error(root)
        assert root.status == status_of(lifecycle, "internal_error")
    else:
        assert type(connection.error).__name__ == "WebSocketDisconnect"
        assert root.status != "internal_error"
        assert not sentry.errors()


def test_what_an_application_reports_itself(sentry):
    """A hang-up that the application captures is the application's decision; and each time."""

    async def view(request):
        for _ in range(2):
            try:
                await request.body()
            except Exception as error:
                sentry_sdk.capture_exception(error)
        return PlainTextResponse("")

    async def main():
        app = SentryMiddleware(Starlette(routes=[Route("/", view)]))
        connection = Connection(app, first={"type": "http.disconnect"})
        await connection.hang_up("message")
        return await connection.end()

    assert asyncio.run(main()) is None
    reported = [event["exception"]["values"][-1]["type"] for event in sentry.errors()]
    assert reported == ["ClientDisconnect"] * 2


def test_added_as_middleware(sentry, together):
    """Within the SDK's own middleware ours does nothing; without it, it traces."""
    app = Starlette(routes=[Route("/stream", stream)])
    app.add_middleware(SentryMiddleware)
    connection = asyncio.run(read(app, "/stream"))
    assert (connection.error, len(connection.chunks)) == (None, 3)
    root = sentry.root()
    assert root.outcome == (None if together else "completed")
    assert "chunk 2" in root.names()

    # The SDK changes a class that is added; others that are served go on as before.
    async def send_chunk(receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"chunk"})

    asgi2 = SentryMiddleware(lambda scope: send_chunk)
    connection = asyncio.run(read(lambda scope, *both: asgi2(scope)(*both)))
    assert connection.chunks == [b"chunk"]
