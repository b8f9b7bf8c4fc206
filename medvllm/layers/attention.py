"""Attention over the paged cache, and the choice of what computes it: FlashAttention, SDPA or manual.

The backend is one of the contract's three. Under `auto` the chosen backend's mathematics may be computed by a paged
kernel of our own (`kernel` says which): native code on the CPU, Triton for decoding on CUDA. A backend asked for by
name is computed by exactly that backend.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from medvllm_kernels import cpu_attention, engine_native
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers import attention_torch
from medvllm.layers.context import Context, get_context
from medvllm.layers.fused import triton_wanted

__all__ = ["BACKENDS", "Attention", "AttentionChoice", "AttentionSettings", "choose_backend", "flash_unavailable"]

BACKENDS = ("auto", "flash", "sdpa", "manual")


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """What computes attention and why."""

    backend: str  # flash, sdpa or manual
    reason: str
    kernel: str  # flash-attn, torch-sdpa, torch-manual, torch-by-row, native-paged or triton-paged
    warnings: tuple[str, ...] = ()


@functools.cache
def flash_unavailable() -> str | None:
    """Why FlashAttention can't run here; None when it can. Probed once."""
    if not torch.cuda.is_available():
        return "it needs a CUDA GPU"
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    return None


def sdpa_unavailable() -> str | None:
    """Why PyTorch's SDPA can't run here; None when it can."""
    return None if hasattr(F, "scaled_dot_product_attention") else f"torch {torch.__version__} has no SDPA"


def choose_backend(requested: str, *, flash_attention: bool | None, device: str, dtype: Any) -> AttentionChoice:
    """The backend for `requested` (auto, flash, sdpa or manual) on `device`, its reason, and warnings of fallbacks.

    `flash_attention` False disables FlashAttention, None and True allow it where it can run.
    """
    if requested not in BACKENDS:
        raise MedvllmError(f"attention_impl must be one of {', '.join(BACKENDS)}, got {requested!r}")
    no_flash = _no_flash(flash_attention, device, dtype)
    no_sdpa = sdpa_unavailable()
    if requested == "manual":
        return AttentionChoice("manual", "requested", "torch-manual")
    if requested == "flash":
        if no_flash is None:
            return AttentionChoice("flash", "requested", "flash-attn")
        backend = "manual" if no_sdpa else "sdpa"
        reason = f"FlashAttention was requested but is unavailable ({no_flash}); falling back to {_name(backend)}"
        return AttentionChoice(backend, reason, f"torch-{backend}", (reason,))
    if requested == "sdpa":
        if no_sdpa is None:
            return AttentionChoice("sdpa", "requested", "torch-sdpa")
        backend = "manual" if no_flash else "flash"
        reason = f"SDPA was requested but is unavailable ({no_sdpa}); falling back to {_name(backend)}"
        return AttentionChoice(backend, reason, "flash-attn" if backend == "flash" else "torch-manual", (reason,))
    return _automatic(no_flash, no_sdpa, device)


def _automatic(no_flash: str | None, no_sdpa: str | None, device: str) -> AttentionChoice:
    """Flash, then SDPA, then manual; computed by a paged kernel of ours where one is built for the device."""
    if no_flash is None:
        return AttentionChoice("flash", "auto: FlashAttention is available", "flash-attn")
    if no_sdpa is None:
        kernel = _paged_kernel(device) or "torch-sdpa"
        return AttentionChoice("sdpa", f"auto: FlashAttention is unavailable ({no_flash}); SDPA is available", kernel)
    return AttentionChoice("manual", f"auto: neither FlashAttention ({no_flash}) nor SDPA ({no_sdpa})", "torch-manual")


def _no_flash(flash_attention: bool | None, device: str, dtype: Any) -> str | None:
    if flash_attention is False:
        return "disabled by --no-flash-attention"
    reason = flash_unavailable()
    if reason is None and device != "cuda":
        return f"the model runs on {device}"
    if reason is None and dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 or bfloat16, the model in {str(dtype).removeprefix('torch.')}"
    return reason


def _name(backend: str) -> str:
    return {"sdpa": "SDPA", "flash": "FlashAttention", "manual": "manual attention"}[backend]


def _paged_kernel(device: str) -> str | None:
    """The project's own paged kernel for `device`; None where there is none."""
    if device == "cpu":
        return "native-paged" if engine_native.library() is not None else None
    return "triton-paged" if device == "cuda" and triton_wanted() else None


@dataclass(slots=True)
class AttentionSettings:
    """What the user asked of attention, shared by all layers of a model, and what was chosen at the first step."""

    requested: str = "auto"
    flash_attention: bool | None = None
    deterministic: bool = False
    workspace: Any = None
    choice: AttentionChoice | None = field(default=None, init=False)

    def resolve(self, q: Tensor) -> AttentionChoice:
        """The choice for tensors like `q`; the first call warns of fallbacks."""
        if self.choice is None:
            self.choice = self.decide(q.device.type, q.dtype)
            for message in self.choice.warnings:
                warnings.warn(message, RuntimeWarning, stacklevel=3)
        return self.choice

    def decide(self, device: str, dtype: Any) -> AttentionChoice:
        """The choice without announcing it."""
        choice = choose_backend(self.requested, flash_attention=self.flash_attention, device=device, dtype=dtype)
        if not self.deterministic or choice.kernel == "native-paged":
            return choice  # the native kernel computes each row alone, in one order
        reason = f"{choice.reason}; deterministic: one query at a time"
        return AttentionChoice("manual", reason, "torch-by-row", choice.warnings)


