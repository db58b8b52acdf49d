"""Notices that the process was told to end, by SIGTERM.

A server waits then for the responses that are open, for as long as its operator lets it, and
is killed with what is left: no exit handler runs. So what is still open ``shutdown_timeout``
seconds after the signal (the SDK's own option, 2 by default) has its transaction sent; the
responses go on.

The handler that is there is called as before, with the same arguments, whatever it returns or
raises: ours only takes notice on the way. Where there is none, the signal ends the process at
once, and nothing is changed.
"""

import signal
import threading
from _signal import getsignal  # type: ignore[import-not-found]  # quicker than signal's
from types import FrameType
from typing import Any, Callable, Optional

import sentry_sdk

from .process import internal_error
from .registry import registry, workers
from .sdk import shutdown_timeout


def watch() -> None:
    """Take notice of SIGTERM from now on, if the process has a handler for it.

    To be called often: a server sets its handler before it imports the application, or
    after it, or when it has forked. Only the main thread can change a handler.
    """
    try:
        handler = getsignal(signal.SIGTERM)
        if (
            callable(handler)
            and type(handler) is not _Notice
            and threading.current_thread() is threading.main_thread()
        ):
            signal.signal(signal.SIGTERM, _Notice(handler))
    except Exception:
        internal_error("internal error; SIGTERM is not noticed")


class _Notice:
    """A signal handler in front of another one."""

    def __init__(self, handler: "Callable[[int, Optional[FrameType]], Any]") -> None:
        self._handler = handler

    def __call__(self, signum: int, frame: "Optional[FrameType]") -> Any:
        # A signal handler runs anywhere, also while this thread holds a lock.
        workers.submit(_set_deadline)
        return self._handler(signum, frame)


def _set_deadline() -> None:
    """Set the time at which the transactions of what is still open are sent."""

    def send_all() -> None:
        registry.detach_all()
        # Up to 2.67 a segment of the stream lifecycle waits for up to 5 s otherwise.
        workers.submit(sentry_sdk.flush)

    registry.set_deadline(send_all, shutdown_timeout())
