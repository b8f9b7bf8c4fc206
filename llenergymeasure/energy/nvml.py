"""NVIDIA GPUs by NVML: the energy counter where the device has one (Volta and newer), else its power, polled.

The counter has a new value about every 100 ms. The sensor of an A100 or H100 sees a quarter of the time (arXiv
2312.02741), so that short bursts are missed. All is of the whole device: a MIG instance has no sensor of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llenergymeasure.energy.base import Channel, SensorError, Source
from llenergymeasure.hardware.nvml import NvmlUnavailable, close_nvml, open_nvml
from llenergymeasure.hardware.topology import Gpu, MigInstance, list_gpus, visible

__all__ = ["PERIOD_S", "open_gpus"]

PERIOD_S = 0.1
QUARTER = "a sensor that sees a quarter of the time (arXiv 2312.02741)"
THROTTLE = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}  # nvml.h, nvmlClocksEventReason*; an idle GPU and clocks that were set are no throttling


def open_gpus(gpus: Sequence[int] | None, environ: Mapping[str, str] = os.environ) -> Source:
    """Sensors of the GPUs at the places `gpus` among those visible; None takes all of these."""
    if gpus is not None and not gpus:
        return Source(unavailable={"gpu": "no GPU is used"})
    try:
        pynvml = open_nvml()
    except NvmlUnavailable as error:
        return Source(unavailable={"gpu": str(error)})
    try:
        return _source(pynvml, gpus, environ)
    except NvmlUnavailable as error:
        close_nvml(pynvml)
        return Source(unavailable={"gpu": str(error)})


def _source(pynvml: Any, asked: Sequence[int] | None, environ: Mapping[str, str]) -> Source:
    found = list_gpus(pynvml)
    chosen = _chosen(found, asked, environ.get("CUDA_VISIBLE_DEVICES"))
    devices: dict[int, list[MigInstance]] = {}  # a device once, however many of its instances are used
    for place, instance in chosen:
        devices.setdefault(place, []).extend([instance] if instance else [])
    channels, handles = [], []
    for place, instances in devices.items():
        gpu = found[place]
        if gpu.problem is not None:
            raise NvmlUnavailable(f"GPU {gpu.index} can't be read: {gpu.problem}")
        handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)
        device = gpu.uuid or f"GPU at index {gpu.index}"
        handles.append((device, handle))
        channels.append(_channel(pynvml, handle, gpu, device, instances))
    return Source(
        channels=tuple(channels),
        gpu_uuids=tuple(uuid for uuid, _ in handles),
        warnings=_warnings(found, environ),
        idle_state=lambda: _idle_state(pynvml, handles),
        throttle=lambda: _throttle(pynvml, handles),
        close=lambda: close_nvml(pynvml),
    )


def _chosen(
    found: Sequence[Gpu], asked: Sequence[int] | None, setting: str | None
) -> list[tuple[int, MigInstance | None]]:
    seen = visible(found, setting)
    if not seen:
        hidden = f"CUDA_VISIBLE_DEVICES={setting!r} hides all {len(found)}" if found else "the driver lists none"
        raise NvmlUnavailable(f"no GPU is visible: {hidden}")
    if asked is None:
        return seen
    beyond = [place for place in asked if not 0 <= place < len(seen)]
    if beyond:
        raise NvmlUnavailable(f"GPU {beyond[0]} was asked for, and {len(seen)} are visible, counted from 0")
    return [seen[place] for place in asked]


def _channel(pynvml: Any, handle: Any, gpu: Gpu, device: str, instances: Sequence[MigInstance]) -> Channel:
    """The device's counter, or its power where it has no counter."""
    names = ", ".join(instance.profile or instance.uuid for instance in instances)
    mig = f", of which MIG {names} ran" if names else ", MIG enabled" if gpu.mig_enabled else ""
    joules = _reader(pynvml, pynvml.nvmlDeviceGetTotalEnergyConsumption, handle, 1e-3)
    watts = _reader(pynvml, pynvml.nvmlDeviceGetPowerUsage, handle, 1e-3)
    problems = []
    has = []
    for read in (joules, watts):
        try:
            read()
        except SensorError as error:
            problems.append(str(error))
            has.append(False)
        else:
            has.append(True)
    if not any(has):
        raise NvmlUnavailable(f"{gpu.name} {device} has neither energy counter nor power: {'; '.join(problems)}")
    return Channel(
        component="gpu",
        device=device,
        scope=f"{gpu.name} {device} (whole device{mig})",
        source="nvml energy counter" if has[0] else "nvml power",
        quality="measured",
        period_s=PERIOD_S,
        read_joules=joules if has[0] else None,
        read_watts=watts if has[1] else None,
        limit=QUARTER if re.search(r"\b[AH]100\b", gpu.name or "") else None,
    )


def _reader(pynvml: Any, function: Callable[[Any], int], handle: Any, scale: float) -> Callable[[], float]:
    error_kind = pynvml.NVMLError

    def read() -> float:
        try:
            return function(handle) * scale
        except error_kind as error:
            raise SensorError(f"NVML {function.__name__.removeprefix('nvmlDeviceGet')}: {error}") from error

    return read


def _warnings(found: Sequence[Gpu], environ: Mapping[str, str]) -> tuple[str, ...]:
    by_number = any(part.strip().isdigit() for part in environ.get("CUDA_VISIBLE_DEVICES", "0").split(","))
    unlike = len({gpu.name for gpu in found}) > 1
    if by_number and unlike and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return (
            "GPUs of several models: CUDA numbers them by speed and NVML by bus; set CUDA_DEVICE_ORDER=PCI_BUS_ID, "
            "or name them by UUID in CUDA_VISIBLE_DEVICES",
        )
    return ()


def _idle_state(pynvml: Any, handles: Sequence[tuple[str, Any]]) -> str:
    """How many processes hold each GPU; a context alone raises a GPU's idle power."""
    counts = []
    for uuid, handle in handles:
        try:
            counts.append(f"{uuid} held by {len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))}")
        except pynvml.NVMLError:
            counts.append(f"{uuid} held by an unknown number")
    return ", ".join(counts)


def _throttle(pynvml: Any, handles: Sequence[tuple[str, Any]]) -> frozenset[str]:
    mask = 0
    for _, handle in handles:
        try:
            mask |= _reasons(pynvml, handle)
        except pynvml.NVMLError as error:
            raise SensorError(f"NVML throttle reasons: {error}") from error
    return frozenset(name for bit, name in THROTTLE.items() if mask & bit)


def _reasons(pynvml: Any, handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
