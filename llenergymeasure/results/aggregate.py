"""From raw results to one: counts, FLOPs and energy summed, latencies taken together, completeness checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from llenergymeasure.errors import LemError
from llenergymeasure.results.schema import (
    AggregatedResult,
    Compute,
    CycleMetric,
    CycleResult,
    Energy,
    Latencies,
    Latency,
    MultiCycleResult,
    ProcessSummary,
    RawResult,
    Throughput,
    worst_quality,
)

if TYPE_CHECKING:
    from llenergymeasure.results.store import StoredRaw

__all__ = ["METRICS", "aggregate", "cycle_metric", "latencies", "latency", "multi_cycle", "time_overlap"]

LEAST_OVERLAP = 0.5  # below it, rates summed over processes were never reached at one time


def aggregate(
    raws: Sequence[StoredRaw], *, root: Path, strict: bool = True, allow_mixed_backends: bool = False
) -> AggregatedResult:
    """Puts the raw results of one experiment together.

    Args:
        raws: every raw result that is there, at least one.
        root: the results folder, for messages and paths.
        strict: what is missing or was changed is an error; otherwise a warning in the result.
        allow_mixed_backends: results of different backends may be summed.

    Raises:
        LemError: the experiment is not complete (strict), backends are mixed, or two processes measured one GPU.
    """
    results = [each.result for each in raws]
    first = results[0]
    backends = sorted({each.backend for each in results})
    if len(backends) > 1 and not allow_mixed_backends:
        raise LemError(
            f"{first.experiment_id} mixes backends ({', '.join(backends)}), whose sums mean nothing; "
            "--allow-mixed-backends does it all the same"
        )
    cycles = {number: [each for each in results if each.cycle == number] for number in _cycle_numbers(results)}
    overlaps = {number: time_overlap(processes) for number, processes in cycles.items()}
    together, warnings = _beside_each_other(cycles, overlaps)
    problems = [*_incomplete(raws), *_unlike(results), *together]
    if problems and strict:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise LemError(
            f"{first.experiment_id} can't be aggregated: {'; '.join(problems[:3])}{more}; "
            f"lem experiment --resume {first.experiment_id} completes it, --no-strict takes what is there"
        )
    parts = [_cycle(number, processes) for number, processes in cycles.items()]
    whole = parts[0] if len(parts) == 1 else _pooled(parts, results)
    known = [each for each in overlaps.values() if each is not None]
    return AggregatedResult(
        experiment_id=first.experiment_id,
        config_name=first.config_name,
        model_name=first.model_name,
        backend="+".join(backends),
        started_at=min(each.started_at for each in results),
        finished_at=max(each.finished_at for each in results),
        num_processes=first.num_processes,
        num_cycles=_expected_cycles(first),
        complete=not problems,
        gpu_uuids=sorted({uuid for each in results for uuid in each.gpu_uuids}),
        prompts=first.prompts,
        throughput=whole.throughput,
        energy=whole.energy,
        compute=whole.compute,
        latencies=whole.latencies,
        energy_per_output_token_j=whole.energy_per_output_token_j,
        energy_per_request_j=whole.energy_per_request_j,
        cycles=parts,
        processes=[_summary(each) for each in results],
        time_overlap=min(known, default=None),
        environment=first.environment,
        config=first.config,
        provenance=first.provenance,
        config_hash=first.config_hash,
        raw_sha256={each.path.relative_to(root).as_posix(): each.sha256 for each in raws},
        warnings=list(dict.fromkeys([*problems, *warnings, *(text for each in results for text in each.warnings)])),
    )


# Checks.


def _expected_cycles(result: RawResult) -> int:
    return int(result.config.get("num_cycles") or 1)


def _cycle_numbers(results: Iterable[RawResult]) -> list[int]:
    return sorted({each.cycle for each in results})


def _incomplete(raws: Sequence[StoredRaw]) -> list[str]:
    """What is missing of cycles, processes, markers and requests, and what changed since it was written."""
    first = raws[0].result
    problems = [
        f"{each.path.name} of cycle {each.result.cycle} has no marker: its process did not finish"
        if each.marker is None
        else f"{each.path.name} of cycle {each.result.cycle} is not what its process wrote (its SHA-256 is another)"
        for each in raws
        if not each.intact
    ]
    there = {(each.result.cycle, each.result.process_index) for each in raws}
    expected = {(c, p) for c in range(_expected_cycles(first)) for p in range(first.num_processes)}
    problems += [f"process {p} of cycle {c} has no result" for c, p in sorted(expected - there)]
    problems += [f"process {p} of cycle {c} was not expected" for c, p in sorted(there - expected)]
    for cycle in sorted({cycle for cycle, _ in there & expected}):
        problems += _requests_missing(cycle, [each.result for each in raws if each.result.cycle == cycle])
    return problems


def _requests_missing(cycle: int, processes: Sequence[RawResult]) -> list[str]:
    indexes = [request.index for each in processes for request in each.requests]
    expected = processes[0].prompts.requests
    problems = []
    if missing := expected - len(set(indexes) & set(range(expected))):
        problems.append(f"{missing} of {expected} requests of cycle {cycle} have no result")
    if repeated := len(indexes) - len(set(indexes)):
        problems.append(f"{repeated} requests of cycle {cycle} have two results")
    if strange := len(set(indexes) - set(range(expected))):
        problems.append(f"{strange} requests of cycle {cycle} are not of its {expected} prompts")
    return problems


def _unlike(results: Sequence[RawResult]) -> list[str]:
    """Processes of one experiment ran one configuration on one set of prompts."""
    checks: dict[str, Callable[[RawResult], object]] = {
        "configurations": lambda each: each.config_hash,
        "models": lambda each: each.model_name,
        "prompts": lambda each: each.prompts.sha256,
        "numbers of processes": lambda each: each.num_processes,
    }
    return [f"its processes had different {name}" for name, of in checks.items() if len({of(r) for r in results}) > 1]


def _beside_each_other(
    cycles: Mapping[int, Sequence[RawResult]], overlaps: Mapping[int, float | None]
) -> tuple[list[str], list[str]]:
    """(problems, warnings) of processes as they ran beside each other: GPUs in common, and time."""
    problems: list[str] = []
    warnings: list[str] = []
    for number, processes in cycles.items():
        shared, counted_once = _shared_gpus(number, processes)
        problems += shared
        warnings += counted_once
        overlap = overlaps[number]
        if overlap is not None and overlap < LEAST_OVERLAP:
            problems.append(
                f"the processes of cycle {number} ran together for {overlap:.0%} of the longest one's time, "
                f"{LEAST_OVERLAP:.0%} are needed to sum their rates"
            )
    return problems, warnings


def _shared_gpus(cycle: int, processes: Sequence[RawResult]) -> tuple[list[str], list[str]]:
    """(problems, warnings) of GPUs that several processes read.

    Their windows, where the readings have them, say which energy is whose; without, it would count twice.
    """
    by_gpu: dict[str, list[RawResult]] = defaultdict(list)
    for each in processes:
        for uuid in each.gpu_uuids:
            by_gpu[uuid].append(each)
    problems, warnings = [], []
    for uuid, users in by_gpu.items():
        if len(users) < 2:
            continue
        who = f"processes {', '.join(str(each.process_index) for each in users)} of cycle {cycle} all measured {uuid}"
        windows = [any(device.device == uuid for device in each.energy.devices) for each in users]
        if any(each.energy.gpu.value is not None for each in users) and not all(windows):
            problems.append(f"{who}, whose energy would count twice")
        else:
            warnings.append(f"{who}: its energy is counted once, over their time together")
    return problems, warnings


def time_overlap(processes: Sequence[RawResult]) -> float | None:
    """The time in which all processes measured, as a share of the longest one's; None for a single process."""
    if len(processes) < 2:
        return None
    spans = [_spans(each) for each in processes]
    common = spans[0]
    for other in spans[1:]:
        common = [(max(a, c), min(b, d)) for a, b in common for c, d in other if max(a, c) < min(b, d)]
    longest = max(sum(b - a for a, b in each) for each in spans)
    return sum(b - a for a, b in common) / longest if longest > 0 else 0.0


