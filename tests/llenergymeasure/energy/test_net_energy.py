"""Net energy's interval covers the truth on synthetic traces, through the code that a run takes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import lfilter

from llenergymeasure.energy.base import Channel
from llenergymeasure.energy.baseline import baseline_of
from llenergymeasure.energy.reading import Reading
from llenergymeasure.energy.sampler import Track

PERIOD_S = 0.1
STEP_S = 0.02
RUNS = 600
ACTIVE_W = 180.0
IDLE_W = 62.0


@pytest.mark.parametrize(
    ("correlation_s", "spread_w", "baseline_s", "run_s"),
    [(0.05, 4.0, 30, 60), (0.5, 4.0, 30, 20), (2.0, 6.0, 30, 60), (0.5, 6.0, 10, 60)],
)
def test_the_interval_covers_the_injected_energy(
    correlation_s: float, spread_w: float, baseline_s: int, run_s: int
) -> None:
    random = np.random.default_rng(int(1000 * correlation_s) + run_s)
    covered = 0
    for _ in range(RUNS):
        power = IDLE_W + _noise(random, baseline_s + run_s, correlation_s, spread_w)
        split = round(baseline_s / STEP_S)
        active = ACTIVE_W * (1 + 0.3 * np.sin(np.arange(len(power) - split) * STEP_S))
        power[split:] += active
        counted = np.concatenate([[0.0], np.cumsum(power * STEP_S)])
        lag_s = random.uniform(0, PERIOD_S)
        baseline = baseline_of([_track(counted, 0, baseline_s, lag_s)], duration_s=float(baseline_s), reason=None)
        track = _track(counted, baseline_s, baseline_s + run_s, lag_s)
        net = _reading(track).energy(baseline, []).net
        assert net.value is not None
        assert net.uncertainty is not None
        covered += net.uncertainty.low <= active.sum() * STEP_S <= net.uncertainty.high
    print(f"correlated over {correlation_s} s, baseline {baseline_s} s, run {run_s} s: covered {covered / RUNS:.1%}")
    assert covered / RUNS >= 0.93


def _noise(random: np.random.Generator, duration_s: float, correlation_s: float, spread_w: float) -> np.ndarray:
    """First-order autoregressive noise, stationary from its start."""
    keep = float(np.exp(-STEP_S / correlation_s))
    steps = random.normal(0, spread_w * (1 - keep**2) ** 0.5, round(duration_s / STEP_S))
    noise: np.ndarray = lfilter([1], [1, -keep], steps, zi=[keep * random.normal(0, spread_w)])[0]
    return noise


def _track(counted: np.ndarray, start_s: float, end_s: float, lag_s: float) -> Track:
    """A counter that is new every 100 ms, read at 10 Hz."""
    times = np.arange(start_s, end_s + 1e-9, 0.1)
    updated = np.floor((times + lag_s) / PERIOD_S + 1e-9) * PERIOD_S - lag_s
    values = np.interp(updated, np.arange(len(counted)) * STEP_S, counted)
    channel = Channel("gpu", "GPU-x", "x", "a counter", "measured", PERIOD_S, read_joules=lambda: 0.0)
    track = Track(channel, 0.1)
    track.times = times.tolist()
    track.joules = (values - values[0]).tolist()
    track.watts = [None] * len(times)
    return track


def _reading(track: Track) -> Reading:
    return Reading(
        tracks=[track],
        unavailable={"cpu": "-", "ram": "-"},
        started_s=track.times[0],
        finished_s=track.times[-1],
        started_unix_s=0.0,
        interval_s=0.1,
        sampler_cpu_s=None,
        throttle=None,
    )
