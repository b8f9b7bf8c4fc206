"""One cycle of one process: what is left to run is run and journaled, and the whole becomes its raw result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llenergymeasure.backends.base import BatchOutcome, Phase, RequestOutcome, merged
from llenergymeasure.backends.flops import request_flops
from llenergymeasure.energy import combine
from llenergymeasure.files import write_atomically
from llenergymeasure.orchestration.journal import Journal
from llenergymeasure.orchestration.state import ExperimentState, now
from llenergymeasure.orchestration.traffic import Requests, arrival_times
from llenergymeasure.results.schema import (
    Baseline,
    Component,
    Compute,
    Energy,
    RawResult,
    RequestRecord,
    Segment,
    Throughput,
    Warmup,
)

if TYPE_CHECKING:
    from llenergymeasure.backends.base import Backend, ModelInfo
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.energy import EnergyMeter, Reading
    from llenergymeasure.orchestration.progress import Progress
    from llenergymeasure.prompts import Prompt

__all__ = ["Measurement", "unknown_energy"]

KILLED = "the process was killed while it measured this segment, so its energy was never read"


@dataclass(slots=True)
class Measurement:
    """What one process measures with: the same over its cycles."""

    config: ExperimentConfig
    state: ExperimentState
    process_index: int
    prompts: Sequence[Prompt]  # of this process
    backend: Backend
    model: ModelInfo
    meter: EnergyMeter
    baseline: Baseline | None
    warmup: Warmup | None
    environment: dict[str, Any]
    progress: Progress
    warnings: list[str] = field(default_factory=list)
    throttle: list[str] | None = None

    def run_cycle(self, cycle: int, *, journal_path: Path, trace_path: Path, before: Callable[[], None]) -> RawResult:
        """Measures what the journal does not have yet, and returns the result of all.

        Args:
            cycle: its number, from 0.
            journal_path: what was finished before, and is added to.
            trace_path: where the power trace goes, with timeseries.save.
            before: called when the measurement is about to begin.

        Raises:
            LemError: the backend failed, or the disk; what was finished is in the journal.
            KeyboardInterrupt: so too; the segment's energy is in the journal.
        """
        with Journal(journal_path) as journal:
            finished = journal.request_ids
            left = [prompt for prompt in self.prompts if prompt.id not in finished]
            count = self.config.num_cycles
            label = f"cycle {cycle + 1} of {count}" if count > 1 else "measuring"
            before()
            self.progress.begin(label, total=len(self.prompts), done=len(finished))
            if left:
                self._run_segment(journal, left, trace_path)
            return self._result(journal, cycle, trace_path)

    def _run_segment(self, journal: Journal, left: Sequence[Prompt], trace_path: Path) -> None:
        tokens = self.backend.prepare(left)
        source = Requests(left, tokens=tokens, batching=self.config.batching, arrivals=self._arrivals(left))
        self.backend.reset_peak_memory()
        phases: list[Phase] = []
        segment = journal.begin_segment(now())
        self.meter.start()
        began = time.monotonic()
        try:
            for outcome in self.backend.run(source, streaming=self.config.streaming):
                phases += outcome.phases
                self._note(journal, outcome, segment=segment, began=began)
        finally:  # an interrupted segment, too, has its energy
            duration = time.monotonic() - began
            reading = self.meter.stop()
            energy = reading.energy(
                self.baseline,
                merged(phases),
                carbon_intensity_kg_per_kwh=self.config.energy.carbon_intensity_kg_per_kwh,
            )
            journal.end_segment(finished_at=now(), duration_s=duration, energy=energy)
            self._take_throttle(reading.throttle)
            if self.config.timeseries.save:
                _save_trace(trace_path, reading, segment)

    def _note(self, journal: Journal, outcome: BatchOutcome, *, segment: int, began: float) -> None:
        batch = journal.batches
        keep = self.config.save_outputs
        records = [_record(each, batch=batch, segment=segment, began=began, keep=keep) for each in outcome.requests]
        spent = {kind: _seconds(outcome.phases, kind) for kind in ("prefill", "decode")}
        journal.add_batch(records, prefill_s=spent["prefill"], decode_s=spent["decode"])
        self.progress.advance(len(records), sum(record.output_tokens for record in records))

    def _arrivals(self, left: Sequence[Prompt]) -> list[float] | None:
        """When the requests that are left arrive: each process has its part of the whole traffic."""
        traffic = self.config.traffic_simulation
        if not traffic.enabled:
            return None
        seed = traffic.seed if traffic.seed is not None else self.config.random_seed
        times = arrival_times(
            self.state.prompts.requests, rate=traffic.target_qps or self.config.query_rate, mode=traffic.mode, seed=seed
        )
        resumed = len(left) < len(self.prompts) and left[0].index > 0
        skipped = times[left[0].index - 1] if resumed else 0.0  # a resumed run does not wait for what is done
        return [times[prompt.index] - skipped for prompt in left]

    def _take_throttle(self, seen: list[str] | None) -> None:
        if seen is not None:
            self.throttle = sorted({*(self.throttle or []), *seen})

    def _result(self, journal: Journal, cycle: int, trace_path: Path) -> RawResult:
        state = self.state
        segments = [_settled(segment, journal.requests) for segment in journal.segments]
        requests = sorted(journal.requests, key=lambda request: request.index)
        throughput = _throughput(requests, sum(segment.duration_s or 0.0 for segment in segments))
        return RawResult(
            experiment_id=state.experiment_id,
            config_name=self.config.config_name,
            model_name=self.config.model_name,
            backend=self.config.backend,
            process_index=self.process_index,
            num_processes=state.num_processes,
            cycle=cycle,
            started_at=segments[0].started_at,
            finished_at=segments[-1].finished_at or now(),
            gpu_uuids=list(self.meter.gpu_uuids),
            prompts=state.prompts,
            throughput=throughput,
            energy=combine([segment.energy for segment in segments if segment.energy is not None]),
            compute=self._compute(requests, throughput),
            requests=requests,
            segments=segments,
            warmup=self.warmup,
            baseline=self.baseline,
            throttle=self.throttle,
            environment=self.environment,
            config=state.config,
            provenance=state.provenance,
            config_hash=state.config_hash,
            power_trace=trace_path.name if trace_path.is_file() else None,
            warnings=[*self.warnings, *_remarks(segments), *self._unsettled()],
        )

    def _compute(self, requests: Sequence[RequestRecord], throughput: Throughput) -> Compute:
        architecture = self.model.architecture
        each = [request_flops(architecture, request.input_tokens, request.output_tokens) for request in requests]
        known = [value for value in each if value is not None]
        total = sum(known) if len(known) == len(each) else None
        memory, scope = self.backend.peak_memory()
        return Compute(
            parameters=architecture.parameters,
            flops_total=total,
            flops_per_token=_ratio(total, throughput.total_tokens),
            flops_per_s=_ratio(total, throughput.duration_s),
            method=architecture.method,
            confidence=architecture.confidence,
            peak_memory_mib=memory,
            memory_scope=scope,
        )

    def _unsettled(self) -> list[str]:
        warmup, asked = self.warmup, self.config.warmup
        if warmup is None or warmup.settled or asked.max == 0:
            return []
        if warmup.cv is None or warmup.cv <= asked.cv_threshold:
            return [f"the warm-up ended before {asked.window} of its times could be compared; raise warmup.max"]
        return [
            f"after {warmup.requests} warm-up requests the times still varied by {warmup.cv:.0%} "
            f"(coefficient of variation, {asked.cv_threshold:.0%} asked for)"
        ]


def unknown_energy(reason: str) -> Energy:
    """Energy of which nothing is known, and why."""
    missing = Component(value=None, quality="unavailable", reason=reason)
    return Energy(
        gpu=missing,
        cpu=missing,
        ram=missing,
        total=missing,
        net=missing,
        prefill=missing,
        decode=missing,
        carbon=missing.model_copy(update={"unit": "kg"}),
        mean_power_w=None,
        sampler_cpu_s=None,
    )


def _record(outcome: RequestOutcome, *, batch: int, segment: int, began: float, keep: bool) -> RequestRecord:
    return RequestRecord(
        id=outcome.prompt.id,
        index=outcome.prompt.index,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        batch=batch,
        segment=segment,
        started_s=outcome.started_s - began,
        finished_s=outcome.finished_s - began,
        ttft_ms=outcome.ttft_ms,
        itl_ms=None if outcome.itl_ms is None else [round(value, 4) for value in outcome.itl_ms],
        output=outcome.text if keep else None,
    )


def _seconds(phases: Sequence[Phase], kind: str) -> float:
    return sum(phase.end_s - phase.start_s for phase in phases if phase.kind == kind)


def _settled(segment: Segment, requests: Sequence[RequestRecord]) -> Segment:
    """A segment with its end: one that was killed lasted to its last request, and its energy is not known."""
    if segment.energy is not None:
        return segment
    last = max((request.finished_s for request in requests if request.segment == segment.index), default=0.0)
    return segment.model_copy(update={"duration_s": last, "energy": unknown_energy(KILLED)})


def _throughput(requests: Sequence[RequestRecord], duration_s: float) -> Throughput:
    read = sum(request.input_tokens for request in requests)
    written = sum(request.output_tokens for request in requests)
    return Throughput(
        requests=len(requests),
        input_tokens=read,
        output_tokens=written,
        total_tokens=read + written,
        duration_s=duration_s,
        tokens_per_s=_ratio(written, duration_s),
        total_tokens_per_s=_ratio(read + written, duration_s),
    )


def _ratio(value: float | None, by: float) -> float | None:
    return value / by if value is not None and by > 0 else None


def _remarks(segments: Sequence[Segment]) -> list[str]:
    if len(segments) < 2:
        return []
    killed = [segment.index for segment in segments if segment.finished_at is None]
    found = [f"measured in {len(segments)} segments: what an interruption cut off was run again"]
    if killed:
        found.append(f"segment {', '.join(map(str, killed))} was killed: its energy is not known, so the total is not")
    return found


def _save_trace(path: Path, reading: Reading, segment: int) -> None:
    """Adds a segment's power samples to the trace, JSON lines of segment, seconds and watts."""
    trace = reading.trace
    if not trace:
        return
    before = path.read_bytes() if path.is_file() else b""
    lines = [json.dumps({"segment": segment, "t_s": round(t, 4), "watts": watts}) + "\n" for t, watts in trace]
    write_atomically(path, before + "".join(lines).encode())
