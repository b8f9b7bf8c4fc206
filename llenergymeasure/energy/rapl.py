"""Processors and memory by RAPL, read from the kernel's powercap tree.

Domains overlap: psys holds the packages, a package its cores and uncore; dram is in none of them. Packages and dram are
read, psys only where there is no package. `intel-rapl-mmio` shows a package a second time and is left alone beside
`intel-rapl`. AMD's packages have the same names. The counters wrap, at 2¹⁸ J on many servers.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llenergymeasure.energy.base import Channel, ComponentName, SensorError, Source

__all__ = ["POWERCAP", "open_powercap"]

POWERCAP = Path("/sys/class/powercap")
PERIOD_S = 0.001  # a new value about every millisecond
POWER_LIMIT_W = 1000.0  # no package draws as much
PLATFORM_LIMIT_W = 4000.0


@dataclass(frozen=True, slots=True)
class Zone:
    """A folder of the tree: `name` of its domain, and the name of the zone that holds it."""

    folder: Path
    name: str
    parent: str | None


def open_powercap(root: Path | None = None) -> Source:
    """Sensors under `root`; None takes the kernel's own tree."""
    root = root or POWERCAP
    zones = _zones(root)
    packages = [zone for zone in zones if zone.name.startswith("package")]
    platform = [zone for zone in zones if zone.name == "psys"]
    if not packages and not platform:
        reason = f"no RAPL: {root} shows no package (a virtual machine, or a kernel without it)"
        return Source(unavailable={"cpu": reason, "ram": reason})
    unavailable: dict[ComponentName, str] = {}
    channels: list[Channel] = []
    if packages:
        channels += _readable("cpu", packages, unavailable)
        memory = [zone for zone in zones if zone.name == "dram"]
        channels += _readable("ram", memory, unavailable)
        if not memory:
            unavailable["ram"] = "this processor's RAPL has no dram domain"
    else:
        channels += _readable("cpu", platform, unavailable)
        unavailable["ram"] = "within psys, which RAPL shows instead of packages"
    return Source(channels=tuple(channels), unavailable=unavailable)


def _zones(root: Path) -> list[Zone]:
    """The zones of one control type: intel-rapl, or else intel-rapl-mmio. Flat as in /sys/class, or nested."""
    found: dict[str, Zone] = {}
    for kind in ("intel-rapl", "intel-rapl-mmio"):
        folders = [*root.glob(f"{kind}:*"), *root.glob(f"{kind}/{kind}:*")]
        for folder in [*folders, *(inner for outer in folders for inner in outer.glob(f"{kind}:*"))]:
            name = _name(folder)
            if name is not None and folder.name not in found:
                found[folder.name] = Zone(folder, name, None)
        if found:
            break
    return [
        Zone(zone.folder, zone.name, found[above].name if (above := key.rpartition(":")[0]) in found else None)
        for key, zone in sorted(found.items())
    ]


def _name(folder: Path) -> str | None:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return None


def _readable(component: ComponentName, zones: list[Zone], unavailable: dict[ComponentName, str]) -> list[Channel]:
    """Channels of all the zones; none, and a reason, where one can't be read: a part would pass for the whole."""
    channels = [_channel(component, zone) for zone in zones]
    for channel in channels:
        assert channel.read_joules is not None
        try:
            channel.read_joules()
        except SensorError as error:
            unavailable[component] = str(error)
            return []
    return channels


def _channel(component: ComponentName, zone: Zone) -> Channel:
    device = f"{zone.parent} {zone.name}" if zone.parent else zone.name
    whole = {"psys": "whole platform", "dram": "its memory"}.get(zone.name, "whole processor")
    return Channel(
        component=component,
        device=device,
        scope=f"{device} ({whole}, whatever runs there)",
        source=f"rapl {'package' if zone.name.startswith('package') else zone.name}",
        quality="measured",
        period_s=PERIOD_S,
        read_joules=_reader(zone.folder / "energy_uj"),
        range_j=_range_j(zone.folder / "max_energy_range_uj"),
        power_limit_w=PLATFORM_LIMIT_W if zone.name == "psys" else POWER_LIMIT_W,
    )


def _range_j(path: Path) -> float | None:
    try:
        return _microjoules(path) * 1e-6 or None
    except SensorError:
        return None


def _reader(path: Path) -> Callable[[], float]:
    return lambda: _microjoules(path) * 1e-6


def _microjoules(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY)  # at 10 Hz: a third of the time of Path.read_text
        try:
            text = os.read(descriptor, 64)
        finally:
            os.close(descriptor)
        return int(text)
    except PermissionError as error:
        raise SensorError(
            f"{path} can't be read: permission denied; run as root, or allow it: sudo chmod a+r {path}"
        ) from error
    except OSError as error:
        raise SensorError(f"{path} can't be read: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise SensorError(f"{path} holds no number") from error
