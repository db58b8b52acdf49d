"""What the server gets in place of the application's response.

The server cannot tell the difference: the same chunks, the same exceptions, one
``close()`` of the application's response for each of the server's, in the same
order, ``len()`` where the response has one. A class and not a generator: a
generator that is closed before its first ``next()`` never runs its ``finally``.

A file response (``wsgi.file_wrapper``) is not wrapped at all, since servers look
for their very own object; its ``close`` attribute is hooked instead.
"""

import copy
import sys
from time import perf_counter
from typing import Any, Callable, Iterator, List, Optional, Union

from .body import attribute
from .context import entry_refused, run_in
from .frames import hidden
from .log import internal_error
from .record import Measured
from .scheduler import scheduler
from .suspended import SuspendedRecord


class _Probe:
    """Tells what the reference count is in a ``__del__`` that ends the last reference."""

    seen: "List[int]" = []

    def __del__(self) -> None:
        self.seen.append(sys.getrefcount(self))


_Probe()
_REFERENCES_AT_THE_END = _Probe.seen[0]


class _ScopedResponse:
    """The application's response, iterated and closed in the request's context.

    It bears the name, and takes the arguments, of the class that it replaces in
    upstream's module. ``record`` is what the replaced class did not have; without
    it (upstream's code makes one after the response has ended) it only passes
    everything through.
    """

    __slots__ = ("_response", "_record", "_start_response", "__weakref__")

    def __init__(
        self, scope: Any, response: Any, record: "Optional[SuspendedRecord]" = None
    ) -> None:
        self._response = response
        self._record = record
        self._start_response = None if record is None else record.weaken_start_response()

    def __iter__(self) -> "Iterator[Any]":
        record = self._record
        if record is None:
            return iter(self._response)
        # iter() does work of the application, too: Django runs an async body
        # from beginning to end there.
        started = perf_counter()
        try:
            iterator = record.iterate(self._response)
        except BaseException as error:
            _fail(record, error)
            raise
        if not record.streaming:
            return _plain_steps(self, record, iterator)
        # A response may be iterated more than once (its iterators go on counting).
        record.measured = copy.copy(record.measured)
        record.measured.produce_time += perf_counter() - started
        return _steps(self, record, record.measured, iterator)

    def close(self) -> None:
        record = self._record
        if record is None:
            _close(self._response)
        else:
            # A server's handler may hold this response: no cycle after close().
            self._start_response = None
            _close_with(record, _close, self._response)

    def __del__(self) -> None:
        _dropped(self)
        record: "Optional[SuspendedRecord]" = getattr(self, "_record", None)
        if record is None:
            return
        try:
            # Not if the collector breaks a cycle: others in it may go on to close this.
            if sys.getrefcount(self) <= _REFERENCES_AT_THE_END:
                # If it was the last to hold the body, that is cleaned up now: in its own
                # context, and not in that of a request which happens to be running.
                run_in(record.context, delattr, self, "_response")
        except Exception:
            internal_error("internal error while a response is collected")


def _plain_steps(
    owner: _ScopedResponse, record: SuspendedRecord, iterator: "Iterator[Any]"
) -> "Iterator[Any]":
    """Iterate a response whose body is there already: nothing of it is measured."""
    context = record.context
    while True:
        try:
            chunk = run_in(context, next, iterator)
        except StopIteration:
            return
        except BaseException as error:
            _fail(record, error)
            raise
        yield chunk


#: Reading the clock twice is half of what a chunk costs. So a quick response, one that
#: gives a _GROUP of chunks in less than _QUICK seconds, is timed chunk by chunk only for one
#: group in _GROUPS; the others are timed as a whole, and their time is shared out as
#: in that one. The first group that is not quick makes it a slow response for good.
_GROUP = range(16)
_GROUPS = 16
_QUICK = 16e-3


def _steps(
    owner: _ScopedResponse, record: SuspendedRecord, measured: Measured, iterator: "Iterator[Any]"
) -> "Iterator[Any]":
    """Iterate a response. That this frame holds ``owner`` keeps it from being collected.

    The loops are the hot path, all that a chunk costs. The sums are local variables, and
    are written down at each chunk: a deadline may want to know them.
    """
    run, clock = record.context.run, perf_counter
    produce_time, send_time = measured.produce_time, measured.send_time
    quick = True
    ended = clock()
    try:
        while True:
            lengths = measured.sum_up()
            produced_before, sent_before = produce_time, send_time
            for _ in _GROUP:
                started = clock()
                measured.send_time = send_time = send_time + started - ended
                try:
                    chunk = run(next, iterator)
                except StopIteration:
                    measured.produce_time = produce_time + clock() - started
                    _exhaust(record)
                    return
                except BaseException as error:
                    if not entry_refused(error):
                        measured.produce_time = produce_time + clock() - started
                        _fail(record, error)
                        raise
                    try:
                        # Somebody else is in the context of the steps.
                        chunk = run_in(record.context, next, iterator)
                    except StopIteration:
                        _exhaust(record)
                        return
                    except BaseException as error:
                        _fail(record, error)
                        raise
                ended = clock()
                measured.produce_time = produce_time = produce_time + ended - started
                if not measured.first_chunk:
                    measured.first_chunk = ended
                try:
                    lengths.append(len(chunk))
                except Exception:
                    lengths.append(0)  # not bytes: the server will say so
                yield chunk
            if not quick:
                continue
            produced, sent = produce_time - produced_before, send_time - sent_before
            if produced + sent >= _QUICK:
                continue  # the first chunk may be slow
            began = clock()
            send_time += began - ended
            ended = began
            share = produced / (produced + sent) if produced else 0.0
            for _ in range(_GROUPS - 1):
                lengths = measured.sum_up()
                for _ in _GROUP:
                    try:
                        chunk = run(next, iterator)
                    except StopIteration:
                        spent = clock() - ended
                        measured.produce_time = produce_time + spent * share
                        measured.send_time = send_time + spent - spent * share
                        _exhaust(record)
                        return
                    except BaseException as error:
                        if not entry_refused(error):
                            measured.produce_time = produce_time + clock() - ended
                            _fail(record, error)
                            raise
                        break  # the other loop knows what to do
                    try:
                        lengths.append(len(chunk))
                    except Exception:
                        lengths.append(0)
                    yield chunk
                began, ended = ended, clock()
                spent = ended - began
                measured.produce_time = produce_time = produce_time + spent * share
                measured.send_time = send_time = send_time + spent - spent * share
                quick = spent < _QUICK
                if not quick:
                    break
    finally:
        # As in __del__: this may be the last to hold it.
        last = [iterator]
        del iterator
        run_in(record.context, last.clear)


