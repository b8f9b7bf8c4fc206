"""What `lem experiment` prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llenergymeasure.cli._show import number, plain, shown_component
from medvllm_programs.commands import note
from medvllm_programs.files import shown

if TYPE_CHECKING:
    from llenergymeasure.results.schema import AggregatedResult, Latency

__all__ = ["print_summary"]


def print_summary(result: AggregatedResult, results_dir: Path, *, known: Sequence[str] = ()) -> None:
    """The main figures on stdout; what is doubtful on stderr, but for warnings that are known from before."""
    for warning in result.warnings:
        if warning not in known:
            note(warning, kind="Warning")
    done, compute, latencies = result.throughput, result.compute, result.latencies
    rows = [
        ("Experiment", result.experiment_id),
        ("Model", f"{result.model_name} ({result.backend})"),
        ("Prompts", f"{result.prompts.requests} of {result.prompts.name}"),
        ("Requests", f"{done.requests} in {number(done.duration_s, 's')}{_processes(result)}"),
        ("Tokens", f"{done.input_tokens} in, {done.output_tokens} out"),
        ("Throughput", f"{number(done.tokens_per_s, 'output tokens/s')}"),
        ("Request time", _latency(latencies.request_ms)),
        ("TTFT", _latency(latencies.ttft_ms)),
        ("ITL", _latency(latencies.itl_ms)),
        ("Energy", shown_component(result.energy.total)),
        ("Energy, net", shown_component(result.energy.net)),
        ("FLOPs", f"{number(compute.flops_total)} by formula ({compute.confidence} confidence)"),
        ("Peak memory", f"{number(compute.peak_memory_mib, 'MiB')} ({compute.memory_scope})"),
        ("Result", shown(results_dir / "aggregated" / f"{result.experiment_id}.json")),
    ]
    for name, value in rows:
        if value:
            click.echo(plain(f"{name:<13} {value}"))


def _processes(result: AggregatedResult) -> str:
    parts = [f"{result.num_processes} processes"] if result.num_processes > 1 else []
    parts += [f"{result.num_cycles} cycles"] if result.num_cycles > 1 else []
    return f", {', '.join(parts)}" if parts else ""


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return ""
    return f"median {number(latency.median)}, p95 {number(latency.p95)}, p99 {number(latency.p99)} ms"
