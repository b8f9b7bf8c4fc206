"""What every benchmark prints: machine, versions, figures with n, median and p90; and a JSON file where asked for."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["environment", "machine", "summary", "write"]

PACKAGES = ("torch", "triton", "transformers", "flash-attn", "scikit-learn")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, Python."""
    model = platform.processor() or "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def environment(device: str = "cpu") -> dict[str, Any]:
    """The machine, what is installed, the commit and the hour; on cuda also the GPU. Imports torch for cuda only."""
    from medvllm import __version__

    report: dict[str, Any] = {
        **machine(),
        "device": device,
        "gpu": _gpu() if device == "cuda" else None,
        "versions": {"medvllm": __version__, **{name: _version(name) for name in PACKAGES}},
        **_commit(),
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_1min": round(os.getloadavg()[0], 2),
        "switches": {name: value for name, value in sorted(os.environ.items()) if _is_switch(name)},
    }
    if "torch" in sys.modules:
        import torch

        report["threads"] = torch.get_num_threads()
    return report


def _is_switch(name: str) -> bool:
    """Whether a variable says how we compute; places and addresses are nobody's business in a report."""
    return name.startswith(("MEDVLLM_ENABLE", "MEDVLLM_DISABLE", "MEDVLLM_SEP3D")) or name == "OMP_NUM_THREADS"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any]:
    """The commit of the checkout and whether files differ from it; None where there is no checkout or no git."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if changed is None else bool(changed)}


def _gpu() -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """n, median, p90 and minimum."""
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 4),
        "p90": round(ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], 4),
        "min": round(ordered[0], 4),
    }


def write(report: dict[str, Any], path: str | None) -> None:
    """Prints the report as JSON, and writes it to `path` where one is given."""
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if path:
        from medvllm.utils.files import write_atomically

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), f"{text}\n".encode())
