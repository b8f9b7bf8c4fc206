"""Depthwise 3-D convolution of 3×3×3 taps, with bias and ReLU fused (opt-in).

    y[n, c, i, j, k] = relu(bias[c] + Σ_a Σ_b Σ_e weight[c, 0, a, b, e] · x[n, c, i·s + a·d − p, j·s + …, k·s + …])

Shapes: x (N, C, D, H, W), weight (C, 1, 3, 3, 3), bias (C,), y (N, C, OD, OH, OW). A program computes DEPTHS × ROWS
output rows of BLOCK_W columns: input rows that serve several of them are loaded once, (DEPTHS + 2) · (ROWS + 2) · 3
loads for DEPTHS · ROWS outputs instead of 27 each. Stride and dilation may be any; rows are shared where both are 1.

Environment
    MEDVLLM_ENABLE_TRITON_SEP3D=1   allows the kernel
    MEDVLLM_SEP3D_BLOCK_W           64, 128 or 256 columns
    MEDVLLM_SEP3D_WARPS             2, 4 or 8
    MEDVLLM_SEP3D_STAGES            2, 3 or 4
    MEDVLLM_SEP3D_FUSE_BIAS=1       the built module has a bias, added in the kernel
    MEDVLLM_SEP3D_FUSE_RELU=1       the built module applies ReLU, in the kernel

Source of the operator: "Xception", https://arxiv.org/abs/1610.02357, in three dimensions.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: RUF005 (triton compiles no unpacking into tuples)

from __future__ import annotations

from typing import Any, Final

import torch

from medvllm_kernels.triton_support import (
    Launch,
    cdiv,
    check,
    choose,
    environment_choice,
    flag,
    jit,
    next_power_of_2,
    processors,
    run_fastest,
    tl,
)

__all__ = [
    "BLOCK_W_CHOICES",
    "STAGES_CHOICES",
    "WARPS_CHOICES",
    "FusedSeparableConv3d",
    "build_fused_separable_conv3d_if_available",
    "plan_separable_conv3d",
    "plan_separable_conv3d_weight_gradient",
    "separable_conv3d",
    "separable_conv3d_reference",
]

BLOCK_W_CHOICES: Final = (64, 128, 256)
WARPS_CHOICES: Final = (2, 4, 8)
STAGES_CHOICES: Final = (2, 3, 4)


def separable_conv3d_reference(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    relu: bool = False,
) -> torch.Tensor:
    """PyTorch's grouped convolution, then ReLU."""
    y = torch.nn.functional.conv3d(x, weight, bias, stride, padding, dilation, groups=x.shape[1])
    return y.relu() if relu else y


