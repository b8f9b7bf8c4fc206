"""The launches that the compile gate and the kernels' table look at: each kernel at a shape that users run.

They are made by the planners that run on a GPU, over tensors on the device `meta`, so what is compiled is what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

import torch

from medvllm_kernels import triton_bias_gelu as gelu
from medvllm_kernels import triton_depthwise_conv2d_backward as conv2d_backward
from medvllm_kernels import triton_depthwise_conv2d_forward as conv2d
from medvllm_kernels import triton_kv_cache as kv_cache
from medvllm_kernels import triton_paged_attention as paged
from medvllm_kernels import triton_rms_norm as norm
from medvllm_kernels import triton_rope as rope
from medvllm_kernels import triton_separable_conv3d as conv3d
from medvllm_kernels import triton_softmaxv as softmaxv
from medvllm_kernels import triton_swiglu as glu
from medvllm_kernels.triton_report import CAPABILITIES, KernelReport, compile_launch
from medvllm_kernels.triton_support import DTYPES, Launch

__all__ = ["CASES", "Case", "report", "report_all"]

_FEW: Final = (torch.float32, torch.bfloat16)  # float16 differs from bfloat16 in the conversions only
Maker = Callable[[torch.dtype], Launch]


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel at one shape: `shape` in words, `make` its launch for a dtype, `dtypes` those looked at."""

    name: str
    shape: str
    make: Maker
    dtypes: tuple[torch.dtype, ...] = DTYPES


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _store_kv(heads: int, head_dim: int) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        k, cache = _meta(8192, heads, head_dim, dtype=dtype), _meta(1024, 16, heads, head_dim, dtype=dtype)
        return kv_cache.plan_store_kv(k, k, cache, cache, _meta(8192, dtype=torch.int64))

    return make


def _decode(heads: int, kv_heads: int, head_dim: int, part: int, **options: Any) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        q, cache = _meta(64, heads, head_dim, dtype=dtype), _meta(20000, 16, kv_heads, head_dim, dtype=dtype)
        tables, lengths = _meta(64, 256, dtype=torch.int32), _meta(64, dtype=torch.int32)
        launches = paged.plan_paged_decode_attention(q, cache, cache, tables, lengths, torch.empty_like(q), **options)
        return launches[part]

    return make


