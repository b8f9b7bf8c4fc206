"""What the engine counts and times."""

from __future__ import annotations

from dataclasses import dataclass

from medvllm.engine.memory_pool import PoolStats

__all__ = ["Clock", "EngineStats"]


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine since it was started, or since `LLM.reset_stats()`."""

    model: str
    runner: str  # medvllm, or transformers where the architecture runs through it
    runner_reason: str | None
    device: str
    dtype: str  # of the weights
    activation_dtype: str
    kv_cache_dtype: str
    quantization: str | None
    threads: int
    seed: int
    deterministic: bool
    attention_backend: str  # flash, sdpa or manual
    attention_reason: str
    attention_kernel: str  # flash-attn, torch-sdpa, torch-manual, torch-by-row, native-paged or triton-paged
    linear_kernel: str  # native (which instructions) or torch
    prompt_tokens: int
    output_tokens: int
    requests_finished: int
    ttft_s: float | None  # mean over finished requests, from arrival to first token
    tokens_per_s: float | None  # output tokens per second of steps
    inter_token_s: float | None  # mean time of a step without prompt tokens
    peak_memory_bytes: int | None  # None where the system does not say
    weight_bytes: int
    kv_block_size: int
    kv_blocks_total: int
    kv_blocks_used: int
    kv_blocks_peak: int
    kv_cache_bytes: int
    preemptions: int
    prefix_cache_hit_tokens: int
    prefix_cache_query_tokens: int
    steps: int
    step_s: float  # wall time of all steps
    model_s: float  # of that, in the model
    sample_s: float  # choosing tokens
    overhead_share: float | None  # of step_s, outside the model: scheduling, inputs, sampling, text
    native_decoder: bool  # all layers run in one native call
    cuda_graphs: int  # captured; 0 without
    compiled: str | None  # torch.compile mode in force
    pool: PoolStats | None  # None without memory pooling


@dataclass(slots=True)
class Clock:
    """Counters that a step adds to; seconds of wall time."""

    steps: int = 0
    decode_steps: int = 0
    schedule_s: float = 0.0
    prepare_s: float = 0.0
    model_s: float = 0.0
    sample_s: float = 0.0
    postprocess_s: float = 0.0
    decode_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    requests_finished: int = 0
    ttft_total_s: float = 0.0
    kv_blocks_peak: int = 0

    @property
    def step_s(self) -> float:
        """Wall time of all steps."""
        return self.schedule_s + self.prepare_s + self.model_s + self.sample_s + self.postprocess_s
