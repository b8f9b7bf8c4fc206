"""The best available kernel for this machine: Triton on an NVIDIA GPU, the PyTorch reference elsewhere.

Every function picks by its tensors and gives the same results either way; `explain` says what is picked and why.
The environment's switches are listed in medvllm_kernels.triton_support.
"""

from __future__ import annotations

from medvllm_kernels.triton_bias_gelu import bias_gelu
from medvllm_kernels.triton_depthwise_conv2d import build_fused_depthwise_conv2d_if_available, depthwise_conv2d
from medvllm_kernels.triton_kv_cache import store_kv
from medvllm_kernels.triton_paged_attention import paged_decode_attention
from medvllm_kernels.triton_rms_norm import rms_norm
from medvllm_kernels.triton_rope import rotary
from medvllm_kernels.triton_separable_conv3d import build_fused_separable_conv3d_if_available, separable_conv3d
from medvllm_kernels.triton_softmaxv import softmaxv
from medvllm_kernels.triton_support import KernelArgumentError, explain
from medvllm_kernels.triton_swiglu import silu_and_mul, swiglu

__all__ = [
    "KernelArgumentError",
    "bias_gelu",
    "build_fused_depthwise_conv2d_if_available",
    "build_fused_separable_conv3d_if_available",
    "depthwise_conv2d",
    "explain",
    "paged_decode_attention",
    "rms_norm",
    "rotary",
    "separable_conv3d",
    "silu_and_mul",
    "softmaxv",
    "store_kv",
    "swiglu",
]
