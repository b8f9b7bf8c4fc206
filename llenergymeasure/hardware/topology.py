"""The NVIDIA GPUs of this machine, their MIG instances, and which of them this process sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llenergymeasure.hardware.nvml import NvmlUnavailable, session

__all__ = ["Gpu", "MigInstance", "Topology", "list_gpus", "read_topology", "visible"]


@dataclass(frozen=True, slots=True)
class MigInstance:
    """A part of a GPU, in the order of its parent's list."""

    index: int
    uuid: str
    profile: str | None  # such as 1g.5gb
    memory_bytes: int | None
    gpu_instance: int | None
    compute_instance: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole device; `index` is NVML's, by PCI bus. What the driver does not tell is None."""

    index: int
    uuid: str | None
    name: str | None
    memory_bytes: int | None
    mig_enabled: bool
    instances: tuple[MigInstance, ...] = ()
    problem: str | None = None  # why it can't be read


@dataclass(frozen=True, slots=True)
class Topology:
    """All GPUs, and the places in `gpus` of those that this process sees, in CUDA's order."""

    gpus: tuple[Gpu, ...]
    visible: tuple[int, ...]
    driver: str | None = None
    cuda: str | None = None  # the newest CUDA that the driver takes
    reason: str | None = None  # why none was found


def read_topology(environ: Mapping[str, str] = os.environ) -> Topology:
    """What NVML tells; without NVML, no GPUs and the reason."""
    try:
        with session() as pynvml:
            gpus = list_gpus(pynvml)
            version = _asked(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2)
            return Topology(
                gpus=gpus,
                visible=tuple(place for place, _ in visible(gpus, environ.get("CUDA_VISIBLE_DEVICES"))),
                driver=_asked(pynvml, pynvml.nvmlSystemGetDriverVersion),
                cuda=None if version is None else f"{version // 1000}.{version % 1000 // 10}",
                reason=None if gpus else "the NVIDIA driver lists no device",
            )
    except NvmlUnavailable as error:
        return Topology(gpus=(), visible=(), reason=str(error))


def list_gpus(pynvml: Any) -> tuple[Gpu, ...]:
    """Every device of an open NVML; one that can't be read is there with its problem."""
    try:
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        raise NvmlUnavailable(f"the NVIDIA driver lists no devices: {error}") from error
    return tuple(_gpu(pynvml, index) for index in range(count))


def _gpu(pynvml: Any, index: int) -> Gpu:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return Gpu(index, None, None, None, mig_enabled=False, problem=str(error))
    memory = _asked(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    mode = _asked(pynvml, pynvml.nvmlDeviceGetMigMode, handle)  # not supported: the GPU has no MIG
    enabled = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    return Gpu(
        index=index,
        uuid=_asked(pynvml, pynvml.nvmlDeviceGetUUID, handle),
        name=_asked(pynvml, pynvml.nvmlDeviceGetName, handle),
        memory_bytes=None if memory is None else int(memory.total),
        mig_enabled=enabled,
        instances=_instances(pynvml, handle) if enabled else (),
    )


def _instances(pynvml: Any, handle: Any) -> tuple[MigInstance, ...]:
    found = []
    for index in range(_asked(pynvml, pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _asked(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        uuid = None if instance is None else _asked(pynvml, pynvml.nvmlDeviceGetUUID, instance)
        if uuid is None:  # a place without an instance
            continue
        name = _asked(pynvml, pynvml.nvmlDeviceGetName, instance)
        memory = _asked(pynvml, pynvml.nvmlDeviceGetMemoryInfo, instance)
        found.append(
            MigInstance(
                index=index,
                uuid=uuid,
                profile=name.rpartition(" MIG ")[2] if name and " MIG " in name else None,
                memory_bytes=None if memory is None else int(memory.total),
                gpu_instance=_asked(pynvml, pynvml.nvmlDeviceGetGpuInstanceId, instance),
                compute_instance=_asked(pynvml, pynvml.nvmlDeviceGetComputeInstanceId, instance),
            )
        )
    return tuple(found)


def _asked(pynvml: Any, function: Any, *arguments: Any) -> Any:
    """The answer, or None where this device or driver has none."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def visible(gpus: Sequence[Gpu], setting: str | None) -> list[tuple[int, MigInstance | None]]:
    """(place in `gpus`, MIG instance if one is named) for each entry of CUDA_VISIBLE_DEVICES, as CUDA reads it.

    An entry is a place, the beginning of a UUID, or an instance: `MIG-<uuid>`, or `MIG-GPU-<uuid>/<gi>/<ci>` of older
    drivers. The first that names nothing hides all that follow.
    """
    if setting is None:
        return [(place, None) for place in range(len(gpus))]
    found: list[tuple[int, MigInstance | None]] = []
    for entry in setting.split(","):
        named = _named(gpus, entry.strip())
        if named is None:
            break
        if named not in found:
            found.append(named)
    return found


def _named(gpus: Sequence[Gpu], entry: str) -> tuple[int, MigInstance | None] | None:
    if entry.isascii() and entry.isdigit():
        return (int(entry), None) if int(entry) < len(gpus) else None
    matches: list[tuple[int, MigInstance | None]] = []
    for place, gpu in enumerate(gpus):
        if entry.startswith("GPU-") and gpu.uuid is not None and gpu.uuid.startswith(entry):
            matches.append((place, None))
        elif entry.startswith("MIG-"):
            matches += [(place, one) for one in gpu.instances if _is_instance(gpu, one, entry)]
    return matches[0] if len(matches) == 1 else None


def _is_instance(gpu: Gpu, instance: MigInstance, entry: str) -> bool:
    old_name = f"MIG-{gpu.uuid}/{instance.gpu_instance}/{instance.compute_instance}"
    return instance.uuid.startswith(entry) or entry == old_name
