"""From readings of devices to the components of a result; sums over segments and processes, no device twice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from llenergymeasure.energy.base import ComponentName
from llenergymeasure.results.schema import Component, DeviceEnergy, Energy, Interval, worst_quality
from llenergymeasure.stats.net import IdleCorrected, net_energy

__all__ = ["KINDS", "assemble", "combine"]

KINDS: tuple[ComponentName, ...] = ("gpu", "cpu", "ram")
J_PER_KWH = 3.6e6
NO_TOTAL = "the total is unavailable"


def combine(energies: Sequence[Energy]) -> Energy:
    """The energy of several windows: segments one after the other, processes at the same time.

    A device that several processes read at once is counted over the union of their windows.

    Raises:
        ValueError: there are no energies.
    """
    if not energies:
        raise ValueError("there is no energy to combine")
    if len(energies) == 1:
        return energies[0]
    given = [device for energy in energies for device in energy.devices]
    devices, shared = _disjoint(given)
    missing: dict[ComponentName, str] = {}
    for kind in KINDS:
        without = [energy for energy in energies if not any(device.component == kind for device in energy.devices)]
        if without:
            reasons = dict.fromkeys(getattr(energy, kind).reason or "not read" for energy in without)
            part = "" if len(without) == len(energies) else f"{len(without)} of {len(energies)} parts have no reading: "
            missing[kind] = part + "; ".join(reasons)
    devices = [device for device in devices if device.component not in missing]
    intensities = {energy.carbon_intensity_kg_per_kwh for energy in energies if energy.total.value is not None}
    costs = [energy.sampler_cpu_s for energy in energies if energy.sampler_cpu_s is not None]
    return assemble(
        devices,
        missing,
        prefill=_summed([energy.prefill for energy in energies], shared),
        decode=_summed([energy.decode for energy in energies], shared),
        carbon_intensity_kg_per_kwh=intensities.pop() if len(intensities) == 1 else None,
        sampler_cpu_s=math.fsum(costs) if costs else None,
    )


def assemble(
    devices: Sequence[DeviceEnergy],
    missing: Mapping[ComponentName, str],
    *,
    prefill: Component,
    decode: Component,
    carbon_intensity_kg_per_kwh: float | None,
    sampler_cpu_s: float | None,
) -> Energy:
    """The components from windows of devices, none of which overlaps another of its device.

    `missing` says why a component has no sensor. A device whose reading failed makes its component and the total
    unknown; a component without a sensor is left out of the total, which says so.
    """
    gpu, cpu, ram = (_component(kind, devices, missing) for kind in KINDS)
    total = _total(devices, {"gpu": gpu, "cpu": cpu, "ram": ram})
    covered_s = _union_s(devices)
    if total.value is None:
        prefill = decode = _unavailable(NO_TOTAL)
    return Energy(
        gpu=gpu,
        cpu=cpu,
        ram=ram,
        total=total,
        net=_net(devices, total),
        prefill=prefill,
        decode=decode,
        carbon=_carbon(total, carbon_intensity_kg_per_kwh),
        mean_power_w=None if total.value is None or not covered_s else total.value / covered_s,
        sampler_cpu_s=sampler_cpu_s,
        carbon_intensity_kg_per_kwh=carbon_intensity_kg_per_kwh,
        devices=list(devices),
    )


def _unavailable(reason: str | None, unit: str = "J") -> Component:
    return Component(value=None, unit=unit, quality="unavailable", reason=reason)


def _component(kind: ComponentName, devices: Sequence[DeviceEnergy], missing: Mapping[ComponentName, str]) -> Component:
    own = [device for device in devices if device.component == kind]
    if not own:
        return _unavailable(missing.get(kind, "not read"))
    return _sum(own)


def _sum(devices: Sequence[DeviceEnergy]) -> Component:
    """One component over devices; unknown where one of them is."""
    failed = [f"{device.device}: {device.reason}" for device in devices if device.value_j is None]
    errors = [device.standard_error_j for device in devices]
    joules = math.fsum(device.value_j or 0.0 for device in devices)
    interval = None
    if not failed and None not in errors:
        half = 1.96 * math.sqrt(math.fsum((error or 0.0) ** 2 for error in errors))
        interval = Interval(low=max(0.0, joules - half), high=joules + half, method="sensor period")
    return Component(
        value=None if failed else joules,
        quality="unavailable" if failed else worst_quality([device.quality for device in devices]),
        source=_joined(device.source for device in devices),
        scope=_joined(device.scope for device in devices),
        sampling=_joined(device.sampling for device in devices),
        uncertainty=interval,
        reason=_joined(failed or (device.reason for device in devices)) or None,
    )


def _joined(parts: Iterable[str | None]) -> str:
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _total(devices: Sequence[DeviceEnergy], components: Mapping[str, Component]) -> Component:
    by_reason: dict[str, list[str]] = {}
    for name, component in components.items():
        if component.quality == "unavailable":
            by_reason.setdefault(component.reason or "not read", []).append(name)
    left_out = [f"{', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    if any(device.value_j is None for device in devices) or not devices:
        return _unavailable("; ".join(left_out))
    total = _sum(devices)
    known = [name for name, component in components.items() if component.value is not None]
    note = [total.reason or "", *(f"without {part}" for part in left_out)]
    return total.model_copy(update={"scope": f"{' + '.join(known)}: {total.scope}", "reason": _joined(note) or None})


def _net(devices: Sequence[DeviceEnergy], total: Component) -> Component:
    """The total less idle power; an estimate by formula has no interval."""
    if total.value is None:
        return _unavailable(NO_TOTAL)
    bare = [device.device for device in devices if device.idle_w is None]
    if bare:
        return _unavailable(f"no idle baseline of {', '.join(dict.fromkeys(bare))}")
    windows = [
        IdleCorrected(
            device=device.device,
            energy_j=device.value_j or 0.0,
            standard_error_j=device.standard_error_j,
            duration_s=device.duration_s,
            idle_w=device.idle_w or 0.0,
            idle_error_w=device.idle_error_w,
            idle_duration_s=device.idle_duration_s or 0.0,
            idle_degrees=device.idle_degrees or 1.0,
        )
        for device in devices
    ]
    joules, interval = net_energy(windows)
    return Component(
        value=joules,
        quality=total.quality,
        source=total.source,
        scope=total.scope,
        sampling="total less mean idle power times the window",
        uncertainty=interval if total.quality == "measured" else None,
        reason=total.reason,
    )


def _carbon(total: Component, intensity: float | None) -> Component:
    if intensity is None:
        return _unavailable("no carbon intensity was given; set energy.carbon_intensity_kg_per_kwh", "kg")
    if total.value is None:
        return _unavailable(NO_TOTAL, "kg")
    return Component(
        value=total.value / J_PER_KWH * intensity,
        unit="kg",
        quality=total.quality,
        source=f"{total.source}; {intensity:g} kg/kWh as given",
        scope=total.scope,
        reason=total.reason,
    )


def _end_s(device: DeviceEnergy) -> float:
    return device.started_s + device.duration_s


def _union_s(devices: Sequence[DeviceEnergy]) -> float:
    """Seconds covered by at least one window."""
    covered, until = 0.0, -math.inf
    for device in sorted(devices, key=lambda device: device.started_s):
        covered += max(0.0, _end_s(device) - max(until, device.started_s))
        until = max(until, _end_s(device))
    return covered


def _disjoint(devices: Sequence[DeviceEnergy]) -> tuple[list[DeviceEnergy], set[str]]:
    """(windows, of which no two of a device overlap; devices whose windows did)."""
    merged: list[DeviceEnergy] = []
    shared = set()
    by_device: dict[tuple[str, str], list[DeviceEnergy]] = {}
    for device in devices:
        by_device.setdefault((device.component, device.device), []).append(device)
    for windows in by_device.values():
        windows.sort(key=lambda window: (window.started_s, -window.duration_s))
        current = windows[0]
        for window in windows[1:]:
            if window.started_s < _end_s(current):
                shared.add(window.device)
                current = _union(current, window)
            else:
                merged.append(current)
                current = window
        merged.append(current)
    return merged, shared


def _union(first: DeviceEnergy, second: DeviceEnergy) -> DeviceEnergy:
    """Two overlapping windows of a device as one; `first` starts first."""
    beyond_s = _end_s(second) - _end_s(first)
    if beyond_s <= 0:
        return first
    changes: dict[str, object] = {"duration_s": _end_s(second) - first.started_s}
    if first.value_j is None or second.value_j is None:
        reason = first.reason if first.value_j is None else second.reason
        changes |= {"value_j": None, "quality": "unavailable", "reason": reason}
    else:
        changes["value_j"] = _union_j(first, second, beyond_s)
    return first.model_copy(update=changes)


def _union_j(first: DeviceEnergy, second: DeviceEnergy, beyond_s: float) -> float:
    """Joules of both windows: from the counter's readings, else the second's in proportion to what it adds."""
    assert first.value_j is not None
    assert second.value_j is not None
    if first.counter_start_j is None or second.counter_start_j is None:
        return first.value_j + second.value_j * beyond_s / second.duration_s
    between = second.counter_start_j - first.counter_start_j
    if first.counter_range_j is not None:  # the counter may have wrapped before the second window began
        expected = first.value_j * (second.started_s - first.started_s) / first.duration_s
        between += first.counter_range_j * round((expected - between) / first.counter_range_j)
    return max(first.value_j, between + second.value_j)


def _summed(parts: Sequence[Component], shared: set[str]) -> Component:
    """Prefill or decode over windows; one that is unknown makes the sum so."""
    if shared:
        return _unavailable(f"several processes ran on {', '.join(sorted(shared))} at once: its energy has no phases")
    unknown = [part.reason for part in parts if part.value is None]
    if unknown:
        return _unavailable(_joined(unknown))
    joules = math.fsum(part.value or 0.0 for part in parts)
    halves = [(part.uncertainty.high - (part.value or 0.0)) if part.uncertainty else None for part in parts]
    interval = None
    if None not in halves:
        half = math.sqrt(math.fsum((width or 0.0) ** 2 for width in halves))
        interval = Interval(low=max(0.0, joules - half), high=joules + half, method="sensor period")
    return parts[0].model_copy(
        update={
            "value": joules,
            "quality": worst_quality([part.quality for part in parts]),
            "source": _joined(part.source for part in parts),
            "scope": _joined(part.scope for part in parts),
            "uncertainty": interval,
        }
    )
