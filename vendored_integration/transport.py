"""A transport that an outage of the ingest cannot make the application pay for.

    sentry_sdk.init(dsn="...", transport=bounded_transport(queue_size=100, timeout=5.0))

Guarantees:

* At most ``queue_size`` envelopes wait, and one is being sent; what comes on top is
  dropped at once. An attempt to send one ends after ``timeout``, and there are at
  most ``retries`` more. (The SDK itself knows no timeout up to 2.25.)
* As long as no connection comes about there are pauses between the attempts, at most
  :data:`LONGEST_PAUSE` each: an outage takes less of the processor than sending. There
  are none while somebody waits for a flush.
* What happens while an envelope is sent (log records, breadcrumbs, spans of the HTTP
  request) is not recorded, so that sending one never gives another to send. The SDK
  takes care of that too, but knows its own requests only where the DSN has no port.
* Each envelope that is dropped is counted in :attr:`BoundedTransport.dropped`, and in
  the SDK's client reports. A client report that is lost is not lost: its counts go
  into the next one.
* One line is logged when dropping begins, and one when it has ended.
* The child of a fork starts with an empty queue and connections of its own: what was
  captured before the fork is sent by the parent, once.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Type, Union
from weakref import WeakSet

from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import HttpTransport
from sentry_sdk.worker import BackgroundWorker
from urllib3.util import Retry, Timeout

from .runtime.log import internal_error, logger
from .runtime.sdk import count_lost, unrecorded

if TYPE_CHECKING:
    from sentry_sdk.envelope import Item

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
        if not isinstance(wrong[0], (dict, Envelope)):
            raise TypeError(
                "bounded_transport takes its arguments by name, such as queue_size=100; "
                f"got {wrong[0]!r}"
            )
        # The SDK takes a function for a transport, and calls it in the application.
        _report_missing_call()
        return BoundedTransport
    if queue_size is not None:
        _check_queue_size("queue_size", queue_size)
    return type(
        "BoundedTransport",
        (BoundedTransport,),
        {
            "queue_size": queue_size,
            "timeout": _as_timeout(timeout),
            "retries": _as_retry(retries),
            "__module__": __name__,
        },
    )


_missing_call_reported = False


def _report_missing_call() -> None:
    global _missing_call_reported
    if not _missing_call_reported:
        _missing_call_reported = True
        logger.error(
            "sentry_sdk.init(transport=bounded_transport): NOTHING is sent. It makes a "
            "transport when it is called: transport=bounded_transport()"
        )


def _check_queue_size(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number of envelopes, got {value!r}")
    if value < 1:
        # To the SDK's queue, 0 means that there is no limit.
        raise ValueError(f"{name} must be at least 1, got {value!r}")


def _as_timeout(value: object) -> Optional[Timeout]:
    if value is None or isinstance(value, Timeout):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"timeout must be seconds, a urllib3.Timeout or None, got {value!r}")
    if not 0 < value <= LONGEST_TIMEOUT:
        raise ValueError(
            f"timeout must be a number of seconds above 0 and up to {LONGEST_TIMEOUT} "
            f"(or None for no timeout), got {value!r}"
        )
    return Timeout(total=value)


def _as_retry(value: object) -> Retry:
    if isinstance(value, Retry):
        # After the last attempt the SDK must see the reply, not an exception of
        # urllib3: the rate limits are in its headers.
        return value.new(raise_on_status=False)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"retries must be a whole number or a urllib3.Retry, got {value!r}")
    if value < 0:
        raise ValueError(f"retries must be at least 0, got {value!r}")
    return Retry(value)


class BoundedTransport(HttpTransport):
    """The SDK's HTTP transport, with bounds; :func:`bounded_transport` sets them."""

    queue_size: Optional[int] = None
    timeout: Optional[Timeout] = Timeout(total=10.0)
    retries: Retry = Retry(1)

    def __init__(self, options: "Dict[str, Any]") -> None:
        self._ledger = _Ledger(options)
        self._here = _Here()
        self._pauses = _Pauses()
        size = self.queue_size
        if size is None:
            size = options["transport_queue_size"]
            _check_queue_size("transport_queue_size", size)
        super().__init__({**options, "transport_queue_size": size})
        self._size = size
        # The client's own, as with any transport: they may be changed later.
        self.options = options
        _transports.add(self)

    @property
    def dropped(self) -> "Dict[str, int]":
        """How many envelopes this process has dropped, by reason.

        ``full_queue``; ``network`` (no connection, no reply, or not in time);
        ``status_500`` and the like, as the ingest has replied; ``self_rate_limits`` (not
        sent, or not all of it, since an earlier reply forbids it); ``send_failed`` (an
        error before anything was sent). Client reports are not counted.
        """
        return self._ledger.totals()

    # -- the way of an envelope ------------------------------------------------

    def capture_envelope(self, envelope: "Envelope") -> None:
        """Put an envelope into the queue, or drop it. Never waits."""
        self._step(super().capture_envelope, envelope)

    def _send_envelope(self, envelope: "Envelope") -> None:
        try:
            reason = self._step(super()._send_envelope, envelope)
        except Exception:
            self._pauses.pause()
            raise
        self._pauses.reset()
        if reason is None:
            self._ledger.delivered()

    def _send_request(self, *args: Any, **kwargs: Any) -> None:
        with unrecorded(self.options):
            super()._send_request(*args, **kwargs)

    def _step(self, step: "Callable[[Envelope], None]", envelope: "Envelope") -> Optional[str]:
        """Go a step, and count the envelope if it is dropped there.

        :return: why it was dropped, or ``None``.
        """
        # A garbage collection may capture something in the midst of a step.
        outer, self._here.reason = self._here.reason, None
        try:
            step(envelope)
        except Exception:
            self._note("send_failed")
            raise
        finally:
            reason, self._here.reason = self._here.reason, outer
            if reason is not None and not _is_report(envelope):
                self._ledger.drop(reason)
        return reason

    def _note(self, reason: str) -> None:
        # The SDK tells the same loss up to three times, the most exact reason first.
        if self._here.reason is None:
            self._here.reason = reason

    # -- what the SDK tells of losses ------------------------------------------

    def on_dropped_event(self, reason: str) -> None:
        super().on_dropped_event(reason)
        self._note(reason)

    def record_lost_event(
        self,
        reason: str,
        data_category: Any = None,
        item: "Optional[Item]" = None,
        **quantity: int,
    ) -> None:
        """Count a loss for the next client report."""
        if item is not None and item.type == "client_report":
            for lost in (item.payload.json or {}).get("discarded_events", ()):
                count_lost(self, lost["reason"], lost["category"], lost["quantity"])
            return
        super().record_lost_event(reason, data_category, item, **quantity)
        if item is not None:
            # Of a rate limit for sessions, logs or spans, the SDK tells no more than this.
            self._note("self_rate_limits" if reason == "ratelimit_backoff" else reason)

    def flush(self, *args: Any, **kwargs: Any) -> Any:
        """Wait until the queue is empty, or for so many seconds: as the SDK's, in no pause."""
        with self._pauses.left_out():
            return super().flush(*args, **kwargs)

    def kill(self) -> None:
        super().kill()
        self._pauses.stop()
        self._ledger.stop()

    # -- connections -----------------------------------------------------------

    def _get_pool_options(self, *args: Any, **kwargs: Any) -> "Dict[str, Any]":
        options = super()._get_pool_options(*args, **kwargs)
        return {**options, "timeout": self.timeout, "retries": self.retries}

    def _make_pool(self, *args: Any, **kwargs: Any) -> Any:
        self._pool_arguments = args, kwargs
        return super()._make_pool(*args, **kwargs)

    def _after_fork_in_child(self) -> None:
        # The locks, too, are new ones: another thread of the parent may have held them.
        self._ledger = _Ledger(self.options)
        self._pauses = _Pauses()
        self._worker = BackgroundWorker(queue_size=self._size)
        # The parent's connections are left alone: to close them here would take locks.
        self._inherited = self._pool
        args, kwargs = self._pool_arguments
        self._pool = self._make_pool(*args, **kwargs)
        # The parent reports its losses itself.
        self._fetch_pending_client_report(force=True)


