"""The numbers of this process: ``vendored_integration.stats()``."""

import os
from typing import Any, Dict, NamedTuple, Tuple

from .counters import counters
from .frames import hidden
from .registry import registry
from .scheduler import scheduler


class Stats(NamedTuple):
    """What has happened in one process since it began (or was forked), and what goes on.

    A copy: it does not change. The counts only ever grow; ``open_responses``,
    ``left_open``, ``pending_deadlines``, ``waiting_jobs`` and ``threads`` are of now.
    """

    #: The process.
    pid: int
    #: How requests have come: ``"wsgi"``, ``"asgi"``.
    interfaces: "Tuple[str, ...]"
    #: Responses whose transaction has begun and not ended. Under ASGI those of Django that
    #: are not streaming end with the application, and are not among them.
    open_responses: int
    #: The most that ``open_responses`` has been.
    peak_open_responses: int
    #: Responses whose transaction has ended early (``timed_out``, ``evicted``), and which
    #: the server has not closed yet.
    left_open: int
    #: Streaming responses that have ended, by outcome. ``continued`` counts the parts of
    #: long streams, each of which ends in another outcome as well.
    streaming: "Dict[str, int]"
    #: The responses that are not streaming, by outcome; ``failed``: also requests for which
    #: the application raised instead of making a response.
    plain: "Dict[str, int]"
    #: Spans that were made after the transaction of their response had ended early. Counted
    #: when the response is closed. Static lifecycle only: in the other one none is lost.
    lost_spans: int
    #: Faults of this package's own, each logged and swallowed. Please report them.
    internal_errors: int
    #: Responses that have a deadline.
    pending_deadlines: int
    #: Transactions of such responses that no thread has begun to send. If these become
    #: more, ``before_send_transaction`` or an event processor is slow, or hangs.
    waiting_jobs: int
    #: Threads that this package has started; 0: it has none yet, or none can run.
    threads: int

    def as_dict(self) -> "Dict[str, Any]":
        """Return all of it as a dict, ready for ``json.dumps``."""
        return {**self._asdict(), "interfaces": list(self.interfaces)}


def stats() -> Stats:
    """Return what has happened in this process.

    Takes microseconds, and four short locks; may be called from any thread.
    """
    left_open = registry.left_open()
    pending, waiting, threads = scheduler.load()
    with counters.lock:
        return Stats(
            os.getpid(),
            tuple(name for name in ("wsgi", "asgi") if getattr(counters, name)),
            len(registry),
            registry.peak,
            left_open,
            dict(counters.streaming),
            dict(counters.plain),
            counters.lost_spans,
            counters.internal_errors,
            pending,
            waiting,
            threads,
        )


__name__ = hidden(__name__)
