"""The record of one response: what is measured, and how its transaction ends.

A transaction ends once, in one of two ways:

* with its response (``close``, ``fail``, ``abandon``): upstream's middleware,
  suspended since the application returned, is resumed and leaves its own
  ``with`` blocks: the span is finished, the session ended, the scopes restored;
* early (``expire``, ``evict``), while the response stays open: only the span is
  finished, and the middleware is resumed later, when the response is closed.

Which one it is, is decided by taking the record out of the registry. Finishing
runs hooks of the user (``before_send_transaction``), which may hang; so nobody
waits for somebody else's finishing: a ``close`` that comes during an early
ending leaves the resuming to the thread that is at it.

A record never refers to the response that the server holds, so that the garbage
collector can tell when the server has dropped that.
"""

import os
import threading
import weakref
from contextvars import Context
from time import perf_counter
from types import TracebackType
from typing import Any, Callable, Dict, Generator, List, NamedTuple, Optional

from . import sdk
from .body import BodyContext
from .context import publish, run_in
from .frames import hidden
from .log import logger
from .options import Options
from .registry import registry
from .scheduler import Entry, scheduler

#: Protects ``_early``, ``_close_wanted`` and ``_suspended`` of all records: an
#: early ending and the close of the same response may meet. Held for a few
#: instructions, never while foreign code runs.
_lock = threading.Lock()

# States of an early ending (``Record._early``).
_NO, _DECIDED, _RUNNING, _DONE = range(4)

#: Milliseconds in a second.
_MS = 1e3


class Progress(NamedTuple):
    """What has been measured of a body so far; times in seconds of ``perf_counter``."""

    chunks: int
    #: Bytes; ``None``: nobody knows.
    size: "Optional[int]"
    #: When the first chunk was there.
    first_chunk: float
    #: Spent within the body.
    produce_time: float
    #: Spent between two chunks.
    send_time: float


_NO_PROGRESS = Progress(0, 0, 0.0, 0.0, 0.0)


def _no_progress() -> Progress:
    return _NO_PROGRESS


class StartResponse:
    """The server's ``start_response``, and what the application has told it.

    The suspended middleware holds this, and must not hold the server's handler,
    which may hold the response (wsgiref's does): a response that the server drops
    would never be free. So the server's function is held weakly once there is a
    response, which then holds it.
    """

    __slots__ = ("headers", "server", "_weak")

    def __init__(self, server: "Callable[..., Any]") -> None:
        self.server: "Optional[Callable[..., Any]]" = server
        self._weak: "Optional[weakref.ref[Any]]" = None
        #: The headers, once the application has called start_response.
        self.headers: "List[Any]" = []

    def __call__(self, status: str, headers: "List[Any]", *exc_info: Any) -> Any:
        self.headers = headers
        server = self.server
        if server is None and self._weak is not None:
            server = self._weak()
        if server is None:
            return _discard  # the response has been dropped
        return server(status, headers, *exc_info)

    def weaken(self) -> Any:
        """Return the server's function, for the caller to hold."""
        server = self.server
        try:
            self._weak = weakref.ref(server)
        except TypeError:
            return None  # cannot be held weakly
        self.server = None
        return server


def _discard(data: bytes) -> None:
    """The ``write()`` of a response that is no more."""


