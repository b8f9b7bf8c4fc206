"""codecarbon's models of processor and memory power, for machines without sensors; only where they are asked for.

Its tracker is not used: that looks for a cloud's address, writes files, and turns joules into carbon by a country it
assumes. Its two models are:

    processor   TDP · (0.1 + 0.9 · load³), the TDP from its table or 4 W a thread, load of the whole machine
    memory      5 W a DIMM, the number of DIMMs guessed from the size
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from llenergymeasure.energy.base import Channel, ComponentName, SensorError, Source
from llenergymeasure.errors import LemError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["open_codecarbon"]

LEVELS = ("critical", "error", "warning", "info", "debug")
W_A_THREAD = 4.0
LEAST_LOAD_WINDOW_S = 0.02  # the kernel counts a processor's time in steps of 10 ms


def open_codecarbon(components: Collection[ComponentName]) -> Source:
    """Models of the given components, of cpu and ram.

    Raises:
        LemError: codecarbon is not installed, or its log level is not one.
    """
    wanted = [component for component in components if component in ("cpu", "ram")]
    if not wanted:
        return Source()
    _check_level()
    try:
        from codecarbon.core.cpu import TDP
        from codecarbon.external.hardware import CPU
        from codecarbon.external.ram import RAM
    except ImportError as error:
        raise LemError("energy.estimator codecarbon is not installed; pip install 'medvllm[lem]'") from error
    version = importlib.metadata.version("codecarbon")
    channels = []
    if "cpu" in wanted:
        channels.append(_processor(version, TDP, CPU))
    if "ram" in wanted:
        channels.append(_memory(version, RAM))
    return Source(channels=tuple(channels))


def _check_level() -> None:
    """codecarbon takes its log level from the environment; one that it does not know it would only log."""
    given = os.environ.get("CODECARBON_LOG_LEVEL", "info")
    if given.lower() not in LEVELS:
        raise LemError(f"CODECARBON_LOG_LEVEL must be one of {', '.join(LEVELS)}, got {given!r}")


def _processor(version: str, tdp_kind: Any, cpu_kind: Any) -> Channel:
    found = tdp_kind()
    threads = os.cpu_count() or 1
    tdp_w = float(found.tdp or W_A_THREAD * threads)
    origin = "4 W a thread, as its table has none of it" if tdp_w == W_A_THREAD * threads else "from its table"
    model = cpu_kind(output_dir="", mode="cpu_load", model=found.model, tdp=tdp_w)
    model.start()
    return Channel(
        component="cpu",
        device="codecarbon cpu",
        scope="whole machine",
        source=f"codecarbon {version} (load model)",
        quality="estimated",
        period_s=LEAST_LOAD_WINDOW_S,
        read_watts=_watts(model),
        mean_since_last=True,
        model=f"no sensor; codecarbon's formula: TDP {tdp_w:g} W of {found.model} ({origin}) · (0.1 + 0.9 load³)",
    )


def _memory(version: str, ram_kind: Any) -> Channel:
    watts = _watts(ram_kind())()  # of the memory's size only: it does not change
    return Channel(
        component="ram",
        device="codecarbon ram",
        scope="whole machine",
        source=f"codecarbon {version} (DIMM model)",
        quality="estimated",
        period_s=LEAST_LOAD_WINDOW_S,
        read_watts=lambda: watts,
        model=f"no sensor; codecarbon's formula: {watts:g} W for memory of this size",
    )


def _watts(model: Any) -> Callable[[], float]:
    def read() -> float:
        try:
            return float(model.total_power().W)
        except (OSError, RuntimeError, ValueError) as error:
            raise SensorError(f"codecarbon: {error}") from error

    return read
