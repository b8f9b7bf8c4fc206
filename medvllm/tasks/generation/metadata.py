"""The metadata of `--json-meta` about the request and the engine: what was in force, what was chosen, what it took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from medvllm.tasks.generation.options import GenerationOptions
from medvllm.tasks.generation.prompt import Prompt, instruction
from medvllm.tasks.generation.result import GeneratedText

if TYPE_CHECKING:
    from medvllm.engine.stats import EngineStats
    from medvllm.outputs import RequestOutput

__all__ = ["describe_engine", "describe_request"]


def describe_request(
    options: GenerationOptions,
    prompt: Prompt,
    output: RequestOutput,
    texts: Sequence[GeneratedText],
    *,
    elapsed_s: float | None = None,
) -> dict[str, Any]:
    """Strategy, parameters in force, style, tokens and times of one request.

    `elapsed_s` stands for the time of a request that was ended before the model did.
    """
    force = options.in_force
    return {
        "strategy": force.pop("strategy"),
        "temperature": force.pop("temperature"),
        "parameters": {**force, "stop": list(force["stop"] or ())},
        "seed": options.seed,
        "style": options.style.requested(),
        "prompt": {
            "tokens": len(output.prompt_token_ids),
            "cached_tokens": output.num_cached_tokens,
            "template": prompt.template,
            "instruction": instruction(options),
            "truncated_tokens": prompt.truncated_tokens,
            "abbreviations": {"expanded": dict(prompt.abbreviations)},
        },
        "output_tokens": sum(text.num_tokens for text in texts),
        "finish_reason": texts[0].finish_reason,
        **_times(output, texts, elapsed_s),
    }


def _times(output: RequestOutput, texts: Sequence[GeneratedText], elapsed_s: float | None) -> dict[str, float | None]:
    """From the request's arrival; rates are None where there are too few tokens, or no times, for one."""
    ttft_s, latency_s = output.metrics.ttft_s, output.metrics.latency_s or elapsed_s
    tokens = max(text.num_tokens for text in texts)
    between = None
    if ttft_s is not None and latency_s is not None and tokens > 1:
        between = (latency_s - ttft_s) / (tokens - 1)
    total = sum(text.num_tokens for text in texts)
    return {
        "ttft_ms": None if ttft_s is None else round(1000 * ttft_s, 2),
        "inter_token_ms": None if between is None else round(1000 * between, 2),
        "latency_ms": None if latency_s is None else round(1000 * latency_s, 2),
        "tokens_per_s": round(total / latency_s, 2) if latency_s else None,
    }


def describe_engine(stats: EngineStats, *, requested_attention: str) -> dict[str, Any]:
    """Device, precision, attention, cache and pool, as the engine says they are."""
    return {
        "device": stats.device,
        "dtype": stats.dtype,
        "activation_dtype": stats.activation_dtype,
        "quantization": stats.quantization,
        "threads": stats.threads,
        "deterministic": stats.deterministic,
        "runner": {"name": stats.runner, "reason": stats.runner_reason, "linear_kernel": stats.linear_kernel},
        "compile_mode": stats.compiled,
        "attention": {
            "requested": requested_attention,
            "backend": stats.attention_backend,
            "reason": stats.attention_reason,
            "kernel": stats.attention_kernel,
        },
        "memory": {
            "peak_bytes": stats.peak_memory_bytes,
            "weight_bytes": stats.weight_bytes,
            "kv_cache_dtype": stats.kv_cache_dtype,
            "kv_cache_bytes": stats.kv_cache_bytes,
            "kv_blocks_total": stats.kv_blocks_total,
            "kv_blocks_peak": stats.kv_blocks_peak,
            "preemptions": stats.preemptions,
        },
        "pool": {"enabled": stats.pool is not None, **(asdict(stats.pool) if stats.pool else {})},
    }
