"""What is requested, and what Sentry is to hear of each request."""

from __future__ import annotations

import random
from typing import NamedTuple, Optional


class Kind(NamedTuple):
    """A kind of request. Its path is `/<name>/<number of the request>`."""

    name: str
    share: int  # of 100 requests
    status: str  # of the transaction
    outcome: Optional[str] = None  # of the stream; None: it is none
    spans: int = 0  # that the body makes
    fails: bool = False  # there is one error event


KINDS = [
    Kind("plain", 45, "ok"),
    Kind("stream", 30, "ok", "completed", spans=4),
    Kind("file", 10, "ok", "completed"),
    Kind("hang-up", 5, "cancelled", "cancelled", spans=1),
    Kind("error", 5, "internal_error", fails=True),
    Kind("stream-error", 5, "internal_error", "failed", spans=2, fails=True),
]

# Mixed, and each time in the same way.
_ORDER = [kind for kind in KINDS for _ in range(kind.share)]
random.Random(1).shuffle(_ORDER)


def kind_of(number: int) -> Kind:
    """The kind of a request by its number."""
    return _ORDER[number % len(_ORDER)]


def requests_of(kind: Kind, count: int) -> int:
    """How many of the first `count` requests are of this kind."""
    rounds, rest = divmod(count, len(_ORDER))
    return rounds * kind.share + _ORDER[:rest].count(kind)
