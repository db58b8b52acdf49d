"""One response, from the application's return to the end of its transaction.

A response is open, then perhaps detached, then closed:

* open: its transaction goes on;
* detached: its transaction was sent early (``response_timeout``, eviction, the end of the
  process), and the response goes on;
* closed: the response has ended, and its transaction has.

Each step is made once, under the lock, whatever the server's thread, a deadline and the
garbage collector do at the same time. Sending is done outside of it: hooks of the user's
(``before_send_transaction``) may hang, and nobody waits for another one's hook.
"""

from contextvars import Context
from functools import partial
from typing import Any, Callable, Optional

import sentry_sdk.scope

from . import stats
from .body_stats import BodyStats
from .cleanup import close_new_connections
from .options import Options
from .process import counts, internal_error, lock, logger
from .registry import registry, workers

OPEN, DETACHED, CLOSED = "open", "detached", "closed"


class OpenResponse:
    """The life of one response.

    More than 7 attributes: what was given, what is measured, and the state.
    """

    def __init__(
        self,
        root: Any,
        snapshot: Context,
        options: Options,
        stats: BodyStats,
        streaming: bool,
        finish: "Optional[Callable[[Optional[BaseException]], None]]" = None,
        loop_thread: "Optional[int]" = None,
    ) -> None:
        """
        :param root: the adapter of its root span, or ``None``.
        :param snapshot: a copy of the request's context, made when no event is being
            serialised: in the midst of one the SDK's variables say that no other is sent.
        :param finish: makes upstream leave its ``with`` blocks, which ends the transaction;
            gets the error that has ended the response, if one has. ``None``: upstream does
            so by itself.
        :param loop_thread: the thread of the event loop that sends it (ASGI).
        """
        self.root = root
        self.snapshot = snapshot
        self.options = options
        self.stats = stats
        self.streaming = streaming
        self.loop_thread = loop_thread
        self._finish = finish
        self._state = OPEN
        self._detached_as = ""
        self._is_sending_part = False

    # -- opening -----------------------------------------------------------------

    def open(self) -> None:
        """Register the response, with its deadline, and make room for it."""
        options = self.options
        timeout = options.response_timeout
        if self._continues:
            if self.root is not None and self.root.collects_spans:
                self.root.watch(self._make_room)
            else:
                timeout = None  # nothing is kept until the end, and nothing lost
        try:
            oldest = registry.add(self, timeout, options.max_open_responses)
        except BaseException:
            with lock:
                self._state = CLOSED
                registry.discard(self)
            raise
        if oldest is not None:
            oldest.detach("evicted", in_background=True)

    @property
    def _continues(self) -> bool:
        return self.streaming and self.options.on_timeout == "continue"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to come: the response has ended."""
        return self._state is CLOSED

    # -- endings -------------------------------------------------------------------

    def end(self, outcome: str, error: "Optional[BaseException]" = None) -> bool:
        """The response has ended, and its transaction ends.

        :param error: what has ended it. Upstream reports it.
        :return: false if the transaction had ended before; then the error is not reported.
        """
        with lock:
            state, self._state = self._state, CLOSED
            if state is CLOSED:
                return False
            registry.discard(self)
            # (it leads back to this object)
            finish, self._finish = self._finish, None
        is_ended_here = state is OPEN
        try:
            if is_ended_here:
                self._tell(self.root, outcome)
        finally:
            if finish is not None:
                finish(error if is_ended_here else None)
        if not is_ended_here:
            self._log_late_spans()
        return is_ended_here

    def detach(self, outcome: str, in_background: bool = False) -> None:
        """Send the transaction now; the response goes on.

        :param in_background: by a worker.
        """
        with lock:
            if self._state is not OPEN:
                return
            self._state, self._detached_as = DETACHED, outcome
            registry.detach(self)
            copied = None if self.root is None else self.root.detach()
        if in_background:
            workers.submit(partial(self._send, copied, outcome))
            workers.poll()  # at once, also where no thread runs
        else:
            self._send(copied, outcome)

    def abandon(self) -> None:
        """Nobody will close the response: it was dropped, or the process ends."""
        if self._finish is None:
            self.detach("abandoned")
        else:
            with close_new_connections():
                self.end("abandoned")

    def expire(self) -> None:
        """``response_timeout`` has passed. Called by a worker."""
        timeout = self.options.response_timeout
        if self._continues and timeout is not None:
            self._send_part_that_is_due(timeout)
        else:
            self.detach("timed_out")

    def disown(self) -> None:
        """The process was forked: the parent ends this response."""
        self._state = CLOSED

    def _tell(self, root: Any, outcome: str) -> None:
        stats.count_response(self.streaming, outcome)
        if self.streaming and root is not None:
            data = {"http.response.stream.outcome": outcome, **self.stats.data()}
            root.annotate(data, outcome, self.options.stream_op)

    def _send(self, root: Any, outcome: str) -> None:
        try:
            self._tell(root, outcome)
        finally:
            if root is not None:
                with close_new_connections():
                    root.send(self.snapshot)

    def _log_late_spans(self) -> None:
        count = 0 if self.root is None else self.root.late_spans()
        if count:
            with lock:
                counts["lost_spans"] += count
            logger.warning(
                "%d span(s) of %r were made after its transaction had ended (%s), and are "
                'lost; on_timeout="continue" keeps those after a response_timeout',
                count,
                getattr(self.root.span, "name", None),
                self._detached_as,
            )

    # -- parts -----------------------------------------------------------------

    def _send_part_that_is_due(self, timeout: float) -> None:
        with lock:
            if self._state is not OPEN:
                return
            registry.set_deadline(self.expire, timeout)
            if self._is_sending_part:
                return  # the user's hook hangs: one worker is enough
            part = self._begin_next_part()
            self._is_sending_part = True
        try:
            self._send(part, "continued")
        finally:
            self._is_sending_part = False

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
            if self._state is not OPEN or not self._continues:
                return False  # (under ASGI the first message of the body tells if it streams)
            if not self.root.is_full:
                return True  # another thread has made room
            if not self.root.is_worth_sending:
                return False
            part = self._begin_next_part()
        finally:
            lock.release()
        try:
            self._send(part, "continued")
        except Exception:
            internal_error("internal error while sending a part of a transaction")
        return True

    def _begin_next_part(self) -> Any:
        return self.root.begin_next(self.snapshot[sentry_sdk.scope._isolation_scope])