@jit
def _conv3d_kernel(
    x_ptr,
    weight_ptr,  # (channels, 27) contiguous
    bias_ptr,  # None: no bias
    y_ptr,
    channels,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    depth_tiles,
    row_tiles,
    column_tiles,
    x_batch,
    x_channel,
    x_depth,
    x_row,
    x_column,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    FLIP: tl.constexpr,
    RELU: tl.constexpr,
    WIDE: tl.constexpr,  # a row spans 2³¹ elements or more
    DEPTHS: tl.constexpr,  # as ROWS, 1 unless stride and dilation are: only then do outputs share inputs this way
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,  # groups of ROWS output rows
    BLOCK_W: tl.constexpr,
):
    program = tl.program_id(0)
    column = (program % column_tiles) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    program = program // column_tiles
    row = ((program % row_tiles) * BLOCK_H + tl.arange(0, BLOCK_H)[:, None]) * ROWS
    program = program // row_tiles
    slab = (program % depth_tiles) * DEPTHS
    plane = program // depth_tiles
    batch = (plane // channels).to(tl.int64)
    channel = (plane % channels).to(tl.int64)
    x_ptr += batch * x_batch + channel * x_channel
    weight_ptr += channel * 27
    if WIDE:
        column = column.to(tl.int64)

    start = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + channel).to(tl.float32)
    sums = (start,) * (DEPTHS * ROWS)
    taps = ()
    for tap in tl.static_range(27):
        taps = taps + (tl.load(weight_ptr + (26 - tap if FLIP else tap)).to(tl.float32),)  # type: ignore[assignment]
    for i in tl.static_range(DEPTHS + 2):
        at_depth = slab * STRIDE + i * DILATION - PADDING
        in_depth = (at_depth >= 0) & (at_depth < depth)
        for j in tl.static_range(ROWS + 2):
            at_row = row * STRIDE + j * DILATION - PADDING
            in_height = in_depth & (at_row >= 0) & (at_row < height)
            row_ptr = x_ptr + (at_depth.to(tl.int64) * x_depth + at_row.to(tl.int64) * x_row)
            for kw in tl.static_range(3):
                at = column * STRIDE + kw * DILATION - PADDING
                inside = in_height & (at >= 0) & (at < width)
                x = tl.load(row_ptr + at * x_column, mask=inside, other=0.0).to(tl.float32)
                for r in tl.static_range(DEPTHS * ROWS):
                    if (i >= r // ROWS) and (i < r // ROWS + 3) and (j >= r % ROWS) and (j < r % ROWS + 3):
                        tap = taps[(i - r // ROWS) * 9 + (j - r % ROWS) * 3 + kw]
                        sums = sums[:r] + (sums[r] + x * tap,) + sums[r + 1 :]

    y_ptr += plane.to(tl.int64) * out_depth * out_height * out_width
    for r in tl.static_range(DEPTHS * ROWS):
        y = sums[r]
        if RELU:
            y = tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL)
        at_depth = slab + r // ROWS
        at_row = row + r % ROWS
        at = (at_depth.to(tl.int64) * out_height + at_row) * out_width + column
        inside = (at_depth < out_depth) & (at_row < out_height) & (column < out_width)
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _weight_gradient_kernel(
    dy_ptr,  # (N, C, OD, OH, OW) contiguous
    x_ptr,
    parts_ptr,  # (splits, channels, 27) float32
    channels,
    depth,
    height,
    width,
    out_depth,
    out_height,
    out_width,
    pixel_tiles,
    items,  # batch * out_depth * pixel_tiles
    splits,
    x_batch,
    x_channel,
    x_depth,
    x_row,
    x_column,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    DILATION: tl.constexpr,
    PIXELS: tl.constexpr,
):
    program = tl.program_id(0)
    kd = program % 3
    program = program // 3
    channel = (program % channels).to(tl.int64)
    split = program // channels
    sums = (tl.zeros((PIXELS,), tl.float32),) * 9
    for item in range(split, items, splits):
        pixel = (item % pixel_tiles) * PIXELS + tl.arange(0, PIXELS)
        slab = (item // pixel_tiles) % out_depth
        batch = (item // pixel_tiles // out_depth).to(tl.int64)
        row = pixel // out_width
        column = pixel % out_width
        inside = row < out_height
        dy_plane = ((batch * channels + channel) * out_depth + slab) * out_height * out_width
        dy = tl.load(dy_ptr + dy_plane + pixel, mask=inside, other=0.0).to(tl.float32)
        at_depth = slab * STRIDE + kd * DILATION - PADDING
        inside = inside & (at_depth >= 0) & (at_depth < depth)
        plane_ptr = x_ptr + batch * x_batch + channel * x_channel + at_depth.to(tl.int64) * x_depth
        for tap in tl.static_range(9):
            at_row = row * STRIDE + (tap // 3) * DILATION - PADDING
            at = column * STRIDE + (tap % 3) * DILATION - PADDING
            here = inside & (at_row >= 0) & (at_row < height) & (at >= 0) & (at < width)
            x_at = at_row.to(tl.int64) * x_row + at.to(tl.int64) * x_column
            x = tl.load(plane_ptr + x_at, mask=here, other=0.0).to(tl.float32)
            sums = sums[:tap] + (sums[tap] + dy * x,) + sums[tap + 1 :]
    parts_ptr += (split * channels + channel) * 27 + kd * 9
    for tap in tl.static_range(9):
        tl.store(parts_ptr + tap, tl.sum(sums[tap], 0))


# ---- launches -----------------------------------------------------------------------------------------------------


def _strides(x: torch.Tensor) -> dict[str, int]:
    return {f"x_{name}": x.stride(i) for i, name in enumerate(("batch", "channel", "depth", "row", "column"))}


def _sizes(x: torch.Tensor, y: torch.Tensor) -> dict[str, int]:
    names = ("depth", "height", "width")
    return {name: x.shape[i + 2] for i, name in enumerate(names)} | {
        f"out_{name}": y.shape[i + 2] for i, name in enumerate(names)
    }


def plan_separable_conv3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    *,
    stride: int,
    padding: int,
    dilation: int,
    relu: bool = False,
    flip: bool = False,
) -> list[Launch]:
    """The launches among which the first call measures; the environment's variables leave one of each kind.

    Raises:
        KernelArgumentError: a MEDVLLM_SEP3D_* variable is outside its set.
    """
    out_depth, out_height, out_width = y.shape[2:]
    forced = environment_choice("MEDVLLM_SEP3D_BLOCK_W", BLOCK_W_CHOICES)
    warps = environment_choice("MEDVLLM_SEP3D_WARPS", WARPS_CHOICES)
    stages = environment_choice("MEDVLLM_SEP3D_STAGES", STAGES_CHOICES)
    shared = stride == 1 and dilation == 1
    block_w = forced or min(256, max(64, next_power_of_2(out_width)))
    launches = []
    for depths, rows in ((2, 4), (1, 8)) if shared else ((1, 1),):
        depths, rows = min(depths, next_power_of_2(out_depth)), min(rows, next_power_of_2(out_height))
        groups = cdiv(out_height, rows)
        block_h = min(next_power_of_2(groups), max(1, 256 // block_w))
        tiles = cdiv(out_depth, depths), cdiv(groups, block_h), cdiv(out_width, block_w)
        arguments: dict[str, Any] = {
            "x_ptr": x,
            "weight_ptr": weight,
            "bias_ptr": bias,
            "y_ptr": y,
            "channels": x.shape[1],
            **_sizes(x, y),
            "depth_tiles": tiles[0],
            "row_tiles": tiles[1],
            "column_tiles": tiles[2],
            **_strides(x),
            "STRIDE": stride,
            "PADDING": padding,
            "DILATION": dilation,
            "FLIP": flip,
            "RELU": relu,
            "WIDE": x.shape[4] * x.stride(4) >= 2**31,
            "DEPTHS": depths,
            "ROWS": rows,
            "BLOCK_H": block_h,
            "BLOCK_W": block_w,
        }
        programs = y.shape[0] * y.shape[1] * tiles[0] * tiles[1] * tiles[2]
        launches.append(Launch(_conv3d_kernel, programs, arguments, num_warps=warps or 4, num_stages=stages or 2))
    return launches


def plan_separable_conv3d_weight_gradient(
    dy: torch.Tensor, x: torch.Tensor, *, stride: int, padding: int, dilation: int
) -> tuple[Launch, torch.Tensor]:
    """The launch, and the parts (splits, C, 27) that it fills; dy is contiguous."""
    batch, channels = x.shape[:2]
    out_depth, out_height, out_width = dy.shape[2:]
    pixels = min(512, next_power_of_2(out_height * out_width))
    pixel_tiles = cdiv(out_height * out_width, pixels)
    items = batch * out_depth * pixel_tiles
    splits = max(1, min(items, cdiv(8 * processors(x.device), max(1, 3 * channels))))
    parts = torch.empty(splits, channels, 27, dtype=torch.float32, device=x.device)
    arguments: dict[str, Any] = {
        "dy_ptr": dy,
        "x_ptr": x,
        "parts_ptr": parts,
        "channels": channels,
        **_sizes(x, dy),
        "pixel_tiles": pixel_tiles,
        "items": items,
        "splits": splits,
        **_strides(x),
        "STRIDE": stride,
        "PADDING": padding,
        "DILATION": dilation,
        "PIXELS": pixels,
    }
    return Launch(_weight_gradient_kernel, 3 * channels * splits, arguments), parts


def _output_size(size: torch.Size, stride: int, padding: int, dilation: int) -> list[int]:
    return [(length + 2 * padding - 2 * dilation - 1) // stride + 1 for length in size]


def _run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, size: list[int], **numbers: Any) -> Any:
    y = torch.empty(*x.shape[:2], *size, dtype=x.dtype, device=x.device)
    if y.numel():
        candidates = plan_separable_conv3d(x, weight.contiguous(), bias, y, **numbers)
        tuned = [(launch.num_warps, launch.num_stages, launch.arguments["BLOCK_W"]) for launch in candidates]
        key = ("separable_conv3d", x.shape, x.stride(), x.dtype, x.device, *numbers.values(), *tuned)
        run_fastest(key, candidates)
    return y


class _SeparableConv3d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        numbers: dict[str, int],
        relu: bool,
    ) -> torch.Tensor:
        y: torch.Tensor = _run(x, weight, bias, _output_size(x.shape[2:], **numbers), relu=relu, **numbers)
        ctx.save_for_backward(x, weight, y if relu else None)
        ctx.numbers = numbers
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        numbers = ctx.numbers
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        dy = (dy if y is None else dy * (y > 0)).contiguous()
        dx = dweight = dbias = None
        if need_x and numbers["stride"] == 1:
            turned = {**numbers, "padding": 2 * numbers["dilation"] - numbers["padding"]}
            dx = _run(dy, weight, None, list(x.shape[2:]), flip=True, **turned)
        elif need_x:
            # PyTorch's own, in float32: in bfloat16 its sums on a CPU were off by 1 %.
            wide = torch.nn.grad.conv3d_input(x.shape, weight.float(), dy.float(), groups=x.shape[1], **numbers)
            dx = wide.to(x.dtype)
        if need_weight:
            launch, parts = plan_separable_conv3d_weight_gradient(dy, x, **numbers)
            launch.run()
            dweight = parts.sum(0).view(weight.shape).to(weight.dtype)
        if need_bias:
            dbias = dy.sum((0, 2, 3, 4), dtype=torch.float32).to(ctx.bias_dtype)
        return dx, dweight, dbias, None, None


def separable_conv3d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    relu: bool = False,
) -> torch.Tensor:
    """y (N, C, OD, OH, OW), contiguous, of x's dtype. The kernel runs where MEDVLLM_ENABLE_TRITON_SEP3D=1 allows it.

    Args:
        x: (N, C, D, H, W), any strides. Under CUDA autocast it is converted, as PyTorch's convolution would.
        weight: (C, 1, 3, 3, 3), any float dtype.
        bias: (C,) or None, added in the kernel.
        stride: the same in the three dimensions; so are padding and dilation.
        padding: zeros on each side.
        dilation: distance of the filter's taps.
        relu: applies ReLU in the kernel.

    Raises:
        KernelArgumentError: shapes, devices, numbers or a MEDVLLM_SEP3D_* variable do not fit.
    """
    check(
        x.dim() == 5 and weight.shape == (x.shape[1], 1, 3, 3, 3),
        lambda: f"x must be (N, C, D, H, W) and weight (C, 1, 3, 3, 3), got {tuple(x.shape)}, {tuple(weight.shape)}",
    )
    check(
        bias is None or bias.shape == x.shape[1:2],
        lambda: f"bias must be ({x.shape[1]},) or None, got {tuple(bias.shape) if bias is not None else None}",
    )
    check(
        len({tensor.device for tensor in (x, weight, bias) if tensor is not None}) == 1,
        lambda: f"all tensors must be on one device, got x on {x.device}, weight on {weight.device}",
    )
    numbers = {"stride": stride, "padding": padding, "dilation": dilation}
    check(
        stride >= 1 and padding >= 0 and dilation >= 1,
        lambda: f"stride and dilation must be at least 1 and padding at least 0, got {numbers}",
    )
    check(
        min(_output_size(x.shape[2:], **numbers)) >= 1,
        lambda: f"the input {tuple(x.shape[2:])} is too small for 3×3×3 taps with {numbers}; pad it",
    )
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    if choose("separable_conv3d", x, weight, bias).fused:
        y: torch.Tensor = _SeparableConv3d.apply(x, weight, bias, numbers, relu)
        return y
    bias = None if bias is None else bias.to(x.dtype)
    return separable_conv3d_reference(x, weight.to(x.dtype), bias, relu=relu, **numbers)


class FusedSeparableConv3d(torch.nn.Conv3d):
    """`torch.nn.Conv3d` of 3×3×3 taps with groups = channels, through the kernel; with ReLU when asked for."""

    def __init__(
        self, channels: int, *, bias: bool, relu: bool, stride: int, padding: int, dilation: int, **kwargs: Any
    ):
        super().__init__(channels, channels, 3, stride, padding, dilation, groups=channels, bias=bias, **kwargs)
        self.relu = relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, OD, OH, OW) of (N, C, D, H, W)."""
        return separable_conv3d(
            x,
            self.weight,
            self.bias,
            stride=self.stride[0],
            padding=self.padding[0],
            dilation=self.dilation[0],
            relu=self.relu,
        )


def build_fused_separable_conv3d_if_available(
    C: int,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    *,
    bias: bool | None = None,
    relu: bool | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> torch.nn.Module | None:
    """A depthwise 3×3×3 convolution of C channels through the kernel, or None where it cannot run.

    `explain()["separable_conv3d"]` says why it cannot. Where `bias` or `relu` is None, MEDVLLM_SEP3D_FUSE_BIAS or
    MEDVLLM_SEP3D_FUSE_RELU decides.
    """
    check(C >= 1, lambda: f"C must be at least 1, got {C}")
    if not choose("separable_conv3d").fused:
        return None
    return FusedSeparableConv3d(
        C,
        bias=flag("MEDVLLM_SEP3D_FUSE_BIAS") if bias is None else bias,
        relu=flag("MEDVLLM_SEP3D_FUSE_RELU") if relu is None else relu,
        stride=stride,
        padding=padding,
        dilation=dilation,
        device=device,
        dtype=dtype,
    )
