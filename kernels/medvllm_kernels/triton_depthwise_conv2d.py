"""Depthwise 2-D convolution: every channel has a filter of its own.

    y[n, c, i, j] = bias[c] + Σ_a Σ_b weight[c, 0, a, b] · x[n, c, i·stride + a·dilation − padding, j·… + b·… − …]

Shapes: x (N, C, H, W), weight (C, 1, KH, KW), bias (C,), y (N, C, OH, OW). Any kernel size, odd or even, stride,
padding and dilation. The forward kernels, one for NCHW and one that reads and writes NHWC as it lies in memory, are in
triton_depthwise_conv2d_forward.py, those of the gradients in triton_depthwise_conv2d_backward.py.
Source of the operator: "Xception", https://arxiv.org/abs/1610.02357.
"""

from __future__ import annotations

from typing import Any, Final

import torch

from medvllm_kernels import triton_depthwise_conv2d_backward as gradients
from medvllm_kernels.triton_depthwise_conv2d_forward import ConvGeometry, Pair, convolve, is_channels_last, pack_weight
from medvllm_kernels.triton_support import check, choose

__all__ = [
    "FusedDepthwiseConv2d",
    "build_fused_depthwise_conv2d_if_available",
    "depthwise_conv2d",
    "depthwise_conv2d_reference",
]

MAX_KERNEL: Final = 31  # a larger filter would unroll to more code than is compiled in reasonable time


def depthwise_conv2d_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> torch.Tensor:
    """PyTorch's grouped convolution."""
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups=x.shape[1])


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        geometry: ConvGeometry,
        packed: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        ctx.bias_dtype = None if bias is None else bias.dtype
        return convolve(x, weight, bias, geometry, geometry.output_size(*x.shape[2:]), packed=packed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        dx = gradients.input_gradient(dy, x, weight, ctx.geometry) if need_x else None
        dweight = gradients.weight_gradient(dy, x, weight, ctx.geometry) if need_weight else None
        dbias = dy.sum((0, 2, 3), dtype=torch.float32).to(ctx.bias_dtype) if need_bias else None
        return dx, dweight, dbias, None, None


def _pair(name: str, value: int | Pair, least: int) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    check(
        len(pair) == 2 and all(isinstance(number, int) and number >= least for number in pair),
        lambda: f"{name} must be a whole number of at least {least}, or two of them, got {value!r}",
    )
    return pair[0], pair[1]


def _geometry(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: Any, padding: Any, dilation: Any
) -> ConvGeometry:
    check(
        x.dim() == 4 and weight.dim() == 4 and weight.shape[:2] == (x.shape[1], 1),
        lambda: (
            "x must be (N, C, H, W) and weight (C, 1, KH, KW), "
            f"got {tuple(x.shape)} and {tuple(weight.shape)}; use torch.nn.functional.conv2d for other groups"
        ),
    )
    check(
        bias is None or bias.shape == x.shape[1:2],
        lambda: f"bias must be ({x.shape[1]},) or None, got {tuple(bias.shape) if bias is not None else None}",
    )
    check(
        len({tensor.device for tensor in (x, weight, bias) if tensor is not None}) == 1,
        lambda: f"all tensors must be on one device, got x on {x.device}, weight on {weight.device}",
    )
    geometry = ConvGeometry(
        (weight.shape[2], weight.shape[3]),
        _pair("stride", stride, 1),
        _pair("padding", padding, 0),
        _pair("dilation", dilation, 1),
    )
    size = geometry.output_size(x.shape[2], x.shape[3])
    check(
        min(geometry.kernel) >= 1 and min(size) >= 1,
        lambda: f"the input {tuple(x.shape[2:])} is too small for {geometry}; pad it or use a smaller kernel",
    )
    return geometry


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    packed: torch.Tensor | None = None,
) -> torch.Tensor:
    """y (N, C, OH, OW) of x's dtype, channels_last when x is, else contiguous.

    Args:
        x: (N, C, H, W), any strides. Under CUDA autocast it is converted, as PyTorch's convolution would.
        weight: (C, 1, KH, KW), any float dtype.
        bias: (C,) or None.
        stride: one number, or (vertical, horizontal); so are padding and dilation.
        padding: zeros on each side.
        dilation: distance of the filter's taps.
        packed: `pack_weight(weight, is_channels_last(x))`, for a caller that keeps it; made when None.

    Raises:
        KernelArgumentError: shapes, devices or numbers do not fit.
    """
    geometry = _geometry(x, weight, bias, stride, padding, dilation)
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    largest = max(geometry.kernel)
    unless = f"kernel size {largest} exceeds {MAX_KERNEL}" if largest > MAX_KERNEL else None
    if choose("depthwise_conv2d", x, weight, bias, unless=unless).fused:
        y: torch.Tensor = _DepthwiseConv2d.apply(x, weight, bias, geometry, packed)
        return y
    bias = None if bias is None else bias.to(x.dtype)
    return depthwise_conv2d_reference(
        x, weight.to(x.dtype), bias, stride=geometry.stride, padding=geometry.padding, dilation=geometry.dilation
    )


class FusedDepthwiseConv2d(torch.nn.Conv2d):
    """`torch.nn.Conv2d` with groups = channels, through the kernel where there is one; the same parameters."""

    _packed: tuple[tuple[Any, ...], torch.Tensor] | None = None

    def _packed_weight(self, channels_last: bool) -> torch.Tensor | None:
        """The weight in the kernel's order, kept between calls without gradients while it does not change."""
        if not channels_last or torch.is_grad_enabled() or self.weight.is_inference():
            return None
        state = (self.weight.data_ptr(), self.weight._version, self.weight.dtype)
        if self._packed is None or self._packed[0] != state:
            self._packed = (state, pack_weight(self.weight, True))
        return self._packed[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, OH, OW) of (N, C, H, W)."""
        return depthwise_conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            packed=self._packed_weight(x.dim() == 4 and is_channels_last(x)),
        )


def build_fused_depthwise_conv2d_if_available(
    C: int,
    K: int,
    stride: int | Pair = 1,
    padding: int | Pair = 1,
    dilation: int | Pair = 1,
    *,
    bias: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> torch.nn.Module | None:
    """A depthwise convolution of C channels and K×K taps through the kernel, or None where it cannot run.

    None means: use `torch.nn.Conv2d(C, C, K, …, groups=C)`; `explain()["depthwise_conv2d"]` says why. The module's
    parameters are those of that layer, and it computes through that layer's function on tensors the kernel can't take.

    Raises:
        KernelArgumentError: C or K is below 1, or another number is out of range.
    """
    check(C >= 1 and K >= 1, lambda: f"C and K must be at least 1, got C={C}, K={K}")
    numbers = {
        "stride": _pair("stride", stride, 1),
        "padding": _pair("padding", padding, 0),
        "dilation": _pair("dilation", dilation, 1),
    }
    unless = f"kernel size {K} exceeds {MAX_KERNEL}" if K > MAX_KERNEL else None
    if not choose("depthwise_conv2d", unless=unless).fused:
        return None
    return FusedDepthwiseConv2d(C, C, K, groups=C, bias=bias, device=device, dtype=dtype, **numbers)
