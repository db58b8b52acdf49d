"""Applications that break every rule, as data, and the servers that meet them.

A plan is plain data: what the request is, what the application does, and what the server
does then. :func:`play` plays one, and returns what the server and the application saw of
each other, as plain data too.

Run as a program, it plays the plans that come on its standard input: a process that has
neither the SDK nor the integration, to compare with.
"""

import asyncio
import gc
import pickle
import re
import sys
from io import BytesIO
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    import django_project  # noqa: F401

#: What two processes do not have in common of an object's repr().
ADDRESS = re.compile("(hostile|__main__)[.]|at 0x[0-9a-f]+")

#: Stands for a key that is not there.
MISSING = ("missing",)

#: The transaction's data name the request that they belong to; see mark().
mark = lambda request, what: None  # noqa: E731


class Unprintable(Exception):
    """An error whose text is one more error."""

    def __str__(self):
        raise LookupError("no text today")

    __repr__ = __str__


class OwnInterrupt(BaseException):
    """Not an Exception."""


ERRORS = {
    "ValueError": lambda: ValueError("v"),
    "StopIteration": lambda: StopIteration(3),
    "StopAsyncIteration": lambda: StopAsyncIteration(),
    "GeneratorExit": lambda: GeneratorExit(),
    "SystemExit": lambda: SystemExit(0),
    "SystemExit 1": lambda: SystemExit(1),
    "KeyboardInterrupt": lambda: KeyboardInterrupt(),
    "CancelledError": lambda: asyncio.CancelledError(),
    "OSError": lambda: OSError(32, "Broken pipe"),
    "AttributeError": lambda: AttributeError("close"),
    "as if by Context.run": lambda: RuntimeError("cannot enter context: x is already entered"),
    "as if by PEP 479": lambda: RuntimeError("generator raised StopIteration"),
    "as if by ContextVar": lambda: ValueError("x was created in a different Context"),
    "Unprintable": lambda: Unprintable("u"),
    "OwnInterrupt": lambda: OwnInterrupt(),
    "no arguments": lambda: Exception(),
}


