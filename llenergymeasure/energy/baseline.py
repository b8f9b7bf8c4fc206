"""Idle power over a window of its own, and its cache."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from llenergymeasure.energy.sampler import Track
from llenergymeasure.files import make_folder, write_atomically
from llenergymeasure.results.schema import Baseline, DeviceIdle
from llenergymeasure.stats.net import batch_error

if TYPE_CHECKING:
    from llenergymeasure.energy.meter import EnergyMeter

__all__ = ["BaselineCache", "baseline_of", "measured_or_cached"]

BATCHES = 20
SHORTEST_BATCH_S = 0.5  # several readings of a sensor with 10 a second
PERIODS_A_BATCH = 5


def baseline_of(tracks: list[Track], *, duration_s: float, reason: str | None) -> Baseline:
    """The idle power of a window's tracks; `reason` says why there are none."""
    measured_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    samples = max((len(track.times) for track in tracks), default=0)
    failed = [f"{track.channel.device}: {track.failure}" for track in tracks if track.failure]
    short = [track.channel.device for track in tracks if duration_s < 2 * track.channel.period_s]
    if failed:
        reason = "; ".join(failed)
    elif short:
        reason = f"a baseline of {duration_s:g} s is shorter than two readings of {', '.join(short)}"
    devices = [] if reason is not None else [idle for idle in map(_idle, tracks) if idle.power_w]
    if not devices:
        return Baseline(
            power_w=None,
            standard_error_w=None,
            duration_s=duration_s,
            samples=samples,
            measured_at=measured_at,
            reason=reason or f"the sensors showed no energy in {duration_s:.3g} s, so they do not work here",
        )
    errors = [device.standard_error_w for device in devices]
    return Baseline(
        power_w=sum(device.power_w for device in devices),
        standard_error_w=None if None in errors else sum((error or 0.0) ** 2 for error in errors) ** 0.5,
        duration_s=duration_s,
        samples=samples,
        measured_at=measured_at,
        devices=devices,
    )


def _idle(track: Track) -> DeviceIdle:
    """Mean power, and its error: from the means of consecutive stretches, and from a counter's period at both ends."""
    first, last = track.times[0], track.times[-1]
    shortest_s = max(SHORTEST_BATCH_S, PERIODS_A_BATCH * track.channel.period_s)
    batches = max(1, min(BATCHES, int((last - first) / shortest_s)))
    step = (last - first) / batches
    counted = [track.joules_at(first + number * step) for number in range(batches + 1)]
    means = [(after - before) / step for before, after in pairwise(counted)]
    error, degrees = batch_error(means) or (None, None)
    power_w = (track.joules[-1] - track.joules[0]) / (last - first)
    if error is not None and track.channel.read_joules is not None:
        error = math.hypot(error, power_w * track.channel.period_s / (last - first) / math.sqrt(6))
    return DeviceIdle(
        device=track.channel.device,
        power_w=power_w,
        standard_error_w=error,
        degrees=degrees,
    )


class BaselineCache:
    """Baselines in a folder, one file for each machine, set of sensors and idle state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"baseline-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"

    def get(self, key: str, *, ttl_s: float) -> Baseline | None:
        """The baseline kept under a key, if it is younger than `ttl_s`; a file that can't be read is none."""
        try:
            kept = json.loads(self._path(key).read_text())
            if kept["key"] != key or not 0 <= time.time() - kept["unix_s"] <= ttl_s:
                return None
            return Baseline.model_validate(kept["baseline"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, baseline: Baseline) -> None:
        """Keeps a baseline that has a power.

        Raises:
            LemError: the folder can't be written.
        """
        if baseline.power_w is None:
            return
        make_folder(self.folder)
        kept = {"key": key, "unix_s": time.time(), "baseline": baseline.model_dump()}
        write_atomically(self._path(key), (json.dumps(kept, indent=2) + "\n").encode())


def measured_or_cached(
    meter: EnergyMeter, *, duration_s: float, ttl_s: float, cache: BaselineCache | None, interval_s: float | None = None
) -> tuple[Baseline, bool]:
    """(the baseline of this machine in its present idle state, whether it came from the cache)."""
    key = meter.idle_key()
    kept = cache.get(key, ttl_s=ttl_s) if cache is not None else None
    if kept is not None:
        return kept, True
    baseline = meter.measure_baseline(duration_s, interval_s=interval_s)
    if cache is not None:
        cache.put(key, baseline)
    return baseline, False
