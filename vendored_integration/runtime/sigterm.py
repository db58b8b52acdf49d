"""Notices that the process was told to end, by SIGTERM.

A server waits then for the responses that are open, for as long as its operator lets
it, and is killed with what is left: no exit handler runs. So what is still open
``shutdown_timeout`` seconds after the signal (the SDK's own option, 2 by default) has its
transaction finished and sent; the responses go on.

The handler that is there is called as before, with the same arguments, whatever it
returns or raises: ours only takes notice on the way. What the operating system knows of it
stays as it was: whether a system call goes on after the signal, and a handler that is not
Python's (faulthandler's) in front of it. Where there is none, the signal ends the process at
once, and nothing is changed.
"""

import contextlib
import os
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # quicker than signal's
from types import FrameType
from typing import Any, Callable, Iterator, List, Optional

import sentry_sdk

from . import sdk
from .frames import hidden
from .log import internal_error
from .registry import registry
from .scheduler import Entry, scheduler

# Whether this cannot be done in this process; or by the main thread alone.
_given_up = False
_main_thread_asked = False
#: What the main thread has been asked to call. Never let go: another thread may have asked
#: at the same time, and a fork takes the request along.
_asked: "List[Any]" = []


def watch() -> None:
    """Take notice of SIGTERM from now on, if the process has a handler for it.

    To be called often: a server sets its handler before it imports the application, or
    after it, or when it has forked.
    """
    global _given_up
    if _given_up:
        return
    try:
        handler = getsignal(signal.SIGTERM)
        if not callable(handler) or type(handler) is _Notice:
            return  # none (yet), or not one of Python; or noticed
        with _system_handler_kept():
            signal.signal(signal.SIGTERM, _Notice(handler))
    except ValueError:
        _ask_main_thread()  # nobody else can change a handler
    except Exception:
        _given_up = True
        internal_error("internal error; SIGTERM is not noticed")


#: More than any system's ``struct sigaction``, in bytes.
_SIGACTION = 1024


@contextlib.contextmanager
def _system_handler_kept() -> "Iterator[None]":
    """Put the system's handler of SIGTERM back as it was, with its flags.

    ``signal.signal`` sets Python's own, without those of ``signal.siginterrupt``.
    """
    try:
        import ctypes

        sigaction = ctypes.CDLL(None).sigaction
        kept = ctypes.create_string_buffer(_SIGACTION)
        known = sigaction(signal.SIGTERM, None, kept) == 0
    except Exception:
        known = False  # no ctypes, or another system
    yield
    if known:
        sigaction(signal.SIGTERM, kept, None)


def _ask_main_thread() -> None:
    """Have the main thread call ``watch``, as soon as it runs Python code.

    For gunicorn's threads with ``--preload``, where it runs nothing of the application.
    Source: https://docs.python.org/3/c-api/init.html#c.Py_AddPendingCall
    """
    global _main_thread_asked
    if _main_thread_asked:
        return
    _main_thread_asked = True
    try:
        import ctypes

        call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_pending_call)
        _asked.append(call)
        ctypes.pythonapi.Py_AddPendingCall(call, None)
    except Exception:
        pass  # not CPython


def _pending_call(_: Any) -> int:
    global _main_thread_asked
    _main_thread_asked = False
    watch()
    return 0


class _Notice:
    """A signal handler in front of another one."""

    def __init__(self, handler: "Callable[[int, Optional[FrameType]], Any]") -> None:
        self._handler = handler

    def __call__(self, signum: int, frame: "Optional[FrameType]") -> Any:
        # A signal handler runs anywhere, also while this thread holds a lock.
        scheduler.submit(_last_call)
        return self._handler(signum, frame)


class _Deadline(Entry):
    """When the transactions of what is open then are finished."""

    __slots__ = ()

    def expire(self) -> None:
        registry.end_all_early()
        # Up to 2.67 a segment of the stream lifecycle waits for up to 5 s otherwise.
        scheduler.submit(sentry_sdk.flush)


def _last_call() -> None:
    scheduler.schedule(_Deadline(), scheduler.now() + sdk.shutdown_timeout())


def _after_fork_in_child() -> None:
    # A pre-forking server sets other handlers in its workers.
    global _main_thread_asked
    _main_thread_asked = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__name__ = hidden(__name__)
