"""Rotary position embedding, with the frequency scalings that do not depend on the sequence's length."""

from __future__ import annotations

from typing import Any

import torch
from medvllm_kernels import cpu_elementwise
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.fused import triton_kernels

__all__ = ["ROPE_TYPES", "RotaryEmbedding", "get_rope"]

ROPE_TYPES = ("default", "linear", "llama3", "yarn")


class RotaryEmbedding(nn.Module):
    """Rotates pairs (i, i + rotary_dim / 2) of each head by position × inv_freq[i].

    Args:
        inv_freq: (rotary_dim / 2,) float32.
        max_positions: positions in the table of cosines and sines.
        scaling: factor on both (YaRN's attention factor).
    """

    def __init__(self, inv_freq: Tensor, max_positions: int, *, scaling: float = 1.0) -> None:
        super().__init__()
        self.rotary_dim = 2 * inv_freq.shape[0]
        self.native = False  # native CPU code, set by medvllm.layers.packing
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), inv_freq.float())
        table = torch.cat((angles.cos(), angles.sin()), dim=-1) * scaling
        self.register_buffer("cos_sin", table, persistent=False)  # (max_positions, rotary_dim) float32

    def forward(self, positions: Tensor, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q (tokens, heads, head_dim), k (tokens, kv_heads, head_dim) → both rotated; positions (tokens,).

        The native code writes over q and k.
        """
        if self.native:
            return cpu_elementwise.rotary(q, k, positions, self.cos_sin)
        if triton_kernels(q):
            from medvllm_kernels import triton_rope

            return triton_rope.rotary(q, k, positions, self.cos_sin)
        table = self.cos_sin[positions].to(q.dtype).unsqueeze(1)
        cos, sin = table.chunk(2, dim=-1)
        return rotate(q, cos, sin), rotate(k, cos, sin)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (tokens, heads, head_dim) rotated by cos and sin (tokens, 1, rotary_dim / 2); the rest of a head stays."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def get_rope(config: Any, *, max_positions: int, layer_type: str | None = None) -> RotaryEmbedding:
    """The rotary embedding of a transformers configuration (of one of its layer types, where it has several).

    Raises:
        MedvllmError: a scaling whose frequencies change with the sequence's length.
    """
    parameters = config.rope_parameters
    if layer_type is not None and layer_type in parameters:
        parameters = parameters[layer_type]
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_TYPES:
        raise MedvllmError(f"rotary scaling must be one of {', '.join(ROPE_TYPES)}, got {kind!r}")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if kind == "default":
        rotary_dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
        return RotaryEmbedding(1.0 / (parameters["rope_theta"] ** exponents), max_positions)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    inv_freq, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), layer_type=layer_type)
    return RotaryEmbedding(inv_freq, max_positions, scaling=scaling)