def make(value):
    """Make what a plan cannot hold itself."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] in MAKERS:
        return MAKERS[value[0]](value[1])
    return value


MAKERS = {
    "bytearray": bytearray,
    "memoryview": memoryview,
    "iterator": iter,
    "list": list,
    "huge": lambda length: "x" * length,
    "function": lambda _: lambda *args: args[0] if args else None,
    "class": lambda _: type("FileWrapper", (), {"__init__": lambda self, *args: None}),
    "dict": lambda items: {name: make(value) for name, value in items},
}


class World:
    """What has been made in one run, and what has been seen."""

    def __init__(self, request):
        self.request = request
        self.made = []
        self.seen = []
        #: Whether the server closes the response just now.
        self.closing = False

    def make(self, value):
        made = make(value)
        self.made.append(made)
        return made

    def error(self, name):
        error = ERRORS[name]()
        self.made.append(error)
        return error

    def see(self, *what):
        self.seen.append(what)

    def see_error(self, where, error):
        cause = error.__cause__
        self.see(where, self.describe(error), error.args if self.is_made(error) else str(error))
        if cause is not None:
            self.see("caused by", self.describe(cause))

    def is_made(self, value):
        return any(value is made for made in self.made)

    def describe(self, value):
        """Return a value as something that can be compared between processes."""
        if type(value) in (bytes, str, int, bool, type(None)):
            # What has been made by unpickling need not be one object.
            if isinstance(value, (bytes, str)):
                value = ADDRESS.sub("", repr(value))
            return (type(value).__name__, value)
        if type(value) in (list, tuple):
            return (
                type(value).__name__,
                [self.describe(item) for item in value],
                self.is_made(value),
            )
        if type(value) is dict:
            items = {name: self.describe(item) for name, item in value.items()}
            return (items, self.is_made(value))
        return (type(value).__name__, self.is_made(value))


def play(plan, wrap=lambda app: app):
    """Play a plan.

    :param wrap: puts the integration around a plain application.
    """
    world = World(plan["request"])
    {"wsgi": play_wsgi, "asgi": play_asgi}[plan["server"]](world, plan, wrap)
    # The application knows it, and errors know the frames that have the response, which
    # is to be collected if the server has not closed it.
    world.made.clear()
    return world.seen


# -- WSGI --------------------------------------------------------------------------------


def play_wsgi(world, plan, wrap):
    server = WsgiServer(world, plan)
    app = APPLICATIONS[plan["kind"]](world, plan, server)
    server.serve(wrap(app) if plan["kind"] == "plain" else app)


def make_environ(changes):
    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": BytesIO(),
        "wsgi.errors": BytesIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in changes:
        if value == MISSING:
            environ.pop(name, None)
        else:
            environ[name] = make(value)
    return environ


class WsgiServer:
    """Does what the plan says, whatever comes of it."""

    def __init__(self, world, plan):
        self.world = world
        self.plan = plan
        self.environ = make_environ(plan["environ"])
        self.response = None
        self.starts = 0
        self.closed = False

    def start_response(self, status, headers, exc_info=None):
        world = self.world
        world.see("start", world.describe(status), world.describe(headers), exc_info is None)
        self.starts += 1
        if self.starts > 1 and exc_info is None:
            raise AssertionError("Headers already set!")  # as wsgiref does
        return self.write

    def write(self, data):
        self.world.see("write", self.world.describe(data))

    def serve(self, app):
        world = self.world
        try:
            self.response = app(self.environ, self.start_response)
        except BaseException as error:
            world.see_error("raised", error)
            return
        steps = None
        for step in self.plan["steps"]:
            try:
                if step == "iter":
                    steps = iter(self.response)
                elif step == "next" and steps is not None:
                    world.see("chunk", world.describe(next(steps)))
                elif step == "len":
                    if hasattr(type(self.response), "__len__"):
                        world.see("len", len(self.response))
                elif step == "close":
                    self.close()
            except BaseException as error:
                if step == "next" and type(error) is StopIteration:
                    world.see("end of the iteration")
                else:
                    world.see_error(step, error)
                if step == "next":
                    # No server asks for more then. With the integration the iterator is
                    # a generator, as with the stock one, and has nothing more.
                    steps = None
        self.response = steps = None

    def close(self):
        self.closed = True
        close = getattr(self.response, "close", None)
        if close is not None:
            self.world.closing = True
            try:
                close()
            finally:
                self.world.closing = False


def plain_wsgi(world, plan, server):
    """A plain application."""

    def app(environ, start_response):
        world.see("called", environ is server.environ, sorted(environ) == sorted(server.environ))
        mark(world.request, "called")
        write = None
        for call in plan["starts"]:
            write = start(world, start_response, call)
        for data in plan["writes"]:
            if write is not None:
                write(data)
        if plan["error"] is not None:
            raise world.error(plan["error"])
        return make_body(world, plan["body"], server, start_response)

    return app


def start(world, start_response, call):
    """Call start_response as the plan says."""
    status, headers, exc_info = call
    if exc_info is None:
        return start_response(world.make(status), world.make(headers))
    if exc_info == "none":
        return start_response(world.make(status), world.make(headers), None)
    try:
        raise ERRORS[exc_info]()
    except BaseException:
        return start_response(world.make(status), world.make(headers), sys.exc_info())


def django_wsgi(world, plan, server):
    """A view of Django."""
    from django.http import HttpResponse, StreamingHttpResponse
    from views import serve

    def view(request):
        world.see("called", request.method)
        mark(world.request, "called")
        if plan["error"] is not None:
            raise world.error(plan["error"])
        body = make_body(world, plan["body"], server, None)
        return (StreamingHttpResponse if plan["streaming"] else HttpResponse)(body)

    return serve(view)


APPLICATIONS = {"plain": plain_wsgi, "django": django_wsgi}


def make_body(world, body, server, start_response):
    kind = body["kind"]
    steps = Steps(world, body["steps"], server, start_response)
    if kind == "file":
        return BytesIO(b"abc")
    if kind in ("list", "tuple"):
        items = [world.make(step[1]) for step in body["steps"] if step[0] == "chunk"]
        return (list if kind == "list" else tuple)(items)
    if kind == "generator":
        return generator(world, steps, body["finally"])
    if kind == "getitem":
        return type("Sequence", (), {"__getitem__": lambda self, index: steps.next(self)})()
    return type("Body", (), namespace(world, body, steps))()


def generator(world, steps, at_end):
    try:
        while True:
            try:
                chunk = steps.next(None)
            except StopIteration:
                return
            yield chunk
    except GeneratorExit:
        # When it is collected is not to be compared: an error that the SDK remembers has
        # the frames.
        if world.closing:
            world.see("GeneratorExit")
        raise
    finally:
        if at_end == "yield":
            yield b"ignored GeneratorExit"
        elif at_end is not None:
            raise world.error(at_end)


class Steps:
    """What the steps of a body do, one after the other."""

    def __init__(self, world, steps, server, start_response):
        self.world = world
        self._steps = iter(steps)
        self._server = server
        self._start_response = start_response

    def next(self, body):
        for kind, value in self._steps:
            self.world.see("step", kind)
            mark(self.world.request, "step")
            if kind == "chunk":
                return self.world.make(value)
            if kind == "raise":
                raise self.world.error(value)
            if kind == "start" and self._start_response is not None:
                if self._server.closed:
                    continue  # nobody is left to be told
                start(self.world, self._start_response, value)
            elif kind == "close":
                body.close()  # its own
            elif kind == "close response":
                self._server.close()
        self.world.see("end")
        raise StopIteration


def namespace(world, body, steps):
    """The attributes of a body's class."""

    def __iter__(self):
        world.see("iter")
        kind = body["iter"]
        if kind == "self":
            return self
        if kind == "other":
            return generator(world, steps, None)
        if kind == "none":
            return None
        raise world.error(kind)

    def __next__(self):
        return steps.next(self)

    def close(self, *args):
        world.see("close")
        if body["close error"] is not None:
            raise world.error(body["close error"])

    found = {"__iter__": __iter__, "__next__": __next__}
    how = body["close"]
    if how == "method":
        found["close"] = close
    elif how == "property":
        found["close"] = property(lambda self: lambda: close(self))
    elif how == "None":
        found["close"] = None
    if body["len"] is not None:
        found["__len__"] = lambda self: body["len"]
    return found


