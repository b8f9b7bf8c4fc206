"""What every sensor offers: a counter of joules, or a power in watts, of one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from llenergymeasure.results.schema import Quality

__all__ = ["Channel", "ComponentName", "SensorError", "Source"]

ComponentName = Literal["gpu", "cpu", "ram"]


class SensorError(Exception):
    """A reading that can't be had; the message is the reason a result shows."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One sensor of one device: a counter, a power, or both; energy comes from the counter where there is one.

    Attributes:
        component: what it is part of.
        device: its name, the same in every process of this machine.
        scope: what its joules are the joules of.
        source: the sensor, for the result.
        quality: of its readings.
        period_s: how often the sensor itself has a new value.
        read_joules: the counter from a zero of its own. Raises SensorError.
        read_watts: the power now. Raises SensorError.
        range_j: where the counter wraps; None where it does not.
        power_limit_w: more than the device can draw, to tell after a gap how often the counter may have wrapped.
        mean_since_last: read_watts gives the mean since it was last read, not the power at that moment.
        limit: what the sensor is known not to see.
        model: the model behind an estimate.
    """

    component: ComponentName
    device: str
    scope: str
    source: str
    quality: Quality
    period_s: float
    read_joules: Callable[[], float] | None = None
    read_watts: Callable[[], float] | None = None
    range_j: float | None = None
    power_limit_w: float = 2000.0
    mean_since_last: bool = False
    limit: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What a kind of sensor found on this machine.

    Attributes:
        channels: the sensors.
        unavailable: component → why it has no sensor here.
        gpu_uuids: GPUs that this process sees.
        warnings: what the user ought to know about the readings.
        idle_state: what tells one idle machine from another, such as the processes that hold a GPU.
        throttle: the reasons by which clocks are held down now; None where they can't be read.
        close: lets go of the library.
    """

    channels: tuple[Channel, ...] = ()
    unavailable: dict[ComponentName, str] | None = None
    gpu_uuids: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    idle_state: Callable[[], str] | None = None
    throttle: Callable[[], frozenset[str]] | None = None
    close: Callable[[], None] | None = None
