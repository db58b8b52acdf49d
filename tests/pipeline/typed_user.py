"""As a user writes it, for mypy --strict; never run. What is wrong is marked so."""

from typing import AsyncIterator, Iterator

import sentry_sdk
from typing_extensions import assert_type

import vendored_integration
from vendored_integration import (
    DjangoIntegration,
    StreamAwareDjangoIntegration,
    bounded_transport,
    exclude_events,
    trace_stream,
)
from vendored_integration.asgi import SentryMiddleware
from vendored_integration.executor import ContextPreservingExecutor
from vendored_integration.wsgi import SentryWsgiMiddleware

sentry_sdk.init(
    integrations=[
        DjangoIntegration(
            transaction_style="url",
            response_timeout=60.0,
            max_open_responses=100,
            finish_on="close",
            on_timeout="continue",
        )
    ],
    transport=bounded_transport(queue_size=100, timeout=5.0, retries=1),
    before_send=exclude_events(["django.security", BrokenPipeError]),
)


@trace_stream
def numbers(count: int) -> Iterator[int]:
    yield from range(count)


@trace_stream(name="letters", op="letters", attributes={"of": "the alphabet"})
async def letters() -> AsyncIterator[str]:
    yield "a"


assert_type(numbers(3), Iterator[int])
assert_type(letters(), AsyncIterator[str])
assert_type(vendored_integration.__version__, str)
assert_type(ContextPreservingExecutor(2).submit(len, "ab").result(), int)
assert_type(vendored_integration.stats().open_responses, int)
SentryWsgiMiddleware(lambda environ, start_response: [], response_timeout=None)
SentryMiddleware(lambda scope, receive, send: None, on_timeout="continue")
StreamAwareDjangoIntegration()

DjangoIntegration(response_timeout="60")  # wrong
DjangoIntegration(max_open_responses=1.5)  # wrong
bounded_transport(queue_size="100")  # wrong
exclude_events([7])  # wrong
numbers("3")  # wrong
SentryWsgiMiddleware(None)  # wrong
trace_stream(nmae="x")  # wrong