class Attention(nn.Module):
    """Causal attention of one layer over its part of the paged cache.

    Args:
        num_heads: query heads of this rank.
        head_dim: width of a head.
        num_kv_heads: key and value heads of this rank.
        scale: factor on q · k.
        window: keys a position sees, itself included; None for all before it.
        softcap: cap · tanh(score / cap) on the scores; None for none.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        num_kv_heads: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.num_kv_heads = num_heads, head_dim, num_kv_heads
        self.scale, self.window, self.softcap = scale, window, softcap
        self.settings = AttentionSettings()
        self.k_cache = self.v_cache = torch.empty(0)  # (num_blocks, block_size, num_kv_heads, head_dim), by the engine

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (tokens, heads, head_dim), k and v (tokens, kv_heads, head_dim) → (tokens, heads, head_dim)."""
        context, choice = get_context(), self.settings.resolve(q)
        keys = (k, v)
        if context.slot_mapping is not None:
            self.store(k, v, context.slot_mapping)
            keys = (self.k_cache, self.v_cache)
        if choice.kernel == "flash-attn":
            return self._flash(q, keys, context)
        options: dict[str, Any] = {"scale": self.scale, "window": self.window, "softcap": self.softcap}
        if context.slot_mapping is not None and choice.kernel == "native-paged" and self._fits_native(q):
            return self._native(q, context, options)
        if context.slot_mapping is not None and choice.kernel == "triton-paged" and not context.is_prefill:
            return self._triton(q, context, options)
        if choice.kernel == "torch-by-row":
            return attention_torch.attend_by_row(q, keys, context, **options)
        return attention_torch.attend(q, keys, context, **options, fused=choice.backend == "sdpa")

    def store(self, k: Tensor, v: Tensor, slot_mapping: Tensor) -> None:
        """Writes the step's keys and values to their slots of the cache."""
        if k.device.type == "cpu" and self._fits_native(k):
            cpu_attention.store_kv(k, v, self.k_cache, self.v_cache, slot_mapping)
        elif k.device.type == "cuda" and _paged_kernel("cuda"):
            from medvllm_kernels import triton_kv_cache

            triton_kv_cache.store_kv(k, v, self.k_cache, self.v_cache, slot_mapping)
        else:
            for values, cache in ((k, self.k_cache), (v, self.v_cache)):
                cache.view(-1, *values.shape[1:]).index_copy_(0, slot_mapping, values.to(cache.dtype))

    def _fits_native(self, x: Tensor) -> bool:
        return x.dtype in (torch.float32, torch.bfloat16) and self.k_cache.dtype in (torch.float32, torch.bfloat16)

    def _native(self, q: Tensor, context: Context, options: dict[str, Any]) -> Tensor:
        out = None if self.settings.workspace is None else self.settings.workspace.take("attn", tuple(q.shape), q.dtype)
        step = (context.block_tables, context.context_lens, context.cu_seqlens_q)
        return cpu_attention.paged_attention(q, self.k_cache, self.v_cache, *step, out=out, **options)

    def _triton(self, q: Tensor, context: Context, options: dict[str, Any]) -> Tensor:
        from medvllm_kernels import triton_paged_attention

        return triton_paged_attention.paged_decode_attention(
            q,
            self.k_cache,
            self.v_cache,
            context.block_tables,
            context.context_lens,
            max_context_len=context.max_seqlen_k,
            **options,
        )

    def _flash(self, q: Tensor, keys: tuple[Tensor, Tensor], context: Context) -> Tensor:
        """flash-attn's varlen kernel; cached keys are gathered, for its paged form wants blocks of 256."""
        from flash_attn import flash_attn_varlen_func

        k, v = keys
        cu_seqlens_k = context.cu_seqlens_q
        if context.slot_mapping is not None and context.block_tables is not None:
            size = k.shape[1]
            slots = torch.cat(
                [
                    (table[: -(-length // size), None] * size + torch.arange(size, device=q.device)).flatten()[:length]
                    for table, length in zip(context.block_tables, context.seqlens_k, strict=True)
                ]
            )
            k, v = k.flatten(0, 1)[slots], v.flatten(0, 1)[slots]
            cu_seqlens_k = context.cu_seqlens_k
        window = (-1, -1) if self.window is None else (self.window - 1, 0)
        return flash_attn_varlen_func(
            q,
            k,
            v,
            context.cu_seqlens_q,
            cu_seqlens_k,
            context.max_seqlen_q,
            max(context.max_seqlen_k, context.max_seqlen_q),
            softmax_scale=self.scale,
            causal=True,
            window_size=window,
            softcap=self.softcap or 0.0,
        )
