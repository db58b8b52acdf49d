"""Requests, applications and servers that do what they like, as data.

A plan is plain data: what the request is, what the application does, and what the server
does then. :func:`play` plays one, and returns what the server and the application saw of
each other, as plain data too.
"""

import asyncio
import contextvars
import sys
from io import BytesIO

from django.http import HttpResponse, StreamingHttpResponse
from support.apps import serve, serve_asgi
from support.asgi import make_scope
from support.wsgi import make_environ

#: Stands for a key that is not there.
MISSING = ("missing",)
#: Stands for a text that would be too long for the report of a failing plan.
HUGE = ("huge",)
#: The application sets it, and the server looks at it.
variable = contextvars.ContextVar("variable")


class OwnInterrupt(BaseException):
    """Not an Exception."""


ERRORS = {
    "ValueError": ValueError,
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "CancelledError": asyncio.CancelledError,
    "OSError": lambda: OSError(32, "Broken pipe"),
    "AttributeError": lambda: AttributeError("close"),
    "RuntimeError": lambda: RuntimeError("generator raised StopIteration"),
    "OwnInterrupt": OwnInterrupt,
}


class World:
    """What has been raised in one run, and what has been seen."""

    def __init__(self, plan, at_call):
        self.plan = plan
        self.at_call = at_call
        self.seen = []
        self.raised = []
        #: Whether the server closes the response just now.
        self.closing = False

    def error(self, name):
        self.raised.append(ERRORS[name]())
        return self.raised[-1]

    def raise_planned(self, error):
        if error is not None:
            raise self.error(error)

    def see(self, *what):
        self.seen.append(what)

    def see_error(self, where, error):
        own = any(error is raised for raised in self.raised)
        chained = [type(other).__name__ for other in (error.__cause__, error.__context__)]
        self.see(where, type(error).__name__, own, str(error), chained)

    def call(self, *what):
        """The application begins."""
        self.see("called", *what)
        variable.set("the application's")
        self.at_call()


def play(plan, wrap=lambda app: app, at_call=lambda: None):
    """Play a plan.

    :param wrap: puts the integration around a plain application.
    :param at_call: called when the application is.
    """
    world = World(plan, at_call)
    variable.set("the server's")
    if plan["server"] == "wsgi":
        server = WsgiServer(world)
        server.serve(django_wsgi(world) if plan["django"] else wrap(wsgi(world, server)))
    else:
        app = django_asgi(world) if plan["django"] else wrap(asgi(world))
        asyncio.run(serve_one(world, app))
    world.see("variable", variable.get())
    # Errors know the frames that have the response, which is to be collected if the server
    # has not closed it.
    world.raised.clear()
    return world.seen


def changed(base, changes):
    for name, value in changes:
        base[name] = "x" * 70_000 if value == HUGE else value
        if value == MISSING:
            del base[name]
    return base


# -- bodies --------------------------------------------------------------------------------


class Steps:
    """What the steps of a body do, one after the other."""

    def __init__(self, world):
        self.world = world
        self._steps = iter(world.plan["body"]["steps"])

    def __iter__(self):
        self.world.see("iter")
        self.world.raise_planned(self.world.plan["body"]["iter"])
        return self

    def __next__(self):
        for kind, value in self._steps:
            self.world.see("step", kind)
            if kind == "chunk":
                return value
            raise self.world.error(value)
        self.world.see("end")
        raise StopIteration


class Closable(Steps):
    def close(self):
        self.world.see("close")
        self.world.raise_planned(self.world.plan["body"]["at_end"])


class Plain(Closable):
    streaming = False

    def __iter__(self):
        return self  # stock calls it with the first next()


END = object()


def generator(steps):
    world = steps.world
    try:
        yield from iter(lambda: next(steps, END), END)
    except GeneratorExit:
        # When it is collected is not to be compared.
        if world.closing:
            world.see("GeneratorExit")
        raise
    finally:
        world.raise_planned(world.plan["body"]["at_end"])


async def async_generator(steps):
    try:
        for chunk in iter(lambda: next(steps, END), END):
            await asyncio.sleep(0)
            yield chunk
    finally:
        steps.world.raise_planned(steps.world.plan["body"]["at_end"])


