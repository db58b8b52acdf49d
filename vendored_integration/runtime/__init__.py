"""The hand-written half of the integration, the same for every SDK release.

The generated half (``vendored_integration._vendor``) is upstream's code with a
few lines changed; those lines call in here as early as they can:

* :mod:`.middleware` suspends upstream's middleware while the response is open;
* :mod:`.response` is what the server gets: it counts, and notices ``close()``;
* :mod:`.record` measures one open response, and ends its transaction, once;
* :mod:`.suspended` is the record of a WSGI response: it resumes the middleware;
* :mod:`.parts` sends a transaction early, or in parts, while its request goes on;
* :mod:`.registry` knows all open responses: eviction, process exit, fork;
* :mod:`.scheduler` runs deadlines: one timer thread, a few workers;
* :mod:`.body` lets a Django body run in the context that it was created in;
* :mod:`.context` holds the rules for entering and copying contexts;
* :mod:`.trace_stream` gives a generator a span, on request of the user;
* :mod:`.sdk` is all that depends on the SDK's two trace lifecycles;
* :mod:`.options` checks what the user passed;
* :mod:`.counters` counts what happens, and :mod:`.stats` tells it.

Shared by threads, and the rule that protects it:

* ``Registry._open``, ``_ended_early``, ``_exit_handler_set``, ``peak``; ``early_outcome``
  of a record while that is registered: the registry's lock. ``len()`` and ``in`` do
  without: one operation, whose answer is old as soon as it is there.
* ``Scheduler._buckets``, ``_next_tick``, ``_workers``, ``_idle``; ``Entry._tick``: the
  scheduler's lock. ``_started``, ``_inline``, ``_wake_timer``, ``_tokens``: written once,
  under that lock, ``_started`` last (``_inline`` is set later if no thread can be started,
  and stays). ``_jobs``: a deque, of which only ``append`` and ``popleft`` are used.
* ``Record._over``, ``_unsent``, ``_parts``, ``_links``, ``_sending_due``,
  ``SuspendedRecord._suspended``, and the root span while it is doubled: the lock of
  :mod:`.record`, one for all records. A sender's ``_sending_due = False`` does without.
* ``Record.measured``: written by whoever iterates the body, one number after the other,
  and read by a deadline: the numbers may be those of two neighbouring chunks.
* ``PartRecorder.spans``: a list, to which threads append; what is taken out is a slice
  from its beginning, exchanged in one operation.
* :class:`.counters.Counters`, ``LateSpans.count``: the counters' lock.
* a ``Context`` that is entered refuses a second thread: see :func:`.context.run_in`.
* ``sigterm._given_up``, ``_main_thread_asked``, ``django._set_up``: flags. Two threads may
  both do what is done once, to the same effect.
* ``BoundedTransport``: the lock of its ledger, and the SDK's queue.

All else belongs to one request, and is used by whoever runs a step of it; or is written
at import. After a fork the child has new locks, see ``after_fork_in_child``.

The locks are reentrant: the garbage collector may run while one is held, and finalize
what takes it, or another one, again (of all threads, only one collects at a time).
Otherwise none is held while another one is taken, save the counters', which is the
innermost; nor while foreign code runs.

What is called one operation here is one of a built-in type, in C, with keys that have no
``__eq__`` of their own: atomic by the GIL. Builds of Python without a GIL promise the
same of each of these, but neither the SDK nor this project is tested with them.
"""

from .middleware import close_aware, is_disposal
from .response import _ScopedResponse

__all__ = ["_ScopedResponse", "close_aware", "is_disposal"]
