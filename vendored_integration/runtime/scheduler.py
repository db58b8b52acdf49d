"""Deadlines for any number of open responses, at the cost of a few threads.

Guarantees:

* At most 1 timer thread and :data:`MAX_WORKERS` worker threads in a process,
  all daemons, started by the first use and, after a fork, by the first use in
  the child.
* ``schedule`` and ``cancel`` are O(1), and a cancelled entry leaves nothing
  behind. An entry is due at most :data:`TICK` seconds (and the time it takes to
  wake a thread) after its deadline, never before.
* The timer thread runs no foreign code: what is due goes to the workers. One
  that hangs takes a worker away, not the deadlines of the others.
* ``submit`` may be called from ``__del__``: it takes no lock and starts no thread.
* Where no thread can run, ``poll`` (called for each new request) runs what is due.

How: a timing wheel. Deadlines are rounded up to ticks, and a tick has a bucket,
a dict in which an entry is added and removed by its identity. Empty buckets are
removed, so that the wheel is never larger than what is pending. A heap would
need O(log n), and lazy deletion: at 1,000 requests a second and a timeout of
300 s it would hold 300,000 dead entries. See Varghese and Lauck, "Hashed and
hierarchical timing wheels" (1987).
"""

import os
import queue
import sys
import threading
import time
from collections import deque
from contextvars import Context
from typing import Callable, Deque, Dict, List, Optional, Tuple

from .frames import hidden
from .log import internal_error, logger

#: Ticks a second; a deadline is rounded up to the next one.
TICKS_PER_SECOND = 10
TICK = 1 / TICKS_PER_SECOND

#: Threads that run what is due. More than one, because what they run is the
#: user's (``before_send_transaction``, event processors) and may hang.
MAX_WORKERS = 3

#: A tick that never comes.
_NEVER = sys.maxsize


class Entry:
    """Something with a deadline. Subclasses say what happens then."""

    __slots__ = ("_tick",)

    def __init__(self) -> None:
        self._tick: Optional[int] = None

    def expire(self) -> None:
        """The deadline has passed. Runs on a worker thread; may take its time."""
        raise NotImplementedError


def threads_can_run() -> bool:
    """Whether a thread of this process gets to run.

    uWSGI without ``--enable-threads`` (or ``--threads``) never lets go of the
    interpreter between requests: a thread can be started and then stands still.
    """
    uwsgi = sys.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", None)
    if not options:
        return True
    return any(
        options.get(key) or options.get(key.encode())
        for key in ("enable-threads", "threads", "gevent")
    )


