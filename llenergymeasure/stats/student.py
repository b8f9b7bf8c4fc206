"""Student's t distribution: tail probability and quantile.

scipy has both, and its `stats` takes longer to import than a whole command of ours may take; tests hold these to it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

__all__ = ["t_quantile", "two_sided_p"]

_TINY = 1e-300
_CLOSE = 1e-15
_TERMS = 100_000  # the continued fraction needs about √df of them
_NORMAL_FROM = 1e9  # degrees of freedom from which t and normal agree to 8 digits


def two_sided_p(t: float, df: float) -> float:
    """P(|T| ≥ |t|) for T with `df` > 0 degrees of freedom, which need not be whole."""
    if df >= _NORMAL_FROM:
        return 2 * NormalDist().cdf(-abs(t))
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t))


@lru_cache(maxsize=4096)
def t_quantile(level: float, df: float) -> float:
    """The t with P(|T| ≤ t) = `level`, 0 < level < 1."""
    tail = 1 - level
    t = NormalDist().inv_cdf(0.5 + level / 2)
    if df >= _NORMAL_FROM:
        return t
    low, high = 0.0, t
    while two_sided_p(high, df) > tail:
        low, high = high, 2 * high
    for _ in range(200):  # Newton's steps, halving where one would leave the bracket
        error = two_sided_p(t, df) - tail
        low, high = (t, high) if error > 0 else (low, t)
        step = t + error / (2 * _density(t, df))
        step = step if low < step < high else (low + high) / 2
        if abs(step - t) <= _CLOSE * 10 * step:
            return step
        t = step
    return t


def _density(t: float, df: float) -> float:
    log = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    return math.exp(log - (df + 1) / 2 * math.log1p(t * t / df))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 ≤ x ≤ 1."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image does not
        return 1 - _incomplete_beta(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log) * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22) by the modified Lentz method."""
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _off_zero(1 + term * d)
            c = _off_zero(1 + term / c)
            change = c * d
            value *= change
        if abs(change - 1) < _CLOSE:
            break
    return value


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
