"""What several runs say together: means with their intervals, and differences paired by seed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Mean(NamedTuple):
    """A mean, and its 95 % interval by Student's t; no interval for fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        interval = None if self.low is None else [self.low, self.high]
        return {"n": self.n, "mean": self.mean, "interval": interval}


def mean(values: Sequence[float]) -> Mean:
    """The mean of a few independent values with its interval: Student 1908.

    Raises:
        ValueError: there are no values.

    >>> found = mean([1.0, 2.0, 3.0])
    >>> found.mean, round(found.low, 3), round(found.high, 3), found.n
    (2.0, -0.484, 4.484, 3)
    """
    if not len(values):
        raise ValueError("no values have no mean")
    count, centre = len(values), float(np.mean(values))
    if count < 2:
        return Mean(centre, None, None, count)
    from scipy.special import stdtrit  # slow to import

    half = float(stdtrit(count - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(count))
    return Mean(centre, centre - half, centre + half, count)


def difference(first: dict[int, float], second: dict[int, float]) -> Mean | None:
    """The mean of second - first over the seeds that both have; None where they share none.

    Args:
        first, second: the values by seed.
    """
    shared = [seed for seed in first if seed in second]
    return mean([second[seed] - first[seed] for seed in shared]) if shared else None


def verdict(found: Mean | None, direction: int, *, least: int = 3) -> str:
    """What a paired difference says of a claim.

    Args:
        found: of `difference`.
        direction: 1 where the claim is that the second value is the larger one, else -1.
        least: how many pairs a verdict needs.

    Returns:
        "reproduced": the 95 % interval lies on the claimed side of zero; "not reproduced": it lies
        on the other side; "undecided": it holds zero, or there are too few pairs.
    """
    if found is None or found.n < least or found.low is None or found.high is None:
        return "undecided"
    if found.low <= 0 <= found.high:
        return "undecided"
    return "reproduced" if (found.low > 0) == (direction > 0) else "not reproduced"
