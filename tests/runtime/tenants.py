"""Two tenants' requests, interleaved at random: is anything of one in the other's data?

    python tests/runtime/tenants.py                       100,000 interleavings
    python tests/runtime/tenants.py --on gevent --interleavings 5000 --seed 7

with the Python of .tox/runtime-sdk2.75.0, or another that has what the tests need.

An interleaving is one run of two requests, each with up to four chunks, whose steps take
turns as a seeded generator of random numbers says:

* thread: a WSGI server's steps (call, next, close), all on one thread; a step of one
  request may run steps of the other;
* loop: ASGI, two tasks of one event loop, which wait between any two operations;
* gevent: WSGI, two greenlets of one hub, which do the same. Needs gevent.

In each chunk a request sets its tag and its user, adds breadcrumbs, makes spans (some
stay open over several chunks), logs errors, captures messages, and advances a traced
generator. It is read to its end, hung up on, fails, is dropped, or has its deadline in
between. Everything is marked with its tenant. Exit status: 0 all well, 1 not.
"""

import argparse
import asyncio
import contextlib
import contextvars
import gc
import logging
import random
import re
import sys
import time
import warnings
from pathlib import Path

if __name__ == "__main__":
    if "gevent" in sys.argv:
        from gevent import monkey

        monkey.patch_all()
    HERE = Path(__file__).resolve().parent
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts")]

import django_project  # noqa: F401
import sentry_sdk
from harness import LIFECYCLES, Exchange, Received, start_span
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.threading import ThreadingIntegration
from views import serve, serve_asgi

from sink import attributes, parse_envelope
from vendored_integration import DjangoIntegration, trace_stream
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.runtime.registry import registry, workers
from vendored_integration.wsgi import SentryWsgiMiddleware

#: Interleavings after which what has arrived is looked at.
BATCH = 50
#: Seconds to wait for what has been dropped.
PATIENCE = 30.0

MARK = re.compile(r"tenant-\d+")
binding = contextvars.ContextVar("binding", default=None)
logger = logging.getLogger("tenants")


class Kept(Received):
    """Keeps what it is given; serialises only what cannot be read otherwise."""

    def __init__(self):
        super().__init__()
        self.envelopes = []

    def capture_envelope(self, envelope):
        self.envelopes.append(envelope)

    def items(self, kind):
        for envelope in list(self.envelopes):
            for item in envelope.items:
                if item.type == kind:
                    if item.payload.json is not None:
                        yield item.payload.json
                    else:
                        yield from (i.json for i in parse_envelope(envelope.serialize()).items)


def init(lifecycle):
    """Initialise the SDK; return its transport."""
    transport = Kept()
    with warnings.catch_warnings():
        # So that spans of the stream lifecycle tell the user, too.
        warnings.filterwarnings("ignore", "The send_default_pii option is deprecated")
        sentry_sdk.init(
            dsn="http://public@127.0.0.1:9/1",
            transport=transport,
            traces_sample_rate=1.0,
            # Without those that only make each event larger.
            default_integrations=False,
            integrations=[
                DjangoIntegration(response_timeout=3600),
                DedupeIntegration(),
                LoggingIntegration(),
                ThreadingIntegration(),
            ],
            _experiments={"trace_lifecycle": "stream"} if lifecycle == "stream" else {},
            # They show whatever is on the stack, also of whoever has called.
            include_local_variables=False,
            enable_backpressure_handling=False,
            send_default_pii=True,
        )
    return transport


class Failure(Exception):
    """A tenant's own."""


class Tenant:
    """One request's side of an interleaving: what its application does."""

    def __init__(self, number, chance):
        self.mark = f"tenant-{number}"
        self.chance = chance
        self.chunks = chance.randrange(5)
        self.ending = chance.choice(["end", "end", "hang up", "fail", "drop"])
        # Whether its deadline comes in between, and spans are lost.
        self.deadline = chance.random() < 0.1
        self.spans = []
        self._tag = self._user = False
        self._stream = None

    def perform(self):
        """One operation."""
        chance = self.chance
        choice = chance.randrange(14)
        assert binding.get() == self.mark, (binding.get(), self.mark)
        if choice == 0:
            sentry_sdk.set_tag("tenant", self.mark)
            self._tag = True
        elif choice == 1:
            sentry_sdk.set_user({"id": self.mark})
            self._user = True
        elif choice == 2:
            sentry_sdk.add_breadcrumb(message=f"{self.mark} was here")
        elif choice == 3:
            sentry_sdk.capture_message(self._message())
        elif choice == 4:
            logger.error(self._message())
        elif choice < 10:
            with self.span():
                if choice > 7:
                    with self.span():
                        pass
        else:
            if self._stream is None:
                self._stream = self.traced(trace_stream(name=self._span_name())(self.endless)())
            next(self._stream)

    def span(self):
        return start_span(self._span_name())

    def _span_name(self):
        self.spans.append(f"{self.mark} span {len(self.spans)}")
        return self.spans[-1]

    def _message(self):
        # What the event must have beside.
        return f"{self.mark} says {'tag ' * self._tag}{'user' * self._user}"

    def endless(self):
        while True:
            with self.span():
                pass
            yield

    def traced(self, generator):
        try:
            yield from generator
        finally:
            generator.close()

    def operations(self):
        return range(self.chance.randrange(4))

    @contextlib.contextmanager
    def around(self):
        """What is around all chunks of the body, and after them."""
        try:
            with self.span() if self.chance.random() < 0.3 else contextlib.nullcontext():
                yield
                if self.ending == "fail":
                    raise Failure(self.mark)
        finally:
            if self._stream is not None:
                self._stream.close()

    def body(self, turn):
        """The body of a response.

        :param turn: lets the other one run, perhaps.
        """
        with self.around():
            for _ in range(self.chunks):
                for _ in self.operations():
                    turn()
                    self.perform()
                yield self.mark.encode()

    async def async_body(self, turn):
        """The same for ASGI."""
        with self.around():
            for _ in range(self.chunks):
                for _ in self.operations():
                    await turn()
                    self.perform()
                yield self.mark.encode()

    def bind(self):
        """What a request's middleware does."""
        binding.set(self.mark)
        with self.span():  # by which its transaction is known
            pass

    def meet_deadline(self, opened):
        if self.deadline and opened is not None and self.chance.random() < 0.5:
            workers.submit(opened.expire)


