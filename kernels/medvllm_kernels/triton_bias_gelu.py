"""Bias and GELU in one pass.

    u = x + bias
    y = u · Φ(u)                                              exact: Φ(u) = (1 + erf(u / √2)) / 2
    y ≈ u · (1 + tanh(√(2/π) · (u + 0.044715 · u³))) / 2      approximate="tanh"

Shapes: x, y (…, width); bias (width,). Backward: dx = dy · y′(u), dbias = Σ_rows dx, summed in float32.
Source: "Gaussian Error Linear Units", https://arxiv.org/abs/1606.08415.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch

from medvllm_kernels.triton_support import Launch, as_rows, cdiv, check, choose, jit, processors, row_tile, tl

__all__ = ["bias_gelu", "bias_gelu_reference", "plan_bias_gelu", "plan_bias_gelu_backward"]


def bias_gelu_reference(x: torch.Tensor, bias: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """The same in PyTorch, rounded once."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return torch.nn.functional.gelu(x.to(wide) + bias.to(wide), approximate=approximate).to(x.dtype)


@jit
def _tanh(x):
    # e^(2x) overflows to infinity for large x, and the quotient is then 0: 1, never infinity / infinity.
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@jit
def _bias_gelu_kernel(
    x_ptr,
    bias_ptr,
    y_ptr,
    rows,
    x_row,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TANH: tl.constexpr,
):
    tiles: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    row = row.to(tl.int64)
    u = tl.load(x_ptr + row * x_row + column, mask=inside, other=0.0).to(tl.float32)
    u += tl.load(bias_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    if TANH:
        y = 0.5 * u * (1.0 + _tanh(0.7978845608028654 * u * (1.0 + 0.044715 * u * u)))
    else:
        y = 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))
    tl.store(y_ptr + row * WIDTH + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _bias_gelu_backward_kernel(
    dy_ptr,
    x_ptr,
    bias_ptr,
    dx_ptr,
    dbias_ptr,  # (parts, WIDTH), one row for each part of the rows
    rows,
    parts,
    dy_row,
    x_row,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TANH: tl.constexpr,
):
    tiles: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    part = program // tiles
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)[None, :]
    bias = tl.load(bias_ptr + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    sums = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(part * ROWS, rows, parts * ROWS):
        row = first + tl.arange(0, ROWS)[:, None]
        inside = (row < rows) & (column < WIDTH)
        row = row.to(tl.int64)
        u = tl.load(x_ptr + row * x_row + column, mask=inside, other=0.0).to(tl.float32) + bias
        dy = tl.load(dy_ptr + row * dy_row + column, mask=inside, other=0.0).to(tl.float32)
        if TANH:
            t = _tanh(0.7978845608028654 * u * (1.0 + 0.044715 * u * u))
            slope = 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * 0.7978845608028654 * (1.0 + 0.134145 * u * u)
        else:
            slope = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476)) + u * 0.3989422804014327 * tl.exp(-0.5 * u * u)
        dx = dy * slope
        tl.store(dx_ptr + row * WIDTH + column, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        sums += dx
    sums = tl.sum(sums, 0)[None, :]
    tl.store(dbias_ptr + part.to(tl.int64) * WIDTH + column, sums, mask=column < WIDTH)


def plan_bias_gelu(x: torch.Tensor, bias: torch.Tensor, y: torch.Tensor, *, approximate: str) -> Launch:
    """The forward launch for x (rows, width) with contiguous rows; y is contiguous."""
    rows, width = x.shape
    tall, block = row_tile(rows, width)
    return Launch(
        _bias_gelu_kernel,
        cdiv(rows, tall) * cdiv(width, block),
        {
            "x_ptr": x,
            "bias_ptr": bias,
            "y_ptr": y,
            "rows": rows,
            "x_row": x.stride(0),
            "WIDTH": width,
            "ROWS": tall,
            "BLOCK": block,
            "TANH": approximate == "tanh",
        },
    )


def plan_bias_gelu_backward(
    dy: torch.Tensor, x: torch.Tensor, bias: torch.Tensor, dx: torch.Tensor, *, approximate: str
) -> tuple[Launch, torch.Tensor]:
    """The backward launch, and the parts of dbias (parts, width) that it fills."""
    rows, width = x.shape
    tall, block = row_tile(rows, width)
    tiles = cdiv(width, block)
    parts = min(cdiv(rows, tall), cdiv(8 * processors(x.device), max(1, tiles)))
    sums = torch.zeros(parts, width, dtype=torch.float32, device=x.device)
    launch = Launch(
        _bias_gelu_backward_kernel,
        parts * tiles,
        {
            "dy_ptr": dy,
            "x_ptr": x,
            "bias_ptr": bias,
            "dx_ptr": dx,
            "dbias_ptr": sums,
            "rows": rows,
            "parts": parts,
            "dy_row": dy.stride(0),
            "x_row": x.stride(0),
            "WIDTH": width,
            "ROWS": tall,
            "BLOCK": block,
            "TANH": approximate == "tanh",
        },
    )
    return launch, sums


class _BiasGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor, approximate: str) -> torch.Tensor:
        flat, bias = as_rows(x), bias.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        plan_bias_gelu(flat, bias, y.view(flat.shape), approximate=approximate).run()
        ctx.save_for_backward(flat, bias)
        ctx.approximate = approximate
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, bias = ctx.saved_tensors
        dx = torch.empty(dy.shape, dtype=x.dtype, device=x.device)
        launch, sums = plan_bias_gelu_backward(as_rows(dy), x, bias, dx.view(x.shape), approximate=ctx.approximate)
        launch.run()
        return dx, sums.sum(0).to(bias.dtype), None


def bias_gelu(x: torch.Tensor, bias: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    """gelu(x + bias), contiguous, of x's dtype.

    Args:
        x: (…, width), any strides.
        bias: (width,).
        approximate: `none` for the exact GELU, `tanh` for its approximation.

    Raises:
        KernelArgumentError: shapes, devices or `approximate` do not fit.
    """
    check(
        x.dim() >= 1 and bias.shape == x.shape[-1:],
        lambda: f"bias must be (width,) for x (…, width), got {tuple(bias.shape)} for {tuple(x.shape)}",
    )
    check(x.device == bias.device, lambda: f"x is on {x.device}, bias on {bias.device}; move one")
    check(approximate in ("none", "tanh"), lambda: f"approximate must be 'none' or 'tanh', got {approximate!r}")
    if choose("bias_gelu", x, bias).fused:
        y: torch.Tensor = _BiasGELU.apply(x, bias, approximate)
        return y
    return bias_gelu_reference(x, bias, approximate=approximate)