class _Pauses:
    """The pauses of the thread that sends, each twice as long as the one before."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE
        # One entry for each flush that is going on. append and pop are atomic.
        self._flushes: "List[None]" = []
        self._wake: Optional[threading.Event] = None

    def pause(self) -> None:
        # Made now, not along with the rest: gevent may have replaced the class since.
        self._wake = threading.Event()
        # Looked at after _wake is there: a flush that begins later finds it.
        if not self._flushes:
            self._wake.wait(self._next)
        self._next = min(2 * self._next, LONGEST_PAUSE)

    def reset(self) -> None:
        self._next = FIRST_PAUSE

    @contextlib.contextmanager
    def left_out(self) -> "Iterator[None]":
        self.stop()
        try:
            yield
        finally:
            self._flushes.pop()

    def stop(self) -> None:
        """End the pause that is going on, and let there be no other."""
        self._flushes.append(None)
        wake = self._wake
        if wake is not None:
            wake.set()


class _Here(threading.local):
    """Of this thread: why the envelope that it is about has been dropped."""

    reason: Optional[str] = None


def _is_report(envelope: "Envelope") -> bool:
    return all(item.type == "client_report" for item in envelope.items)


class _Ledger:
    """What has been dropped, and whether it still goes on. Safe in any thread.

    Dropping begins with the first drop, and has ended when an envelope is delivered
    and none was dropped in the :data:`QUIET` seconds before.
    """

    def __init__(self, options: "Dict[str, Any]") -> None:
        self._options = options
        # Protects the rest. Reentrant, because a garbage collection in here may end a
        # response and drop its transaction. Nothing is said while it is held: a
        # log handler may wait for another thread that drops.
        self._lock = threading.RLock()
        self._totals: "Counter[str]" = Counter()
        self._at_begin: "Counter[str]" = Counter()
        self._begin: Optional[float] = None
        self._last = 0.0

    def totals(self) -> "Dict[str, int]":
        with self._lock:
            return dict(self._totals)

    def drop(self, reason: str) -> None:
        with self._lock:
            self._last = time.monotonic()
            begins = self._begin is None
            if begins:
                self._begin = self._last
                self._at_begin = self._totals.copy()
            self._totals[reason] += 1
        if begins:
            self._say(
                "data for Sentry are being dropped (%s); nothing more is said until that ends",
                reason,
            )

    def delivered(self) -> None:
        self._end("Sentry takes data again", QUIET)

    def stop(self) -> None:
        self._end("the transport was stopped before Sentry took data again", 0.0)

    def _end(self, what: str, quiet: float) -> None:
        with self._lock:
            if self._begin is None or time.monotonic() - self._last < quiet:
                return
            seconds = self._last - self._begin
            dropped = self._totals - self._at_begin
            self._begin = None
        self._say(
            "%s; %d envelopes were dropped in %.0f s (%s)",
            what,
            sum(dropped.values()),
            seconds,
            ", ".join(f"{reason}: {count}" for reason, count in sorted(dropped.items())),
        )

    def _say(self, message: str, *args: object) -> None:
        # Not for Sentry either, whatever log handler gets it; and if that raises, it is
        # not the application's fault that something was dropped just now.
        with contextlib.suppress(Exception), unrecorded(self._options):
            logger.warning(message, *args)


_transports: "WeakSet[BoundedTransport]" = WeakSet()


def _after_fork_in_child() -> None:
    for transport in list(_transports):
        try:
            transport._after_fork_in_child()
        except Exception:
            internal_error("a transport could not be set up anew after a fork")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
