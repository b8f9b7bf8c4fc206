"""Comparisons are scipy's tests, and cry wolf as rarely as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from llenergymeasure.stats import compare_samples

A = [101.0, 99.5, 104.0, 98.0, 102.5]
B = [90.0, 91.5, 95.0, 88.0, 93.5]


@pytest.mark.parametrize(("paired", "n"), [(True, 3), (True, 10), (False, 3), (False, 5)])
def test_false_positives_are_at_most_6_percent_of_2000_nulls(paired: bool, n: int) -> None:
    random = np.random.default_rng(100 + n)
    first = random.normal(100, 5, (2000, n))
    second = random.normal(100, 5, (2000, n))
    if paired:  # the cycle's own temperature is in both
        drift = random.normal(0, 20, (2000, n))
        first, second = first + drift, second + drift
    found = [compare_samples(a, b, paired) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    positive = sum(one.p_value is not None and one.p_value < 0.05 for one in found) / 2000
    print(f"n = {n}, {'paired' if paired else 'Welch'}: {positive:.1%} false positives")
    assert positive <= 0.06
    assert positive >= 0.02  # a test that never fires is no test


def test_paired_is_scipys() -> None:
    result = compare_samples(A, B, True)
    expected = stats.ttest_rel(B, A)
    low, high = expected.confidence_interval()
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((low, high))
    assert (result.effect, result.relative) == pytest.approx((-9.4, -9.4 / 101))
    assert (result.n, result.method) == ((5, 5), "paired t test")


def test_unpaired_is_scipys_welch() -> None:
    result = compare_samples(A, B[:3], False)
    expected = stats.ttest_ind(B[:3], A, equal_var=False)
    low, high = expected.confidence_interval()
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((low, high))
    assert result.n == (5, 3)


def test_pairing_finds_what_drift_hides() -> None:
    base = np.array([100.0, 140.0, 80.0, 120.0, 160.0])
    faster = (base - np.array([2.0, 2.2, 1.9, 2.1, 2.0])).tolist()
    paired = compare_samples(base.tolist(), faster, True)
    welch = compare_samples(base.tolist(), faster, False)
    assert paired.p_value is not None
    assert welch.p_value is not None
    assert paired.p_value < 0.001 < 0.5 < welch.p_value


def test_too_few_or_unvarying_values_give_the_effect_without_a_test() -> None:
    single = compare_samples([4.0], [5.0], False)
    assert (single.effect, single.relative, single.interval, single.p_value) == (1, 0.25, None, None)
    assert "two values" in single.method
    same = compare_samples([0.1 + 0.2, 0.3], [0.3, 0.3], False)
    assert (same.interval, same.p_value) == (None, 1)
    shifted = compare_samples([4.0, 4.0], [5.0, 5.0], True)
    assert (shifted.interval, shifted.p_value) == (None, None)
    assert "vary" in shifted.method
    assert compare_samples([0.0, 0.0], [1.0, 2.0], False).relative is None


def test_bad_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="one length, got 2 and 3"):
        compare_samples([1.0, 2.0], [1.0, 2.0, 3.0], True)
    with pytest.raises(ValueError, match="finite"):
        compare_samples([], [1.0], False)
