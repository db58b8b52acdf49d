"""Upstream's WSGI middleware, as the generator that its patched ``__call__`` is.

It yields the call of the application where upstream makes it, and is resumed with what that
has returned, or with the error that it has raised.
"""

import functools
from typing import Any, Generator, Optional

import sentry_sdk
from sentry_sdk.integrations.wsgi import _wsgi_middleware_applied

from . import spans
from .contexts import SCOPE_VARIABLES, request_access
from .process import internal_error

Middleware = Generator[Any, Any, Any]


def without_transaction(app: Any, environ: Any, start_response: Any) -> Middleware:
    """Stand in for upstream's method where that fails before the application is called.

    There is no transaction, but what the application sets is not seen by other requests.
    """
    _wsgi_middleware_applied.set(True)
    try:
        with sentry_sdk.isolation_scope():
            try:
                yield functools.partial(app, environ, start_response)
            except BaseException as error:
                if not is_disposal(error):
                    spans.capture_exception(None)
                raise
    finally:
        _wsgi_middleware_applied.set(False)


def is_disposal(error: "Optional[BaseException]") -> bool:
    """Whether this is the GeneratorExit of a suspended middleware being collected.

    One that the application has raised comes with the application's frames.
    """
    if not isinstance(error, GeneratorExit):
        return False
    traceback = error.__traceback__
    return traceback is not None and traceback.tb_next is None


def resume(middleware: Middleware, response: Any, error: "Optional[BaseException]") -> Any:
    """Let upstream's middleware go on from the call of the application.

    The scopes are put back afterwards: the context belongs to this request alone, and an
    error that comes later (in ``close()``, after a body that failed) must still find them.

    :param response: what the application has returned.
    :param error: what it has raised, if it has. The caller raises it.
    :return: what upstream returns.
    """
    scopes = [variable.get() for variable in SCOPE_VARIABLES]
    try:
        if error is None:
            middleware.send(response)
        else:
            middleware.throw(error)
    except StopIteration as stop:
        return stop.value
    except BaseException as raised:
        # A StopIteration of the application comes back as the cause (PEP 479).
        if raised is error or (error is not None and raised.__cause__ is error):
            pass
        elif isinstance(raised, ValueError) and "different Context" in str(raised):
            pass  # in a copy of the context, where older SDKs fail to reset scopes
        elif isinstance(raised, Exception):
            internal_error("internal error of the SDK while finishing a request")
        else:
            raise  # a signal handler's, such as the server's own SystemExit
    finally:
        for variable, scope in zip(SCOPE_VARIABLES, scopes):
            variable.set(scope)
        # A later event reads nothing from the client, and queries nothing.
        request_access.set("cached")
    return None
