"""What not to send."""

from itertools import accumulate
from typing import Any, Callable, Iterable, Iterator, Optional, Type, Union

__all__ = ["exclude_events"]

#: Takes an event and its hint; returns the event to send, or ``None``.
BeforeSend = Callable[[Any, Any], Any]


def exclude_events(
    excluded: "Iterable[Union[str, Type[BaseException]]]",
    *,
    before_send: "Optional[BeforeSend]" = None,
) -> "BeforeSend":
    """Make a ``before_send`` for ``sentry_sdk.init()`` that drops some events.

    ::

        sentry_sdk.init(
            before_send=exclude_events(
                [
                    "django.security",  # a logger, and those below it
                    BrokenPipeError,  # an exception class, and its subclasses
                    "requests.exceptions.Timeout",  # the same, without importing it
                    "OutOfPaper",  # exceptions of a class with just this name
                    "printers.legacy",  # exceptions whose class is from this module or package
                ],
                before_send=mine,
            ),
        )

    :param excluded: what to drop. A string is looked up in all of these ways.
    :param before_send: called with each event that is left; what it returns is sent.
    :raises TypeError: an entry is neither, or an empty name.
    """
    if isinstance(excluded, (str, type)):
        raise TypeError(f"exclude_events takes a list, got {excluded!r}; write [{excluded!r}]")
    entries = list(excluded)
    for entry in entries:
        if not entry or not isinstance(entry, (str, type)):
            raise TypeError(
                "exclude_events: expected the name of a logger, module or exception, "
                f"or an exception class, got {entry!r}"
            )
    names = {entry for entry in entries if isinstance(entry, str)}
    classes = tuple(entry for entry in entries if isinstance(entry, type))

    def filtered(event: Any, hint: Any) -> Any:
        raised = (hint.get("exc_info") or (None,))[0]
        if raised is not None and issubclass(raised, classes):
            return None
        if not names.isdisjoint(_names(event, raised)):
            return None
        return event if before_send is None else before_send(event, hint)

    return filtered


def _names(event: Any, raised: "Optional[Type[BaseException]]") -> "Iterator[str]":
    """Every name by which an event can be excluded."""
    yield from _with_parents(event.get("logger"))
    if raised is None:
        # An event that the application has made itself has no more than this.
        values = (event.get("exception") or {}).get("values") or [{}]
        name, module = values[-1].get("type"), values[-1].get("module")
        yield from (name, f"{module}.{name}")
    else:
        name, module = raised.__name__, raised.__module__
        yield name
        for base in raised.__mro__:
            # As in `except module.Exception`. `Order.DoesNotExist` in the source is
            # `DoesNotExist` in Sentry.
            yield f"{base.__module__}.{base.__qualname__}"
            yield f"{base.__module__}.{base.__name__}"
    # Not the modules of the bases: "django" must not drop what is only derived from Django's.
    yield from _with_parents(module)


def _with_parents(dotted: "Optional[str]") -> "Iterator[str]":
    return accumulate((dotted or "").split("."), "{}.{}".format)
