"""A transport that an outage of the ingest cannot make the application pay for.

    sentry_sdk.init(dsn="...", transport=bounded_transport(queue_size=100, timeout=5.0))

It is the SDK's HTTP transport, with urllib3's timeouts and retries. Guarantees:

* At most ``queue_size`` envelopes wait; more are dropped at once. An attempt to send one
  ends after ``timeout``; there are at most ``retries`` more. (Up to 2.25 the SDK has no
  timeout.)
* While no connection can be made there are pauses between the attempts: an outage takes
  less of the processor than sending does. There are none during a flush.
* What happens while an envelope is sent (log records, breadcrumbs, spans of the HTTP
  request) is not recorded: it would be sent in turn. (The SDK knows its own requests
  only where the DSN has no port.)
* Each dropped envelope is counted in :attr:`BoundedTransport.dropped`, and in the SDK's
  client reports. The counts of a client report that is lost go into the next one.
* One line is logged when dropping begins, and one when it has ended.
* The child of a fork starts with an empty queue and connections of its own: the parent
  sends what was captured before the fork.
"""

import functools
import threading
import time
from collections import Counter
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Type, Union
from weakref import WeakSet

from sentry_sdk.transport import HttpTransport
from sentry_sdk.worker import BackgroundWorker
from urllib3.util import Retry, Timeout

from .runtime.process import after_fork_in_child, logger
from .runtime.sdk import unrecorded

if TYPE_CHECKING:
    from sentry_sdk.envelope import Envelope

__all__ = ["BoundedTransport", "bounded_transport"]

#: Seconds without a drop after which the next delivery means that dropping has ended.
#: Under a load that is a little too high, drops and deliveries alternate.
QUIET = 10.0

#: The longest ``timeout``, in seconds: eleven days. A socket takes no more than 24.
LONGEST_TIMEOUT = 10**6

#: Seconds between an attempt that came to nothing and the next one; doubled each time.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


def bounded_transport(
    *wrong: object,
    queue_size: Optional[int] = None,
    timeout: "Union[float, Timeout, None]" = 10.0,
    retries: "Union[int, Retry]" = 1,
) -> "Type[BoundedTransport]":
    """Make a transport class for ``sentry_sdk.init(transport=...)``.

    :param queue_size: envelopes (an event, a transaction, a batch of logs) that wait
        at most; ``None``: the SDK's option ``transport_queue_size`` (100).
    :param timeout: seconds from the start of an attempt to the reply, the time to send
        the body excepted; or a :class:`urllib3.Timeout`; ``None``: wait for ever.
    :param retries: further attempts if no connection comes about (what has been sent
        is not sent twice); or a :class:`urllib3.Retry`, which decides by itself.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of range.
    """
    if wrong:
        if not isinstance(wrong[0], dict):
            raise TypeError(
                "bounded_transport takes its arguments by name, such as queue_size=100; "
                f"got {wrong[0]!r}"
            )
        # transport=bounded_transport: the SDK calls it with each event, in the application.
        _report_missing_call()
        return BoundedTransport
    if queue_size is not None:
        _check_queue_size("queue_size", queue_size)
    if timeout is not None and not isinstance(timeout, Timeout):
        _check(
            "timeout",
            timeout,
            (int, float),
            lambda seconds: 0 < seconds <= LONGEST_TIMEOUT,
            f"seconds, above 0 and up to {LONGEST_TIMEOUT}, or a urllib3.Timeout or None",
        )
        timeout = Timeout(total=timeout)
    if not isinstance(retries, Retry):
        expected = "a whole number, at least 0, or a urllib3.Retry"
        _check("retries", retries, int, lambda number: number >= 0, expected)
        retries = Retry(retries)
    # After the last attempt the SDK must see the reply, not an exception of urllib3: the
    # rate limits are in its headers.
    retries = retries.new(raise_on_status=False)
    bounds = {"queue_size": queue_size, "timeout": timeout, "retries": retries}
    return type("BoundedTransport", (BoundedTransport,), bounds)


@functools.lru_cache(maxsize=None)
def _report_missing_call() -> None:
    logger.error(
        "sentry_sdk.init(transport=bounded_transport): NOTHING is sent. It makes a "
        "transport when it is called: transport=bounded_transport()"
    )


def _check_queue_size(name: str, value: object) -> None:
    # To the SDK's queue, 0 means that there is no limit.
    _check(name, value, int, lambda size: size >= 1, "a whole number of envelopes, at least 1")


def _check(
    name: str, value: object, types: Any, in_range: "Callable[[Any], bool]", expected: str
) -> None:
    wrong_type = isinstance(value, bool) or not isinstance(value, types)
    if wrong_type or not in_range(value):
        error = TypeError if wrong_type else ValueError
        raise error(f"{name} must be {expected}; got {value!r}")


#: Why the SDK has dropped the envelope that is being put into the queue, or sent.
_reason: "ContextVar[Optional[str]]" = ContextVar("reason", default=None)