class Scheduler:
    """One timer thread and a few workers, however many entries are pending."""

    def __init__(self, clock: "Callable[[], float]" = time.monotonic) -> None:
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        """(Re)set everything: a new scheduler, or the child of a fork."""
        # Protects _buckets, _next_tick, the _tick of every entry, _workers and
        # _idle. Held for a few instructions, never while foreign code runs; except
        # where the garbage collector does, within any call: what it finalizes may
        # schedule and cancel here, too.
        self._lock = threading.RLock()
        self._buckets: "Dict[int, Dict[Entry, None]]" = {}
        # The timer thread sleeps until this tick; no pending entry is due earlier.
        self._next_tick = _NEVER
        self._started = False
        # No thread runs here: whoever polls or drains does the work.
        self._inline = False
        self._workers = 0
        # Jobs that no worker has taken yet. append and popleft are atomic.
        self._jobs: "Deque[Callable[[], None]]" = deque()
        self._idle = 0

    def after_fork_in_child(self) -> None:
        """Start afresh: no thread has survived, and the entries are the parent's."""
        self._forget()

    # -- what callers use ------------------------------------------------------

    def now(self) -> float:
        """Seconds of the clock that deadlines go by."""
        return self._clock()

    def schedule(self, entry: Entry, deadline: float) -> None:
        """Have ``entry.expire()`` called once ``clock()`` has passed ``deadline`` (seconds)."""
        tick = int(deadline * TICKS_PER_SECOND) + 1
        with self._lock:
            entry._tick = tick
            bucket = None
            while bucket is None or self._buckets.get(tick) is not bucket:
                bucket = self._buckets.setdefault(tick, {})
                bucket[entry] = None
            earlier = tick < self._next_tick
            if earlier:
                self._next_tick = tick
        if earlier and self._started and not self._inline:
            self._wake_timer.set()

    def cancel(self, entry: Entry) -> None:
        """Forget an entry; no error if it has expired or was never scheduled."""
        with self._lock:
            tick, entry._tick = entry._tick, None
            if tick is None:
                return
            bucket = self._buckets.get(tick)
            if bucket is None:
                return  # scheduled before a fork, cancelled in the child
            bucket.pop(entry, None)
            if self._buckets.get(tick) is bucket and not bucket:
                del self._buckets[tick]

    def submit(self, job: "Callable[[], None]") -> None:
        """Have a job run on a worker. Safe in ``__del__`` and signal handlers."""
        self._jobs.append(job)
        if self._started and not self._inline:
            self._tokens.put(None)

    def poll(self) -> None:
        """Called for each new request: start threads, or stand in for them."""
        if not self._started:
            self._start()
        if self._inline:
            self._collect_due()
            self._run_jobs()
        elif self._jobs and not self._idle:
            self._add_worker()

    def drain(self, jobs: "List[Callable[[], None]]", timeout: float) -> bool:
        """Run jobs on the workers and wait for them, at most ``timeout`` seconds.

        :return: whether all are done. Where no worker runs, the caller runs them.
        """
        if not jobs:
            return True
        done: "queue.SimpleQueue[None]" = queue.SimpleQueue()

        def reporting(job: "Callable[[], None]") -> "Callable[[], None]":
            def run() -> None:
                try:
                    job()
                finally:
                    done.put(None)

            return run

        for job in jobs:
            self.submit(reporting(job))
        if not self._started or self._inline:
            self._run_jobs()
        deadline = self._clock() + timeout
        try:
            for _ in jobs:
                done.get(timeout=max(0.0, deadline - self._clock()))
        except queue.Empty:
            return False
        return True

    def load(self) -> "Tuple[int, int, int]":
        """Return the numbers of pending entries, of jobs that wait, and of threads."""
        with self._lock:
            pending = sum(map(len, self._buckets.values()))
            threads = 1 + self._workers if self._started and not self._inline else 0
            return pending, len(self._jobs), threads

    # -- threads ---------------------------------------------------------------

    def _start(self) -> None:
        # Looked up now, not at import: gevent may have replaced them since.
        wake_timer = threading.Event()
        tokens: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        inline = not threads_can_run()
        with self._lock:
            if self._started:
                return
            self._wake_timer = wake_timer
            self._tokens = tokens
            self._inline = inline
            self._started = True
        if self._inline:
            logger.warning(
                "uWSGI runs no threads in this process: expired responses are found by later "
                "requests. Start uWSGI with enable-threads = true (vendored_integration.W003)"
            )
            return
        # The worker is started along with the timer because from Python 3.12 on
        # no thread can be started at interpreter exit, when open responses are
        # finished.
        self._spawn(self._time, "timer")
        self._add_worker()

    def _spawn(self, target: "Callable[[], None]", role: str) -> None:
        thread = threading.Thread(target=target, name=f"vendored_integration.{role}", daemon=True)
        try:
            # In an empty context: the SDK's threading integration hands a thread
            # the scopes of whoever starts it, here those of some request, and
            # the thread would keep them alive for good.
            Context().run(thread.start)
        except RuntimeError:
            # No more threads (ulimit, interpreter exit): requests do the work.
            self._inline = True
            logger.warning(
                "cannot start a thread; expired responses are found by later requests",
                exc_info=True,
            )

    def _add_worker(self) -> None:
        with self._lock:
            if self._workers >= MAX_WORKERS:
                return
            self._workers += 1
        self._spawn(self._work, "worker")

    def _time(self) -> None:
        """The timer thread. Nothing may end it."""
        wake = self._wake_timer
        while True:
            try:
                next_tick = self._next_tick
                if next_tick == _NEVER:
                    wake.wait()
                else:
                    left = next_tick / TICKS_PER_SECOND - self._clock()
                    # (there is a longest time to wait, which depends on the machine)
                    wake.wait(min(max(0.0, left), 86_400.0))
                # Cleared before the wheel is looked at: a deadline that is added
                # meanwhile sets it again.
                wake.clear()
                self._collect_due()
            except Exception:
                internal_error("internal error in the timer thread")
                time.sleep(TICK)

    def _collect_due(self) -> None:
        """Hand what is due to the workers, and find the next tick."""
        now = int(self._clock() * TICKS_PER_SECOND)
        if now < self._next_tick:
            return
        due: "List[Entry]" = []
        with self._lock:
            for tick in sorted(tick for tick in list(self._buckets) if tick <= now):
                for entry in self._buckets.pop(tick, ()):
                    entry._tick = None
                    due.append(entry)
            self._next_tick = _NEVER
            earliest = min(self._buckets, default=_NEVER)
            if earliest < self._next_tick:
                self._next_tick = earliest
        for entry in due:
            self.submit(entry.expire)
        if not self._inline:
            for _ in range(min(len(self._jobs) - self._idle, MAX_WORKERS)):
                self._add_worker()

    def _work(self) -> None:
        """A worker thread. It sleeps until a token says that there is a job."""
        tokens, lock = self._tokens, self._lock
        while True:
            self._run_jobs()
            with lock:
                self._idle += 1
            tokens.get()
            with lock:
                self._idle -= 1

    def _run_jobs(self) -> None:
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            try:
                job()
            except BaseException:
                # Also SystemExit and GreenletExit: they come from the user's
                # hooks, and a worker must outlive them.
                internal_error("internal error while finishing a response")
            # What a job holds must not live until the next one comes.
            del job


def _process_scheduler() -> Scheduler:
    scheduler = Scheduler()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=scheduler.after_fork_in_child)
    return scheduler


#: The scheduler of this process.
scheduler = _process_scheduler()

__name__ = hidden(__name__)
