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

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Dict, Optional, Type, Union
from weakref import WeakSet

from sentry_sdk.transport import HttpTransport
from urllib3.util import Retry, Timeout

from .runtime.options import check_whole
from .runtime.process import after_fork_in_child, logger
from .runtime.sdk import unrecorded

if TYPE_CHECKING:
    from sentry_sdk.envelope import Envelope

__all__ = ["BoundedTransport", "bounded_transport"]

#: Seconds without a drop after which the next delivery means that dropping has ended.
#: Under a load that is a little too high, drops and deliveries alternate.
QUIET = 10.0

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
    :raises TypeError: a number is of the wrong type.
    :raises ValueError: an argument is out of range, or is nothing that urllib3 takes.
    """
    if wrong:
        # transport=bounded_transport: the SDK 2 calls it with each event, in the application.
        logger.error(
            "bounded_transport must be called, with arguments by name: "
            "sentry_sdk.init(transport=bounded_transport()); NOTHING is sent"
        )
        return BoundedTransport
    if queue_size is not None:
        # To the SDK's queue, 0 means that there is no limit.
        check_whole("queue_size", queue_size, 1)
    if timeout is not None and not isinstance(timeout, Timeout):
        timeout = Timeout(total=timeout)
    if not isinstance(retries, Retry):
        check_whole("retries", retries, 0)
        retries = Retry(retries)
    bounds = {
        "queue_size": queue_size,
        "timeout": timeout,
        # After the last attempt the SDK must see the reply, not an exception of urllib3:
        # the rate limits are in its headers.
        "retries": retries.new(raise_on_status=False),
    }
    return type("BoundedTransport", (BoundedTransport,), bounds)


class BoundedTransport(HttpTransport):
    """The SDK's HTTP transport, with bounds; :func:`bounded_transport` sets them."""

    queue_size: Optional[int] = None
    timeout: Optional[Timeout] = Timeout(total=10.0)
    retries: Retry = Retry(1)

    def __init__(self, options: "Dict[str, Any]") -> None:
        size = self.queue_size or options["transport_queue_size"]
        super().__init__({**options, "transport_queue_size": size})
        #: How many envelopes this process has dropped, by reason: ``full_queue``;
        #: ``network`` (no connection, no reply, or not in time); ``status_500`` and the
        #: like, as the ingest has replied; ``self_rate_limits`` (not sent, or not all of
        #: it, since an earlier reply forbids it).
        self.dropped: "Counter[str]" = Counter()
        # What had been dropped when this outage began; None: there is none.
        self._before_outage: "Optional[Counter[str]]" = None
        self._first_drop = self._last_drop = 0.0
        # Reentrant: a garbage collection in here may drop something, too.
        self._drop_lock = threading.RLock()
        self._pause = FIRST_PAUSE
        self._in_flush = threading.Event()
        _transports.add(self)

    def _begin_in_child(self) -> None:
        """Share no queue, lock or connection with the parent of a fork."""
        # The parent's connections are kept: to close them would take locks, which other
        # threads of the parent may have held.
        inherited = dict(vars(self))
        self.__init__(self.options)  # type: ignore[misc]
        self._inherited = inherited

    def _get_pool_options(self, *args: Any, **kwargs: Any) -> "Dict[str, Any]":
        options = super()._get_pool_options(*args, **kwargs)
        return {**options, "timeout": self.timeout, "retries": self.retries}

    def on_dropped_event(self, reason: str) -> None:
        """Count a dropped envelope. Called by the SDK."""
        with self._drop_lock:
            self._last_drop = time.monotonic()
            begins = self._before_outage is None
            if begins:
                self._before_outage, self._first_drop = self.dropped.copy(), self._last_drop
            self.dropped[reason] += 1
        # Not in the lock: a log handler may wait for another thread that drops.
        if begins:
            logger.warning(
                "data for Sentry are being dropped (%s); nothing more is said until that ends",
                reason,
            )

    def _send_envelope(self, envelope: "Envelope") -> None:
        last_drop = self._last_drop
        try:
            with unrecorded(self.options):
                super()._send_envelope(envelope)
                if self._last_drop == last_drop:
                    self._note_delivery()
        except Exception:
            self._in_flush.wait(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            raise
        self._pause = FIRST_PAUSE

    def _note_delivery(self) -> None:
        with self._drop_lock:
            before = self._before_outage
            if before is None or time.monotonic() - self._last_drop < QUIET:
                return
            self._before_outage = None
            lost = self.dropped - before
        logger.warning(
            "Sentry takes data again; %d envelopes were dropped in %.0f s (%s)",
            sum(lost.values()),
            self._last_drop - self._first_drop,
            ", ".join(f"{reason}: {count}" for reason, count in sorted(lost.items())),
        )

    def record_lost_event(
        self, reason: str, data_category: Any = None, item: Any = None, **quantity: int
    ) -> None:
        """Count a loss for the next client report."""
        if item is None or item.type != "client_report":
            super().record_lost_event(reason, data_category, item, **quantity)
            return
        for lost in item.payload.json["discarded_events"]:
            self._discarded_events[lost["category"], lost["reason"]] += lost["quantity"]

    def flush(self, *args: Any, **kwargs: Any) -> Any:
        """Wait until the queue is empty, or for so many seconds; without pauses meanwhile."""
        self._in_flush.set()
        try:
            return super().flush(*args, **kwargs)
        finally:
            self._in_flush.clear()


_transports: "WeakSet[BoundedTransport]" = WeakSet()


def _begin_in_child() -> None:
    for transport in list(_transports):
        transport._begin_in_child()


after_fork_in_child.append(_begin_in_child)
