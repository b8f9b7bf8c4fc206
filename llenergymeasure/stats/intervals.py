"""The mean of a few repetitions and its confidence interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from llenergymeasure.results.schema import Interval
from llenergymeasure.stats.student import t_quantile

__all__ = ["mean_interval"]


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """The mean of `values` and its Student-t interval; None for fewer than two values.

    Not the bootstrap: percentile intervals of 3 to 10 values cover far less than they say.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"a mean needs finite values, got {list(values)[:8]}")
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None
    half = t_quantile(level, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, Interval(low=mean - half, high=mean + half, level=level, method="student-t")
