"""What is wrong or doubtful in a configuration whose values are each well formed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from llenergymeasure.config.choices import BACKENDS
from llenergymeasure.config.models import ExperimentConfig

__all__ = ["Finding", "Severity", "find"]

Severity = Literal["error", "warning", "info"]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A remark on one key. Errors block a run without --force; a warning asks first."""

    severity: Severity
    key: str  # dotted
    message: str
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")


def visible_gpus() -> int:
    """NVIDIA GPUs of this machine, by their device files: no library is loaded for it."""
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia[0-9]*"))


def find(config: ExperimentConfig) -> tuple[Finding, ...]:
    """The remarks on a configuration, errors first."""
    found = [*_limits(config), *_engines(config), *_sampling(config), *_prompts(config), *_measurement(config)]
    order = ("error", "warning", "info")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _limits(config: ExperimentConfig) -> Iterator[Finding]:
    if config.min_output_tokens > config.max_output_tokens:
        text = f"{config.min_output_tokens} is more than max_output_tokens {config.max_output_tokens}"
        yield Finding("error", "min_output_tokens", text, "lower it")
    if not config.gpus:
        yield Finding("error", "gpus", "the list is empty", "name at least one index; machines without a GPU ignore it")
    if len(set(config.gpus)) < len(config.gpus):
        yield Finding("error", "gpus", f"{list(config.gpus)} names a GPU twice")
    gpus = visible_gpus()
    if gpus and config.num_processes > len(config.gpus):
        text = f"{config.num_processes} processes for {len(config.gpus)} GPU(s)"
        yield Finding("error", "num_processes", text, "list as many in gpus")
    if config.warmup.min > config.warmup.max > 0:
        yield Finding("error", "warmup.min", f"{config.warmup.min} is more than warmup.max {config.warmup.max}")


def _engines(config: ExperimentConfig) -> Iterator[Finding]:
    for name in BACKENDS:
        if name != config.backend and getattr(config, name) is not None:
            remedy = f"set backend: {name} or remove the section"
            yield Finding("error", name, f"a section of {name}, but the backend is {config.backend}", remedy)
    if config.backend == "tensorrt" and config.fp_precision == "float32":
        yield Finding("error", "fp_precision", "TensorRT-LLM does not run float32", "use float16 or bfloat16")
    parallel = config.parallelism
    if config.backend == "pytorch" and parallel.strategy == "pipeline_parallel":
        yield Finding(
            "error",
            "parallelism.strategy",
            "pytorch has no pipeline parallelism",
            "use the vllm or medvllm backend",
        )
    if parallel.strategy == "none" and parallel.degree > 1:
        yield Finding(
            "error", "parallelism.degree", f"{parallel.degree} without a strategy", "set parallelism.strategy"
        )
    quantization = config.quantization
    if quantization.load_in_4bit and quantization.load_in_8bit:
        yield Finding("error", "quantization", "load_in_4bit and load_in_8bit exclude each other", "keep one")
    elif not quantization.quantization and (quantization.load_in_4bit or quantization.load_in_8bit):
        text = "it is off, so load_in_4bit and load_in_8bit have no effect"
        yield Finding("warning", "quantization.quantization", text)
    if quantization.bits and config.backend != "pytorch":
        remedy = f"use the section {config.backend}"
        yield Finding("error", "quantization", f"only pytorch quantises on loading, not {config.backend}", remedy)


def _sampling(config: ExperimentConfig) -> Iterator[Finding]:
    batching, decoder = config.batching, config.decoder
    if batching.dynamic_batching != batching.strategy.endswith("dynamic"):
        text = f"dynamic_batching {str(batching.dynamic_batching).lower()} contradicts strategy {batching.strategy}"
        yield Finding("error", "batching.strategy", text, "keep one of them")
    if batching.max_tokens_per_batch and not batching.dynamic_batching:
        text = f"has no effect with strategy {batching.strategy}"
        yield Finding("warning", "batching.max_tokens_per_batch", text, "use strategy: dynamic")
    if decoder.temperature == 0 and decoder.do_sample:
        yield Finding("info", "decoder.do_sample", "has no effect at temperature 0: the likeliest token is taken")
    if not decoder.greedy and config.random_seed is None:
        remedy = "set random_seed, or decoder.preset: deterministic"
        yield Finding("info", "random_seed", "tokens are sampled without a seed: runs differ", remedy)
    if decoder.beam_search.num_beams > 1 and config.streaming:
        yield Finding("error", "streaming", "tokens of a beam search are not final until its end", "use one beam")


def _prompts(config: ExperimentConfig) -> Iterator[Finding]:
    if config.dataset and config.prompts:
        yield Finding("warning", "prompts", "has no effect: dataset comes first", "keep one of them")


def _measurement(config: ExperimentConfig) -> Iterator[Finding]:
    if config.timeseries.save and not config.timeseries.enabled:
        yield Finding("warning", "timeseries.save", "has no effect while timeseries.enabled is false")
    if config.schedule.enabled and not (config.schedule.interval or config.schedule.at):
        yield Finding("error", "schedule", "it is enabled without interval or at", "set one, such as interval: 6h")
    if config.traffic_simulation.enabled and config.batching.batch_size > 1 and not config.batching.dynamic_batching:
        text = "a static batch waits for its last request: arrival times show in the latencies"
        yield Finding("info", "traffic_simulation", text)
