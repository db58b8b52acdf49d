"""Where internal faults, and what a user should know at once, are logged."""

import logging

from sentry_sdk.integrations.logging import ignore_logger

#: Name of the logger of this project.
NAME = "vendored_integration"

logger = logging.getLogger(NAME)

# The SDK makes an event of every logged error. A fault in finishing one event
# must not beget another.
ignore_logger(NAME)
