"""Whether memory grows, and how sure that is."""

from __future__ import annotations

import math
import statistics
from typing import List, NamedTuple, Sequence, Tuple

#: Samples next to each other are alike: their means over so many blocks are less so.
BLOCKS = 20
#: Student's t for 95 % on both sides and BLOCKS - 2 degrees of freedom.
_T = 2.101


class Slope(NamedTuple):
    """Bytes per 1,000 requests, and the 95 % confidence interval around that."""

    middle: float
    low: float
    high: float


def slope(samples: "Sequence[Tuple[int, int]]") -> Slope:
    """Fit a line to samples of (requests, bytes) by least squares, over means of blocks.

    :raises ValueError: there are fewer than two samples a block.
    """
    if len(samples) < 2 * BLOCKS:
        raise ValueError(f"{len(samples)} samples, expected at least {2 * BLOCKS}")
    edges = [len(samples) * block // BLOCKS for block in range(BLOCKS + 1)]
    blocks = [samples[start:end] for start, end in zip(edges, edges[1:])]
    x = [statistics.mean(requests / 1000 for requests, _ in block) for block in blocks]
    y = [statistics.mean(size for _, size in block) for block in blocks]
    x_mean, y_mean = statistics.mean(x), statistics.mean(y)
    spread = sum((at - x_mean) ** 2 for at in x)
    middle = sum((at - x_mean) * (size - y_mean) for at, size in zip(x, y)) / spread
    rest: List[float] = [size - y_mean - middle * (at - x_mean) for at, size in zip(x, y)]
    error = math.sqrt(sum(one**2 for one in rest) / (BLOCKS - 2) / spread)
    return Slope(middle, middle - _T * error, middle + _T * error)
