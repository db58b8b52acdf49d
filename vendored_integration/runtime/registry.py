"""The open responses of this process, oldest first, and their deadlines.

Guarantees:

* Adding, removing and evicting a response, and setting and removing its deadline, take the
  same time however many are open, and leave nothing behind.
* A response is held from its opening until its :meth:`~.OpenResponse.end`, also when its
  transaction was sent early: a suspended middleware that is collected would leave its
  ``with`` blocks then and there. What the server has is not held: that stays free to be
  collected when the server drops it.

Deadlines are first in, first out: they count from the moment that a response is returned, so
among responses of one timeout the order of insertion is the order of expiry. There is one
ordered dict for each distinct timeout (as libevent's common timeouts), and only its head is
looked at.
"""

import atexit
from collections import OrderedDict
from time import monotonic
from typing import TYPE_CHECKING, Dict, List, Optional, Set, Tuple

from . import process
from .process import counts, internal_error, lock
from .sdk import shutdown_timeout
from .workers import Job, make_workers

if TYPE_CHECKING:
    from .open_response import OpenResponse


#: Later than any deadline.
NEVER = float("inf")


class Deadlines:
    """What expires, in the order in which it does. To be used with the lock held."""

    def __init__(self) -> None:
        # An OrderedDict, because the first key of a dict is found past all the keys that
        # were deleted before it.
        self._by_timeout: "Dict[Optional[float], OrderedDict[Job, float]]" = {}
        # When take_due() is going to be called, in seconds of time.monotonic.
        self._next_look = NEVER

    def add(self, job: Job, timeout: float) -> bool:
        """Have a job run in ``timeout`` seconds from now.

        :return: whether that is before the next call of :meth:`take_due`.
        """
        deadline = monotonic() + timeout
        self._by_timeout.setdefault(timeout, OrderedDict())[job] = deadline
        if deadline >= self._next_look:
            return False
        self._next_look = deadline
        return True

    def discard(self, job: Job, timeout: "Optional[float]") -> None:
        """Forget a job of this timeout; no error if there is none."""
        if timeout in self._by_timeout:
            self._by_timeout[timeout].pop(job, None)

    def take_due(self) -> "Tuple[List[Job], float]":
        """Take out what has expired.

        :return: that, and when this is to be called next.
        """
        now = monotonic()
        due = []
        self._next_look = NEVER
        for jobs in self._by_timeout.values():
            while jobs:
                job, deadline = next(iter(jobs.items()))
                if deadline > now:
                    self._next_look = min(self._next_look, deadline)
                    break
                del jobs[job]
                due.append(job)
        return due, self._next_look

    def __len__(self) -> int:
        return sum(map(len, self._by_timeout.values()))


class Registry:
    """All open responses. Attributes are read and changed with the lock held."""

    def __init__(self) -> None:
        #: Whose transaction goes on.
        self.open: "OrderedDict[OpenResponse, None]" = OrderedDict()
        #: Whose transaction was sent early.
        self.detached: "Set[OpenResponse]" = set()
        self.deadlines = Deadlines()
        self._inherited: "List[OpenResponse]" = []
        self._exit_handler_set = False

    def add(
        self, response: "OpenResponse", timeout: "Optional[float]", limit: int
    ) -> "Optional[OpenResponse]":
        """Add an open response, and its deadline.

        :param timeout: seconds from now; ``None``: no deadline.
        :return: the oldest open response, taken out, if there are more than ``limit`` now.
        """
        workers.start()
        with lock:
            if not self._exit_handler_set:
                # Not at import: atexit runs the newest first, and this must come before
                # the SDK's own flush, which sentry_sdk.init() registers.
                self._exit_handler_set = True
                atexit.register(self.end_all)
            self.open[response] = None
            oldest = None
            if len(self.open) > limit:
                oldest = self.open.popitem(last=False)[0]
                self.detached.add(oldest)
            counts["peak"] = max(counts["peak"], len(self.open))
        if timeout is not None:
            self.set_deadline(response.expire, timeout)
        return oldest

    def discard(self, response: "OpenResponse") -> None:
        """A response has ended. To be called with the lock held."""
        self.open.pop(response, None)
        self.detached.discard(response)
        self.deadlines.discard(response.expire, response.options.response_timeout)

    def detach(self, response: "OpenResponse") -> None:
        """A response goes on without its transaction. To be called with the lock held."""
        self.discard(response)
        self.detached.add(response)

    def set_deadline(self, job: Job, timeout: float) -> None:
        """Have a worker run a job, ``timeout`` seconds from now."""
        with lock:
            sooner = self.deadlines.add(job, timeout)
        if sooner:
            workers.wake_timer()

    def find_due(self) -> float:
        """Hand what has expired to the workers.

        :return: when to look again, in seconds of :func:`time.monotonic`.
        """
        with lock:
            due, next_look = self.deadlines.take_due()
        for job in due:
            workers.submit(job)
        return next_look

    def detach_all(self) -> None:
        """Send every open transaction: the process was told to end, and may be killed."""
        with lock:
            responses = list(self.open)
        for response in responses:
            # A hook that hangs must not hold up the others.
            response.detach("abandoned", in_background=True)

    def end_all(self) -> None:
        """At process exit: the server will not close these any more."""
        with lock:
            responses = [*self.open, *self.detached]
        self.abandon(responses, shutdown_timeout())

    def opened_in(self, thread: int) -> "List[OpenResponse]":
        """Return the open ASGI responses of an event loop, by the thread that it runs in."""
        with lock:
            return [response for response in self.open if response.loop_thread == thread]

    def abandon(self, responses: "List[OpenResponse]", timeout: float) -> None:
        """End responses that nobody will close; wait at most ``timeout`` seconds."""
        try:
            workers.drain([response.abandon for response in responses], timeout)
        except Exception:
            internal_error("internal error while open responses are ended")

    def forget(self) -> None:
        """In the child of a fork: leave the parent's open responses to the parent.

        They are kept, because a suspended middleware that is collected leaves its ``with``
        blocks: the child would send the parent's transaction.
        """
        for response in (*self.open, *self.detached):
            response.disown()
            self._inherited.append(response)
        self.open.clear()
        self.detached.clear()
        self.deadlines = Deadlines()


#: The open responses of this process.
registry = Registry()
process.after_fork_in_child.append(registry.forget)

#: The threads of this process.
workers = make_workers(registry.find_due)
