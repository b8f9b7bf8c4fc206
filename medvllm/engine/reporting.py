"""The engine's counters as one record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from medvllm.engine.memory import peak_bytes
from medvllm.engine.stats import EngineStats
from medvllm.layers.native_decoder import NativeDecoder
from medvllm.layers.packing import native_status

if TYPE_CHECKING:
    from medvllm.engine.llm_engine import LLMEngine

__all__ = ["engine_stats"]


def engine_stats(engine: LLMEngine) -> EngineStats:
    """Everything an engine counted, timed and chose."""
    runner, clock, blocks = engine.runner, engine.clock, engine.block_manager
    precision, scheduler = runner.precision, engine.scheduler
    activations = getattr(torch, precision.activations)
    choice = runner.attention.choice or runner.attention.decide(runner.device.type, activations)
    step_s = clock.step_s
    return EngineStats(
        model=str(engine.options.model),
        runner=runner.runner,
        runner_reason=runner.runner_reason,
        device=runner.device.type,
        dtype=precision.weights,
        activation_dtype=precision.activations,
        kv_cache_dtype=precision.kv_cache,
        quantization=precision.quantization,
        threads=torch.get_num_threads(),
        seed=engine.options.seed,
        deterministic=engine.options.deterministic,
        attention_backend=choice.backend,
        attention_reason=choice.reason,
        attention_kernel=choice.kernel,
        linear_kernel="torch" if precision.packing is None else native_status(),
        prompt_tokens=clock.prompt_tokens,
        output_tokens=clock.output_tokens,
        requests_finished=clock.requests_finished,
        ttft_s=clock.ttft_total_s / clock.requests_finished if clock.requests_finished else None,
        tokens_per_s=clock.output_tokens / step_s if step_s and clock.output_tokens else None,
        inter_token_s=clock.decode_s / clock.decode_steps if clock.decode_steps else None,
        peak_memory_bytes=peak_bytes(runner.device.type),
        weight_bytes=runner.weight_bytes,
        kv_block_size=engine.options.block_size,
        kv_blocks_total=blocks.num_blocks,
        kv_blocks_used=blocks.num_used,
        kv_blocks_peak=clock.kv_blocks_peak,
        kv_cache_bytes=runner.kv_cache_bytes,
        preemptions=scheduler.num_preemptions,
        prefix_cache_hit_tokens=scheduler.prefix_hit_tokens,
        prefix_cache_query_tokens=scheduler.prefix_query_tokens,
        steps=clock.steps,
        step_s=step_s,
        model_s=clock.model_s,
        sample_s=clock.sample_s,
        overhead_share=(step_s - clock.model_s) / step_s if step_s else None,
        native_decoder=isinstance(runner.forward, NativeDecoder),
        cuda_graphs=0 if runner.graphs is None else runner.graphs.captured,
        compiled=runner.compiled,
        pool=None if runner.pool is None else runner.pool.stats(),
    )
