"""Forward kernels of the depthwise 2-D convolution (triton_depthwise_conv2d.py), and how they are launched.

One for NCHW and any other strides, one for channels_last. Both keep ROWS accumulators, output rows that share input
rows, so an input row that serves several of them is loaded once: (KH + ROWS − 1) · KW loads for ROWS outputs instead
of KH · KW · ROWS. With stride s and dilation d rows share inputs when they are d / gcd(s, d) apart; output row r of
such a group then reads reduced input rows r · s / gcd(s, d) + a, which is how the kernels count (ROW_STEP,
REDUCED_STRIDE).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: RUF005 (triton compiles no unpacking into tuples)

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from medvllm_kernels.triton_support import Launch, cdiv, jit, next_power_of_2, run_fastest, tl

__all__ = ["ConvGeometry", "Pair", "convolve", "forward_candidates", "is_channels_last", "pack_weight", "span"]

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Kernel size, stride, padding and dilation, each (vertical, horizontal)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def output_size(self, height: int, width: int) -> Pair:
        """Height and width of the output; 0 or less where the input is too small."""
        sizes = [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                (height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return sizes[0], sizes[1]


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether the NHWC kernel reads x as it lies: its channels next to each other, its columns not."""
    return bool(x.shape[1] > 1 and x.stride(1) == 1 and x.stride(3) != 1)


@jit
def _column_of_taps(weight_ptr, tap, mask, kw, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, FLIP: tl.constexpr):
    """The KERNEL_H weights of column kw, `tap` apart: numbers, or vectors over channels, as `weight_ptr` is."""
    taps = ()
    for kh in tl.static_range(KERNEL_H):
        at = (KERNEL_H - 1 - kh) * KERNEL_W + (KERNEL_W - 1 - kw) if FLIP else kh * KERNEL_W + kw
        taps = taps + (tl.load(weight_ptr + at * tap, mask=mask).to(tl.float32),)  # type: ignore[assignment]
    return taps


@jit
def _add_row(sums, taps, x, j: tl.constexpr, ROWS: tl.constexpr, KERNEL_H: tl.constexpr, REDUCED_STRIDE: tl.constexpr):
    """Adds reduced input row j to every accumulator that it serves."""
    for r in tl.static_range(ROWS):
        if (j >= r * REDUCED_STRIDE) and (j - r * REDUCED_STRIDE < KERNEL_H):
            sums = sums[:r] + (sums[r] + x * taps[j - r * REDUCED_STRIDE],) + sums[r + 1 :]
    return sums


