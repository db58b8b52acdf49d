"""The record of one response that is open: what is measured, and how it ends.

Its transaction ends once:

* with the response: whoever closes it takes the record out of the registry, and
  upstream's middleware leaves its ``with`` blocks;
* or early, while the response stays open (``response_timeout``, eviction): a
  double of the root span is sent in its place (see :mod:`.parts`).

Sending runs hooks of the user (``before_send_transaction``), which may hang; so
nobody waits for somebody else's sending.

With ``on_timeout="continue"`` the deadline, and the SDK's limit of spans, send
what there is by then, and the next part of the transaction begins.
"""

import os
import threading
from contextvars import Context
from time import perf_counter
from typing import Any, Dict, List, Optional, Tuple

import sentry_sdk.scope

from . import parts, sdk
from .counters import counters
from .frames import hidden
from .log import internal_error, logger
from .options import DEFAULT_OPTIONS, Options
from .registry import registry
from .resources import close_at_once, connections_as_before
from .scheduler import Entry, scheduler

#: Protects ``_over``, ``_unsent``, ``_parts``, ``_sending_due`` and ``_suspended`` of
#: all records, and the root span while it is doubled: a deadline and the close of the
#: same response may meet. Held for a few instructions, never while foreign code runs.
#: Reentrant, because the garbage collector may run in there, and finalize a generator
#: that closes another response.
lock = threading.RLock()

#: Seconds that a response which is there as a whole has for being sent, at least.
_TO_BE_CLOSED = 10.0

#: Milliseconds in a second.
_MS = 1e3


class Measured:
    """What has been measured of a body so far; times in seconds of ``perf_counter``.

    The registry holds it, by way of the record: it must not lead to the response, nor to
    what the server has.
    """

    __slots__ = ("counted", "first_chunk", "produce_time", "send_time")

    def __init__(self, size: "Optional[int]" = 0) -> None:
        #: Chunks and bytes (``None``: nobody knows), and the lengths of the chunks since.
        #: To append one to a short list is the cheapest way to count: larger numbers than
        #: 256 are objects. Exchanged as a whole, for those who read it meanwhile.
        self.counted: "Tuple[int, Optional[int], List[int]]" = (0, size, [])
        #: When the first chunk was there.
        self.first_chunk = 0.0
        #: Spent within the body.
        self.produce_time = 0.0
        #: Spent between two chunks.
        self.send_time = 0.0

    def totals(self) -> "Tuple[int, Optional[int]]":
        """Return the number of chunks, and of bytes."""
        chunks, size, since = self.counted
        return chunks + len(since), None if size is None else size + sum(since)

    def sum_up(self) -> "List[int]":
        """Return the list that the lengths are to be appended to from now on."""
        since: "List[int]" = []
        self.counted = (*self.totals(), since)
        return since


_NOTHING = Measured()


