"""Intervals and comparisons for few repetitions: Student's t throughout."""

from __future__ import annotations

from llenergymeasure.stats.compare import Comparison, compare_samples
from llenergymeasure.stats.intervals import mean_interval
from llenergymeasure.stats.net import IdleCorrected, batch_error, net_energy

__all__ = ["Comparison", "IdleCorrected", "batch_error", "compare_samples", "mean_interval", "net_energy"]
