"""Two tenants' requests, interleaved at random: nothing of one is in the other's data.

An interleaving is one run of two requests, each with up to four chunks, whose steps take
turns as a seeded generator of random numbers says:

* thread: a WSGI server's steps (call, next, close), all on one thread; a step of one
  request may run steps of the other;
* loop: ASGI, two tasks of one event loop.

In each chunk a request sets its tag and its user, adds breadcrumbs, makes spans (some
stay open over several chunks), logs errors, captures messages, and advances a traced
generator. It is read to its end, hung up on, fails, is dropped, or is evicted by the
other one. Everything is marked with its tenant.

    pytest tests/runtime/test_tenants.py --hypothesis-profile thorough

runs 20 times as many.
"""

import asyncio
import contextlib
import contextvars
import gc
import json
import logging
import random
import re
import warnings

import pytest
import sentry_sdk
from support.apps import DJANGO_WAYS, as_async, asgi_app, streaming_app, wsgi_app
from support.asgi import Connection
from support.sdk import HAS_STATIC_LIFECYCLE, Received, start_sdk, start_span
from support.wsgi import WsgiClient

from vendored_integration import DjangoIntegration, stats, trace_stream
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.wsgi import SentryWsgiMiddleware

#: Interleavings after which what has arrived is looked at.
BATCH = 50
MARK = re.compile(r"tenant-\d+")
binding = contextvars.ContextVar("binding", default=None)
logger = logging.getLogger("tenants")