class _SizedScopedResponse(_ScopedResponse):
    """For a response with a length: servers derive Content-Length from a length of 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._response)


class _CloseHook:
    """The ``close`` attribute of a file response, which is the server's object."""

    __slots__ = ("_close", "_record", "_start_response")

    def __init__(self, response: Any, record: SuspendedRecord) -> None:
        """
        :raises Exception: whatever the response raises if it takes no ``close``.
        """
        close = getattr(response, "close", None)
        if isinstance(close, _CloseHook):
            close = close._close  # a file that is handed out again is hooked once
        self._close: "Optional[Callable[[], Any]]" = close
        response.close = self
        self._record = record
        self._start_response = record.weaken_start_response()

    def __call__(self) -> None:
        self._record.sent_by_server()
        self._start_response = None
        _close_with(self._record, self._close or _nothing)

    def __del__(self) -> None:
        _dropped(self)


def _close(response: Any) -> None:
    close = getattr(response, "close", None)
    if close is not None:
        close()


def _nothing() -> None:
    pass


def _close_with(record: SuspendedRecord, close: "Callable[..., Any]", *args: Any) -> None:
    """Close the application's response first, and end its transaction then."""
    try:
        record.leave_body()
    except Exception:
        internal_error("internal error while finishing a response")
    try:
        record.run(close, *args)
    except BaseException as error:
        _fail(record, error)
        raise
    try:
        record.close()
    except Exception:
        internal_error("internal error while finishing a response")


def _fail(record: SuspendedRecord, error: BaseException) -> None:
    """Report an error of the application, which the caller then raises."""
    try:
        record.fail(error)
    except Exception:
        internal_error("internal error while reporting an error")


def _exhaust(record: SuspendedRecord) -> None:
    """A streaming body has come to its end."""
    try:
        record.exhaust()
    except Exception:
        internal_error("internal error at the end of a body")


def _dropped(owner: "Union[_ScopedResponse, _CloseHook]") -> None:
    """A response is being collected. Without a close(), nobody will end it any more.

    It is not ended here: the garbage collector may run anywhere, also while a
    lock is held that an event processor of the user wants.
    """
    record: "Optional[SuspendedRecord]" = getattr(owner, "_record", None)
    if record is not None and record.unfinished:
        scheduler.submit(record.abandon)


#: A name that no object has of its own.
_NO_ATTRIBUTE = "vendored_integration asks for this"


def is_file_response(response: Any, file_wrapper: Any) -> bool:
    """Whether the server wants this very object back, to send a file by itself.

    :param file_wrapper: ``environ["wsgi.file_wrapper"]``, or ``None``.

    gunicorn, waitress and wsgiref test for their own class. uWSGI's wrapper is a
    function that returns the file itself, and compares identities. What has a ``read()``
    and no file of the system below it (a download from elsewhere, a generated one) is the
    application's code, which the server iterates as any other response.
    """
    if file_wrapper is None:
        return False
    try:
        if isinstance(file_wrapper, type):
            return isinstance(response, file_wrapper) and _has_file(response)
        if getattr(response, "fileno", None) is None:
            return False
        # What answers to every name (a mock, a remote proxy) says nothing by it.
        return hasattr(type(response), "fileno") or not hasattr(response, _NO_ATTRIBUTE)
    except Exception:
        return False  # an object that cannot be asked


def _has_file(wrapper: Any) -> bool:
    """Whether the server reads what is in its wrapper itself, as far as one can tell."""
    file = getattr(wrapper, "filelike", None)
    if file is not None:  # gunicorn's, which asks in the same way, and wsgiref's
        return type(file.fileno()) is int
    file = getattr(wrapper, "file", None)
    if file is not None and hasattr(wrapper, "prepare"):  # waitress's
        return hasattr(file, "seek") and hasattr(file, "tell")
    return True


def is_streaming(response: Any) -> bool:
    """Whether a response makes its chunks as it goes along.

    Django says so itself; of any other, whatever is not a plain sequence may.
    """
    streaming = attribute(response, "streaming")
    # By their types: isinstance() may ask an object, which may raise.
    if type(streaming) is bool:
        return bool(streaming)
    return not issubclass(type(response), (list, tuple))


def close_aware_response(response: Any, record: SuspendedRecord, file_wrapper: Any) -> Any:
    """Return what to hand to the server for an application's response."""
    # (in the request's context: a file may have to be fetched first)
    if file_wrapper is not None and record.run(is_file_response, response, file_wrapper):
        try:
            _CloseHook(response, record)
        except Exception:
            pass  # the server can do without sendfile()
        else:
            return response
    if hasattr(type(response), "__len__"):
        return _SizedScopedResponse(None, response, record)
    return _ScopedResponse(None, response, record)


__name__ = hidden(__name__)
