"""Gated activations over a fused gate-up product."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from medvllm_kernels import cpu_elementwise
from torch import Tensor, nn

from medvllm.errors import MedvllmError
from medvllm.layers.fused import triton_kernels

__all__ = ["ACTIVATIONS", "ActivationAndMul", "activation"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}

_KERNELS = {
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}  # where the kernel's name differs
_KERNELS = {name: _KERNELS.get(name, name) for name in ACTIVATIONS}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called `name` in a model's configuration."""
    if name not in ACTIVATIONS:
        raise MedvllmError(f"the model's activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


class ActivationAndMul(nn.Module):
    """act(gate) · up for x = [gate, up] (tokens, 2 × size) → (tokens, size)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.act = activation(name)
        self.kernel = _KERNELS[name]
        self.native = False  # native CPU code, set by medvllm.layers.packing

    def forward(self, x: Tensor) -> Tensor:
        if self.native:
            return cpu_elementwise.act_and_mul(x, self.kernel)
        if self.kernel == "silu" and triton_kernels(x):
            from medvllm_kernels import triton_swiglu

            return triton_swiglu.silu_and_mul(x)
        gate, up = x.chunk(2, dim=-1)
        return self.act(gate).mul_(up)
