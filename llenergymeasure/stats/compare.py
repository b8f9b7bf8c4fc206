"""Whether two sets of repetitions differ, and by how much."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from llenergymeasure.results.schema import Interval
from llenergymeasure.stats.student import t_quantile, two_sided_p

__all__ = ["Comparison", "compare_samples"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of two means.

    Attributes:
        effect: mean of b less mean of a, in their unit.
        relative: effect over the mean of a; None where that is 0.
        interval: of the effect; None where the values don't give one.
        p_value: two-sided, of no difference; None where the values don't give one.
        n: how many values of a and of b.
        method: the test, or why there is none.
    """

    effect: float
    relative: float | None
    interval: Interval | None
    p_value: float | None
    n: tuple[int, int]
    method: str


def compare_samples(a: Sequence[float], b: Sequence[float], paired: bool, *, level: float = 0.95) -> Comparison:
    """b against a: the paired t test by position, or Welch's, which takes no equal variances.

    Raises:
        ValueError: a sample is empty or has a value that is not finite, or paired ones differ in length.
    """
    if not a or not b or not all(map(math.isfinite, [*a, *b])):
        raise ValueError(f"a comparison needs finite values on both sides, got {list(a)[:8]} and {list(b)[:8]}")
    if paired and len(a) != len(b):
        raise ValueError(f"paired samples must be of one length, got {len(a)} and {len(b)}")
    mean_a = statistics.fmean(a)
    effect = statistics.fmean(b) - mean_a
    relative = effect / mean_a if mean_a else None
    n = (len(a), len(b))
    if min(n) < 2:
        return Comparison(effect, relative, None, None, n, "none: a test needs two values on each side")
    error, df = _paired_error(a, b) if paired else _welch_error(a, b)
    if error <= 1e-12 * max(map(abs, [*a, *b])):  # rounding is no spread
        same = abs(effect) <= 1e-12 * max(map(abs, [*a, *b]))
        return Comparison(effect, relative, None, 1.0 if same else None, n, "none: the values don't vary")
    half = t_quantile(level, df) * error
    interval = Interval(low=effect - half, high=effect + half, level=level, method="student-t")
    method = "paired t test" if paired else "Welch's t test"
    return Comparison(effect, relative, interval, two_sided_p(effect / error, df), n, method)


def _paired_error(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """(standard error of the mean difference, degrees of freedom)."""
    differences = [y - x for x, y in zip(a, b, strict=True)]
    return statistics.stdev(differences) / math.sqrt(len(differences)), len(differences) - 1


def _welch_error(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """(standard error of the difference of means, degrees of freedom by Welch and Satterthwaite)."""
    parts = [(statistics.variance(sample) / len(sample), len(sample) - 1) for sample in (a, b)]
    squared = sum(part for part, _ in parts)
    spread = sum(part * part / df for part, df in parts)
    return math.sqrt(squared), squared * squared / spread if spread else 1.0