def start(lifecycle):
    # Local variables show whatever is on the stack, also of whoever has called.
    options = {"data_collection": {"stack_frame_variables": False, "user_info": True}}
    if HAS_STATIC_LIFECYCLE:
        options = {"include_local_variables": False, "send_default_pii": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The send_default_pii option is deprecated")
        return start_sdk(Received(), lifecycle, DjangoIntegration(response_timeout=3600), **options)


class Failure(Exception):
    """A tenant's own."""


class Tenant:
    """One request's side of an interleaving: what its application does."""

    def __init__(self, number, chance, turn):
        self.mark = f"tenant-{number}"
        self.chance = chance
        #: Lets the other one run, perhaps.
        self.turn = turn
        self.chunks = chance.randrange(5)
        self.ending = chance.choice(["end", "end", "hang up", "fail", "drop"])
        self.leaves_after = chance.randrange(5) if self.ending in ("hang up", "drop") else 9
        #: Whether its request ends the transaction of the other one.
        self.evicts = chance.random() < 0.1
        self.spans = []
        self._stream = None

    def perform(self):
        """One operation."""
        assert binding.get() == self.mark
        choice = self.chance.randrange(14)
        if choice == 0:
            sentry_sdk.set_tag("tenant", self.mark)
        elif choice == 1:
            sentry_sdk.set_user({"id": self.mark})
        elif choice == 2:
            sentry_sdk.add_breadcrumb(message=f"{self.mark} was here")
        elif choice < 5:
            (sentry_sdk.capture_message if choice == 3 else logger.error)(self.mark)
        elif choice < 10:
            with self.span(), self.span() if choice > 7 else contextlib.nullcontext():
                pass
        else:
            if self._stream is None:
                self._stream = trace_stream(name=self._new_name())(self._endless)()
            next(self._stream)

    def span(self):
        return start_span(self._new_name())

    def _new_name(self):
        self.spans.append(f"{self.mark} span {len(self.spans)}")
        return self.spans[-1]

    def _endless(self):
        while True:
            with self.span():
                pass
            yield

    def operations(self):
        for _ in range(self.chance.randrange(4)):
            self.turn()
            self.perform()

    def view(self):
        binding.set(self.mark)
        with self.span():  # by which its transaction is known
            pass
        self.operations()

    def body(self):
        try:
            with self.span() if self.chance.random() < 0.3 else contextlib.nullcontext():
                for _ in range(self.chunks):
                    self.operations()
                    yield self.mark.encode()
                if self.ending == "fail":
                    raise Failure(self.mark)
        finally:
            if self._stream is not None:
                self._stream.close()

    def app(self, interface, django):
        """The application that serves its request."""
        if django:
            return streaming_app(f"{interface}-django", self.body, self.view)
        options = {"max_open_responses": 1} if self.evicts else {}
        if interface == "wsgi":
            return SentryWsgiMiddleware(wsgi_app(self.body, view=self.view), **options)
        return SentryMiddleware(asgi_app(as_async(self.body), view=self.view), **options)


# -- servers -------------------------------------------------------------------------------


def wsgi_steps(tenant):
    """A server's steps, one after the other."""

    def app(environ, start_response):
        # Views are chosen by a global of the test project: just before the call.
        return tenant.app("wsgi", tenant.chance.random() < 0.3)(environ, start_response)

    client = WsgiClient(app)
    with contextlib.suppress(Failure, StopIteration):
        yield
        for _ in range(tenant.leaves_after + 1):
            client.take()
            yield
    yield
    if tenant.ending == "drop":
        client.drop()
    else:
        client.close()
    assert set(client.chunks) <= {tenant.mark.encode()}


def on_thread(make_tenant, chance):
    """The steps of both on this thread; one may run within another."""
    running, begun = {}, []

    def advance(tenant):
        steps = running[tenant]
        if not steps.gi_running and next(steps, running) is running:
            del running[tenant]

    def turn():
        # A request that begins within another one belongs to that: it must have begun.
        others = [tenant for tenant in begun if tenant in running]
        if others and chance.random() < 0.2:
            advance(chance.choice(others))

    tenants = [make_tenant(turn) for _ in range(2)]
    for tenant in tenants:
        running[tenant] = wsgi_steps(tenant)
    while running:
        tenant = chance.choice(list(running))
        advance(tenant)
        if tenant not in begun:
            begun.append(tenant)
        # What a request sets gets to its server, which is the same for all here.
        binding.set(None)
    return tenants


def on_loop(make_tenant, chance):
    """ASGI; the server lets the other one run as often as it likes at each message."""
    tenants = [make_tenant(lambda: None) for _ in range(2)]

    async def serve_one(tenant, django):
        app = tenant.app("asgi", django)

        async def with_turns(scope, receive, send):
            async def send_slowly(message):
                while chance.random() < 0.5:
                    await asyncio.sleep(0)
                await send(message)

            await app(scope, receive, send_slowly)

        connection = Connection(with_turns)
        if tenant.leaves_after < 9:
            await connection.sent(tenant.leaves_after)
            await connection.hang_up("error")
        error = await connection.end()
        assert isinstance(error, (type(None), Failure, ConnectionResetError)), error
        assert set(connection.chunks) <= {tenant.mark.encode()}

    async def main():
        # Only one is Django's: see wsgi_steps().
        of_django = chance.choice([*tenants, None] if "asgi-django" in DJANGO_WAYS else [None])
        both = [serve_one(tenant, tenant is of_django) for tenant in tenants]
        chance.shuffle(both)
        await asyncio.gather(*both)

    asyncio.run(main())
    return tenants


SERVERS = {"thread": on_thread, "loop": on_loop}

# -- what Sentry gets ------------------------------------------------------------------------


def owner(what):
    """The tenant that data belong to."""
    marks = set(MARK.findall(json.dumps(what)))
    assert len(marks) <= 1, f"{sorted(marks)} in one: {what}"
    return marks.pop() if marks else None


def requests_of(transport):
    # A span that is made after an eviction is a segment of its own.
    return [root for root in transport.roots() if root.op == "http.server"]


def check(transport, tenants):
    """All of these have been sent, once, and nothing of one is in what is another's."""
    gc.collect()
    transport.wait_for(lambda: len(requests_of(transport)) >= len(tenants), timeout=30)
    names = {owner(root.names()): root.names() for root in requests_of(transport)}
    assert sorted(names) == sorted(tenant.mark for tenant in tenants)
    assert len(requests_of(transport)) == len(tenants)
    for tenant in tenants:
        made = [name for name in names[tenant.mark] if MARK.match(name)]
        assert set(made) <= set(tenant.spans)
        if not tenant.loses_spans and tenant.ending != "drop":
            assert sorted(made) == sorted(tenant.spans)
    for event in transport.transactions() + transport.spans():
        owner(event)
    for event in transport.errors():
        # (a stack trace tells of its surroundings)
        owner({name: event[name] for name in event if name not in ("exception", "threads")})
    assert stats().open_responses == 0
    transport.clear()
    sentry_sdk.capture_message("outside")
    assert owner(transport.errors()) is None
    transport.clear()


def interleave(on, interleavings, lifecycle):
    """Run this many interleavings, and look at what has come of them."""
    transport = start(lifecycle)
    chance = random.Random(1)
    served, numbers = [], iter(range(2 * interleavings))
    for number in range(1, interleavings + 1):
        pair = SERVERS[on](lambda turn: Tenant(next(numbers), chance, turn), chance)
        for tenant in pair:
            tenant.loses_spans = any(each.evicts for each in pair)
        served += pair
        if number % BATCH == 0 or number == interleavings:
            check(transport, served)
            served = []


@pytest.mark.parametrize("on", SERVERS)
def test_interleaved(init, lifecycle, on, pytestconfig):
    thorough = pytestconfig.getoption("--hypothesis-profile", None) == "thorough"
    interleave(on, 2_000 if thorough else 100, lifecycle)
