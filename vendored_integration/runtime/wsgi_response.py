"""What a WSGI server gets for a response.

For a plain response that is a :class:`_ScopedResponse`, which only iterates and closes in the
request's context. An open one also counts, and notices how it ends.

The server cannot tell the difference: the same chunks, the same exceptions, one ``close()``
of the application's response for each of the server's. A response and its iterator are
classes and not generators: a generator that is closed before its first ``next()`` never runs
its ``finally``, and cannot tell a ``close()`` from being dropped.
"""

import contextlib
import sys
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Callable, Iterator, Optional

from . import spans
from .contexts import RequestContext, is_entry_refused
from .process import internal_error, is_collecting
from .reported import reports_errors

if TYPE_CHECKING:
    from .wsgi_request import WsgiRequest


class _ScopedResponse:
    """A plain response, iterated and closed in its request's context.

    It bears the name, and takes the arguments, of the class that it replaces in upstream's
    module. Its transaction has ended. Upstream's own, without a request, is thrown away.
    """

    __slots__ = ("_response", "_request", "__weakref__")

    def __init__(
        self, scope: Any, response: Any, request: "Optional[RequestContext]" = None
    ) -> None:
        self._response = response
        self._request: Any = request

    @reports_errors
    def __iter__(self) -> "Iterator[Any]":
        run = self._request.run
        try:
            iterator = run(iter, self._response)
            while True:
                try:
                    chunk = run(next, iterator)
                except StopIteration:
                    return
                yield chunk
        except GeneratorExit:
            raise
        except BaseException:
            run(spans.capture_exception, self._request.root)
            raise

    @reports_errors
    def close(self) -> None:
        close = getattr(self._response, "close", None)
        if close is None:
            return
        try:
            self._request.run(close)
        except BaseException:
            self._request.run(spans.capture_exception, self._request.root)
            raise
        finally:
            # The next request in this thread must not find what close() has reset.
            self._request.publish()


def scoped_response(response: Any, request: RequestContext) -> _ScopedResponse:
    """Return what the server gets for a plain response."""
    kind = _SizedScopedResponse if hasattr(type(response), "__len__") else _ScopedResponse
    return kind(None, response, request)


class _SizedScopedResponse(_ScopedResponse):
    """For a response with a length: servers derive Content-Length from a length of 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._response)


class _OpenScopedResponse(_ScopedResponse):
    """An open response: it counts, and notices its end."""

    __slots__ = ()

    def __iter__(self) -> "Iterator[Any]":
        return _Body(self, self._request, self._request.iterate(self._response))

    def close(self) -> None:
        self._request.close(getattr(self._response, "close", None))

    def __del__(self, is_finalizing: "Callable[[], bool]" = sys.is_finalizing) -> None:
        if is_finalizing():
            return  # the process has ended all that was open, and half of the modules are gone
        try:
            # If this was the last to hold the body, that is cleaned up now: in its own
            # context, and not in that of a request which happens to be running; and before
            # its transaction ends. What the collector breaks may still close this.
            if not is_collecting():
                self._request.run(delattr, self, "_response")
            self._request.drop()
        except Exception:
            internal_error("internal error while a response is collected")


class _SizedOpenScopedResponse(_OpenScopedResponse):
    """As :class:`_SizedScopedResponse`."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._response)


class _Body:
    """The iterator of an open response: the hot path, all that a chunk costs."""

    __slots__ = ("_response", "_request", "_stats", "_next", "_step")

    def __init__(self, response: Any, request: "WsgiRequest", iterator: "Iterator[Any]") -> None:
        # Keeps the response from being collected as long as it is iterated.
        self._response = response
        self._request = request
        self._stats = request.opened.stats
        self._next: "Callable[[], Any]" = iterator.__next__
        # The same in the request's context; request.run() would cost a call.
        self._step: "Callable[[], Any]" = partial(request.context.run, self._next)

    def __iter__(self) -> "_Body":
        return self

    @reports_errors
    def __next__(self) -> Any:
        stats = self._stats
        started = perf_counter()
        try:
            try:
                chunk = self._step()
            except RuntimeError as error:
                if not is_entry_refused(error):
                    raise
                chunk = self._request.run(self._next)  # somebody is in the context
        except StopIteration:
            stats.end_step(started)
            self._request.exhaust()
            raise
        except BaseException as error:
            stats.end_step(started)
            self._request.fail(error)
            raise
        stats.last_step = now = perf_counter()
        stats.produce_time += now - started
        try:
            size = len(chunk)
        except TypeError:
            return chunk  # not bytes: the server says so
        stats.count(size, now)
        return chunk

    def close(self) -> None:
        """Nothing more is read: of a generator that does ``yield from`` and is closed."""
        if not self._request.is_exhausted:
            self._request.is_cut_short = True
        self._request.run(self._release)

    def _release(self) -> None:
        self._next = self._step = _end

    def __del__(self) -> None:
        # As in _OpenScopedResponse: this may be the last to hold the body.
        self._request.run(self._release)


def _end() -> Any:
    """Stand in for the next step of a body that was let go."""
    raise StopIteration


class _CloseHook:
    """The ``close`` attribute of a file response, which is the server's object."""

    __slots__ = ("_close", "_request")

    def __init__(self, response: Any, request: "WsgiRequest") -> None:
        """
        :raises AttributeError: the response takes no ``close``.
        """
        close = getattr(response, "close", None)
        if isinstance(close, _CloseHook):
            close = close._close  # a file that is handed out again is hooked once
        self._close: "Optional[Callable[[], Any]]" = close
        response.close = self
        self._request = request

    def __call__(self) -> None:
        self._request.read_by_server()
        self._request.close(self._close)

    def __del__(self, is_finalizing: "Callable[[], bool]" = sys.is_finalizing) -> None:
        request = getattr(self, "_request", None)
        if request is not None and not is_finalizing():
            request.drop()


def open_scoped_response(response: Any, request: "WsgiRequest", file_wrapper: Any) -> Any:
    """Return what the server gets for an open response.

    :param file_wrapper: ``environ["wsgi.file_wrapper"]``, or ``None``.
    """
    # (in the request's context: a file may have to be fetched first)
    if file_wrapper is not None and request.run(_is_file, response, file_wrapper):
        # Where it takes no attribute, the server can do without sendfile().
        with contextlib.suppress(AttributeError):
            _CloseHook(response, request)
            return response
    kind = _SizedOpenScopedResponse if hasattr(type(response), "__len__") else _OpenScopedResponse
    return kind(None, response, request)


def _is_file(response: Any, file_wrapper: Any) -> bool:
    """Whether the server wants this very object back, to send a file by itself.

    :param file_wrapper: ``environ["wsgi.file_wrapper"]``.

    gunicorn, waitress and wsgiref test for their own class. uWSGI's wrapper is a function
    that returns the file itself, and compares identities. What has a ``read()`` and no file
    of the system below it (a download from elsewhere, a generated one) is the
    application's code, which the server iterates as any other response.
    """
    if isinstance(file_wrapper, type):
        return isinstance(response, file_wrapper) and _has_file(response)
    return getattr(response, "fileno", None) is not None


def _has_file(wrapper: Any) -> bool:
    """Whether the server reads what is in its wrapper itself, as far as one can tell."""
    file = getattr(wrapper, "filelike", None)
    if file is not None:  # gunicorn's, which asks in the same way, and wsgiref's
        try:
            return isinstance(file.fileno(), int)
        except Exception:
            return False
    file = getattr(wrapper, "file", None)
    if file is not None and hasattr(wrapper, "prepare"):  # waitress's
        return hasattr(file, "seek") and hasattr(file, "tell")
    return True
