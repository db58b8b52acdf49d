"""What depends on the SDK's release, apart from its spans (:mod:`.spans`)."""

import contextlib
from contextvars import Context, ContextVar
from typing import Any, Dict, Iterator, Optional

import sentry_sdk
from sentry_sdk.client import NonRecordingClient
from sentry_sdk.consts import VERSION

from .options import DEFAULT_OPTIONS, Options

#: The SDK's major and minor version.
RELEASE = tuple(map(int, VERSION.split(".")[:2]))


def options_of_integration() -> Options:
    """Return the options of the active ``DjangoIntegration``, or the defaults."""
    integration = sentry_sdk.get_client().get_integration("django")
    return getattr(integration, "stream_options", DEFAULT_OPTIONS)


def shutdown_timeout() -> float:
    """Seconds that the SDK itself may take at process exit (its own option)."""
    timeout: Optional[float] = sentry_sdk.get_client().options.get("shutdown_timeout")
    return 2.0 if timeout is None else float(timeout)


def remember_reported(context: Context) -> None:
    """Let the running context know the error that was reported last in another one.

    The SDK remembers it in a context variable, so that there is one event of each.
    """
    dedupe = sentry_sdk.get_client().get_integration("dedupe")
    variable = getattr(dedupe, "_last_seen", None)
    if isinstance(variable, ContextVar):
        last = context.get(variable)
        if last is not None:
            variable.set(last)


@contextlib.contextmanager
def unrecorded(options: "Dict[str, Any]") -> "Iterator[None]":
    """Have the SDK record nothing of what this thread does in the block.

    :param options: of the client; the SDK's own log follows its ``debug``.
    """
    with sentry_sdk.new_scope() as scope:
        scope.set_client(_Unrecording(options))
        yield


class _Unrecording(NonRecordingClient):
    """Takes everything, keeps nothing, has no integrations."""

    def is_active(self) -> bool:
        # Or the SDK goes on looking, and finds the real client in the outer scopes.
        return True
