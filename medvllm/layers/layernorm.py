"""Root-mean-square normalisation with the residual addition before it."""

from __future__ import annotations

from typing import Any

import torch
from medvllm_kernels import cpu_elementwise
from torch import Tensor, nn

from medvllm.layers.fused import triton_kernels

__all__ = ["RMSNorm"]


class RMSNorm(nn.Module):
    """w · x / sqrt(mean(x²) + eps), in float32; with a residual, of their sum, which is returned as well.

    `unit_offset` multiplies by (1 + w), as Gemma does.
    """

    def __init__(self, size: int, eps: float, *, unit_offset: bool = False) -> None:
        super().__init__()
        self.eps, self.unit_offset = eps, unit_offset
        self.native = False  # native CPU code, set by medvllm.layers.packing
        self.deterministic = False  # then not by Triton, whose sums are grouped by the number of rows
        self.weight: Any = nn.Parameter(torch.ones(size), requires_grad=False)

    def _by_triton(self, x: Tensor) -> bool:
        return not self.unit_offset and not self.deterministic and triton_kernels(x)

    def normalise(self, x: Tensor) -> Tensor:
        """The norm over the last dimension of x (…, size)."""
        if self.native:
            return cpu_elementwise.rms_norm(x.contiguous(), self.weight, self.eps, offset=float(self.unit_offset))
        if self._by_triton(x):
            from medvllm_kernels import triton_rms_norm

            return triton_rms_norm.rms_norm(x, self.weight, self.eps)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        if self.unit_offset:
            return (normed * (1.0 + self.weight.float())).to(x.dtype)
        return self.weight * normed.to(x.dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (tokens, size) → the norm of x + residual, and that sum as the next residual."""
        if self.native and residual is not None:
            return cpu_elementwise.rms_norm(x, self.weight, self.eps, residual, offset=float(self.unit_offset))
        if residual is not None and self._by_triton(x):
            from medvllm_kernels import triton_rms_norm

            normed, total = triton_rms_norm.rms_norm(x, self.weight, self.eps, residual)
            return normed, total
        residual = x if residual is None else residual + x
        return self.normalise(residual), residual