def _spans(result: RawResult) -> list[tuple[float, float]]:
    """When the process measured: its segments, s since the epoch."""
    spans = []
    for segment in result.segments:
        if segment.duration_s is not None:
            start = datetime.fromisoformat(segment.started_at).timestamp()
            spans.append((start, start + segment.duration_s))
    if not spans:
        ends = (datetime.fromisoformat(each).timestamp() for each in (result.started_at, result.finished_at))
        spans.append((next(ends), next(ends)))
    return spans


# Sums.


def _cycle(number: int, processes: Sequence[RawResult]) -> CycleResult:
    from llenergymeasure.energy import combine

    throughput = _throughput([each.throughput for each in processes])
    energy = combine([each.energy for each in processes])
    return CycleResult(
        cycle=number,
        throughput=throughput,
        energy=energy,
        compute=_compute([each.compute for each in processes], throughput, together=True),
        latencies=latencies(processes),
        **_per_unit(energy, throughput),
    )


def _pooled(cycles: Sequence[CycleResult], results: Sequence[RawResult]) -> CycleResult:
    from llenergymeasure.energy import combine

    parts = [each.throughput for each in cycles]
    duration = sum(each.duration_s for each in parts)
    throughput = Throughput(
        requests=sum(each.requests for each in parts),
        input_tokens=sum(each.input_tokens for each in parts),
        output_tokens=sum(each.output_tokens for each in parts),
        total_tokens=sum(each.total_tokens for each in parts),
        duration_s=duration,
        tokens_per_s=_weighted([(each.tokens_per_s, each.duration_s) for each in parts]),
        total_tokens_per_s=_weighted([(each.total_tokens_per_s, each.duration_s) for each in parts]),
    )
    energy = combine([each.energy for each in cycles])
    return CycleResult(
        cycle=-1,
        throughput=throughput,
        energy=energy,
        compute=_compute([each.compute for each in cycles], throughput, together=False),
        latencies=latencies(results),
        **_per_unit(energy, throughput),
    )


