"""`lem aggregate`, `lem results list` and `lem results show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llenergymeasure.cli._options import results_dir_option
from llenergymeasure.cli._show import (
    number,
    number_of_energy,
    open_store,
    plain,
    print_json,
    print_table,
    shown_component,
    with_interval,
)
from llenergymeasure.errors import LemError, LemUsageError
from medvllm_programs.commands import CONTEXT, note

if TYPE_CHECKING:
    from llenergymeasure.results.schema import AggregatedResult, Latency, MultiCycleResult
    from llenergymeasure.results.store import ResultStore, StoredExperiment, StoredRaw

__all__ = ["aggregate", "results"]


@click.command(context_settings=CONTEXT)
@click.argument("experiment_id", required=False)
@click.option("--all", "every", is_flag=True, help="Aggregate all pending experiments.")
@results_dir_option
@click.option("--force", "-f", is_flag=True, help="Aggregate again where a result exists.")
@click.option("--strict/--no-strict", default=True, show_default=True, help="Fail if results are incomplete.")
@click.option("--allow-mixed-backends", is_flag=True, help="Sum results of different backends (not recommended).")
def aggregate(
    experiment_id: str | None,
    every: bool,
    results_dir: str | None,
    force: bool,
    strict: bool,
    allow_mixed_backends: bool,
) -> None:
    """Aggregate the raw per-process results of EXPERIMENT_ID into final metrics."""
    store = open_store(results_dir)
    if every == (experiment_id is not None):
        raise LemUsageError("give either an experiment id or --all")
    if experiment_id is not None:
        result = store.aggregate(experiment_id, strict, allow_mixed_backends, force=force)
        _tell(store, result)
        return
    found = [each for each in store.list() if force or each.status != "aggregated"]
    failed = []
    for each in found:
        try:
            if each.reason is not None:
                raise LemError(each.reason)
            _tell(store, store.aggregate(each.id, strict, allow_mixed_backends, force=force))
        except LemError as error:
            failed.append(each.id)
            note(str(error), kind="Error")
    if failed:
        raise LemError(f"{len(failed)} of {len(found)} could not be aggregated: {', '.join(failed)}")
    if not found:
        note(f"nothing is pending in {store.root}")


def _tell(store: ResultStore, result: AggregatedResult) -> None:
    _close_state(store, result.experiment_id)
    for warning in result.warnings:
        note(f"{result.experiment_id}: {warning}", kind="Warning")
    click.echo(store.aggregated_path(result.experiment_id))


def _close_state(store: ResultStore, experiment_id: str) -> None:
    """An experiment that was complete and is aggregated now says so, and its state is part of what is verified."""
    from llenergymeasure.orchestration.state import StateStore

    path = store.raw_folder(experiment_id) / "state.json"
    if not path.is_file():
        return
    states = StateStore(store.root)
    state = states.load(experiment_id)
    if state.status == "completed":
        states.move(state, "aggregated")
        store.record(experiment_id, [path])


def _status(store: ResultStore, each: StoredExperiment) -> str:
    """Of a pending experiment, where it stands: completed, running, failed, interrupted."""
    if each.status != "pending" or not (store.raw_folder(each.id) / "state.json").is_file():
        return each.status
    from llenergymeasure.orchestration.state import StateStore

    states = StateStore(store.root)
    try:
        state = states.load(each.id)
    except LemError:
        return each.status
    stopped = state.status in ("initialised", "running") and not states.running(state)
    return f"pending ({'interrupted' if stopped else state.status})"


@click.group(context_settings=CONTEXT)
def results() -> None:
    """List and show results."""


@results.command("list", context_settings=CONTEXT)
@results_dir_option
@click.option("--all", "-a", "every", is_flag=True, help="Show pending experiments too.")
@click.option("--json", "as_json", is_flag=True, help="Output as JSON.")
def list_results(results_dir: str | None, every: bool, as_json: bool) -> None:
    """List all experiments."""
    store = open_store(results_dir)
    found = store.list()
    pending = [each for each in found if each.status == "pending"]
    chosen = found if every else [each for each in found if each.status != "pending"]
    if as_json:
        print_json([_listed(each, _status(store, each)) for each in chosen])
    elif chosen:
        columns = ["id", "status", "config", "model", "backend", "requests", "tokens/s", "energy", "J/token"]
        print_table(None, columns, [_row(each, _status(store, each)) for each in chosen], right="5678")
    if not chosen:
        note(f"there are no {'' if every else 'aggregated '}results in {store.root}")
    for each in chosen:
        if each.reason:
            note(f"{each.id}: {each.reason}", kind="Warning")
    if pending and not every:
        note(f"{len(pending)} pending; --all shows them, lem aggregate --all aggregates them")


def _listed(each: StoredExperiment, status: str) -> dict[str, Any]:
    result = each.aggregated or each.raw
    known = each.aggregated
    return {
        "experiment_id": each.id,
        "status": status,
        "config_name": result.config_name if result else None,
        "model_name": result.model_name if result else None,
        "backend": result.backend if result else None,
        "started_at": result.started_at if result else None,
        "raw_results": each.files,
        "requests": known.throughput.requests if known else None,
        "tokens_per_s": known.throughput.tokens_per_s if known else None,
        "energy_total_j": known.energy.total.value if known else None,
        "energy_quality": known.energy.total.quality if known else None,
        "energy_per_output_token_j": known.energy_per_output_token_j if known else None,
        "reason": each.reason,
    }


def _row(each: StoredExperiment, status: str) -> list[str]:
    result, known = each.aggregated or each.raw, each.aggregated
    row = [each.id, status, *([result.config_name, result.model_name, result.backend] if result else ["–"] * 3)]
    if known is None:
        return [*row, "–", "–", "–", "–"]
    return [
        *row,
        str(known.throughput.requests),
        number(known.throughput.tokens_per_s),
        number_of_energy(known.energy.total),
        number(known.energy_per_output_token_j),
    ]


@results.command("show", context_settings=CONTEXT)
@click.argument("experiment_id")
@results_dir_option
@click.option("--raw", is_flag=True, help="Show per-process raw results.")
@click.option("--json", "as_json", is_flag=True, help="Output as JSON.")
def show(experiment_id: str, results_dir: str | None, raw: bool, as_json: bool) -> None:
    """Show the results of EXPERIMENT_ID."""
    store = open_store(results_dir)
    store.check(experiment_id)
    if raw:
        found = store.raws(experiment_id)
        if not found:
            raise LemError(f"{experiment_id} has no raw results in {store.root}")
        if as_json:
            print_json([each.result.model_dump(mode="json") for each in found])
        else:
            _show_raw(experiment_id, found)
        return
    result, cycles = store.load(experiment_id), store.load_multi_cycle(experiment_id)
    if as_json:
        print_json(result.model_dump(mode="json") | {"multi_cycle": cycles.model_dump(mode="json") if cycles else None})
    else:
        _show_aggregated(result, cycles)


def _show_raw(experiment_id: str, raws: list[StoredRaw]) -> None:
    rows = []
    for each in raws:
        result = each.result
        rows.append(
            [
                str(result.cycle),
                str(result.process_index),
                "yes" if each.intact else "no marker" if each.marker is None else "changed",
                str(result.throughput.requests),
                str(result.throughput.input_tokens),
                str(result.throughput.output_tokens),
                number(result.throughput.duration_s, "s"),
                number(result.throughput.tokens_per_s),
                number(result.energy.total.value, "J"),
                ", ".join(result.gpu_uuids) or "–",
            ]
        )
    columns = ["cycle", "process", "complete", "requests", "tokens in", "out", "time", "tokens/s", "energy", "GPUs"]
    print_table(f"{experiment_id}: raw results", columns, rows, right="01345678")


def _show_aggregated(result: AggregatedResult, cycles: MultiCycleResult | None) -> None:
    click.echo(plain(f"{result.experiment_id}  {result.config_name}: {result.model_name} on {result.backend}"))
    sizes = [f"{result.num_processes} process(es)", f"{result.num_cycles} cycle(s)"]
    prompts = f"{result.prompts.requests} prompts of {result.prompts.name}, sha256 {result.prompts.sha256[:16]}"
    click.echo(plain(f"{result.started_at} to {result.finished_at}, {', '.join(sizes)}, {prompts}"))
    for warning in result.warnings:
        note(warning, kind="Warning")
    work, compute = result.throughput, result.compute
    rows = [
        ["requests", str(work.requests)],
        ["tokens in, out", f"{work.input_tokens:,}, {work.output_tokens:,}"],
        ["time", number(work.duration_s, "s")],
        ["output tokens/s", number(work.tokens_per_s) + _by_process(result)],
        ["all tokens/s", number(work.total_tokens_per_s)],
        ["FLOPs", f"{number(compute.flops_total)} ({compute.method}; {compute.confidence} confidence)"],
        ["peak memory", f"{number(compute.peak_memory_mib, 'MiB')} {compute.memory_scope or ''}".rstrip()],
    ]
    print_table("Work", ["", ""], rows)
    parts = ["total", "net", "gpu", "cpu", "ram", "prefill", "decode", "carbon"]
    rows = [[part, shown_component(getattr(result.energy, part))] for part in parts]
    rows += [["per output token", number(result.energy_per_output_token_j, "J")]]
    rows += [["mean power", number(result.energy.mean_power_w, "W")]]
    print_table("Energy", ["", ""], rows)
    names = {"request_ms": "request", "ttft_ms": "TTFT", "itl_ms": "ITL, trimmed", "itl_full_ms": "ITL, all"}
    known = [(text, value) for name, text in names.items() if (value := getattr(result.latencies, name)) is not None]
    columns = ["", "samples", "mean", "median", "p95", "p99", "min", "max"]
    print_table("Latency, ms", columns, [[text, *_latency_row(value)] for text, value in known], right="1234567")
    if cycles is not None:
        rows = [
            [
                name,
                with_interval(each.mean, each.interval, each.unit),
                "  ".join(number(value) for value in each.values),
            ]
            for name, each in cycles.metrics.items()
            if each.mean is not None
        ]
        print_table(f"Over {len(cycles.cycles)} cycles, 95 % interval (Student's t)", ["", "mean", "cycles"], rows)


def _by_process(result: AggregatedResult) -> str:
    if result.num_processes < 2:
        return ""
    rates = [number(each.tokens_per_s) for each in result.processes if each.cycle == result.cycles[0].cycle]
    return f" (by process: {', '.join(rates)})"


def _latency_row(value: Latency) -> list[str]:
    figures = (value.mean, value.median, value.p95, value.p99, value.min, value.max)
    return [str(value.samples), *(number(each) for each in figures)]
