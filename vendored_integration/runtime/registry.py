"""The responses of this process that are open, oldest first.

Whoever takes a record out of here decides how its response ended: taking is
atomic, so there is exactly one ending, whatever the server's thread, a deadline
and the garbage collector do at the same time.

Held are records, never the response that the server has: that one stays free to
be collected when the server drops it. A record is held until its middleware has
been resumed, also after an early ending: a suspended generator that were
collected along with the response would leave its ``with`` blocks then and there.
"""

import atexit
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Callable, List, Optional, Set

from .frames import hidden
from .scheduler import scheduler
from .sdk import shutdown_timeout

if TYPE_CHECKING:
    from .record import Record


class Registry:
    """All open responses, with O(1) ``add``, ``take`` and ``take_oldest``."""

    def __init__(self) -> None:
        # Protects _open, _ended_early and _exit_handler_set. An OrderedDict, because the first key of
        # a dict is found past all the keys that were deleted before it. Reentrant,
        # because the garbage collector may run in here, and finalize a generator that
        # closes a response.
        self._lock = threading.RLock()
        self._open: "OrderedDict[Record, None]" = OrderedDict()
        self._ended_early: "Set[Record]" = set()
        #: The most that were open at the same time.
        self.peak = 0
        self._inherited: "List[Record]" = []
        #: Differs in the child of a fork: a response is ended by the process that
        #: has opened it.
        self.process = 0
        self._exit_handler_set = False

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, record: object) -> bool:
        return record in self._open

    def add(self, record: "Record", limit: int) -> "Optional[Record]":
        """Add an open response.

        :return: the oldest one, taken out, if there are more than ``limit`` now.
        """
        with self._lock:
            if not self._exit_handler_set:
                # Not at import: atexit runs the newest first, and this must come
                # before the SDK's own flush, which is set up by sentry_sdk.init().
                self._exit_handler_set = True
                atexit.register(self.finish_all)
            self._open[record] = None
            number = len(self._open)
            if number <= limit:
                if number > self.peak:
                    self.peak = number
                return None
            oldest = self._open.popitem(last=False)[0]
            oldest.early_outcome = "evicted"
            self._ended_early.add(oldest)
            return oldest

    def take(self, record: "Record", early_outcome: str = "") -> bool:
        """Take a record out, to end it: true for exactly one caller.

        :param early_outcome: how, if the response stays open; ``release`` is called
            later.
        """
        with self._lock:
            taken = self._open.pop(record, self) is None
            if taken and early_outcome:
                record.early_outcome = early_outcome
                self._ended_early.add(record)
            return taken

    def release(self, record: "Record") -> None:
        """The middleware of a response that ended early has been resumed."""
        with self._lock:
            self._ended_early.discard(record)

    def left_open(self) -> int:
        """Return how many responses are open although they have ended early."""
        return len(self._ended_early)

    def end_all_early(self) -> None:
        """The process is to end, and may be killed: these need not be closed by then."""
        with self._lock:
            records = list(self._open)
        for record in records:
            if self.take(record, "abandoned"):
                scheduler.cancel(record)
                scheduler.submit(record.end_early)
                scheduler.poll()  # a hook that hangs must not hold up the others

    def finish_all(self) -> None:
        """At process exit: the server will not close these any more."""
        with self._lock:
            records = [*self._open, *self._ended_early]
        self.abandon(records, shutdown_timeout())

    def opened_in(self, thread: int) -> "List[Record]":
        """Return the open ASGI responses of an event loop, by the thread that it runs in."""
        with self._lock:
            return [record for record in self._open if getattr(record, "thread", None) == thread]

    def abandon(self, records: "List[Record]", timeout: float) -> None:
        """End responses that nobody will close; wait at most ``timeout`` seconds."""
        jobs: "List[Callable[[], None]]" = [record.abandon for record in records]
        scheduler.drain(jobs, timeout)

    def before_fork(self) -> None:
        """Keep other threads from leaving the lock locked in the child for good."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave the parent's open responses to the parent.

        They are kept, since a suspended middleware that is collected leaves its
        ``with`` blocks: the child would send the parent's transaction.
        """
        self._lock = threading.RLock()
        self.process += 1
        self._inherited += [*self._open, *self._ended_early]
        self._open.clear()
        self._ended_early.clear()
        self.peak = 0


def _process_registry() -> Registry:
    registry = Registry()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=registry.before_fork,
            after_in_parent=registry.after_fork_in_parent,
            after_in_child=registry.after_fork_in_child,
        )
    return registry


#: The open responses of this process.
registry = _process_registry()

__name__ = hidden(__name__)
