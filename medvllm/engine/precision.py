"""In which number formats a model runs on this machine."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from medvllm_kernels import engine_native

from medvllm.engine.config import EngineConfig
from medvllm.errors import MedvllmError

__all__ = ["Precision", "choose_precision"]

_PACKING = {"float32": "fp32", "bfloat16": "bf16"}


@dataclass(frozen=True, slots=True)
class Precision:
    """dtype names of torch; `packing` is the native weight format, None where torch's operators run the layers."""

    weights: str
    activations: str
    kv_cache: str
    packing: str | None
    quantization: str | None

    @property
    def held(self) -> str:
        """What weights take memory as, in the words of `checkpoint.required_bytes`."""
        if self.packing is not None and engine_native.library() is None:
            return "float32"  # rounded, not packed
        return self.packing or self.weights


def choose_precision(options: EngineConfig, config: Any, device: str, *, own_layers: bool) -> Precision:
    """The formats for `options` on `device`.

    On a CPU with the native library, weights and cache are stored as asked and arithmetic is float32: decoding is bound
    by reading memory, and the results are at least as exact. Products with int8 and int4 weights alone are of whole
    numbers, with activations rounded to 8 bits by blocks of 32. Without it torch computes in the dtype itself, so
    that `auto` takes bfloat16 only where the processor has instructions for it; so it does under torch.compile, which
    sees torch's operators only.
    """
    quantization = options.quantization
    native = device == "cpu" and own_layers and engine_native.library() is not None and options.compile_mode is None
    stored = str(getattr(config, "dtype", None) or "float32").removeprefix("torch.")
    weights = options.dtype if options.dtype != "auto" else _automatic(stored, device, native)
    if quantization is not None and (device != "cpu" or not own_layers):
        raise MedvllmError(
            f"quantization {quantization} runs on the CPU, with the engine's own layers; "
            f"{'use --device cpu' if device != 'cpu' else 'this architecture runs through transformers'}"
        )
    if quantization is not None and options.compile_mode is not None:
        raise MedvllmError(
            f"quantization {quantization} runs in native code, which torch.compile can't see; choose one"
        )
    if quantization is not None and not native:
        warnings.warn(
            f"quantization {quantization} without the native library ({engine_native.status()}): weights are rounded "
            "as asked, but kept and computed in float32, with no gain in speed or memory",
            RuntimeWarning,
            stacklevel=2,
        )
    elif device == "cpu" and own_layers and options.compile_mode is None and engine_native.missing():
        warnings.warn(
            f"no native library, {engine_native.status()} runs instead, several times slower; "
            "installing again where there is a C++ compiler builds it",
            RuntimeWarning,
            stacklevel=2,
        )
    packing = quantization if quantization is not None else _PACKING.get(weights) if native else None
    if packing is not None and weights == "float16":
        weights = "float32"  # quantised from float16 weights: read them without loss
    activations = "float32" if packing is not None else weights
    kv_cache = options.kv_cache_dtype if options.kv_cache_dtype != "auto" else weights
    if kv_cache == "float16" and packing is not None:
        raise MedvllmError("kv_cache_dtype must be float32 or bfloat16 on this CPU, got float16")
    return Precision(weights, activations, kv_cache, packing, quantization)


def _automatic(stored: str, device: str, native: bool) -> str:
    """The checkpoint's dtype where this machine computes well in it."""
    if device == "cuda":
        if stored == "bfloat16" and not torch.cuda.is_bf16_supported():
            return "float16"
        return stored if stored in ("bfloat16", "float16") else "float32"
    if stored == "bfloat16" and (native or torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return "bfloat16"
    return "float32"
