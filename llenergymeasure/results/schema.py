"""What a result holds: the JSON under `raw/` and `aggregated/`, one model for each.

Units are in the names: `_j` joules, `_w` watts, `_s` seconds, `_ms` milliseconds, `_mib` MiB. A value that is not known
is null and says why; it is never 0.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "SCHEMA_VERSION",
    "AggregatedResult",
    "Baseline",
    "Component",
    "Compute",
    "CycleMetric",
    "CycleResult",
    "DeviceEnergy",
    "DeviceIdle",
    "Energy",
    "Interval",
    "Latencies",
    "Latency",
    "MultiCycleResult",
    "ProcessSummary",
    "PromptSource",
    "Quality",
    "RawResult",
    "RequestRecord",
    "Segment",
    "Throughput",
    "Warmup",
    "worst_quality",
]

SCHEMA_VERSION = 1
Quality = Literal["measured", "modelled", "estimated", "unavailable"]
_FROM_BEST: tuple[Quality, ...] = ("measured", "modelled", "estimated", "unavailable")


def worst_quality(qualities: list[Quality]) -> Quality:
    """The quality of a total over parts of these qualities; of none, unavailable."""
    return max(qualities, key=_FROM_BEST.index, default="unavailable")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Model):
    """A confidence interval and how it was made."""

    low: float
    high: float
    level: float = 0.95
    method: str  # "student-t", "propagated", …


class Component(_Model):
    """One energy (or carbon) quantity: how it was had and how far it can be trusted."""

    value: float | None
    unit: str = "J"
    quality: Quality
    source: str | None = None  # "nvml energy counter", "rapl package", "codecarbon 3.3.2 (TDP model)", …
    scope: str | None = None  # which devices: "GPU-… (whole device)", "package-0, package-1"
    sampling: str | None = None  # "counter read at both ends", "power at 10 Hz, trapezoid"
    uncertainty: Interval | None = None
    reason: str | None = None  # why null, or the model behind an estimate


class DeviceIdle(_Model):
    """Idle power of one device; its error has so many degrees of freedom as Student's t counts them."""

    device: str
    power_w: float
    standard_error_w: float | None
    degrees: float | None


class Baseline(_Model):
    """Idle power over its own window."""

    power_w: float | None
    standard_error_w: float | None
    duration_s: float
    samples: int
    measured_at: str  # ISO 8601, UTC
    reason: str | None = None  # why power_w is null
    devices: list[DeviceIdle] = []  # what power_w is the sum of


class DeviceEnergy(_Model):
    """One device over one window: what a sum over processes and segments needs to count no device twice."""

    component: Literal["gpu", "cpu", "ram"]
    device: str  # the same in every process: the GPU's UUID, "package-0", …
    value_j: float | None
    standard_error_j: float | None = None  # from the sensor's period at both ends
    quality: Quality
    source: str
    scope: str
    sampling: str
    reason: str | None = None  # why null, or the model behind an estimate
    started_s: float  # Unix time
    duration_s: float
    counter_start_j: float | None = None  # the counter's own reading at the start, the same in every process
    counter_range_j: float | None = None  # where it wraps
    idle_w: float | None = None
    idle_error_w: float | None = None
    idle_duration_s: float | None = None
    idle_degrees: float | None = None


class Energy(_Model):
    """Energy of the measured window, by component; `total` is the sum of those known and takes their worst quality."""

    gpu: Component
    cpu: Component
    ram: Component
    total: Component
    net: Component  # total less idle power times the window
    prefill: Component
    decode: Component
    carbon: Component  # kg CO2-eq, only with an explicit intensity
    mean_power_w: float | None
    sampler_cpu_s: float | None  # CPU time that the sampler itself took
    carbon_intensity_kg_per_kwh: float | None = None
    devices: list[DeviceEnergy] = []


class Throughput(_Model):
    """Token counts (padding is not counted) and rates of the measured window."""

    requests: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    duration_s: float
    tokens_per_s: float | None  # output tokens a second
    total_tokens_per_s: float | None


class Compute(_Model):
    """Arithmetic by formula, and memory."""

    parameters: int | None
    flops_total: float | None
    flops_per_token: float | None
    flops_per_s: float | None
    method: str
    confidence: Literal["high", "medium", "low"]
    peak_memory_mib: float | None
    memory_scope: str | None


class RequestRecord(_Model):
    """One request; times are seconds since the start of its segment's clock (monotonic)."""

    id: str
    index: int  # place in the input, from 0
    input_tokens: int
    output_tokens: int
    batch: int
    segment: int
    started_s: float
    finished_s: float
    ttft_ms: float | None = None
    itl_ms: list[float] | None = None
    output: str | None = None  # only with save_outputs


