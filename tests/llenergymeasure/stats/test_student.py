"""Our Student t against scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from llenergymeasure.stats.student import t_quantile, two_sided_p


@pytest.mark.parametrize("df", [1, 1.4, 2, 3.7, 9, 50, 1e3, 1e5, 2e9])
def test_quantile_and_tail_are_those_of_scipy(df: float) -> None:
    for level in (0.5, 0.9, 0.95, 0.999):
        assert t_quantile(level, df) == pytest.approx(stats.t.ppf(0.5 + level / 2, df), rel=1e-7)
    for t in (0.0, 0.001, 0.5, -1.0, 3.0, 12.0):
        assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-7)


def test_the_tail_of_a_huge_t_is_small_and_not_zero() -> None:
    assert two_sided_p(1e6, 4) == pytest.approx(2 * stats.t.sf(1e6, 4), rel=1e-6)
