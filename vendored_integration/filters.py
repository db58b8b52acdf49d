"""What not to send."""

from typing import Any, Callable, FrozenSet, Iterable, Iterator, Optional, Tuple, Type, Union

from .runtime.log import internal_error

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
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: a name is empty.
    """
    if isinstance(excluded, (str, type)):
        raise TypeError(f"exclude_events takes a list, got {excluded!r}; write [{excluded!r}]")
    if before_send is not None and not callable(before_send):
        raise TypeError(f"before_send must be callable or None, got {before_send!r}")
    names, classes = _sorted_out(excluded)

    def filtered(event: Any, hint: Any) -> Any:
        try:
            drop = _is_excluded(event, hint or {}, names, classes)
        except Exception:
            # An odd exception class, say. Better an event too many than one too few.
            internal_error("exclude_events: an event could not be looked at, and is sent")
            drop = False
        if drop:
            return None
        return event if before_send is None else before_send(event, hint)

    return filtered


def _sorted_out(
    excluded: "Iterable[object]",
) -> "Tuple[FrozenSet[str], Tuple[Type[BaseException], ...]]":
    names, classes = [], []
    for entry in excluded:
        if isinstance(entry, str):
            if not entry.strip():
                raise ValueError(f"exclude_events: a name must not be empty, got {entry!r}")
            names.append(entry)
        elif isinstance(entry, type) and issubclass(entry, BaseException):
            classes.append(entry)
        else:
            raise TypeError(
                "exclude_events: expected the name of a logger, module or exception, "
                f"or an exception class, got {entry!r}"
            )
    return frozenset(names), tuple(classes)


def _is_excluded(
    event: Any, hint: Any, names: "FrozenSet[str]", classes: "Tuple[Type[BaseException], ...]"
) -> bool:
    if names and _is_below(event.get("logger"), names):
        return True
    raised = (hint.get("exc_info") or (None,))[0]
    if raised is not None:
        return (
            issubclass(raised, classes)
            or raised.__name__ in names
            or _is_below(raised.__module__, names)
            # As in `except module.Exception`. A module's name is not looked for among
            # the bases: "django" must not drop what is only derived from Django's.
            or any(name in names for base in raised.__mro__ for name in _names_of(base))
        )
    # An event that the application has made itself has no more than this.
    values = (event.get("exception") or {}).get("values") or [{}]
    type_, module = values[-1].get("type"), values[-1].get("module")
    return type_ in names or f"{module}.{type_}" in names or _is_below(module, names)


def _names_of(class_: type) -> "Iterator[str]":
    # `Order.DoesNotExist` in the source is `DoesNotExist` in Sentry.
    yield f"{class_.__module__}.{class_.__qualname__}"
    yield f"{class_.__module__}.{class_.__name__}"


def _is_below(dotted: object, names: "FrozenSet[str]") -> bool:
    """Whether this dotted name, or one that it begins with, is among the names."""
    if not isinstance(dotted, str):
        return False
    while dotted not in names:
        dotted, dot, _ = dotted.rpartition(".")
        if not dot:
            return False
    return True
