"""The numbers of this process: ``vendored_integration.stats()``."""

import dataclasses
import os
from typing import Any, Dict, Tuple

from .process import counts, lock

#: How a response may end; see README.md. ``continued`` is that of a part.
OUTCOMES = ("completed", "continued", "cancelled", "failed", "timed_out", "abandoned", "evicted")


@dataclasses.dataclass(frozen=True)
class Stats:
    """What has happened in one process since it began (or was forked), and what goes on.

    A copy: it does not change. The counts only ever grow; ``open_responses``,
    ``left_open``, ``pending_deadlines``, ``waiting_jobs`` and ``threads`` are of now.
    """

    #: The process.
    pid: int
    #: How requests have come: ``"wsgi"``, ``"asgi"``.
    interfaces: "Tuple[str, ...]"
    #: Responses whose transaction has begun and not ended: those that are streaming, and
    #: with ``finish_on="close"`` under WSGI all others.
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
        return {**dataclasses.asdict(self), "interfaces": list(self.interfaces)}


def count_response(streaming: bool, outcome: str) -> None:
    """A response, or a part of one, has ended. To be called once for each."""
    with lock:
        counts[streaming, outcome] += 1


def stats() -> Stats:
    """Return what has happened in this process.

    Takes microseconds; may be called from any thread.
    """
    from .registry import registry, workers

    with lock:
        return Stats(
            pid=os.getpid(),
            interfaces=tuple(name for name in ("wsgi", "asgi") if counts[name]),
            open_responses=len(registry.open),
            peak_open_responses=counts["peak"],
            left_open=len(registry.detached),
            streaming={outcome: counts[True, outcome] for outcome in OUTCOMES},
            # It has no parts.
            plain={o: counts[False, o] for o in OUTCOMES if o != "continued"},
            lost_spans=counts["lost_spans"],
            internal_errors=counts["internal_errors"],
            pending_deadlines=len(registry.deadlines),
            waiting_jobs=workers.waiting(),
            threads=0 if workers.inline else workers.threads,
        )
