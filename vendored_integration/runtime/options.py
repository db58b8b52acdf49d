"""The options that this project adds to the stock integration, checked."""

from typing import Any, Callable, NamedTuple, Optional

#: The longest ``response_timeout``, in seconds: 31 years.
LONGEST = 10**9


def check(
    name: str, value: object, types: Any, accepts: "Callable[[Any], bool]", expected: str
) -> None:
    """Check the value of an argument.

    :raises TypeError: it is of none of the types.
    :raises ValueError: it is not accepted.
    """
    is_of_type = isinstance(value, types) and not isinstance(value, bool)
    if not is_of_type or not accepts(value):
        error = ValueError if is_of_type else TypeError
        raise error(f"{name} must be {expected}; got {value!r}")


def check_whole(name: str, value: object, least: int) -> None:
    """Check that an argument is a whole number, and not below ``least``."""
    check(name, value, int, lambda value: value >= least, f"a whole number, at least {least}")


class Options(NamedTuple):
    """When the transaction of a response ends.

    ``response_timeout``: seconds from the response's return after which the
    transaction of an unclosed response is finished anyway; ``None``: never.

    ``max_open_responses``: at more open responses than this, the oldest is
    finished at once.

    ``finish_on``: ``"close"``: every response ends when the server closes it;
    ``"return"``: one that is not streaming ends when the application returns.

    ``on_timeout``: ``"finish"``: ``response_timeout`` ends the transaction;
    ``"continue"``: that of a streaming response is sent then, and whenever the SDK's
    limit of spans is reached, and goes on in the next part.

    ``stream_op``: the op of a streaming response's root span; ``None``: upstream's,
    ``"http.server"``.
    """

    response_timeout: Optional[float] = 300.0
    max_open_responses: int = 10_000
    finish_on: str = "return"
    on_timeout: str = "finish"
    stream_op: Optional[str] = None

    def checked(self) -> "Options":
        """Return self.

        :raises TypeError: a value is of the wrong type.
        :raises ValueError: a value is out of range.
        """
        if self.response_timeout is not None:
            check(
                "response_timeout",
                self.response_timeout,
                (int, float),
                lambda value: 0 < value <= LONGEST,
                f"a number of seconds above 0 and up to {LONGEST}, or None for no timeout",
            )
        check_whole("max_open_responses", self.max_open_responses, 1)
        for name, value, accepted in (
            ("finish_on", self.finish_on, ("return", "close")),
            ("on_timeout", self.on_timeout, ("finish", "continue")),
        ):
            check(name, value, str, accepted.__contains__, f"one of {accepted}")
        if self.stream_op is not None:
            check("stream_op", self.stream_op, str, lambda value: True, "a string or None")
        return self


DEFAULT_OPTIONS = Options()
