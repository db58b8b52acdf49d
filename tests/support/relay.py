"""Sentry Relay's opinion of an event: would Sentry take it as it is?"""

from typing import Any, Dict, Iterator, List

import sentry_relay
from sentry_relay.processing import StoreNormalizer


def complaints(event: Dict[str, Any]) -> List[str]:
    """What Relay's normaliser rejects in this event; empty: nothing.

    Relay refuses some events altogether (an end before the start, spans without ids). In others it
    removes the values it cannot use, and says so in `_meta`, which mirrors the event's structure:
    the key "" holds the remarks on the value at that place, `err` among them.
    """
    try:
        normalized = StoreNormalizer().normalize_event(event)
    except sentry_relay.RelayError as error:
        return [str(error).split("\n")[0]]  # a native stack trace follows
    return list(_errors(normalized.get("_meta") or {}, ""))


def _errors(meta: Dict[str, Any], where: str) -> Iterator[str]:
    for key, value in meta.items():
        if key == "":
            for error in value.get("err") or []:
                yield "{}: {} (the value: {!r})".format(
                    where or "event",
                    error,
                    value.get("val"),
                )
        elif isinstance(value, dict):
            yield from _errors(value, f"{where}.{key}" if where else key)
