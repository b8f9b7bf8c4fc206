"""What a meter saw between start and stop."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llenergymeasure.energy.base import ComponentName
from llenergymeasure.energy.combine import KINDS, assemble
from llenergymeasure.energy.phases import Phase, phase_energy
from llenergymeasure.energy.sampler import Track
from llenergymeasure.results.schema import Baseline, Component, DeviceEnergy, Energy

__all__ = ["Reading"]


@dataclass(frozen=True, slots=True)
class Reading:
    """Samples of one window.

    Attributes:
        tracks: a track for each sensor.
        unavailable: component → why it has no sensor.
        started_s, finished_s: on time.monotonic().
        started_unix_s: Unix time of the start, by which windows of other processes are laid beside it.
        interval_s: between samples.
        sampler_cpu_s: CPU time of the readings; None where there was nothing to read.
        throttle: why clocks were held down, sorted; None where it can't be read.
    """

    tracks: Sequence[Track]
    unavailable: Mapping[ComponentName, str]
    started_s: float
    finished_s: float
    started_unix_s: float
    interval_s: float
    sampler_cpu_s: float | None
    throttle: list[str] | None

    @property
    def duration_s(self) -> float:
        """Length of the window."""
        return self.finished_s - self.started_s

    def energy(
        self,
        baseline: Baseline | None,
        phases: Sequence[Phase],
        *,
        carbon_intensity_kg_per_kwh: float | None = None,
    ) -> Energy:
        """The window's energy: by component, net of `baseline`, and by phase.

        Whatever has a sensor draws power, so that no joules at all are a sensor that does not work: unknown, not 0,
        and with it the sum over its kind. Memory may have none in one socket; where all of it shows nothing it is left
        out of the total, as where it has no sensor: many processors show an idle dram domain.
        """
        missing = dict(self.unavailable)
        devices = []
        for kind in KINDS:
            own = [self._device(track, baseline) for track in self.tracks if track.channel.component == kind]
            reason = f"the sensor showed no energy in {self.duration_s:.3g} s, so it does not work here"
            if kind != "ram":
                own = [_without_value(device, reason) if device.value_j == 0 else device for device in own]
            elif own and all(device.value_j == 0 for device in own):
                missing[kind], own = reason, []
            devices += own
        read = {device.device for device in devices if device.value_j is not None}
        tracks = [track for track in self.tracks if track.channel.device in read]
        unknown = Component(value=None, quality="unavailable", reason="nothing was read")
        return assemble(
            devices,
            missing,
            prefill=phase_energy("prefill", phases, tracks, interval_s=self.interval_s) if tracks else unknown,
            decode=phase_energy("decode", phases, tracks, interval_s=self.interval_s) if tracks else unknown,
            carbon_intensity_kg_per_kwh=carbon_intensity_kg_per_kwh,
            sampler_cpu_s=self.sampler_cpu_s,
        )

    @property
    def trace(self) -> list[tuple[float, float]] | None:
        """(seconds since the start, watts of all devices together); None where a device has no power to show."""
        if not self.tracks or any(track.failure is not None or len(track.times) < 2 for track in self.tracks):
            return None
        ticks = max(self.tracks, key=lambda track: len(track.times)).times
        curves = [_power_curve(track) for track in self.tracks]
        return [
            (round(tick - self.started_s, 4), math.fsum(_value_at(curve, tick) for curve in curves))
            for tick in ticks[1:]
        ]

    def _device(self, track: Track, baseline: Baseline | None) -> DeviceEnergy:
        channel = track.channel
        counter = channel.read_joules is not None
        reason = track.failure or self._too_short(track)
        duration_s = track.times[-1] - track.times[0] if track.times else self.duration_s
        joules = None if reason else track.joules[-1]
        error = None
        if joules is not None and counter and channel.quality == "measured":
            error = joules / duration_s * channel.period_s / math.sqrt(6)
        idle = next((idle for idle in baseline.devices if idle.device == channel.device), None) if baseline else None
        return DeviceEnergy(
            component=channel.component,
            device=channel.device,
            value_j=joules,
            standard_error_j=error,
            quality="unavailable" if reason else channel.quality,
            source=channel.source,
            scope=channel.scope,
            sampling=self._sampling(track),
            reason=reason or channel.model,
            started_s=self.started_unix_s + ((track.times[0] - self.started_s) if track.times else 0.0),
            duration_s=duration_s,
            counter_start_j=track.counter_start_j,
            counter_range_j=channel.range_j,
            idle_w=idle.power_w if idle else None,
            idle_error_w=idle.standard_error_w if idle else None,
            idle_duration_s=baseline.duration_s if baseline and idle else None,
            idle_degrees=idle.degrees if idle else None,
        )

    def _sampling(self, track: Track) -> str:
        channel = track.channel
        parts = ["counter read at both ends"]
        if channel.read_joules is None:
            rule = "its mean since the last" if channel.mean_since_last else "trapezoid"
            parts = [f"power every {self.interval_s:g} s, {rule}"]
            if track.longest_gap_s > 2 * self.interval_s:
                parts.append(f"longest gap {track.longest_gap_s:.2g} s")
        return ", ".join([*parts, channel.limit] if channel.limit else parts)

    def _too_short(self, track: Track) -> str | None:
        """A window shorter than the sensor's period may read nothing at all, or a period too much."""
        if self.duration_s >= track.channel.period_s:
            return None
        return (
            f"the window of {1000 * self.duration_s:.3g} ms is shorter than the {1000 * track.channel.period_s:.3g} ms "
            "in which the sensor has a new value"
        )


def _without_value(device: DeviceEnergy, reason: str) -> DeviceEnergy:
    return device.model_copy(update={"value_j": None, "quality": "unavailable", "reason": reason})


def _power_curve(track: Track) -> tuple[list[float], list[float]]:
    """(times, watts): as read, else the counter's slope over stretches no shorter than two of its periods."""
    read = [(at, watts) for at, watts in zip(track.times, track.watts, strict=True) if watts is not None]
    if len(read) > 1:
        return [at for at, _ in read], [watts for _, watts in read]
    times, watts = [], []
    at, joules = track.times[0], track.joules[0]
    for now, counted in zip(track.times[1:], track.joules[1:], strict=True):
        if now - at >= 2 * track.channel.period_s or now == track.times[-1]:
            times.append(now)
            watts.append((counted - joules) / (now - at) if now > at else 0.0)
            at, joules = now, counted
    return times, watts


def _value_at(curve: tuple[list[float], list[float]], time_s: float) -> float:
    """The curve's value nearest before a time, or its first."""
    times, values = curve
    return values[max(0, bisect_right(times, time_s) - 1)]
