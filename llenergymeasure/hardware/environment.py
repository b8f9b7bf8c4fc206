"""What a result has to say of the machine and its software; no host or user is named."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["environment_record", "host_id"]

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "bitsandbytes",
    "vllm",
    "tensorrt-llm",
    "triton",
    "flash-attn",
    "numpy",
    "nvidia-ml-py",
    "codecarbon",
    "medvllm",
)
SWITCHES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")


def host_id() -> str:
    """This machine as 12 hexadecimal digits, by which its results are told from another's; a hash, not its name."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        text = _text(Path(place))
        if text:
            break
    else:
        text = platform.node()
    return hashlib.sha256(f"lem host {text}".encode()).hexdigest()[:12]


def environment_record() -> dict[str, Any]:
    """Processor, memory, system, GPUs and versions; what this machine does not tell is None. Imports no torch."""
    from llenergymeasure.hardware.topology import read_topology

    gpus = read_topology()
    return {
        "host": host_id(),
        "cpu": _cpu(),
        "memory_mib": _memory_mib(),
        "system": {
            "os": _os_name(),
            "kernel": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "container": _container(),
            "virtual_machine": "hypervisor" in _cpuinfo("flags").split(),
        },
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "gpus": [
            {"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name, "memory_mib": _mib(gpu.memory_bytes)}
            | {"mig": len(gpu.instances) if gpu.mig_enabled else None, "visible": place in gpus.visible}
            for place, gpu in enumerate(gpus.gpus)
        ],
        "gpu_reason": gpus.reason,
        "nvidia_driver": gpus.driver,
        "cuda_of_driver": gpus.cuda,
        "variables": {name: os.environ[name] for name in SWITCHES if name in os.environ},
    }


def _cpu() -> dict[str, Any]:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {
        "model": _cpuinfo("model name") or platform.processor() or None,
        "logical_cores": os.cpu_count(),
        "physical_cores": _physical_cores(),
        "cores_allowed": affinity,
        "core_quota": _core_quota(),
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    }


def _cpuinfo(field: str) -> str:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""


def _physical_cores() -> int | None:
    cores = set()
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        cores.add((_text(folder / "physical_package_id"), _text(folder / "core_id")))
    return len(cores) or None


def _core_quota() -> float | None:
    """Cores that the control group may use, by time; None where there is no limit."""
    quota, _, period = (_text(Path("/sys/fs/cgroup/cpu.max")) or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory_mib() -> dict[str, int | None]:
    total = None
    for line in (_text(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) // 1024
    limit = _text(Path("/sys/fs/cgroup/memory.max"))
    return {"total": total, "limit": int(limit) // 2**20 if limit and limit.isdigit() else None}


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.platform(terse=True)


def _container() -> str | None:
    """The kind of container this runs in, as far as it shows."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    if os.environ.get("APPTAINER_CONTAINER") or os.environ.get("SINGULARITY_CONTAINER"):
        return "apptainer"
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _mib(size: int | None) -> int | None:
    return None if size is None else size // 2**20


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
