"""What the whole process shares: one lock, what a fork does to it, and the log.

``lock`` protects the registry of open responses, their deadlines, their state, the
root span while a copy of it is made, the workers' numbers and the counters. It is
held for a few statements and never while foreign code runs. It is reentrant: the
garbage collector may run while it is held, and what that finalizes may close another
response.
"""

import contextlib
import gc
import logging
import os
import sys
import threading
from collections import Counter
from typing import Any, Callable, Dict, List, Optional

import sentry_sdk.integrations.logging as sdk_logging

#: The lock of this package; see above.
lock = threading.RLock()

#: Called in the child of a fork, in this order, with the lock held.
after_fork_in_child: "List[Callable[[], None]]" = []


def _after_fork_in_child() -> None:
    try:
        for function in after_fork_in_child:
            function()
    finally:
        # uWSGI (py-call-osafterfork) calls this one, and not what comes before a fork.
        if lock._is_owned():  # type: ignore[attr-defined]
            lock.release()


if hasattr(os, "register_at_fork"):
    # The forking thread takes the lock: no other thread leaves it locked, or what it
    # protects half changed, in the child.
    os.register_at_fork(
        before=lock.acquire,
        after_in_parent=lock.release,
        after_in_child=_after_fork_in_child,
    )


class _Logger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """Logs, and does not raise what a handler raises."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Delegate to the logger."""
        # A handler of the user's, or an error that not even Python can print.
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, **kwargs)


logger = _Logger(logging.getLogger("vendored_integration"), {})

# The SDK makes an event of every logged error. A fault in finishing one event must not
# cause another event.
# In SDK 3 ignore_logger() is about Sentry's logs, and another function about events.
getattr(sdk_logging, "ignore_logger_for_events", sdk_logging.ignore_logger)(logger.name)

#: What has happened in this process: see :mod:`.stats`. To be changed with the lock held,
#: unless by a single operation.
counts: "Counter[Any]" = Counter()
after_fork_in_child.append(counts.clear)


def internal_error(message: str) -> None:
    """Log and count an error of our own that is being handled, and goes no further."""
    with lock:
        counts["internal_errors"] += 1
    logger.exception(message, stacklevel=2)


# The thread that the garbage collector is running in, if it is running.
_collector: "Optional[int]" = None


def _notice_collection(phase: str, info: "Dict[str, Any]") -> None:
    global _collector
    _collector = threading.get_ident() if phase == "start" else None


gc.callbacks.append(_notice_collection)


def is_collecting() -> bool:
    """Whether the garbage collector is running in this thread.

    A ``__del__`` that it calls may have interrupted any code, also code that holds a
    lock which an event processor of the user's wants.
    """
    return _collector == threading.get_ident()


def hide_frames() -> None:
    """Have the SDK take the frames of this package's runtime for its own.

    The SDK leaves its own frames out of stack traces, and never names them as the source
    of a query. It knows them by their module's name, ``frame.f_globals["__name__"]``,
    alone (``should_hide_frame`` in ``sentry_sdk/utils.py``, ``add_query_source`` in
    ``sentry_sdk/tracing_utils.py``). Imports, pickling and ``__module__`` of what a module
    has defined go by other names, which stay true.

    To be called when modules of the package have been imported.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(("vendored_integration.runtime", "vendored_integration.asgi")) or (
            name == "vendored_integration.executor"
        ):
            vars(module)["__name__"] = "sentry_sdk." + name
