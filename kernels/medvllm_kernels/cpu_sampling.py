"""Choosing tokens from rows of logits on the CPU: by temperature, top-k, top-p and min-p.

    w = e^((logit - top) / temperature);  of the k likeliest those until whose sum is top_p of theirs (of all, without
    top-k);  of these w >= min_p;  the token at which the running sum passes uniform * the sum of what is left

Without a filter the running sum goes in the order of the tokens, else from the likeliest down (equal ones by number).
A row looks at the few tokens near its top instead of sorting the vocabulary. The reference in torch, with the same
choices but for rounding, is medvllm.layers.sampler.sample_reference.
"""

from __future__ import annotations

import ctypes

import torch

from medvllm_kernels import engine_native

__all__ = ["sample", "unusable"]


class NativeSample(ctypes.Structure):
    """struct SampleCall of engine.h."""

    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("vocab", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("temperature", "top_k", "top_p", "min_p", "uniform", "tokens")),
    ]


def unusable(logits: torch.Tensor) -> str | None:
    """Why `sample` cannot take these logits; None where it can."""
    if engine_native.library() is None:
        return engine_native.status()
    if logits.device.type != "cpu" or logits.dtype != torch.float32 or not logits.is_contiguous():
        return f"logits must be contiguous float32 on the CPU, got {logits.dtype} on {logits.device}"
    return None


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniform: torch.Tensor,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """(n, vocab) float32 → (n,) int64; a row that allows nothing gives token 0.

    The settings are (n,): temperature float32 above 0, top_k int64 (0: all), top_p and min_p float32, uniform float64
    in [0, 1). Raises ValueError where they do not fit, or `unusable` says something.
    """
    reason = unusable(logits)
    if reason is not None or logits.dim() != 2:
        raise ValueError(reason or f"logits must be (n, vocab), got {tuple(logits.shape)}")
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "uniform": uniform}
    kinds = {"top_k": torch.int64, "uniform": torch.float64}
    for name, values in settings.items():
        kind = kinds.get(name, torch.float32)
        if values.shape != (len(logits),) or values.dtype != kind or not values.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous {kind} ({len(logits)},), got {values.dtype} {tuple(values.shape)}"
            )
    tokens = torch.empty(len(logits), dtype=torch.int64)
    pointers = [values.data_ptr() for values in settings.values()]
    call = NativeSample(logits.data_ptr(), *logits.shape, *pointers, tokens.data_ptr())
    library = engine_native.library()
    assert library is not None  # `unusable` looked
    library.mv_engine_sample(ctypes.byref(call), threads or engine_native.threads())
    return tokens
