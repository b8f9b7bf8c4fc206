"""Results made by formula, for the tests of what is done with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.results.schema import (
    Component,
    Compute,
    DeviceEnergy,
    Energy,
    PromptSource,
    RawResult,
    RequestRecord,
    Segment,
    Throughput,
)
from llenergymeasure.results.store import ResultStore

ID = "exp_20240115_123456"
BEGAN = datetime(2024, 1, 15, 12, 34, 56, tzinfo=UTC)
UNKNOWN = Component(value=None, quality="unavailable", reason="no sensor <here>")


def energy_of(
    joules: float | None, *, device: str, start_s: float, duration_s: float, quality: Any = "measured"
) -> Energy:
    """The energy of one GPU over one window."""
    if joules is None:
        parts: dict[str, Any] = dict.fromkeys(["gpu", "cpu", "ram", "total", "net", "prefill", "decode"], UNKNOWN)
        carbon = UNKNOWN.model_copy(update={"unit": "kg"})
        return Energy(**parts, carbon=carbon, mean_power_w=None, sampler_cpu_s=None)
    known = Component(value=joules, quality=quality, source="nvml energy counter", scope=device)
    reading = DeviceEnergy(
        component="gpu",
        device=device,
        value_j=joules,
        quality=quality,
        source="nvml energy counter",
        scope=device,
        sampling="counter read at both ends",
        started_s=start_s,
        duration_s=duration_s,
    )
    return Energy(
        gpu=known,
        cpu=UNKNOWN,
        ram=UNKNOWN,
        total=known,
        net=UNKNOWN,
        prefill=known.model_copy(update={"value": joules * 0.2}),
        decode=known.model_copy(update={"value": joules * 0.8}),
        carbon=UNKNOWN.model_copy(update={"unit": "kg"}),
        mean_power_w=joules / duration_s,
        sampler_cpu_s=0.01,
        devices=[reading],
    )


def make_result(
    *,
    experiment_id: str = ID,
    process: int = 0,
    processes: int = 1,
    cycle: int = 0,
    cycles: int = 1,
    requests: int = 4,
    duration_s: float = 2.0,
    late_s: float = 0.0,
    joules: float | None = 100.0,
    quality: Any = "measured",
    gpu: str | None = None,
    backend: str = "pytorch",
    latency_ms: Sequence[float] | None = None,
    **changes: Any,
) -> RawResult:
    """One process's result: its share of `requests`, 10 tokens in and 5 out each."""
    began = BEGAN + timedelta(seconds=100 * cycle + late_s)
    device = gpu or f"GPU-{process}"
    mine = range(process, requests, processes)
    lengths = latency_ms or [100.0 * (index + 1) for index in mine]
    energy = energy_of(joules, device=device, start_s=began.timestamp(), duration_s=duration_s, quality=quality)
    tokens = 5 * len(mine)
    config = {
        "config_name": changes.get("config_name", "tiny"),
        "num_cycles": cycles,
        "num_processes": processes,
        "max_output_tokens": 5,
        "batching": {"batch_size": 1},
        "extra_metadata": {},
    } | changes.pop("config", {})
    values: dict[str, Any] = {
        "experiment_id": experiment_id,
        "config_name": "tiny",
        "model_name": "org/model",
        "backend": backend,
        "process_index": process,
        "num_processes": processes,
        "cycle": cycle,
        "started_at": began.isoformat(),
        "finished_at": (began + timedelta(seconds=duration_s)).isoformat(),
        "gpu_uuids": [device],
        "prompts": PromptSource(
            name="builtin",
            revision=None,
            split=None,
            column=None,
            requests=requests,
            available=100,
            sha256=hashlib.sha256(b"prompts").hexdigest(),
        ),
        "throughput": Throughput(
            requests=len(mine),
            input_tokens=10 * len(mine),
            output_tokens=tokens,
            total_tokens=15 * len(mine),
            duration_s=duration_s,
            tokens_per_s=tokens / duration_s,
            total_tokens_per_s=15 * len(mine) / duration_s,
        ),
        "energy": energy,
        "compute": Compute(
            parameters=1000,
            flops_total=2000.0 * 15 * len(mine),
            flops_per_token=2000.0,
            flops_per_s=2000.0 * 15 * len(mine) / duration_s,
            method="2 P a token",
            confidence="high",
            peak_memory_mib=100.0 + process,
            memory_scope="GPU",
        ),
        "requests": [
            RequestRecord(
                id=f"p{index}",
                index=index,
                input_tokens=10,
                output_tokens=5,
                batch=0,
                segment=0,
                started_s=0.0,
                finished_s=length / 1000,
                ttft_ms=length / 10,
                itl_ms=[99.0, 2.0, 3.0, 99.0],
            )
            for index, length in zip(mine, lengths, strict=True)
        ],
        "segments": [
            Segment(
                index=0,
                started_at=began.isoformat(),
                finished_at=(began + timedelta(seconds=duration_s)).isoformat(),
                duration_s=duration_s,
                requests=len(mine),
                energy=energy,
                prefill_s=0.3,
                decode_s=1.5,
            )
        ],
        "warmup": None,
        "baseline": None,
        "throttle": None,
        "environment": {"host": "abc", "cpu": {"model": "a processor"}, "gpus": []},
        "config": config,
        "provenance": {"max_output_tokens": "cli --max-tokens"},
        "config_hash": "c" * 64,
        "power_trace": None,
        "warnings": [],
    }
    return RawResult(**(values | changes))


@pytest.fixture
def make() -> Callable[..., RawResult]:
    """Makes a process's result."""
    return make_result


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    """An empty results folder."""
    return ResultStore(tmp_path / "results")
