"""Sends all there is when an ASGI server shuts down, before the server goes on.

A server may end its process by the signal that it was sent: uvicorn does, also as
a worker of gunicorn. Then nothing of ``atexit`` runs, neither ours nor the SDK's.
What tells of the end is the ``lifespan`` protocol: its ``shutdown`` comes when the
connections are closed, or have been cancelled.
Source: https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

import asyncio
import threading
import time

import sentry_sdk

from .process import internal_error
from .registry import registry
from .sdk import shutdown_timeout

#: The messages by which an application says that it has shut down.
SHUT_DOWN = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")

#: Seconds between two looks at what is still open.
_INTERVAL = 0.01


async def flush() -> None:
    """End the open responses of this event loop, and have the SDK send all that it has.

    Takes at most ``shutdown_timeout`` seconds, as the SDK does at the end of a process.
    """
    try:
        timeout = shutdown_timeout()
        started = time.monotonic()
        deadline = started + timeout
        thread = threading.get_ident()
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            _send(thread, deadline)  # another library's loop
            return
        # Those that the server has cancelled end by themselves; a thread does not.
        while registry.opened_in(thread) and time.monotonic() < started + timeout / 2:
            await asyncio.sleep(_INTERVAL)
        # In a thread of its own: the loop's may all be taken.
        sending = threading.Thread(target=_send, args=(thread, deadline), daemon=True)
        sending.start()
        while sending.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(_INTERVAL)
    except Exception:
        internal_error("internal error while a server shuts down")


def _send(thread: int, deadline: float) -> None:
    registry.abandon(registry.opened_in(thread), max(0.0, deadline - time.monotonic()))
    sentry_sdk.flush(timeout=max(0.0, deadline - time.monotonic()))
