"""Threads for what nobody else can do: at most 1 timer and 3 workers in a process.

* All are daemons, started by the first open response; and again in the child of a fork.
* The timer thread runs no foreign code. What is due goes to the workers, because hooks of
  the user (``before_send_transaction``) may hang: one that does takes a worker away, not
  the deadlines of the others.
* ``submit`` may be called from ``__del__`` and from a signal handler: it takes no lock and
  starts no thread.
* Where no thread can run, ``poll``, which each new request calls, does the work.
"""

import queue
import sys
import threading
from collections import deque
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Callable, Deque, List

from . import process
from .process import internal_error, lock, logger

#: Threads that run jobs.
MAX_WORKERS = 3

#: The longest that the timer thread sleeps, in seconds; some systems have a limit.
_LONGEST_SLEEP = 86_400.0

Job = Callable[[], None]


def threads_can_run() -> bool:
    """Whether a thread of this process gets to run.

    uWSGI without ``--enable-threads`` (or ``--threads``) never lets go of the
    interpreter between requests: a thread can be started and then stands still.
    """
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if not options:
        return True
    return any(
        options.get(key) or options.get(key.encode())
        for key in ("enable-threads", "threads", "gevent")
    )


class Workers:
    """The timer thread, the workers and their jobs.

    ``find_due`` hands in what is due, and returns when it is to be called next (seconds of
    :func:`time.monotonic`). More than 7 attributes: the threads, their
    two queues, and what is known of them.
    """

    def __init__(self, find_due: "Callable[[], float]") -> None:
        self._find_due = find_due
        self.forget()

    def forget(self) -> None:
        """Begin anew, without threads: in the child of a fork, where none has survived."""
        self._started = False
        #: Whether nobody but the callers of ``poll`` and ``drain`` runs jobs.
        self.inline = False
        self.threads = 0
        self._idle = 0
        # append and popleft are atomic.
        self._jobs: "Deque[Job]" = deque()

    # -- what callers use ------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Have a job run by a worker. Safe in ``__del__`` and in a signal handler."""
        self._jobs.append(job)
        if self._started and not self.inline:
            self._tokens.put(None)

    def wake_timer(self) -> None:
        """Something is due earlier than the timer thread knows."""
        if self._started and not self.inline:
            self._wake.set()

    def poll(self) -> None:
        """Called for each new request: stand in for threads that cannot run."""
        if self.inline:
            self._find_due()
            self._run_jobs()
        elif self._started and len(self._jobs) > self._idle:
            self._add_worker()

    def drain(self, jobs: "List[Job]", timeout: float) -> None:
        """Run jobs by the workers and wait for them, at most ``timeout`` seconds.

        Where no worker runs, the caller runs them.
        """
        done = threading.Semaphore(0)

        def run(job: Job) -> None:
            try:
                job()
            finally:
                done.release()

        for job in jobs:
            self.submit(partial(run, job))
        if not self._started or self.inline:
            self._run_jobs()
        deadline = monotonic() + timeout
        for _ in jobs:
            done.acquire(timeout=max(0.0, deadline - monotonic()))

    def waiting(self) -> int:
        """Return the number of jobs that no worker has begun."""
        return len(self._jobs)

    # -- threads ---------------------------------------------------------------

    def start(self) -> None:
        """Start the threads, if they have not been started: something is going to be due."""
        if self._started:
            return
        # Looked up now and not at import: gevent may have replaced them since.
        wake = threading.Event()
        tokens: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        inline = not threads_can_run()
        with lock:
            if self._started:
                return
            self._wake, self._tokens, self.inline = wake, tokens, inline
            self._started = True
        if inline:
            logger.warning(
                "uWSGI runs no threads in this process: expired responses are found by later "
                "requests. Start uWSGI with enable-threads = true (vendored_integration.W003)"
            )
            return
        # A worker at once, too: from Python 3.12 on no thread can be started when the
        # interpreter exits, and then open responses are finished.
        self._spawn(self._time, "timer")
        self._add_worker()

    def _add_worker(self) -> None:
        with lock:
            if self.inline or self.threads > MAX_WORKERS:  # the timer is one of them
                return
        self._spawn(self._work, "worker")

    def _spawn(self, target: Job, role: str) -> None:
        thread = threading.Thread(target=target, name=f"vendored_integration.{role}", daemon=True)
        with lock:
            self.threads += 1
        try:
            # In an empty context: the SDK's threading integration hands a thread the
            # scopes of whoever starts it, here those of a request, and the thread would
            # keep them alive for good.
            Context().run(thread.start)
        except RuntimeError:
            # No more threads (ulimit, interpreter exit): requests do the work.
            self.inline = True
            with lock:
                self.threads -= 1
            logger.warning(
                "cannot start a thread; expired responses are found by later requests",
                exc_info=True,
            )

    def _time(self) -> None:
        """The timer thread. Nothing may end it."""
        wake = self._wake
        while True:
            try:
                # Cleared first: a deadline that is added meanwhile sets it again.
                wake.clear()
                due = self._find_due()
                for _ in range(len(self._jobs) - self._idle):
                    self._add_worker()
                wake.wait(min(max(0.0, due - monotonic()), _LONGEST_SLEEP))
            except Exception:
                internal_error("internal error in the timer thread")
                wake.wait(1.0)

    def _work(self) -> None:
        """A worker thread. It sleeps until a token says that there is a job."""
        tokens = self._tokens
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
                # Also SystemExit and GreenletExit: they come from hooks of the user's, and
                # a worker outlives them.
                internal_error("internal error while finishing a response")
            del job  # what it holds must not live until the next one comes


def make_workers(find_due: "Callable[[], float]") -> Workers:
    """Return the workers of this process."""
    workers = Workers(find_due)
    process.after_fork_in_child.append(workers.forget)
    return workers
