"""Whether the Triton kernels stand in for a layer's torch operators."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

__all__ = ["triton_kernels", "triton_wanted"]


def triton_wanted() -> bool:
    """Whether there is Triton and MEDVLLM_DISABLE_TRITON does not say otherwise."""
    if importlib.util.find_spec("triton") is None:
        return False
    from medvllm_kernels import triton_support

    return not triton_support.flag("MEDVLLM_DISABLE_TRITON")


def triton_kernels(x: Tensor) -> bool:
    """Whether kernels compute on tensors like `x`: on CUDA, but not under torch.compile, which fuses torch's operators.

    What they make of fp32 is torch's to rounding; 16-bit results are rounded once, where torch's operators round twice.
    """
    return x.is_cuda and not torch.compiler.is_compiling() and triton_wanted()
