"""The engine's options, checked once where they are built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.layers.attention import BACKENDS

__all__ = ["COMPILE_MODES", "DTYPES", "QUANTIZATIONS", "EngineConfig"]

DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}
QUANTIZATIONS = ("int8", "int4")
COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
POOL_DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Options of `medvllm.LLM`, in vLLM's names."""

    model: str | Path
    tokenizer: str | Path | None = None  # None is the model's own
    dtype: str = "auto"  # the checkpoint's, where this machine computes well in it
    device: str = "auto"
    quantization: str | None = None  # int8 or int4 weights, on the CPU
    kv_cache_dtype: str = "auto"  # the weights'; float32 with float32
    threads: int | None = None  # of the whole process; None leaves torch's number
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048  # of one step
    max_model_len: int | None = None  # prompt and completion; None is the model's context
    block_size: int = 16  # tokens in a block of the cache
    kv_cache_bytes: int | None = None
    num_kv_blocks: int | None = None
    gpu_memory_utilization: float = 0.9  # of a GPU's memory, for weights, activations and cache
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    attention_impl: str = "auto"
    flash_attention: bool | None = None
    enforce_eager: bool = False  # no CUDA graphs
    tensor_parallel_size: int = 1
    seed: int = 0
    deterministic: bool = False  # a request's tokens do not depend on what else is in the batch
    compile_mode: str | None = None  # torch.compile of each layer
    memory_pooling: bool = True
    pool_max_bytes: int | None = None
    pool_device: str = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False  # tensors, and nothing else, from weights in pickle files where there are no others

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("kv_cache_dtype", self.kv_cache_dtype, DTYPES)
        object.__setattr__(self, "dtype", DTYPES[self.dtype])
        object.__setattr__(self, "kv_cache_dtype", DTYPES[self.kv_cache_dtype])
        if self.quantization is not None:
            _one_of("quantization", self.quantization, QUANTIZATIONS)
        if self.compile_mode is not None:
            _one_of("compile_mode", self.compile_mode, COMPILE_MODES)
        _one_of("attention_impl", self.attention_impl, BACKENDS)
        _one_of("pool_device", self.pool_device, POOL_DEVICES)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MedvllmError(f"{name} must be at least 1, got {value}")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise MedvllmError(f"gpu_memory_utilization must be in (0, 1], got {self.gpu_memory_utilization}")
        if self.kv_cache_bytes is not None and self.num_kv_blocks is not None:
            raise MedvllmError("kv_cache_bytes and num_kv_blocks say the same; give one of them")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise MedvllmError(
                f"max_num_batched_tokens must be at least max_num_seqs={self.max_num_seqs} (each sequence decodes one "
                f"token a step), got {self.max_num_batched_tokens}"
            )


_POSITIVE = (
    "threads",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "block_size",
    "kv_cache_bytes",
    "num_kv_blocks",
    "tensor_parallel_size",
    "pool_max_bytes",
)


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise MedvllmError(f"{name} must be one of {', '.join(known)}, got {value!r}")
