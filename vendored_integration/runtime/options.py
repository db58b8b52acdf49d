"""The options that this project adds to the stock integration, checked."""

from typing import NamedTuple, Optional

#: The longest ``response_timeout``, in seconds: 31 years.
LONGEST = 10**9
#: Accepted values of ``finish_on``.
FINISH_ON = ("return", "close")
#: Accepted values of ``on_timeout``.
ON_TIMEOUT = ("finish", "continue")


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
        timeout = self.response_timeout
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
                raise TypeError(
                    f"response_timeout must be a number of seconds or None, got {timeout!r}"
                )
            if not 0 < timeout <= LONGEST:
                raise ValueError(
                    f"response_timeout must be a number of seconds above 0 and up to {LONGEST} "
                    f"(or None for no timeout), got {timeout!r}"
                )
        limit = self.max_open_responses
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"max_open_responses must be a whole number, got {limit!r}")
        if limit < 1:
            raise ValueError(f"max_open_responses must be at least 1, got {limit!r}")
        for name, value, accepted in (
            ("finish_on", self.finish_on, FINISH_ON),
            ("on_timeout", self.on_timeout, ON_TIMEOUT),
        ):
            if value not in accepted:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(repr, accepted))}, got {value!r}"
                )
        if self.stream_op is not None and not isinstance(self.stream_op, str):
            raise TypeError(f"stream_op must be a string or None, got {self.stream_op!r}")
        return self


DEFAULT_OPTIONS = Options()