# -- WSGI ----------------------------------------------------------------------------------


def wsgi_app(tenant, django, turn):
    """The application that serves a tenant's request."""
    if django:
        from django.http import StreamingHttpResponse

        def view(request):
            tenant.bind()
            for _ in tenant.operations():
                turn()
                tenant.perform()
            return StreamingHttpResponse(tenant.body(turn))

        return lambda environ, start: serve(view)(environ, start)

    def app(environ, start_response):
        tenant.bind()
        start_response("200 OK", [])
        for _ in tenant.operations():
            turn()
            tenant.perform()
        return tenant.body(turn)

    return SentryWsgiMiddleware(app)


def wsgi_steps(tenant, turn):
    """A server's steps, one after the other."""
    exchange = Exchange(wsgi_app(tenant, tenant.chance.random() < 0.3, turn))
    opened = next(reversed(registry.open), None)
    try:
        yield
        chunks = iter(exchange.response)
        hang_up_after = tenant.chance.randrange(5) if tenant.ending in ("hang up", "drop") else 9
        for number, chunk in enumerate(chunks):
            assert chunk == tenant.mark.encode()
            tenant.meet_deadline(opened)
            yield
            if number == hang_up_after:
                break
    except Failure:
        pass
    yield
    if tenant.ending == "drop":
        exchange = chunks = None
    else:
        exchange.close()


def on_thread(tenants, chance):
    """The steps of all on this thread; one may run within another."""
    running = {}
    begun = []

    def advance(tenant):
        steps = running[tenant]
        if steps.gi_running:
            return
        if next(steps, running) is running:
            del running[tenant]

    def turn():
        # A request that begins within another one belongs to that: it must have begun.
        others = [tenant for tenant in begun if tenant in running]
        if others and chance.random() < 0.2:
            advance(chance.choice(others))

    for tenant in tenants:
        running[tenant] = wsgi_steps(tenant, turn)
    while running:
        tenant = chance.choice(list(running))
        advance(tenant)
        if tenant not in begun:
            begun.append(tenant)
        # What a request sets gets to its server, which is the same for all here.
        binding.set(None)


def on_gevent(tenants, chance):
    import gevent

    def turn():
        while chance.random() < 0.5:
            gevent.sleep(0)

    def serve_one(tenant):
        for _ in wsgi_steps(tenant, turn):
            turn()

    greenlets = [gevent.spawn(serve_one, tenant) for tenant in tenants]
    gevent.joinall(greenlets, raise_error=True)


# -- ASGI ----------------------------------------------------------------------------------


def asgi_app(tenant, django, turn):
    if django:
        from django.http import StreamingHttpResponse

        async def view(request):
            tenant.bind()
            for _ in tenant.operations():
                await turn()
                tenant.perform()
            return StreamingHttpResponse(tenant.async_body(turn))

        return serve_asgi(view)

    async def app(scope, receive, send):
        tenant.bind()
        for _ in tenant.operations():
            await turn()
            tenant.perform()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = tenant.async_body(turn)
        try:
            async for chunk in body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            await body.aclose()
        await send({"type": "http.response.body"})

    return SentryMiddleware(app)


async def asgi_request(tenant, django, turn):
    """A server's side of one request."""
    hang_up_after = tenant.chance.randrange(5) if tenant.ending in ("hang up", "drop") else 9
    chunks = 0
    opened = None
    incoming = asyncio.Queue()
    incoming.put_nowait({"type": "http.request"})

    async def send(message):
        nonlocal chunks, opened
        assert message.get("body", b"") in (tenant.mark.encode(), b"")
        if message["type"] == "http.response.start":
            opened = next(reversed(registry.open), None)
        await turn()
        tenant.meet_deadline(opened)
        chunks += bool(message.get("body"))
        if chunks > hang_up_after:
            raise ConnectionResetError("the client has gone")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [],
    }
    with contextlib.suppress(Failure, ConnectionResetError):
        await asgi_app(tenant, django, turn)(scope, incoming.get, send)


