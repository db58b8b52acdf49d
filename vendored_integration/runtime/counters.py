"""What has happened in this process, counted. :mod:`.stats` tells it.

Each change is one statement, ``+=``, under one lock, so that none is lost: neither
between threads, nor between greenlets, which cannot switch within it. The lock is
reentrant: the garbage collector may run as soon as it is held, and a generator that
is finalized then ends its span, which may send a part, which is counted. That happens
before the statement or after it, never within.

The child of a fork begins at zero.
"""

import os
import threading
from typing import Dict

from .frames import hidden

#: How a response may end; see README.md. ``continued`` is that of a part.
OUTCOMES = ("completed", "continued", "cancelled", "failed", "timed_out", "abandoned", "evicted")


class Counters:
    """Of one process. Read them while ``lock`` is held."""

    __slots__ = ("lock", "streaming", "plain", "lost_spans", "internal_errors", "wsgi", "asgi")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.lock = threading.RLock()
        #: Streaming responses by outcome.
        self.streaming: "Dict[str, int]" = dict.fromkeys(OUTCOMES, 0)
        #: All others by outcome: they have no parts.
        self.plain: "Dict[str, int]" = dict.fromkeys(OUTCOMES, 0)
        del self.plain["continued"]
        self.lost_spans = 0
        self.internal_errors = 0
        #: Whether a request has come this way. Only ever set, so without the lock.
        self.wsgi = False
        self.asgi = False

    def after_fork_in_child(self) -> None:
        """Leave the parent's numbers to the parent, and a lock that it may hold."""
        self._begin()

    def ended(self, streaming: bool, outcome: str) -> None:
        """A response has ended. To be called once for each."""
        counts = self.streaming if streaming else self.plain
        with self.lock:
            counts[outcome] += 1

    def part_sent(self) -> None:
        """A part of a long stream is to be sent, and the stream goes on."""
        with self.lock:
            self.streaming["continued"] += 1

    def spans_lost(self, number: int) -> None:
        """These spans were made after their transaction had ended."""
        with self.lock:
            self.lost_spans += number

    def internal_error(self) -> None:
        """A fault of this package's own was swallowed."""
        with self.lock:
            self.internal_errors += 1


def _process_counters() -> Counters:
    counters = Counters()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=counters.after_fork_in_child)
    return counters


#: The counters of this process.
counters = _process_counters()

__name__ = hidden(__name__)
