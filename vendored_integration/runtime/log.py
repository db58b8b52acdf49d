"""Where internal faults, and what a user should know at once, are logged.

And a short cut for the SDK's own logger.
"""

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.utils import logger as sdk_logger

from .counters import counters

if TYPE_CHECKING:
    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter


class _Logger(_LoggerAdapter):
    """Logs, and does not raise what a handler raises."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Delegate to the logger."""
        # A handler of the user, or an error that not even Python can print.
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, **kwargs)


logger = _Logger(logging.getLogger("vendored_integration"), {})

# The SDK makes an event of every logged error. A fault in finishing one event
# must not beget another.
ignore_logger(logger.name)


def internal_error(message: str) -> None:
    """Log, and count, an error of our own that is being handled, and goes no further."""
    counters.internal_error()
    logger.exception(message, stacklevel=2)


def ask_debug_filter_first() -> None:
    """Have the SDK's logger ask its filter before it makes a record, and not after.

    Without ``debug=True`` the filter drops everything that the SDK logs: three records
    for each request that is not sampled, at 25,000 instructions each.
    """
    filters = [f for f in sdk_logger.filters if type(f).__module__ == "sentry_sdk.debug"]
    if not filters or "isEnabledFor" in vars(sdk_logger):
        return
    debug_filter: Any = filters[0]
    is_enabled_for = sdk_logger.isEnabledFor
    # It looks only at the client, never at the record.
    wanted = debug_filter.filter

    def isEnabledFor(level: int) -> bool:
        if debug_filter in sdk_logger.filters and not wanted(None):
            return False
        return is_enabled_for(level)

    sdk_logger.isEnabledFor = isEnabledFor  # type: ignore[method-assign]
