"""Backward passes of the depthwise 2-D convolution (triton_depthwise_conv2d.py).

    dx[n, c, p, q]        = Σ_a Σ_b weight[c, 0, a, b] · dy[n, c, (p + padding − a·dilation) / stride, …]   where whole
    dweight[c, 0, a, b]   = Σ_n Σ_i Σ_j dy[n, c, i, j] · x[n, c, i·stride + a·dilation − padding, …]

With stride 1 dx is itself a convolution, of dy with the filter turned round, and the forward kernels compute it. The
weight's gradient is summed in float32 in parts that PyTorch adds up, so it is the same at every run. Both kernels take
any strides: a tile is pixels × channels, one channel wide unless the channels lie next to each other.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# ruff: noqa: RUF005 (triton compiles no unpacking into tuples)

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from medvllm_kernels.triton_depthwise_conv2d_forward import ConvGeometry, convolve, is_channels_last, span
from medvllm_kernels.triton_support import Launch, cdiv, jit, next_power_of_2, processors, tl

__all__ = ["input_gradient", "plan_strided_input_gradient", "plan_weight_gradient", "weight_gradient"]


@jit
def _input_gradient_kernel(
    dy_ptr,
    weight_ptr,
    dx_ptr,
    channels,
    height,
    width,
    out_height,
    out_width,
    pixel_tiles,
    channel_tiles,
    dy_batch,
    dy_channel,
    dy_row,
    dy_column,
    dx_batch,
    dx_channel,
    dx_row,
    dx_column,
    weight_channel,
    weight_row,
    weight_column,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    WIDE: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    channel = (program % channel_tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    program = program // channel_tiles
    tile = program % pixel_tiles
    batch = (program // pixel_tiles).to(tl.int64)
    if WIDE:
        tile = tile.to(tl.int64)
        channel = channel.to(tl.int64)
    pixel = tile * PIXELS + tl.arange(0, PIXELS)
    row = pixel // width
    column = pixel % width
    inside = (row < height)[:, None] & (channel < channels)[None, :]
    dy_ptr += batch * dy_batch
    sums = tl.zeros((PIXELS, BLOCK_C), tl.float32)
    for kh in range(KERNEL_H):
        up = row + PADDING_H - kh * DILATION_H  # stride times the output row
        in_height = (up >= 0) & (up % STRIDE_H == 0) & (up // STRIDE_H < out_height)
        for kw in range(KERNEL_W):
            left = column + PADDING_W - kw * DILATION_W
            hit = in_height & (left >= 0) & (left % STRIDE_W == 0) & (left // STRIDE_W < out_width)
            at = (up // STRIDE_H * dy_row + left // STRIDE_W * dy_column)[:, None] + (channel * dy_channel)[None, :]
            dy = tl.load(dy_ptr + at, mask=inside & hit[:, None], other=0.0).to(tl.float32)
            tap = weight_ptr + channel * weight_channel + kh * weight_row + kw * weight_column
            sums += dy * tl.load(tap, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    at = (row * dx_row + column * dx_column)[:, None] + (channel * dx_channel)[None, :]
    tl.store(dx_ptr + batch * dx_batch + at, sums.to(dx_ptr.dtype.element_ty), mask=inside)


@jit
def _weight_gradient_kernel(
    dy_ptr,
    x_ptr,
    parts_ptr,  # (splits, channels, KERNEL_H, KERNEL_W) float32
    channels,
    height,
    width,
    out_height,
    out_width,
    pixel_tiles,
    channel_tiles,
    items,  # batch * pixel_tiles
    splits,
    dy_batch,
    dy_channel,
    dy_row,
    dy_column,
    x_batch,
    x_channel,
    x_row,
    x_column,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    WIDE: tl.constexpr,
    TAPS: tl.constexpr,  # filter columns of a program
    PIXELS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    tap_tiles: tl.constexpr = (KERNEL_W + TAPS - 1) // TAPS
    program = tl.program_id(0)
    first_kw = (program % tap_tiles) * TAPS
    program = program // tap_tiles
    kh = program % KERNEL_H
    program = program // KERNEL_H
    channel = (program % channel_tiles) * BLOCK_C + tl.arange(0, BLOCK_C)
    split = program // channel_tiles
    in_channels = channel < channels
    far = channel.to(tl.int64)
    dy_ptr += (far * dy_channel)[None, :]
    x_ptr += (far * x_channel)[None, :]
    sums = (tl.zeros((PIXELS, BLOCK_C), tl.float32),) * TAPS
    for item in range(split, items, splits):
        batch = (item // pixel_tiles).to(tl.int64)
        tile = item % pixel_tiles
        if WIDE:
            tile = tile.to(tl.int64)
        pixel = tile * PIXELS + tl.arange(0, PIXELS)
        row = pixel // out_width
        column = pixel % out_width
        in_row = row * STRIDE_H + kh * DILATION_H - PADDING_H
        in_column = column * STRIDE_W + first_kw * DILATION_W - PADDING_W
        inside = (row < out_height)[:, None] & in_channels[None, :]
        hit = (in_row >= 0) & (in_row < height)
        dy_at = (batch * dy_batch + row * dy_row + column * dy_column)[:, None]
        dy = tl.load(dy_ptr + dy_at, mask=inside, other=0.0).to(tl.float32)
        for i in tl.static_range(TAPS):
            at = in_column + i * DILATION_W
            here = hit & (at >= 0) & (at < width)
            x_at = (batch * x_batch + in_row * x_row + at * x_column)[:, None]
            x = tl.load(x_ptr + x_at, mask=inside & here[:, None], other=0.0).to(tl.float32)
            sums = sums[:i] + (sums[i] + dy * x,) + sums[i + 1 :]
    parts_ptr += ((split * channels + far) * KERNEL_H + kh) * KERNEL_W + first_kw
    for i in tl.static_range(TAPS):
        tl.store(parts_ptr + i, tl.sum(sums[i], 0), mask=in_channels & (first_kw + i < KERNEL_W))


def _numbers(geometry: ConvGeometry) -> dict[str, int]:
    return {
        f"{name}_{axis}": getattr(geometry, name.lower())[index]
        for name in ("KERNEL", "STRIDE", "PADDING", "DILATION")
        for index, axis in enumerate("HW")
    }


def _strides(name: str, tensor: torch.Tensor) -> dict[str, int]:
    return {f"{name}_{dim}": tensor.stride(i) for i, dim in enumerate(("batch", "channel", "row", "column"))}


def _tile(x: torch.Tensor, pixels: int) -> tuple[int, int]:
    """Pixels and channels of a program's tile: 4 to 8 elements a thread."""
    block_c = min(64, next_power_of_2(x.shape[1])) if is_channels_last(x) else 1
    elements = 1024 if block_c > 1 and x.element_size() == 2 else 512
    return min(next_power_of_2(pixels), elements // block_c), block_c


def plan_strided_input_gradient(
    dy: torch.Tensor, weight: torch.Tensor, dx: torch.Tensor, geometry: ConvGeometry
) -> Launch:
    """The launch that fills dx for strides above 1."""
    batch, channels, height, width = dx.shape
    pixels, block_c = _tile(dx, height * width)
    pixel_tiles, channel_tiles = cdiv(height * width, pixels), cdiv(channels, block_c)
    return Launch(
        _input_gradient_kernel,
        batch * pixel_tiles * channel_tiles,
        {
            "dy_ptr": dy,
            "weight_ptr": weight,
            "dx_ptr": dx,
            "channels": channels,
            "height": height,
            "width": width,
            "out_height": dy.shape[2],
            "out_width": dy.shape[3],
            "pixel_tiles": pixel_tiles,
            "channel_tiles": channel_tiles,
            **_strides("dy", dy),
            **_strides("dx", dx),
            "weight_channel": weight.stride(0),
            "weight_row": weight.stride(2),
            "weight_column": weight.stride(3),
            **_numbers(geometry),
            "WIDE": max(span(dy, (1, 2, 3)), span(dx, (1, 2, 3))) >= 2**31,
            "PIXELS": pixels,
            "BLOCK_C": block_c,
        },
    )


def input_gradient(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """dx, of x's shape and dtype, laid out as x is."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    dy = dy.contiguous(memory_format=layout)
    if geometry.stride == (1, 1):
        padding = [
            d * (k - 1) - p for d, k, p in zip(geometry.dilation, geometry.kernel, geometry.padding, strict=True)
        ]
        turned = dataclasses.replace(geometry, padding=(padding[0], padding[1]))
        return convolve(dy, weight, None, turned, (x.shape[2], x.shape[3]), flip=True)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
    plan_strided_input_gradient(dy, weight, dx, geometry).run()
    return dx


def plan_weight_gradient(dy: torch.Tensor, x: torch.Tensor, geometry: ConvGeometry) -> tuple[Launch, torch.Tensor]:
    """The launch, and the parts (splits, C, KH, KW) that it fills."""
    batch, channels, height, width = x.shape
    out_height, out_width = dy.shape[2:]
    pixels, block_c = _tile(x, out_height * out_width)
    pixel_tiles, channel_tiles = cdiv(out_height * out_width, pixels), cdiv(channels, block_c)
    kernel_h, kernel_w = geometry.kernel
    taps = kernel_w if kernel_w <= 7 else 4
    programs = channel_tiles * kernel_h * cdiv(kernel_w, taps)
    items = batch * pixel_tiles
    splits = max(1, min(items, cdiv(8 * processors(x.device), max(1, programs))))
    parts = torch.empty(splits, channels, kernel_h, kernel_w, dtype=torch.float32, device=x.device)
    arguments: dict[str, Any] = {
        "dy_ptr": dy,
        "x_ptr": x,
        "parts_ptr": parts,
        "channels": channels,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "pixel_tiles": pixel_tiles,
        "channel_tiles": channel_tiles,
        "items": items,
        "splits": splits,
        **_strides("dy", dy),
        **_strides("x", x),
        **_numbers(geometry),
        "WIDE": max(span(dy, (2, 3)), span(x, (2, 3))) >= 2**31,
        "TAPS": taps,
        "PIXELS": pixels,
        "BLOCK_C": block_c,
    }
    return Launch(_weight_gradient_kernel, programs * splits, arguments), parts


def weight_gradient(dy: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    """dweight, of weight's shape and dtype."""
    layout = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    launch, parts = plan_weight_gradient(dy.contiguous(memory_format=layout), x, geometry)
    launch.run()
    return parts.sum(0).view(weight.shape).to(weight.dtype)
