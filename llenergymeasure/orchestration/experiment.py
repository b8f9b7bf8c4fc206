"""An experiment from its configuration to its results: one process of it, or all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llenergymeasure.errors import LemError
from llenergymeasure.files import make_folder
from llenergymeasure.orchestration.state import (
    ExperimentState,
    ProcessRecord,
    StateStore,
    barrier,
)

if TYPE_CHECKING:
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.energy import EnergyMeter
    from llenergymeasure.orchestration.progress import Progress
    from llenergymeasure.prompts import Prompt, PromptSet
    from llenergymeasure.results.schema import AggregatedResult, Baseline
    from llenergymeasure.results.store import ResultStore

__all__ = ["Experiment", "aggregate", "guarded", "measured_gpus", "process_count", "run_process", "shard"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment that exists on disk, with the prompts its state names."""

    results_dir: Path
    state: ExperimentState
    config: ExperimentConfig
    prompts: PromptSet

    @property
    def id(self) -> str:
        """Its id."""
        return self.state.experiment_id

    @property
    def states(self) -> StateStore:
        """Its results folder's states."""
        return StateStore(self.results_dir)

    def moved(self, state: ExperimentState) -> Experiment:
        """The same with another state."""
        return dataclasses.replace(self, state=state)


def process_count(config: ExperimentConfig) -> int:
    """Processes an experiment runs in: num_processes, or as many replicas as data parallelism asks for."""
    replicas = config.parallelism.degree if config.parallelism.strategy == "data_parallel" else 1
    return max(config.num_processes, replicas)


def shard(prompts: Sequence[Prompt], process_index: int, num_processes: int) -> list[Prompt]:
    """The prompts of one process, dealt out in turn: all processes together have each once.

    Raises:
        LemError: there are fewer prompts than processes.
    """
    if len(prompts) < num_processes:
        raise LemError(f"{num_processes} processes need as many prompts, got {len(prompts)}; lower num_processes")
    return list(prompts[process_index::num_processes])


@contextmanager
def guarded(experiment: Experiment) -> Iterator[Experiment]:
    """The experiment as running; on an error its state says failed, on an interruption interrupted."""
    states = experiment.states
    running = experiment.moved(states.move(experiment.state, "running"))
    try:
        yield running
    except (KeyboardInterrupt, SystemExit):
        _leave(states, running.state, "interrupted", "it was interrupted")
        raise
    except LemError as error:
        _leave(states, running.state, "failed", str(error))
        raise
    except Exception as error:
        _leave(states, running.state, "failed", f"{type(error).__name__}: {error}")
        raise


def _leave(states: StateStore, state: ExperimentState, status: Any, reason: str) -> None:
    try:
        states.move(state, status, error=reason)
    except LemError:  # the disk is full or gone: the state stays running, which its dead process shows to be over
        return


def run_process(experiment: Experiment, *, process_index: int, wait_for_all: bool = False) -> None:
    """Measures the part of one process, all cycles, and writes its raw results; may wait for the other processes' ends.

    Raises:
        LemError: what the user can act on; what was finished is kept for --resume.
    """
    from llenergymeasure.energy import open_meter
    from llenergymeasure.orchestration.progress import open_progress

    config, state, states = experiment.config, experiment.state, experiment.states
    record = ProcessRecord.of_this_process(state.attempt)
    states.write_process(experiment.id, process_index, record)
    try:
        with open_meter(
            gpus=measured_gpus(config, process_index, state.num_processes),
            estimator=config.energy.estimator,
            interval_s=config.timeseries.interval if config.timeseries.enabled else config.energy.interval,
        ) as meter:
            prefix = f"[{process_index}] " if state.num_processes > 1 else ""
            with open_progress(prefix=prefix, watts=meter.power_w) as progress:
                record = _measure(experiment, process_index, record, meter, progress)
        if wait_for_all:
            record = _meeting(experiment, process_index)(record, "end")
        done = record.model_copy(update={"ended": "completed", "reached": [*record.reached, "end"]})
        states.write_process(experiment.id, process_index, done)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        ended = {"ended": "interrupted" if stopped else "failed", "error": str(error) or type(error).__name__}
        with suppress(LemError):  # a full disk: the others see that the process is gone
            states.write_process(experiment.id, process_index, record.model_copy(update=ended))
        raise


