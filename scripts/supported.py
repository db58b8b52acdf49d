"""Which releases of sentry-sdk there are patches for, as an argument. Standard library only."""

import argparse
import os

from pipeline import releases
from pipeline.errors import PipelineError

newest = releases.newest
numbers = releases.numbers


def release(text: str) -> str:
    """The type of an argument of argparse: a release; 2.75 is 2.75.0."""
    try:
        return releases.choose(text)
    except PipelineError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_option(parser: argparse.ArgumentParser) -> None:
    """--sdk, of what builds this checkout."""
    parser.add_argument(
        "--sdk",
        type=release,
        metavar="RELEASE",
        # It would decide all the same, when pip has fetched all that the build needs.
        default=os.environ.get("SENTRY_SDK_VERSION") or None,
        help="build for this sentry-sdk (default: SENTRY_SDK_VERSION if that is set, or the "
        "newest that patches/ supports)",
    )