def make_body(world):
    kind = world.plan["body"]["kind"]
    if kind == "file":
        return BytesIO(b"abc")
    if kind == "list":
        return [value for step, value in world.plan["body"]["steps"] if step == "chunk"]
    if kind == "generator":
        return generator(Steps(world))
    return {"iterator": Steps, "closable": Closable, "plain": Plain}[kind](world)


# -- WSGI ----------------------------------------------------------------------------------


class WsgiServer:
    """Does what the plan says, whatever comes of it."""

    def __init__(self, world):
        self.world = world
        self.environ = changed(make_environ(), world.plan["request_data"])
        self.response = None
        self.starts = 0

    def start_response(self, status, headers, exc_info=None):
        self.world.see("start", status, list(headers), exc_info is None)
        self.starts += 1
        if self.starts > 1 and exc_info is None:
            raise AssertionError("Headers already set!")  # as wsgiref does
        return lambda data: self.world.see("write", data)

    def serve(self, app):
        world = self.world
        try:
            self.response = app(self.environ, self.start_response)
        except BaseException as error:
            world.see_error("raised", error)
            return
        sized = hasattr(self.response, "__len__")
        world.see("length", len(self.response) if sized else None)
        steps = None
        for step in world.plan["steps"]:
            try:
                if step == "iter":
                    steps = iter(self.response)
                elif step == "close":
                    self.close()
                elif steps is not None:
                    world.see("chunk", next(steps))
            except BaseException as error:
                if step == "next" and type(error) is StopIteration:
                    world.see("end of the iteration")
                else:
                    world.see_error(step, error)
                if step == "next" and world.plan["body"]["kind"] != "generator":
                    steps = None  # a plain response's iterator is a generator, and has ended
        self.response = steps = None

    def close(self):
        close = getattr(self.response, "close", None)
        if close is not None:
            self.world.closing = True
            try:
                close()
            finally:
                self.world.closing = False


def wsgi(world, server):
    """A plain application."""

    def app(environ, start_response):
        world.call(environ is server.environ, sorted(environ))
        for status, headers, exc_info in world.plan["starts"]:
            try:
                world.raise_planned(exc_info)
            except BaseException:
                write = start_response(status, headers, sys.exc_info())
            else:
                write = start_response(status, headers)
            write(b"written")
        world.raise_planned(world.plan["error"])
        return make_body(world)

    return app


def django_wsgi(world):
    """A view of Django."""

    def view(request):
        world.call(request.method)
        world.raise_planned(world.plan["error"])
        response = StreamingHttpResponse if world.plan["streaming"] else HttpResponse
        return response(make_body(world))

    return serve(view)


# -- ASGI ----------------------------------------------------------------------------------


async def serve_one(world, app):
    """Deliver what the plan says, and refuse what the plan says."""
    incoming = iter(world.plan["incoming"])
    refused, sent = world.plan["refused"], 0

    async def receive():
        await asyncio.sleep(0)
        for message in incoming:
            if message == "wait":
                await asyncio.Event().wait()
            if message in ERRORS:
                raise world.error(message)
            return dict(message)
        # An application that listens for good is stopped.
        raise asyncio.CancelledError

    async def send(message):
        nonlocal sent
        world.see("send", {**message, "headers": list(message.get("headers", []))})
        sent += 1
        if refused is not None and sent == refused[0]:
            raise world.error(refused[1])
        await asyncio.sleep(0)

    try:
        await app(changed(make_scope(), world.plan["request_data"]), receive, send)
    except BaseException as error:
        world.see_error("raised", error)


def asgi(world):
    """A plain application."""

    async def app(scope, receive, send):
        world.call(sorted(scope))
        for kind, value in world.plan["actions"]:
            try:
                if kind == "send":
                    await send(dict(value))
                elif kind == "receive":
                    world.see("received", await receive())
                else:
                    raise world.error(value)
            except BaseException as error:
                if not world.plan["swallows"] or kind == "raise":
                    raise
                world.see_error("in the application", error)

    return app


def django_asgi(world):
    """An async view of Django that streams."""

    async def view(request):
        world.call(request.method)
        world.raise_planned(world.plan["error"])
        return StreamingHttpResponse(async_generator(Steps(world)))

    return serve_asgi(view)