def _throughput(parts: Sequence[Throughput]) -> Throughput:
    return Throughput(
        requests=sum(each.requests for each in parts),
        input_tokens=sum(each.input_tokens for each in parts),
        output_tokens=sum(each.output_tokens for each in parts),
        total_tokens=sum(each.total_tokens for each in parts),
        duration_s=max(each.duration_s for each in parts),
        tokens_per_s=_sum([each.tokens_per_s for each in parts]),
        total_tokens_per_s=_sum([each.total_tokens_per_s for each in parts]),
    )


def _compute(parts: Sequence[Compute], throughput: Throughput, *, together: bool) -> Compute:
    flops = _sum([each.flops_total for each in parts])
    peaks = [each.peak_memory_mib for each in parts if each.peak_memory_mib is not None]
    rates = [each.flops_per_s for each in parts]
    scope = parts[0].memory_scope
    return Compute(
        parameters=parts[0].parameters,
        flops_total=flops,
        flops_per_token=_ratio(flops, throughput.total_tokens),
        flops_per_s=_sum(rates) if together else _ratio(flops, throughput.duration_s),
        method=parts[0].method,
        confidence=max((each.confidence for each in parts), key=("high", "medium", "low").index),
        peak_memory_mib=max(peaks, default=None),
        memory_scope=f"{scope}, the largest process" if together and len(parts) > 1 and scope else scope,
    )


def _per_unit(energy: Energy, throughput: Throughput) -> dict[str, float | None]:
    total = energy.total.value
    return {
        "energy_per_output_token_j": _ratio(total, throughput.output_tokens),
        "energy_per_request_j": _ratio(total, throughput.requests),
    }