# -- ASGI --------------------------------------------------------------------------------


def play_asgi(world, plan, wrap):
    app = ASGI_APPLICATIONS[plan["kind"]](world, plan)
    server = AsgiServer(world, plan)
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    _loop.run_until_complete(server.serve(wrap(app) if plan["kind"] == "plain" else app))


_loop = None


def make_scope(changes):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
        "client": ("127.0.0.1", 5000),
    }
    for name, value in changes:
        if value == MISSING:
            scope.pop(name, None)
        else:
            scope[name] = make(value)
    return scope


class AsgiServer:
    """Delivers what the plan says, and refuses what the plan says."""

    def __init__(self, world, plan):
        self.world = world
        self.plan = plan
        self.scope = make_scope(plan["scope"])
        self._incoming = iter(plan["incoming"])
        self._sent = 0

    async def receive(self):
        await asyncio.sleep(0)
        for message in self._incoming:
            if message in ERRORS:
                raise self.world.error(message)
            return self.world.make(message)
        # An application that listens for good is stopped.
        raise asyncio.CancelledError

    async def send(self, message):
        world = self.world
        if "headers" in message:
            # ASGI says that it is an iterable: the server iterates it once.
            world.see("headers", [world.describe(pair) for pair in message["headers"]])
        world.see("send", world.describe(message), world.is_made(message))
        refused = self.plan["refused"]
        self._sent += 1
        if refused is not None and self._sent == refused[0]:
            raise world.error(refused[1])
        await asyncio.sleep(0)
        return self._sent

    async def serve(self, app):
        world = self.world
        try:
            result = await app(self.scope, self.receive, self.send)
        except BaseException as error:
            world.see_error("raised", error)
        else:
            world.see("returned", result)


def plain_asgi(world, plan):
    """A plain application."""

    async def app(scope, receive, send):
        world.see("called", sorted(scope))
        mark(world.request, "called")
        for kind, value in plan["actions"]:
            mark(world.request, "step")
            try:
                if kind == "send":
                    world.see("sent", await send(world.make(value)))
                elif kind == "receive":
                    message = await receive()
                    world.see("received", world.describe(message), world.is_made(message))
                else:
                    raise world.error(value)
            except BaseException as error:
                if not plan["swallows"] or kind == "raise":
                    raise
                world.see_error("in the application", error)
        return "the value"

    return app


def django_asgi(world, plan):
    """An async view of Django that streams."""
    from django.http import StreamingHttpResponse
    from views import serve_asgi

    async def view(request):
        world.see("called", request.method)
        mark(world.request, "called")
        if plan["error"] is not None:
            raise world.error(plan["error"])
        return StreamingHttpResponse(make_async_body(world, plan["body"]))

    return serve_asgi(view)


ASGI_APPLICATIONS = {"plain": plain_asgi, "django": django_asgi}


def make_async_body(world, body):
    steps = Steps(world, body["steps"], None, None)

    async def generator():
        try:
            while True:
                try:
                    chunk = steps.next(None)
                except StopIteration:
                    return
                await asyncio.sleep(0)
                yield chunk
        finally:
            if body["finally"] is not None:
                raise world.error(body["finally"])

    async def __anext__(self):
        try:
            chunk = steps.next(None)
        except StopIteration:
            raise StopAsyncIteration from None
        await asyncio.sleep(0)
        return chunk

    def __aiter__(self):
        world.see("aiter")
        kind = body["iter"]
        if kind == "self":
            return self
        if kind == "other":
            return generator()
        if kind == "none":
            return None
        raise world.error(kind)

    def close(self):
        world.see("close")
        if body["close error"] is not None:
            raise world.error(body["close error"])

    if body["kind"] == "generator":
        return generator()
    found = {"__aiter__": __aiter__, "__anext__": __anext__}
    if body["close"]:
        found["close"] = close
    return type("Body", (), found)()


# -- the process without the SDK ---------------------------------------------------------


def main():
    """Play the plans that come on standard input."""
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    while True:
        try:
            plan = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        seen = play(plan)
        gc.collect(0)
        pickle.dump(seen, out)
        out.flush()


if __name__ == "__main__":
    main()