def on_loop(tenants, chance):
    async def turn():
        while chance.random() < 0.5:
            await asyncio.sleep(0)

    async def main():
        # Views are chosen by a global of the test project, so only one is Django's.
        of_django = chance.choice([*tenants, None])
        requests = [asgi_request(tenant, tenant is of_django, turn) for tenant in tenants]
        chance.shuffle(requests)
        await asyncio.gather(*(asyncio.ensure_future(request) for request in requests))

    _loop().run_until_complete(main())


_loops = []


def _loop():
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    return _loops[0]


RUNS = {"thread": on_thread, "loop": on_loop, "gevent": on_gevent}

# -- what Sentry gets ------------------------------------------------------------------------


def told(event):
    """What an event tells of its request; its stack trace tells of its surroundings."""
    return {name: value for name, value in event.items() if name not in ("exception", "threads")}


def owner(what):
    """The tenant that data belong to."""
    marks = set(MARK.findall(repr(what)))
    assert len(marks) <= 1, f"{sorted(marks)} in one: {what}"
    return marks.pop() if marks else None


def owned(transport, lifecycle):
    """The tenants whose transactions or segments have arrived, with the names of their spans."""
    if lifecycle == "static":
        return [
            (owner(told(event)), [span.get("description") for span in event["spans"]])
            for event in transport.items("transaction")
        ]
    segments = {}
    for container in transport.items("span"):
        for span in container["items"]:
            data = attributes(span)
            segment = span["span_id"] if span.get("is_segment") else data["sentry.segment.id"]
            segments.setdefault(segment, []).append(span)
    found = []
    for spans in segments.values():
        (segment,) = [span for span in spans if span.get("is_segment")] or [None]
        mark = owner(spans)
        # A span that is made after a deadline is a segment of its own.
        if segment is not None and attributes(segment).get("sentry.op") == "http.server":
            found.append((mark, [span["name"] for span in spans]))
    return found


def check(transport, tenants, lifecycle):
    """All of these have been sent, once, and nothing of one is in what is another's.

    :raises AssertionError: not so.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        if lifecycle == "stream":
            sentry_sdk.flush()
        transactions = owned(transport, lifecycle)
        if len(transactions) >= len(tenants) or time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.01)
    assert sorted(mark for mark, _ in transactions) == sorted(tenant.mark for tenant in tenants)
    names = dict(transactions)
    for tenant in tenants:
        made = [name for name in names[tenant.mark] if MARK.match(name or "")]
        assert set(made) <= set(tenant.spans)
        if not tenant.deadline and tenant.ending not in ("drop",):
            assert sorted(made) == sorted(tenant.spans)
    for event in transport.items("event"):
        mark = owner(told(event))
        message = event.get("message") or (event.get("logentry") or {}).get("message") or ""
        if "tag" in message:
            assert event["tags"]["tenant"] == mark, event
        if "user" in message:
            assert event["user"]["id"] == mark, event
    assert owner(sentry_sdk.Scope.get_isolation_scope()._tags) is None
    assert not len(registry.open)
    transport.envelopes.clear()


def run(on, interleavings, lifecycle, seed):
    """Run this many interleavings.

    :raises AssertionError: something of one tenant is in another one's data.
    """
    # What tenants and Django log goes to the SDK, which looks at the loggers themselves.
    for name in "tenants", "django.request", "vendored_integration":
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    transport = init(lifecycle)
    chance = random.Random(seed)
    tenants = []
    for number in range(interleavings):
        pair = [Tenant(2 * number + index, chance) for index in range(2)]
        RUNS[on](pair, chance)
        tenants += pair
        if len(tenants) >= 2 * BATCH:
            check(transport, tenants, lifecycle)
            tenants = []
    check(transport, tenants, lifecycle)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", choices=RUNS, action="append", help="default: thread and loop")
    parser.add_argument("--lifecycle", choices=LIFECYCLES, action="append", help="default: all")
    parser.add_argument("--interleavings", type=int, default=100_000, help="in all")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(argv)
    if options.interleavings < 1:
        parser.error(f"--interleavings {options.interleavings}: expected a number from 1 on")
    runs = [
        (on, lifecycle)
        for on in options.on or ("thread", "loop")
        for lifecycle in options.lifecycle or LIFECYCLES
    ]
    each = -(-options.interleavings // len(runs))
    for on, lifecycle in runs:
        began = time.monotonic()
        run(on, each, lifecycle, options.seed)
        seconds = time.monotonic() - began
        print(
            f"{on}, {lifecycle}: {each:,} interleavings, seed {options.seed}: "
            f"nothing of one tenant in the other's data ({seconds:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