class Record(Entry):
    """One response between the application's return and the end of its transaction."""

    __slots__ = (
        "_suspended",
        "_context",
        "_published",
        "_span",
        "_early",
        "_outcome",
        "_close_wanted",
        "_process",
        "_method",
        "_start_response",
        "body",
        "streaming",
        "started",
        "returned",
        "progress",
        "exhausted",
    )

    def __init__(
        self,
        suspended: "Generator[Any, Any, Any]",
        context: Context,
        started: float,
        method: str,
        start_response: StartResponse,
        streaming: bool,
        body: "Optional[BodyContext]",
    ) -> None:
        super().__init__()
        self._suspended: "Optional[Generator[Any, Any, Any]]" = suspended
        self._context = context
        self._published = context.copy()
        self._span = context.run(sdk.root_span)
        self._early = _NO
        self._outcome = ""
        self._close_wanted = False
        self._process = registry.process
        self._method = method
        self._start_response = start_response
        self.body = body
        if body is not None:
            sdk.share_scopes(context, body.context)
            body.begin()
        self.streaming = streaming
        self.started = started
        self.returned = perf_counter()
        #: Returns what has been measured so far; replaced when the body is iterated.
        self.progress: "Callable[[], Progress]" = _no_progress
        self.exhausted = False

    @property
    def unfinished(self) -> bool:
        """Whether upstream's middleware is still suspended."""
        return self._suspended is not None

    def sent_by_server(self) -> None:
        """The server has read a file itself (sendfile): the header is all we know.

        Not even whether the client has stayed to the end of it.
        """
        self.exhausted = True
        if self._method != "HEAD":
            sent = _NO_PROGRESS._replace(size=self._content_length())
            self.progress = lambda: sent

    # -- opening ---------------------------------------------------------------

    def open(self, options: Options, started: float) -> None:
        """Register the response, with its deadline, and make room for it.

        :param started: the request's start, in seconds of the scheduler's clock.
        """
        evicted = registry.add(self, options.max_open_responses)
        if options.response_timeout is not None:
            scheduler.schedule(self, started + options.response_timeout)
            if self not in registry:
                scheduler.cancel(self)  # evicted in the meantime
        if evicted is not None:
            scheduler.cancel(evicted)
            evicted.evict()
            scheduler.poll()  # at once, also where no thread runs

    def return_now(self) -> None:
        """End the transaction at the application's return (``finish_on="return"``)."""
        self._resume(None)

    def weaken_start_response(self) -> Any:
        """Return the server's ``start_response``, for the response to hold."""
        return self._start_response.weaken()

    # -- the contexts ----------------------------------------------------------

    @property
    def step_context(self) -> Context:
        """The context that the steps of the body run in."""
        return self._context if self.body is None else self.body.context

    def run(self, function: Any, *args: Any) -> Any:
        """Run something of the response other than its body's steps: its ``close()``."""
        return run_in(self._context, function, *args)

    def _publish(self) -> None:
        """Let the server's context see what the application has set since."""
        if self.body is not None:
            run_in(self._context, self.body.publish)
        publish(self._context, self._published)
        self._published = self._context.copy()

    # -- endings with the response -----------------------------------------------

    def close(self) -> None:
        """The server has closed the response, and the response's own close() has run."""
        if registry.take(self):
            scheduler.cancel(self)
            self._end("completed" if self._is_complete() else "cancelled", None)
        else:
            self._close_after_early_ending()
        self._publish()

    def fail(self, error: BaseException) -> None:
        """The body, or the response's ``close()``, has raised: report and end.

        To be called while the error is being handled. The error's traceback is
        left as it was: that is what the server goes on to see.
        """
        traceback: "Optional[TracebackType]" = error.__traceback__
        if self.body is not None:
            # The body may have reported the error itself: the SDK's memory of
            # that is a context variable, too.
            run_in(self._context, self.body.publish)
        if registry.take(self):
            scheduler.cancel(self)
            self._end("failed", error)
        else:
            run_in(self._context, sdk.capture_exception, self._span)
        error.__traceback__ = traceback
        self._publish()

    def abandon(self) -> None:
        """Nobody will close the response: it was dropped, or the process ends."""
        if registry.take(self):
            scheduler.cancel(self)
            self._end("abandoned", None)
        else:
            self._close_after_early_ending()

    def _end(self, outcome: str, error: "Optional[BaseException]") -> None:
        try:
            self._annotate(outcome)
        finally:
            self._resume(error)

    def _resume(self, error: "Optional[BaseException]") -> None:
        if self._process != registry.process:
            return  # forked since: the parent ends it
        with _lock:
            suspended, self._suspended = self._suspended, None
        if suspended is None:
            return
        try:
            run_in(self._context, _resume, suspended, error)
        finally:
            if self._early:
                registry.release(self)

    # -- early endings ---------------------------------------------------------

    def expire(self) -> None:
        """``response_timeout`` has passed. On a worker thread."""
        if registry.take(self, early=True):
            self._decide("timed_out")
            self._end_early()

    def evict(self) -> None:
        """Too many responses are open, and this is the oldest: it was taken out."""
        self._decide("evicted")
        scheduler.submit(self._end_early)

    def _decide(self, outcome: str) -> None:
        with _lock:
            self._outcome = outcome
            self._early = _DECIDED
            close_wanted = self._close_wanted
        if close_wanted:
            # The response was closed between the taking and the deciding.
            scheduler.submit(self._close_after_early_ending)

    def _end_early(self) -> None:
        with _lock:
            if self._early != _DECIDED:
                return
            self._early = _RUNNING
        try:
            # In a copy: the server's thread may be in the context, or want to
            # enter it for the next step.
            self._context.copy().run(self._finish_span)
        finally:
            with _lock:
                self._early = _DONE
                close_wanted = self._close_wanted
            if close_wanted:
                self._resume(None)

    def _finish_span(self) -> None:
        span = self._span
        if span is None:
            return
        try:
            self._annotate(self._outcome)
        finally:
            sdk.finish_early(span)

    def _close_after_early_ending(self) -> None:
        """Resume the middleware, unless another thread is at the ending: then it will."""
        if self._process != registry.process:
            return
        with _lock:
            self._close_wanted = True
            early = self._early
            if early == _DECIDED:
                self._early = _DONE
        if early == _DECIDED:
            # No worker has begun yet (all may hang): no need to wait for one.
            self._end(self._outcome, None)
        elif early == _DONE:
            self._resume(None)

    # -- what is told about the response -----------------------------------------

    def _is_complete(self) -> bool:
        """Whether a closed response had been sent as far as it was to be sent."""
        if self.exhausted or self._method == "HEAD":
            return True
        progress = self.progress()
        if not progress.chunks:
            return True
        length = self._content_length()
        return length is not None and (progress.size or 0) >= length

    def _content_length(self) -> "Optional[int]":
        try:
            for name, value in self._start_response.headers:
                if name.lower() == "content-length":
                    return int(value)
        except (AttributeError, TypeError, ValueError):
            pass  # not what the WSGI specification allows; the server will say so
        return None

    def _annotate(self, outcome: str) -> None:
        """Put what was measured on the transaction (times in milliseconds)."""
        if not self.streaming or self._span is None:
            return
        progress = self.progress()
        data: "Dict[str, Any]" = {
            "http.response.stream.outcome": outcome,
            "http.response.stream.chunks": progress.chunks,
            "http.response.stream.produce_time": progress.produce_time * _MS,
            "http.response.stream.send_time": progress.send_time * _MS,
            "http.server.return_time": (self.returned - self.started) * _MS,
        }
        if progress.size is not None:
            data["http.response.body.size"] = progress.size
        if progress.chunks:
            data["http.response.stream.time_to_first_chunk"] = (
                progress.first_chunk - self.started
            ) * _MS
        sdk.annotate(self._span, data, outcome)


def _resume(suspended: "Generator[Any, Any, Any]", error: "Optional[BaseException]") -> None:
    """Let upstream's middleware leave its ``with`` blocks, in the request's context.

    An error is thrown into it, and comes out again; the caller raises it itself.
    The scopes are put back afterwards: the context belongs to this request alone,
    and an error that comes later (in ``close()``, after a body that failed) must
    still find them.
    """
    scopes = sdk.scope_variables()
    try:
        if error is None:
            next(suspended)
        else:
            suspended.throw(error)
    except StopIteration:
        pass
    except BaseException as raised:
        # A StopIteration of the application comes back as the cause (PEP 479).
        if raised is error or (error is not None and raised.__cause__ is error):
            pass
        elif isinstance(raised, ValueError) and "different Context" in str(raised):
            pass  # in a copy of the context, where older SDKs fail to reset scopes
        elif isinstance(raised, Exception):
            logger.exception("internal error while finishing a response")
        else:
            raise  # a signal handler's, such as the server's own SystemExit
    finally:
        sdk.restore_scopes(scopes)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

__name__ = hidden(__name__)