def _measure(
    experiment: Experiment, process_index: int, record: ProcessRecord, meter: EnergyMeter, progress: Progress
) -> ProcessRecord:
    from llenergymeasure.backends import get_backend
    from llenergymeasure.hardware.environment import environment_record
    from llenergymeasure.orchestration.measurement import Measurement
    from llenergymeasure.orchestration.warmup import warm_up
    from llenergymeasure.results.store import ResultStore

    config, state = experiment.config, experiment.state
    wait = _meeting(experiment, process_index)

    def meet(name: str) -> None:
        nonlocal record
        record = wait(record, name)

    backend = get_backend(config.backend)
    baseline = _baseline(experiment, meter, progress)
    meet("baseline")  # nobody loads while another measures idle power
    try:
        progress.stage(f"loading {config.model_name}")
        model = backend.load(config, process_index=process_index, num_processes=state.num_processes)
        mine = shard(experiment.prompts.prompts, process_index, state.num_processes)
        store = ResultStore(experiment.results_dir)
        cycles = [each for each in range(config.num_cycles) if not _finished(experiment, store, process_index, each)]
        warmup = None
        if cycles:
            warmup = warm_up(backend, config, mine, progress)
        measurement = Measurement(
            config=config,
            state=state,
            process_index=process_index,
            prompts=mine,
            backend=backend,
            model=model,
            meter=meter,
            baseline=baseline,
            warmup=warmup,
            environment=environment_record(),
            progress=progress,
            warnings=[*experiment.prompts.warnings, *model.warnings, *meter.warnings],
        )
        for cycle in range(config.num_cycles):
            if cycle in cycles:
                _run_cycle(experiment, measurement, store, process_index, cycle, meet)
            else:
                meet(f"cycle {cycle + 1}")
    finally:
        backend.close()
    return record


def _meeting(experiment: Experiment, process_index: int) -> Callable[[ProcessRecord, str], ProcessRecord]:
    """Waits for the other processes at a named place."""

    def wait(record: ProcessRecord, name: str) -> ProcessRecord:
        return barrier(
            experiment.states,
            experiment.id,
            process=process_index,
            record=record,
            name=name,
            num_processes=experiment.state.num_processes,
        )

    return wait


def _run_cycle(
    experiment: Experiment,
    measurement: Any,
    store: ResultStore,
    process_index: int,
    cycle: int,
    meet: Callable[[str], None],
) -> None:
    numbered = cycle if experiment.config.num_cycles > 1 else None
    path = store.raw_path(experiment.id, process_index, numbered)
    make_folder(path.parent)
    result = measurement.run_cycle(
        cycle,
        journal_path=experiment.states.journal_path(experiment.id, process_index, cycle),
        trace_path=path.with_name(f"power_{process_index}.jsonl"),
        before=lambda: meet(f"cycle {cycle + 1}"),
    )
    store.write_raw(result)


def _finished(experiment: Experiment, store: ResultStore, process_index: int, cycle: int) -> bool:
    """Whether a process's result of a cycle is there, with its marker."""
    numbered = cycle if experiment.config.num_cycles > 1 else None
    path = store.raw_path(experiment.id, process_index, numbered)
    return path.is_file() and store.marker_path(experiment.id, process_index, numbered).is_file()


def measured_gpus(config: ExperimentConfig, process_index: int, num_processes: int) -> list[int] | None:
    """The GPUs that a process's energy is read from: those it computes on, None for all that it sees."""
    if config.parallelism.strategy in ("tensor_parallel", "pipeline_parallel"):
        return list(config.gpus)
    mine = list(config.gpus[process_index::num_processes])
    if config.backend == "pytorch":  # one GPU, or wherever accelerate places layers
        return None if (config.pytorch or {}).get("device_map") else mine[:1]
    return mine


def _baseline(experiment: Experiment, meter: EnergyMeter, progress: Progress) -> Baseline | None:
    """Idle power, measured now or lately.

    Raises:
        LemError: the configuration requires one, and it can't be had.
    """
    from llenergymeasure.energy import BaselineCache, measured_or_cached

    asked = experiment.config.baseline
    if asked.duration == 0 and not asked.required:
        return None
    if meter.has_sensors:
        progress.stage(f"idle power, {asked.duration:g} s")
    cache = BaselineCache(experiment.results_dir / "baselines")
    baseline, _ = measured_or_cached(
        meter, duration_s=asked.duration, ttl_s=asked.ttl, cache=cache, interval_s=asked.interval
    )
    if baseline.power_w is None and asked.required:
        raise LemError(f"a baseline is required, but idle power can't be measured: {baseline.reason}")
    return baseline


def aggregate(experiment: Experiment) -> AggregatedResult:
    """Puts the raw results of all processes together; the state then says aggregated.

    Raises:
        LemError: something is missing.
    """
    from llenergymeasure.results.store import ResultStore

    store = ResultStore(experiment.results_dir)
    result = store.aggregate(experiment.id, force=store.aggregated_path(experiment.id).is_file())
    experiment.states.move(experiment.state, "aggregated")
    store.record(experiment.id, [experiment.states.folder(experiment.id) / "state.json"])  # its last change
    return result
