"""Where internal faults, and what a user should know at once, are logged.

And a short cut for the SDK's own logger.
"""

import logging
from typing import Any

from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.utils import logger as sdk_logger

from .counters import counters

logger = logging.getLogger("vendored_integration")

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