class Segment(_Model):
    """A stretch measured without interruption; a resumed run has several."""

    index: int
    started_at: str  # ISO 8601, UTC
    finished_at: str | None
    duration_s: float | None
    requests: int
    energy: Energy | None
    prefill_s: float | None = None
    decode_s: float | None = None


class Warmup(_Model):
    """Requests before the measurement, and whether their latencies had settled."""

    requests: int
    settled: bool
    cv: float | None
    duration_s: float


class PromptSource(_Model):
    """Where the prompts came from; `sha256` is over the prompts used, in order, and `requests` counts them.

    Both are of the whole experiment, so equal in each of its processes.
    """

    name: str
    revision: str | None
    split: str | None
    column: str | None
    requests: int
    available: int | None
    sha256: str


class RawResult(_Model):
    """`raw/<id>/process_N.json`: what one process measured in one cycle; processes and cycles count from 0."""

    schema_version: int = SCHEMA_VERSION
    experiment_id: str
    config_name: str
    model_name: str
    backend: str
    process_index: int
    num_processes: int
    cycle: int
    started_at: str
    finished_at: str
    gpu_uuids: list[str]
    prompts: PromptSource
    throughput: Throughput
    energy: Energy
    compute: Compute
    requests: list[RequestRecord]
    segments: list[Segment]
    warmup: Warmup | None
    baseline: Baseline | None
    throttle: list[str] | None  # reasons seen, null where they can't be read
    environment: dict[str, Any]
    config: dict[str, Any]  # effective
    provenance: dict[str, str]  # dotted key → where its value came from
    config_hash: str
    power_trace: str | None  # file beside the result, with timeseries.save
    warnings: list[str]


class Latency(_Model):
    """Order statistics of samples taken together over requests and processes, ms."""

    samples: int
    mean: float
    median: float
    p95: float
    p99: float
    min: float
    max: float


class Latencies(_Model):
    """Null where no such sample was taken (TTFT and ITL need streaming)."""

    request_ms: Latency | None
    ttft_ms: Latency | None
    itl_ms: Latency | None  # without each request's first and last interval
    itl_full_ms: Latency | None


class ProcessSummary(_Model):
    """One process of one cycle, as it counts in the sums."""

    process_index: int
    cycle: int
    gpu_uuids: list[str]
    started_at: str
    finished_at: str
    tokens_per_s: float | None
    output_tokens: int
    energy_j: float | None


class CycleResult(_Model):
    """All processes of one cycle: tokens, FLOPs, rates and energy summed, latencies over all samples."""

    cycle: int
    throughput: Throughput  # duration_s: of the longest process; rates: the sum over processes
    energy: Energy
    compute: Compute
    latencies: Latencies
    energy_per_output_token_j: float | None
    energy_per_request_j: float | None


class AggregatedResult(_Model):
    """`aggregated/<id>.json`: all processes and cycles of one experiment.

    Counts, energy and FLOPs are sums over everything; durations are summed over cycles, so rates are the cycles' rates
    weighted by their durations. `cycles` has each by itself.
    """

    schema_version: int = SCHEMA_VERSION
    experiment_id: str
    config_name: str
    model_name: str
    backend: str  # "pytorch+vllm" where backends were mixed on purpose
    started_at: str
    finished_at: str
    num_processes: int
    num_cycles: int
    complete: bool
    gpu_uuids: list[str]
    prompts: PromptSource
    throughput: Throughput
    energy: Energy
    compute: Compute
    latencies: Latencies
    energy_per_output_token_j: float | None
    energy_per_request_j: float | None
    cycles: list[CycleResult]
    processes: list[ProcessSummary]
    time_overlap: float | None  # share of the longest process's time that all shared; least over cycles
    environment: dict[str, Any]
    config: dict[str, Any]
    provenance: dict[str, str]
    config_hash: str
    raw_sha256: dict[str, str]  # path under the results folder → sha256 of the file aggregated
    warnings: list[str]


class CycleMetric(_Model):
    """One quantity over the cycles; its interval is Student's t."""

    unit: str
    values: list[float | None]  # by cycle
    mean: float | None
    standard_deviation: float | None
    interval: Interval | None  # null for fewer than two values
    quality: Quality | None = None  # of an energy


class MultiCycleResult(_Model):
    """`aggregated/<id>_multi_cycle.json`: how the experiment varied over its cycles."""

    schema_version: int = SCHEMA_VERSION
    experiment_id: str
    config_name: str
    num_cycles: int
    cycles: list[int]
    metrics: dict[str, CycleMetric]