def _rms_norm(hidden: int, *, backward: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        x, weight, rstd = _meta(4096, hidden, dtype=dtype), _meta(hidden, dtype=dtype), _meta(4096)
        if backward:
            return norm.plan_rms_norm_backward(x, x, x, weight, rstd, x)[0]
        return norm.plan_rms_norm(x, x, weight, x, x, rstd, eps=1e-6)

    return make


def _rotary(*, interleaved: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        q, k = _meta(4096, 32, 128, dtype=dtype), _meta(4096, 8, 128, dtype=dtype)
        positions = _meta(4096, dtype=torch.int64)
        return rope.plan_rotary(q, k, q, k, positions, _meta(8192, 128), interleaved=interleaved)

    return make


def _swiglu(*, backward: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        gate, up = _meta(4096, 2 * 14336, dtype=dtype).chunk(2, -1)
        y = _meta(4096, 14336, dtype=dtype)
        return glu.plan_swiglu_backward(y, gate, up, gate, up) if backward else glu.plan_swiglu(gate, up, y)

    return make


def _bias_gelu(approximate: str, *, backward: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        x, bias = _meta(4096, 4096, dtype=dtype), _meta(4096, dtype=dtype)
        if backward:
            return gelu.plan_bias_gelu_backward(x, x, bias, x, approximate=approximate)[0]
        return gelu.plan_bias_gelu(x, bias, x, approximate=approximate)

    return make


def _image(dtype: torch.dtype, *, channels_last: bool, size: int = 512) -> torch.Tensor:
    x = _meta(8, 64, size, size, dtype=dtype)
    return x.to(memory_format=torch.channels_last) if channels_last else x


def _conv2d(kernel: int, *, channels_last: bool, candidate: int = 0) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        x, bias = _image(dtype, channels_last=channels_last), _meta(64, dtype=dtype)
        weight = conv2d.pack_weight(_meta(64, 1, kernel, kernel, dtype=dtype), channels_last)
        geometry = conv2d.ConvGeometry((kernel, kernel), (1, 1), (kernel // 2, kernel // 2), (1, 1))
        candidates = conv2d.forward_candidates(
            x, weight, bias, torch.empty_like(x), geometry, channels_last=channels_last
        )
        return candidates[candidate]

    return make


def _conv2d_gradient(of: str, *, channels_last: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        x, weight = _image(dtype, channels_last=channels_last), _meta(64, 1, 3, 3, dtype=dtype)
        if of == "weight":
            return conv2d_backward.plan_weight_gradient(
                torch.empty_like(x), x, conv2d.ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1))
            )[0]
        dy = _image(dtype, channels_last=channels_last, size=256)
        geometry = conv2d.ConvGeometry((3, 3), (2, 2), (1, 1), (1, 1))
        return conv2d_backward.plan_strided_input_gradient(dy, weight, x, geometry)

    return make


def _conv3d(*, gradient: bool) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        x, weight = _meta(1, 32, 32, 128, 128, dtype=dtype), _meta(32, 1, 3, 3, 3, dtype=dtype)
        if gradient:
            return conv3d.plan_separable_conv3d_weight_gradient(x, x, stride=1, padding=1, dilation=1)[0]
        bias = _meta(32, dtype=dtype)
        return conv3d.plan_separable_conv3d(x, weight, bias, x, stride=1, padding=1, dilation=1, relu=True)[0]

    return make


def _softmaxv(part: str) -> Maker:
    def make(dtype: torch.dtype) -> Launch:
        scores, v, lse = _meta(64, 512, 512, dtype=dtype), _meta(64, 512, 64, dtype=dtype), _meta(64, 512)
        if part == "forward":
            return softmaxv.plan_softmaxv(scores, v, torch.empty_like(v), lse)
        gradients = softmaxv.plan_softmaxv_backward(scores, v, v, v, lse, scores, v)
        return gradients[0] if part == "scores" else gradients[1]

    return make


CASES: Final[dict[str, Case]] = {
    case.name: case
    for case in (
        Case("store_kv", "8192 tokens, 8×128", _store_kv(8, 128)),
        Case("store_kv 3×64", "8192 tokens, 3×64", _store_kv(3, 64), _FEW),
        Case("paged_decode", "64 × 32 heads, 8 of k and v, 128 wide, 4096 tokens", _decode(32, 8, 128, 0)),
        Case(
            "paged_decode window softcap",
            "64 × 8 heads, 4 of k and v, 96 wide",
            _decode(8, 4, 96, 0, window=1024, softcap=50.0),
            _FEW,
        ),
        Case("paged_decode 256", "64 × 16 heads, 2 of k and v, 256 wide", _decode(16, 2, 256, 0), _FEW),
        Case("paged_decode merge", "64 × 32 heads, 128 wide", _decode(32, 8, 128, 1), _FEW),
        Case("rms_norm", "4096 × 4096, residual", _rms_norm(4096, backward=False)),
        Case("rms_norm long", "4096 × 16384, residual", _rms_norm(16384, backward=False), _FEW),
        Case("rms_norm backward", "4096 × 4096, residual", _rms_norm(4096, backward=True)),
        Case("rotary", "4096 tokens, 32 + 8 heads, 128 wide", _rotary(interleaved=False)),
        Case("rotary interleaved", "4096 tokens, 32 + 8 heads, 128 wide", _rotary(interleaved=True), _FEW),
        Case("silu_and_mul", "4096 × 14336", _swiglu(backward=False)),
        Case("silu_and_mul backward", "4096 × 14336", _swiglu(backward=True)),
        Case("bias_gelu", "4096 × 4096", _bias_gelu("none", backward=False)),
        Case("bias_gelu backward", "4096 × 4096", _bias_gelu("none", backward=True)),
        Case("bias_gelu tanh", "4096 × 4096", _bias_gelu("tanh", backward=False), _FEW),
        Case("bias_gelu tanh backward", "4096 × 4096", _bias_gelu("tanh", backward=True), _FEW),
        Case("depthwise_conv2d K3", "8 × 64 × 512²", _conv2d(3, channels_last=False)),
        Case("depthwise_conv2d K5", "8 × 64 × 512²", _conv2d(5, channels_last=False), _FEW),
        Case("depthwise_conv2d K7", "8 × 64 × 512²", _conv2d(7, channels_last=False), _FEW),
        Case("depthwise_conv2d K3 NHWC", "8 × 64 × 512²", _conv2d(3, channels_last=True)),
        Case("depthwise_conv2d K7 NHWC", "8 × 64 × 512²", _conv2d(7, channels_last=True), _FEW),
        Case("depthwise_conv2d K7 NHWC, 8 rows", "8 × 64 × 512²", _conv2d(7, channels_last=True, candidate=1), _FEW),
        Case("depthwise_conv2d dx stride 2", "8 × 64 × 512²", _conv2d_gradient("input", channels_last=False), _FEW),
        Case("depthwise_conv2d dx stride 2 NHWC", "8 × 64 × 512²", _conv2d_gradient("input", channels_last=True), _FEW),
        Case("depthwise_conv2d dweight", "8 × 64 × 512², K3", _conv2d_gradient("weight", channels_last=False), _FEW),
        Case(
            "depthwise_conv2d dweight NHWC", "8 × 64 × 512², K3", _conv2d_gradient("weight", channels_last=True), _FEW
        ),
        Case("separable_conv3d", "1 × 32 × 32 × 128², bias, ReLU", _conv3d(gradient=False)),
        Case("separable_conv3d dweight", "1 × 32 × 32 × 128²", _conv3d(gradient=True), _FEW),
        Case("softmaxv", "64 × 512 × 512, 64 wide", _softmaxv("forward")),
        Case("softmaxv dscores", "64 × 512 × 512, 64 wide", _softmaxv("scores")),
        Case("softmaxv dv", "64 × 512 × 512, 64 wide", _softmaxv("values")),
    )
}


def report(name: str, dtype: torch.dtype, capability: int) -> KernelReport:
    """Compiles one case and reads its machine code."""
    return compile_launch(CASES[name].make(dtype), capability)


def report_all(
    processes: int = 2, only: set[tuple[str, torch.dtype, int]] | None = None
) -> dict[tuple[str, torch.dtype, int], Future[KernelReport]]:
    """Compiles every case, dtype and capability (or those of `only`) in processes of their own, in CASES' order."""
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    futures = {
        (case.name, dtype, capability): pool.submit(report, case.name, dtype, capability)
        for case in CASES.values()
        for dtype in case.dtypes
        for capability in CAPABILITIES
        if only is None or (case.name, dtype, capability) in only
    }
    pool.shutdown(wait=False)
    return futures
