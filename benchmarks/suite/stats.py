"""The arithmetic: numbers that were measured in rounds, and what is computed of them.

All systems are measured in each round, one after the other, so what is compared is what
was measured at about the same time; the spread is that of the rounds.
"""

from statistics import median
from typing import List, NamedTuple, Sequence


class Spread(NamedTuple):
    """The median of the rounds, the smallest and the largest."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: "Sequence[float]") -> "Spread":
        """:raises ValueError: there are no values."""
        if not values:
            raise ValueError("no values")
        return cls(median(values), min(values), max(values))


def over(values: "Sequence[float]", base: "Sequence[float]") -> "List[float]":
    """What it costs besides ``base``, round by round."""
    return [value - less for value, less in zip(values, base)]


def ratio(values: "Sequence[float]", base: "Sequence[float]") -> "List[float]":
    """In units of ``base``, round by round; none where noise has made ``base`` 0 or less."""
    return [value / unit for value, unit in zip(values, base) if unit > 0]


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


def steepness(costs: "Sequence[float]") -> float:
    """How far from flat: the largest of the costs in units of the smallest."""
    return max(costs) / min(costs)
