"""The meter: every sensor of this machine that says something of a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llenergymeasure.energy.base import Channel, ComponentName, Source
from llenergymeasure.energy.baseline import baseline_of
from llenergymeasure.energy.nvml import open_gpus
from llenergymeasure.energy.rapl import open_powercap
from llenergymeasure.energy.reading import Reading
from llenergymeasure.energy.sampler import Sampler
from llenergymeasure.errors import LemError
from llenergymeasure.results.schema import Baseline

__all__ = ["EnergyMeter", "open_meter"]


class EnergyMeter:
    """Reads its channels between `start` and `stop`.

    Attributes:
        gpu_uuids: the GPUs this process sees, of those asked for.
        warnings: what the user ought to know about the readings.
    """

    def __init__(self, sources: Sequence[Source], *, interval_s: float) -> None:
        self.gpu_uuids = tuple(uuid for source in sources for uuid in source.gpu_uuids)
        self.warnings = tuple(warning for source in sources for warning in source.warnings)
        self.unavailable: dict[ComponentName, str] = {}
        self._sources = tuple(sources)
        self._channels: list[Channel] = []
        for source in sources:
            self._channels += source.channels
            for component, reason in (source.unavailable or {}).items():
                known = self.unavailable.get(component)
                self.unavailable[component] = reason if known is None else f"{known}; {reason}"
        for component in {channel.component for channel in self._channels}:
            self.unavailable.pop(component, None)
        ranges = [channel.range_j / channel.power_limit_w for channel in self._channels if channel.range_j]
        self._spans_s = [span / 4 for span in ranges]
        self._asked_s = self._interval_s = interval_s
        self._throttle = next((source.throttle for source in sources if source.throttle is not None), None)
        self._sampler: Sampler | None = None
        self._started_s = 0.0
        self._started_unix_s = 0.0

    @property
    def has_sensors(self) -> bool:
        """Whether anything is read: a baseline without sensors takes no time."""
        return bool(self._channels)

    def start(self, *, interval_s: float | None = None) -> None:
        """Begins a window, with another interval between samples than the meter's if one is given.

        Raises:
            RuntimeError: one is open.
        """
        if self._sampler is not None:
            raise RuntimeError("the meter has been started; stop it first")
        self._interval_s = min([interval_s or self._asked_s, *self._spans_s])  # a wrap between readings is seen
        self._sampler = Sampler(self._channels, interval_s=self._interval_s, throttle=self._throttle)
        self._started_s, self._started_unix_s = time.monotonic(), time.time()
        self._sampler.start()

    def stop(self) -> Reading:
        """Ends the window.

        Raises:
            RuntimeError: none is open.
        """
        if self._sampler is None:
            raise RuntimeError("the meter has not been started")
        sampler, self._sampler = self._sampler, None
        sampler.stop()
        return Reading(
            tracks=sampler.tracks,
            unavailable=dict(self.unavailable),
            started_s=self._started_s,
            finished_s=time.monotonic(),
            started_unix_s=self._started_unix_s,
            interval_s=self._interval_s,
            sampler_cpu_s=sampler.cpu_s if sampler.tracks else None,
            throttle=None if sampler.throttle is None else sorted(sampler.throttle),
        )

    def measure_baseline(self, duration_s: float, *, interval_s: float | None = None) -> Baseline:
        """Idle power over `duration_s` from now, in which the caller leaves the machine alone."""
        if not self._channels:
            reason = "; ".join(f"{name}: {reason}" for name, reason in self.unavailable.items())
            return baseline_of([], duration_s=0.0, reason=reason)
        self.start(interval_s=interval_s)
        try:
            time.sleep(duration_s)
        finally:
            reading = self.stop()
        return baseline_of(list(reading.tracks), duration_s=reading.duration_s, reason=None)

    def idle_key(self) -> str:
        """What a baseline holds for: this machine, its sensors, and who else keeps them from resting."""
        from llenergymeasure.hardware.environment import host_id

        sensors = sorted(f"{channel.device} by {channel.source}" for channel in self._channels)
        states = [source.idle_state() for source in self._sources if source.idle_state is not None]
        return " | ".join([host_id(), *sensors, *states])

    def power_w(self) -> float | None:
        """The power now of all devices together; None where one does not say, or between windows."""
        if self._sampler is None or not self._sampler.tracks:
            return None
        powers = [track.power_w() for track in self._sampler.tracks]
        return None if None in powers else sum(power or 0.0 for power in powers) or None  # 0 W: a dead sensor

    def close(self) -> None:
        """Ends an open window and lets go of the sensors."""
        if self._sampler is not None:
            self.stop()
        sources, self._sources, self._channels = self._sources, (), []
        _close(sources)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_meter(
    *, gpus: list[int] | None, estimator: str | None, interval_s: float, powercap_root: Path | None = None
) -> EnergyMeter:
    """A meter over the sensors of this machine. A missing sensor is no error: its component says why.

    Args:
        gpus: places among the GPUs that CUDA_VISIBLE_DEVICES leaves; None takes all of them, [] none.
        estimator: "codecarbon" models what has no sensor of its own; None models nothing.
        interval_s: between samples.
        powercap_root: where the kernel's powercap tree is; None takes /sys/class/powercap.

    Raises:
        LemError: the estimator is not known or not installed, or the interval is not positive.
    """
    if not interval_s > 0:
        raise LemError(f"the sampling interval must be more than 0 s, got {interval_s:g}")
    if estimator not in (None, "codecarbon"):
        raise LemError(f"energy.estimator must be codecarbon or left out, got {estimator!r}")
    sources = [open_gpus(gpus), open_powercap(powercap_root)]
    if estimator is not None:
        from llenergymeasure.energy.codecarbon import open_codecarbon

        try:
            sources.append(open_codecarbon(list(sources[1].unavailable or {})))
        except LemError:
            _close(sources)
            raise
    return EnergyMeter(sources, interval_s=interval_s)


def _close(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.close is not None:
            source.close()
