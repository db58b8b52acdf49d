"""The arithmetic: a number with its spread, and what is computed of such numbers."""

from statistics import median
from typing import Iterable, NamedTuple


class Spread(NamedTuple):
    """A measured number: the median of its repeats, the smallest and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: "Iterable[float]") -> "Spread":
        """:raises ValueError: there are no values."""
        found = sorted(values)
        if not found:
            raise ValueError("no values")
        return cls(median(found), found[0], found[-1])

    def over(self, base: "Spread") -> "Spread":
        """What this costs besides ``base``, at worst and at best."""
        return Spread(self.middle - base.middle, self.low - base.high, self.high - base.low)

    def ratio(self, base: "Spread") -> "Spread":
        """This in units of ``base``, at worst and at best.

        :raises ValueError: ``base`` may be 0 or below.
        """
        if base.low <= 0:
            raise ValueError(f"not a base for a ratio: {base}")
        ends = [self.low / base.low, self.low / base.high]
        ends += [self.high / base.low, self.high / base.high]
        return Spread(self.middle / base.middle, min(ends), max(ends))

    def times(self, factor: float) -> "Spread":
        """In another unit; ``factor`` is above 0."""
        return Spread(self.middle * factor, self.low * factor, self.high * factor)


def per_unit(short: float, long: float, few: int, many: int) -> float:
    """The cost of one more, from what ``few`` and ``many`` have cost: start-up cancels out.

    :raises ValueError: ``many`` is not more than ``few``.
    """
    if many <= few:
        raise ValueError(f"expected more than {few}, got {many}")
    return (long - short) / (many - few)


def at_share(cost: float, share: float, wanted: float, unsampled: float, sampled: float) -> float:
    """A cost measured with a share of sampled requests, moved to the share that is wanted.

    Which requests are sampled is chance: at rate 0.1, of 200 requests 12 to 28, and one
    costs what three others do. How many it were is counted, and what one costs more is
    measured at the rates 0 and 1.
    """
    return cost + (wanted - share) * (sampled - unsampled)