class Record(Entry):
    """One response, from the application's return to the end of its transaction."""

    __slots__ = (
        "_snapshot",
        "_span",
        "_options",
        "_over",
        "_unsent",
        "_parts",
        "_first_span_id",
        "_links",
        "_sending_due",
        "_process",
        "early_outcome",
        "streaming",
        "started",
        "returned",
        "measured",
    )

    def __init__(self, snapshot: Context, span: Any, started: float, streaming: bool) -> None:
        """
        :param snapshot: a copy of the request's context that nobody else is in: in the midst of
            an event the SDK's variables say that no other is to be sent.
        :param span: its root span, or ``None``.
        :param started: the request's start, in seconds of ``perf_counter``.
        """
        super().__init__()
        self._snapshot = snapshot
        self._span = span
        self._options = DEFAULT_OPTIONS
        self._over = False
        # The double of the root span, until somebody sends it.
        self._unsent: Any = None
        self._parts = 1
        self._first_span_id = ""
        self._links: "Optional[parts.Links]" = None
        # Whether a part that was due is being sent.
        self._sending_due = False
        self._process = registry.process
        #: How the transaction ended while the response stayed open; see Registry.
        self.early_outcome = ""
        self.streaming = streaming
        self.started = started
        self.returned = perf_counter()
        #: Replaced when the body is iterated.
        self.measured = _NOTHING

    # -- opening ---------------------------------------------------------------

    def open(self, options: Options, started: float) -> None:
        """Register the response, with its deadline, and make room for it.

        :param started: the request's start, in seconds of the scheduler's clock.
        """
        self._options = options
        timeout = options.response_timeout
        if options.on_timeout == "continue" and self.streaming:
            if parts.records_spans(self._span):
                parts.watch(self._span, self._make_room)
            else:
                timeout = None  # nothing is kept until the end, and nothing lost
        evicted = registry.add(self, options.max_open_responses)
        if timeout is not None:
            deadline = started + timeout
            if not self.streaming:
                # One that took longer has only to be closed, which it is in a moment.
                deadline = max(deadline, scheduler.now() + min(timeout, _TO_BE_CLOSED))
            self._schedule(deadline)
        if evicted is not None:
            evicted.evict()
            scheduler.poll()  # at once, also where no thread runs

    def _schedule(self, deadline: float) -> None:
        scheduler.schedule(self, deadline)
        if self not in registry:
            scheduler.cancel(self)  # ended in the meantime

    # -- endings with the response -----------------------------------------------

    def abandon(self) -> None:
        """Nobody will close the response: it was dropped, or the process ends."""
        raise NotImplementedError

    def end(self, outcome: str) -> bool:
        """The response has ended. The caller makes upstream leave its ``with`` blocks.

        :return: false if the transaction had ended before.
        """
        if self._process != registry.process:
            return False  # forked since: the parent ends it
        if registry.take(self):
            scheduler.cancel(self)
        if self.early_outcome:
            self.end_early()
            registry.release(self)
            return False
        with lock:
            over, self._over = self._over, True
        if not over:
            counters.ended(self.streaming, outcome)
            self._annotate(self._span, outcome, self._parts)
        return not over

    def log_late_spans(self) -> None:
        """Say how many spans came after an early ending, once."""
        if not self.early_outcome or self._span is None:
            return
        count = parts.late_spans(self._span)
        if count:
            counters.spans_lost(count)
            logger.warning(
                "%d span(s) of %r were made after its transaction had ended (%s), and are "
                'lost; on_timeout="continue" keeps those after a response_timeout',
                count,
                getattr(self._span, "name", None),
                self.early_outcome,
            )

    # -- early endings ---------------------------------------------------------

    def expire(self) -> None:
        """``response_timeout`` has passed. On a worker thread."""
        timeout = self._options.response_timeout
        if self.streaming and self._options.on_timeout == "continue" and timeout is not None:
            self._schedule(scheduler.now() + timeout)
            self._send_part_that_is_due()
        elif registry.take(self, "timed_out"):
            self.end_early()

    def evict(self) -> None:
        """Too many responses are open, and this is the oldest: it was taken out."""
        self._separate()
        scheduler.submit(self._send_unsent)

    def end_early(self) -> None:
        """Send the transaction, whoever has taken the record out, unless somebody does."""
        self._separate()
        self._send_unsent()

    def _separate(self) -> None:
        """Separate what is to be sent from what goes on."""
        with lock:
            if self._over:
                return
            self._over = True
            if self._span is not None:
                self._unsent = parts.take_over(self._span)
        counters.ended(self.streaming, self.early_outcome)

    def _send_unsent(self) -> None:
        with lock:
            double, self._unsent = self._unsent, None
        if double is not None and self._process == registry.process:
            self._send(double, self.early_outcome, self._parts)

    def _send(self, double: Any, outcome: str, part: int) -> None:
        try:
            self._annotate(double, outcome, part)
        finally:
            with connections_as_before(close_at_once):
                parts.send(double, self._snapshot)

    # -- parts -----------------------------------------------------------------

    def _send_part_that_is_due(self) -> None:
        with lock:
            if self._sending_due:
                return  # the user's hook hangs: one worker is enough
            double, part = self._begin_next_part()
            self._sending_due = True
        try:
            if double is not None:
                self._send(double, "continued", part)
        finally:
            self._sending_due = False

    def _make_room(self) -> bool:
        """One span more, and the SDK would begin to drop them: can it be kept?

        The part is sent by the application's own thread: whoever makes spans faster
        than they can be sent has to wait.
        """
        # The garbage collector may run while this very thread holds the lock, and
        # finalize a generator that makes a span: it must not begin a part in there,
        # nor wait for a thread that does.
        if lock._is_owned() or not lock.acquire(False):  # type: ignore[attr-defined]
            return True
        try:
            if self._over or not self.streaming:
                return False
            if not self._span._span_recorder.full:
                return True  # another thread has made room
            if not self._span._span_recorder.worth_sending:
                return False
            double, part = self._begin_next_part()
        finally:
            lock.release()
        if double is None:
            return False
        try:
            self._send(double, "continued", part)
        except Exception:
            internal_error("internal error while sending a part of a transaction")
        return True

    def _begin_next_part(self) -> "Tuple[Any, int]":
        """Return a double with what there is, to be sent, and its number.

        To be called with the lock held. ``None``: the transaction has ended.
        """
        part = self._parts
        if self._over or self._process != registry.process:
            return None, part
        root = self._span
        if self._links is None:
            self._first_span_id = root.span_id
            self._links = parts.Links(self._snapshot[sentry_sdk.scope._isolation_scope])
        double = parts.begin_next(root, self._first_span_id)
        self._links.add(root.span_id, double.span_id)
        self._parts = part + 1
        counters.part_sent()
        return double, part

    # -- what is told about the response -----------------------------------------

    def _annotate(self, span: Any, outcome: str, part: int) -> None:
        """Put what was measured on a transaction (times in milliseconds)."""
        if not self.streaming or span is None:
            return
        measured = self.measured
        chunks, size = measured.totals()
        data: "Dict[str, Any]" = {
            "http.response.stream.outcome": outcome,
            "http.response.stream.chunks": chunks,
            "http.response.stream.produce_time": measured.produce_time * _MS,
            "http.response.stream.send_time": measured.send_time * _MS,
            "http.server.return_time": (self.returned - self.started) * _MS,
        }
        if size is not None:
            data["http.response.body.size"] = size
        if chunks:
            data["http.response.stream.time_to_first_chunk"] = (
                measured.first_chunk - self.started
            ) * _MS
        if self._parts > 1:
            data["http.response.stream.part"] = part
        sdk.annotate(span, data, outcome)


def _after_fork_in_child() -> None:
    global lock
    lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__name__ = hidden(__name__)
