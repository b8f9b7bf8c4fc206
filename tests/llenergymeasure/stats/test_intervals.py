"""Intervals cover what they say, also of three values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llenergymeasure.stats import mean_interval

RUNS = 2000


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_95_percent_interval_covers_the_mean_in_93_to_97_percent(n: int) -> None:
    random = np.random.default_rng(n)
    normal = _coverage(random.normal(100, 7, (RUNS, n)), 100)
    skewed = _coverage(random.lognormal(0, 0.5, (RUNS, n)), math.exp(0.125))
    print(f"n = {n}: coverage {normal:.1%} of normal noise, {skewed:.1%} of log-normal (σ = 0.5)")
    assert 0.93 <= normal <= 0.97


def _coverage(samples: np.ndarray, truth: float) -> float:
    covered = 0
    for sample in samples.tolist():
        _, interval = mean_interval(sample)
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    return covered / len(samples)


def test_known_interval() -> None:
    mean, interval = mean_interval([10.0, 12.0, 14.0])
    assert mean == 12
    assert interval is not None
    assert interval.method == "student-t"
    assert (interval.low, interval.high) == pytest.approx((12 - 4.302653 * 2 / 3**0.5, 12 + 4.302653 * 2 / 3**0.5))


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_interval([3.5]) == (3.5, None)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)
