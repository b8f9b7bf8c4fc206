"""Net energy: what was used beyond idle power, with the uncertainty of both.

A run of T seconds used E joules where the idle baseline of T₀ seconds has mean power P₀ ± s₀:

    net = E − P₀·T        Var(net) = s_E² + (T·s₀)² + s₀²·T₀·T

The second term is the error of the baseline, the third the wandering of idle power during the run itself: a mean over
T₀ seconds has variance s₀², so one over T has s₀²·T₀/T. A drift between baseline and run is in neither.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from llenergymeasure.results.schema import Interval
from llenergymeasure.stats.student import t_quantile

__all__ = ["MIN_BATCHES", "IdleCorrected", "batch_error", "net_energy"]

MIN_BATCHES = 4  # fewer means say nothing of their spread


@dataclass(frozen=True, slots=True)
class IdleCorrected:
    """One device over one window: energy, and the idle power to be taken off.

    Attributes:
        device: windows of one device share the error of its baseline.
        energy_j, standard_error_j: of the window; the error None where it is not known (it then counts as none).
        duration_s: of the window.
        idle_w, idle_error_w: mean and standard error of the baseline; the error None where it is not known.
        idle_duration_s, idle_degrees: the baseline's window, and the degrees of freedom of its error.
    """

    device: str
    energy_j: float
    standard_error_j: float | None
    duration_s: float
    idle_w: float
    idle_error_w: float | None
    idle_duration_s: float
    idle_degrees: float


def batch_error(means: Sequence[float]) -> tuple[float, float] | None:
    """(standard error, degrees of freedom) of the mean of consecutive batch means; None for fewer than MIN_BATCHES.

    Batch means of a correlated signal are still a little correlated: with the lag-1 correlation r, where positive, n of
    them are worth n·(1 − r) / (1 + r).
    """
    count = len(means)
    if count < MIN_BATCHES:
        return None
    centre = statistics.fmean(means)
    deviations = [value - centre for value in means]
    squared = math.fsum(value * value for value in deviations)
    if not squared:
        return 0.0, count - 1.0
    lagged = math.fsum(x * y for x, y in pairwise(deviations)) / squared
    correlation = min(max(lagged + (1 + 3 * lagged) / count, 0.0), 0.8)  # the estimate is that much too low
    worth = (1 - correlation) / (1 + correlation)
    return math.sqrt(squared / (count - 1) / count / worth), max(MIN_BATCHES - 1.0, (count - 1) * worth)


def net_energy(windows: Sequence[IdleCorrected], level: float = 0.95) -> tuple[float, Interval | None]:
    """(net joules over all windows, their interval); no interval where a baseline has no error.

    Windows of one device share its baseline, so their errors add; those of different devices are independent.
    """
    net = math.fsum(window.energy_j - window.idle_w * window.duration_s for window in windows)
    variance = 0.0
    for device in {window.device for window in windows}:
        shared = 0.0
        for window in windows:
            if window.device != device:
                continue
            if window.idle_error_w is None:
                return net, None
            shared += window.duration_s * window.idle_error_w
            variance += window.idle_error_w**2 * window.idle_duration_s * window.duration_s
            variance += (window.standard_error_j or 0.0) ** 2
        variance += shared**2
    if not windows:
        return net, None
    half = t_quantile(level, min(window.idle_degrees for window in windows)) * math.sqrt(variance)
    return net, Interval(low=net - half, high=net + half, level=level, method="propagated")