class BoundedTransport(HttpTransport):
    """The SDK's HTTP transport, with bounds; :func:`bounded_transport` sets them."""

    queue_size: Optional[int] = None
    timeout: Optional[Timeout] = Timeout(total=10.0)
    retries: Retry = Retry(1)

    def __init__(self, options: "Dict[str, Any]") -> None:
        if self.queue_size is None:
            _check_queue_size("transport_queue_size", options["transport_queue_size"])
        super().__init__(options)
        self._begin()
        _transports.add(self)

    def _begin(self) -> None:
        size = self.queue_size or self.options["transport_queue_size"]
        self._worker = BackgroundWorker(queue_size=size)
        self._losses = _Losses()
        self._pause = FIRST_PAUSE
        self._end_of_pause = threading.Event()
        # One entry for each flush that is going on. append and pop are atomic.
        self._flushes: "List[None]" = []

    def _begin_in_child(self) -> None:
        """Share no queue, lock or connection with the parent of a fork."""
        # The parent's connections are kept: to close them would take locks, which other
        # threads of the parent may have held.
        self._inherited = self._pool.pools
        self._pool.pools = type(self._inherited)()
        self._discarded_events.clear()  # the parent reports its losses itself
        self._begin()

    def _get_pool_options(self, *args: Any, **kwargs: Any) -> "Dict[str, Any]":
        options = super()._get_pool_options(*args, **kwargs)
        return {**options, "timeout": self.timeout, "retries": self.retries}

    @property
    def dropped(self) -> "Dict[str, int]":
        """How many envelopes this process has dropped, by reason.

        ``full_queue``; ``network`` (no connection, no reply, or not in time);
        ``status_500`` and the like, as the ingest has replied; ``self_rate_limits`` (not
        sent, or not all of it, since an earlier reply forbids it); ``send_failed`` (an
        error before anything was sent). Client reports are not counted.
        """
        return dict(self._losses.total)

    def capture_envelope(self, envelope: "Envelope") -> None:
        """Put an envelope into the queue, or drop it. Never waits."""
        self._count_loss(super().capture_envelope, envelope)

    def _send_envelope(self, envelope: "Envelope") -> None:
        try:
            with unrecorded(self.options):
                if self._count_loss(super()._send_envelope, envelope) is None:
                    self._losses.end("Sentry takes data again", QUIET)
        except Exception:
            self._end_of_pause.clear()
            if not self._flushes:
                self._end_of_pause.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            raise
        self._pause = FIRST_PAUSE

    def _count_loss(
        self, step: "Callable[[Envelope], None]", envelope: "Envelope"
    ) -> Optional[str]:
        """Call ``step(envelope)``; if the SDK drops the envelope in it, count it once.

        :return: why it was dropped, or ``None``.
        """
        token = _reason.set(None)
        try:
            step(envelope)
        except Exception:
            self.on_dropped_event("send_failed")
            raise
        finally:
            reason = _reason.get()
            _reason.reset(token)
            if reason and any(item.type != "client_report" for item in envelope.items):
                self._losses.add(reason)
        return reason

    def on_dropped_event(self, reason: str) -> None:
        """Called by the SDK for each loss, first with the most exact reason."""
        if _reason.get() is None:
            _reason.set(reason)

    def record_lost_event(
        self, reason: str, data_category: Any = None, item: Any = None, **quantity: int
    ) -> None:
        """Count a loss for the next client report."""
        if item is not None and item.type == "client_report":
            for lost in item.payload.json["discarded_events"]:
                self._discarded_events[lost["category"], lost["reason"]] += lost["quantity"]
            return
        super().record_lost_event(reason, data_category, item, **quantity)
        if reason == "ratelimit_backoff":
            # Of sessions, logs and spans the SDK tells no more than this.
            self.on_dropped_event("self_rate_limits")

    def flush(self, *args: Any, **kwargs: Any) -> Any:
        """Wait until the queue is empty, or for so many seconds; without pauses meanwhile."""
        self._flushes.append(None)
        self._end_of_pause.set()
        try:
            return super().flush(*args, **kwargs)
        finally:
            self._flushes.pop()

    def kill(self) -> None:
        """Stop the thread that sends."""
        super().kill()
        self._losses.end("the transport was stopped before Sentry took data again")


class _Losses:
    """Counts what is dropped, and logs when that begins and when it has ended. Thread-safe."""

    def __init__(self) -> None:
        # Reentrant, since a garbage collection in here may drop something, too. Nothing is
        # logged while it is held: a log handler may wait for another thread that drops.
        self._lock = threading.RLock()
        self.total: "Counter[str]" = Counter()
        self._outage: "Counter[str]" = Counter()
        self._first = self._last = 0.0  # drop of this outage

    def add(self, reason: str) -> None:
        with self._lock:
            self._last = time.monotonic()
            begins = not self._outage
            if begins:
                self._first = self._last
            self.total[reason] += 1
            self._outage[reason] += 1
        if begins:
            logger.warning(
                "data for Sentry are being dropped (%s); nothing more is said until that ends",
                reason,
            )

    def end(self, what: str, quiet: float = 0.0) -> None:
        """Log that dropping has ended, unless the last drop is less than ``quiet`` seconds ago."""
        with self._lock:
            if not self._outage or time.monotonic() - self._last < quiet:
                return
            dropped, self._outage = self._outage, Counter()
            seconds = self._last - self._first
        logger.warning(
            "%s; %d envelopes were dropped in %.0f s (%s)",
            what,
            sum(dropped.values()),
            seconds,
            ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())),
        )


_transports: "WeakSet[BoundedTransport]" = WeakSet()


def _begin_in_child() -> None:
    for transport in list(_transports):
        transport._begin_in_child()


after_fork_in_child.append(_begin_in_child)