def _ratio(value: float | None, by: float) -> float | None:
    return value / by if value is not None and by > 0 else None


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum, unknown if a part is."""
    known = [each for each in values if each is not None]
    return sum(known) if len(known) == len(values) else None


def _weighted(values: Sequence[tuple[float | None, float]]) -> float | None:
    weight = sum(each for _, each in values)
    products = [None if value is None else value * each for value, each in values]
    total = _sum(products)
    return total / weight if total is not None and weight > 0 else None


def _summary(result: RawResult) -> ProcessSummary:
    return ProcessSummary(
        process_index=result.process_index,
        cycle=result.cycle,
        gpu_uuids=result.gpu_uuids,
        started_at=result.started_at,
        finished_at=result.finished_at,
        tokens_per_s=result.throughput.tokens_per_s,
        output_tokens=result.throughput.output_tokens,
        energy_j=result.energy.total.value,
    )


# Latencies.


def latency(samples: Sequence[float]) -> Latency | None:
    """Order statistics of samples in ms (quantiles interpolated linearly, as numpy does); None of none."""
    if not samples:
        return None
    ordered = sorted(samples)
    return Latency(
        samples=len(ordered),
        mean=fmean(ordered),
        median=_quantile(ordered, 0.5),
        p95=_quantile(ordered, 0.95),
        p99=_quantile(ordered, 0.99),
        min=ordered[0],
        max=ordered[-1],
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def latencies(results: Iterable[RawResult]) -> Latencies:
    """Latencies over all requests of all processes: percentiles of processes are never averaged."""
    requests = [request for each in results for request in each.requests]
    intervals = [request.itl_ms for request in requests if request.itl_ms is not None]
    return Latencies(
        request_ms=latency([(each.finished_s - each.started_s) * 1000 for each in requests]),
        ttft_ms=latency([each.ttft_ms for each in requests if each.ttft_ms is not None]),
        itl_ms=latency([value for each in intervals for value in each[1:-1]]),
        itl_full_ms=latency([value for each in intervals for value in each]),
    )


# Cycles.

METRICS: dict[str, tuple[str, Callable[[CycleResult], float | None]]] = {
    "tokens_per_s": ("tokens/s", lambda c: c.throughput.tokens_per_s),
    "total_tokens_per_s": ("tokens/s", lambda c: c.throughput.total_tokens_per_s),
    "duration_s": ("s", lambda c: c.throughput.duration_s),
    "energy_total_j": ("J", lambda c: c.energy.total.value),
    "energy_net_j": ("J", lambda c: c.energy.net.value),
    "energy_per_output_token_j": ("J/token", lambda c: c.energy_per_output_token_j),
    "energy_per_request_j": ("J/request", lambda c: c.energy_per_request_j),
    "mean_power_w": ("W", lambda c: c.energy.mean_power_w),
    "request_ms_median": ("ms", lambda c: c.latencies.request_ms.median if c.latencies.request_ms else None),
    "ttft_ms_median": ("ms", lambda c: c.latencies.ttft_ms.median if c.latencies.ttft_ms else None),
    "ttft_ms_p95": ("ms", lambda c: c.latencies.ttft_ms.p95 if c.latencies.ttft_ms else None),
    "itl_ms_median": ("ms", lambda c: c.latencies.itl_ms.median if c.latencies.itl_ms else None),
    "itl_ms_p95": ("ms", lambda c: c.latencies.itl_ms.p95 if c.latencies.itl_ms else None),
}
# The component whose quality a quantity has.
ENERGY_OF = {
    "energy_net_j": "net",
    "energy_total_j": "total",
    "mean_power_w": "total",
    "energy_per_output_token_j": "total",
    "energy_per_request_j": "total",
}


def multi_cycle(result: AggregatedResult) -> MultiCycleResult | None:
    """Mean, deviation and Student's t interval of each quantity over the cycles; None for an experiment of one."""
    if result.num_cycles < 2:
        return None
    return MultiCycleResult(
        experiment_id=result.experiment_id,
        config_name=result.config_name,
        num_cycles=result.num_cycles,
        cycles=[each.cycle for each in result.cycles],
        metrics={name: cycle_metric(name, result.cycles) for name in METRICS},
    )


def cycle_metric(name: str, cycles: Sequence[CycleResult]) -> CycleMetric:
    """One of METRICS over cycles; its mean is unknown where a cycle's value is."""
    from llenergymeasure.stats.intervals import mean_interval

    unit, of = METRICS[name]
    values = [of(each) for each in cycles]
    known = [each for each in values if each is not None]
    complete = bool(known) and len(known) == len(values)
    mean, interval = mean_interval(known) if complete else (None, None)
    quality = None
    if name in ENERGY_OF:
        quality = worst_quality([getattr(each.energy, ENERGY_OF[name]).quality for each in cycles])
    return CycleMetric(
        unit=unit,
        values=values,
        mean=mean,
        standard_deviation=stdev(known) if complete and len(known) > 1 else None,
        interval=interval,
        quality=quality,
    )
