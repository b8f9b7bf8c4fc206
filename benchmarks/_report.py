"""What every benchmark prints: the machine, the figures with n, median and p90, and a JSON file where asked for."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["machine", "summary", "write"]


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
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text + "\n")