@jit
def _nchw_column(
    sums,
    plane_ptr,
    weight_ptr,
    row,
    column,
    kw,
    height,
    width,
    x_row,
    x_column,
    ROWS: tl.constexpr,
    REDUCED_STRIDE: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Adds filter column kw; `row` and `column` are the input coordinates of tap (0, 0) of accumulator 0."""
    taps = _column_of_taps(weight_ptr, 1, None, kw, KERNEL_H, KERNEL_W, FLIP)
    column += kw * DILATION_W
    in_width = (column >= 0) & (column < width)
    for j in tl.static_range((ROWS - 1) * REDUCED_STRIDE + KERNEL_H):
        at = row + j * DILATION_H
        inside = ((at >= 0) & (at < height))[:, None] & in_width[None, :]
        x = tl.load(plane_ptr + (at * x_row)[:, None] + (column * x_column)[None, :], mask=inside, other=0.0)
        sums = _add_row(sums, taps, x.to(tl.float32), j, ROWS, KERNEL_H, REDUCED_STRIDE)
    return sums


@jit
def _nchw_kernel(
    x_ptr,
    weight_ptr,  # (channels, KERNEL_H, KERNEL_W) contiguous
    bias_ptr,  # None: no bias
    y_ptr,
    channels,
    height,
    width,
    out_height,
    out_width,
    row_tiles,
    column_tiles,
    x_batch,
    x_channel,
    x_row,
    x_column,
    y_batch,
    y_channel,
    y_row,
    y_column,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ROW_STEP: tl.constexpr,
    REDUCED_STRIDE: tl.constexpr,
    FLIP: tl.constexpr,
    WIDE: tl.constexpr,  # a plane spans 2³¹ elements or more
    UNROLL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_H: tl.constexpr,  # groups of ROWS output rows
    BLOCK_W: tl.constexpr,
):
    program = tl.program_id(0)
    column = (program % column_tiles) * BLOCK_W + tl.arange(0, BLOCK_W)
    program = program // column_tiles
    group = (program % row_tiles) * BLOCK_H + tl.arange(0, BLOCK_H)
    plane = program // row_tiles
    batch = (plane // channels).to(tl.int64)
    channel = (plane % channels).to(tl.int64)
    first = (group // ROW_STEP) * (ROW_STEP * ROWS) + group % ROW_STEP
    if WIDE:
        column = column.to(tl.int64)
        first = first.to(tl.int64)
    x_ptr += batch * x_batch + channel * x_channel
    weight_ptr += channel * (KERNEL_H * KERNEL_W)
    in_row = first * STRIDE_H - PADDING_H
    in_column = column * STRIDE_W - PADDING_W

    start = tl.zeros((BLOCK_H, BLOCK_W), tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + channel).to(tl.float32)
    sums = (start,) * ROWS
    if UNROLL:
        for kw in tl.static_range(KERNEL_W):
            sums = _nchw_column(
                sums, x_ptr, weight_ptr, in_row, in_column, kw, height, width, x_row, x_column,
                ROWS, REDUCED_STRIDE, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W, FLIP,
            )  # fmt: skip
    else:
        for kw in range(KERNEL_W):
            sums = _nchw_column(
                sums, x_ptr, weight_ptr, in_row, in_column, kw, height, width, x_row, x_column,
                ROWS, REDUCED_STRIDE, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W, FLIP,
            )  # fmt: skip

    y_ptr += batch * y_batch + channel * y_channel
    for r in tl.static_range(ROWS):
        row = first + r * ROW_STEP
        inside = (row < out_height)[:, None] & (column < out_width)[None, :]
        at = (row * y_row)[:, None] + (column * y_column)[None, :]
        tl.store(y_ptr + at, sums[r].to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _nhwc_column(
    sums,
    image_ptr,
    weight_ptr,
    row,
    column,
    kw,
    channel,
    height,
    width,
    channels,
    x_row,
    x_column,
    ROWS: tl.constexpr,
    REDUCED_STRIDE: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Adds filter column kw; `row` (a number) and `column` are the input coordinates of tap (0, 0)."""
    in_channels = channel < channels
    weights = (weight_ptr + channel)[None, :]
    taps = _column_of_taps(weights, channels, in_channels[None, :], kw, KERNEL_H, KERNEL_W, FLIP)
    column += kw * DILATION_W
    in_tile = ((column >= 0) & (column < width))[:, None] & in_channels[None, :]
    at = (column * x_column)[:, None] + channel[None, :]
    for j in tl.static_range((ROWS - 1) * REDUCED_STRIDE + KERNEL_H):
        in_row = row + j * DILATION_H
        inside = in_tile & (in_row >= 0) & (in_row < height)
        x = tl.load(image_ptr + in_row * x_row + at, mask=inside, other=0.0).to(tl.float32)
        sums = _add_row(sums, taps, x, j, ROWS, KERNEL_H, REDUCED_STRIDE)
    return sums


@jit
def _nhwc_kernel(
    x_ptr,
    weight_ptr,  # (KERNEL_H, KERNEL_W, channels) contiguous
    bias_ptr,  # None: no bias
    y_ptr,
    channels,
    height,
    width,
    out_height,
    out_width,
    groups,
    column_tiles,
    channel_tiles,
    x_batch,
    x_row,
    x_column,
    y_batch,
    y_row,
    y_column,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    ROW_STEP: tl.constexpr,
    REDUCED_STRIDE: tl.constexpr,
    FLIP: tl.constexpr,
    WIDE: tl.constexpr,
    UNROLL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    channel = (program % channel_tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    program = program // channel_tiles
    column = (program % column_tiles) * BLOCK_W + tl.arange(0, BLOCK_W)
    program = program // column_tiles
    group = program % groups
    batch = (program // groups).to(tl.int64)
    first = (group // ROW_STEP) * (ROW_STEP * ROWS) + group % ROW_STEP
    if WIDE:
        column = column.to(tl.int64)
        first = first.to(tl.int64)
    in_row = first * STRIDE_H - PADDING_H
    in_column = column * STRIDE_W - PADDING_W
    image_ptr = x_ptr + batch * x_batch

    start = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    if bias_ptr is not None:
        start += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    sums = (start,) * ROWS
    if UNROLL:
        for kw in tl.static_range(KERNEL_W):
            sums = _nhwc_column(
                sums, image_ptr, weight_ptr, in_row, in_column, kw, channel, height, width, channels, x_row, x_column,
                ROWS, REDUCED_STRIDE, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W, FLIP,
            )  # fmt: skip
    else:
        for kw in range(KERNEL_W):
            sums = _nhwc_column(
                sums, image_ptr, weight_ptr, in_row, in_column, kw, channel, height, width, channels, x_row, x_column,
                ROWS, REDUCED_STRIDE, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W, FLIP,
            )  # fmt: skip

    image_ptr = y_ptr + batch * y_batch
    in_tile = (column < out_width)[:, None] & (channel < channels)[None, :]
    at = (column * y_column)[:, None] + channel[None, :]
    for r in tl.static_range(ROWS):
        row = first + r * ROW_STEP
        y = sums[r].to(y_ptr.dtype.element_ty)
        tl.store(image_ptr + row * y_row + at, y, mask=in_tile & (row < out_height))


# ---- launches -----------------------------------------------------------------------------------------------------


def span(x: torch.Tensor, dims: tuple[int, ...]) -> int:
    """Elements from the first to the last of x along `dims`."""
    return 1 + sum((int(x.shape[dim]) - 1) * int(x.stride(dim)) for dim in dims)


def _shared_arguments(
    x: torch.Tensor, y: torch.Tensor, geometry: ConvGeometry, bias: torch.Tensor | None, flip: bool
) -> dict[str, Any]:
    step = math.gcd(geometry.stride[0], geometry.dilation[0])
    return {
        "x_ptr": x,
        "bias_ptr": bias,
        "y_ptr": y,
        "channels": x.shape[1],
        "height": x.shape[2],
        "width": x.shape[3],
        "out_height": y.shape[2],
        "out_width": y.shape[3],
        "x_batch": x.stride(0),
        "x_row": x.stride(2),
        "x_column": x.stride(3),
        "y_batch": y.stride(0),
        "y_row": y.stride(2),
        "y_column": y.stride(3),
        "KERNEL_H": geometry.kernel[0],
        "KERNEL_W": geometry.kernel[1],
        "STRIDE_H": geometry.stride[0],
        "STRIDE_W": geometry.stride[1],
        "PADDING_H": geometry.padding[0],
        "PADDING_W": geometry.padding[1],
        "DILATION_H": geometry.dilation[0],
        "DILATION_W": geometry.dilation[1],
        "ROW_STEP": geometry.dilation[0] // step,
        "REDUCED_STRIDE": geometry.stride[0] // step,
        "FLIP": flip,
    }


def _groups(rows: int, accumulators: int, step: int) -> int:
    return cdiv(rows, accumulators * step) * step


def _warps(wanted: int, tile: int) -> int:
    """No more warps than a tile gives two elements a thread."""
    return max(1, min(wanted, tile // 64))


def _nchw_launch(
    arguments: dict[str, Any], weight: torch.Tensor, *, elements: int, accumulators: int, warps: int
) -> Launch:
    x, y = arguments["x_ptr"], arguments["y_ptr"]
    height, width = y.shape[2:]
    groups = _groups(height, accumulators, arguments["ROW_STEP"])
    block_w = min(next_power_of_2(width), elements)
    block_h = min(next_power_of_2(groups), elements // block_w)
    row_tiles, column_tiles = cdiv(groups, block_h), cdiv(width, block_w)
    return Launch(
        _nchw_kernel,
        y.shape[0] * y.shape[1] * row_tiles * column_tiles,
        {
            **arguments,
            "weight_ptr": weight,
            "row_tiles": row_tiles,
            "column_tiles": column_tiles,
            "x_channel": x.stride(1),
            "y_channel": y.stride(1),
            "WIDE": max(span(x, (2, 3)), span(y, (2, 3))) >= 2**31,
            "UNROLL": arguments["KERNEL_H"] * arguments["KERNEL_W"] <= 49,
            "ROWS": accumulators,
            "BLOCK_H": block_h,
            "BLOCK_W": block_w,
        },
        num_warps=_warps(warps, block_h * block_w),
    )


def _nhwc_launch(
    arguments: dict[str, Any], weight: torch.Tensor, *, elements: int, accumulators: int, warps: int
) -> Launch:
    x, y = arguments["x_ptr"], arguments["y_ptr"]
    channels, height, width = y.shape[1:]
    groups = _groups(height, accumulators, arguments["ROW_STEP"])
    block_c = min(next_power_of_2(channels), 64)
    block_w = min(next_power_of_2(width), elements // block_c)
    column_tiles, channel_tiles = cdiv(width, block_w), cdiv(channels, block_c)
    return Launch(
        _nhwc_kernel,
        y.shape[0] * groups * column_tiles * channel_tiles,
        {
            **arguments,
            "weight_ptr": weight,
            "groups": groups,
            "column_tiles": column_tiles,
            "channel_tiles": channel_tiles,
            "WIDE": max(span(x, (1, 2, 3)), span(y, (1, 2, 3))) >= 2**31,
            # 49 weights of 8 channels a thread do not fit in registers beside the sums: 7 at a time do.
            "UNROLL": arguments["KERNEL_H"] * arguments["KERNEL_W"] <= 9,
            "ROWS": accumulators,
            "BLOCK_W": block_w,
            "BLOCK_C": block_c,
        },
        num_warps=_warps(warps, block_w * block_c),
    )


def pack_weight(weight: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """The weight as its kernel reads it: (C, KH, KW), or (KH, KW, C) for channels_last."""
    return weight.squeeze(1).permute(1, 2, 0).contiguous() if channels_last else weight.contiguous()


def forward_candidates(
    x: torch.Tensor,
    packed: torch.Tensor,
    bias: torch.Tensor | None,
    y: torch.Tensor,
    geometry: ConvGeometry,
    *,
    channels_last: bool,
    flip: bool = False,
) -> list[Launch]:
    """The launches among which the first call measures: tile, accumulators and warps; `flip` turns the filter round."""
    arguments = _shared_arguments(x, y, geometry, bias, flip)
    most = min(8, next_power_of_2(y.shape[2]))
    if channels_last:
        elements = 512 if x.element_size() == 4 else 1024  # 16 bytes a thread at 128 threads
        tiles = [(elements, min(4, most), 4), (elements, most, 4)]
        launch = _nhwc_launch
    else:
        tiles = [(512, most, 4), (512, min(4, most), 4)]
        launch = _nchw_launch
    return [
        launch(arguments, packed, elements=elements, accumulators=accumulators, warps=warps)
        for elements, accumulators, warps in dict.fromkeys(tiles)
    ]


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: ConvGeometry,
    size: Pair,
    *,
    flip: bool = False,
    packed: torch.Tensor | None = None,
) -> torch.Tensor:
    """The convolution of x, `size` high and wide, laid out as x is."""
    channels_last = is_channels_last(x)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    y = torch.empty((*x.shape[:2], *size), dtype=x.dtype, device=x.device, memory_format=layout)
    if y.numel() == 0:
        return y
    if packed is None:
        packed = pack_weight(weight, channels_last)
    candidates = forward_candidates(x, packed, bias, y, geometry, channels_last=channels_last, flip=flip)
    key = (x.shape, x.stride(), x.dtype, x.device, geometry, size, flip, bias is None, channels_last)
    run_fastest(("depthwise_conv2d", *key), candidates)
    return y
