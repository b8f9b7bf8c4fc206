"""Root-mean-square norm, with the addition of a residual before it.

    h = x + residual                 (h = x without a residual)
    y = h / √(mean(h²) + eps) · weight

Shapes: x, residual, y, h (…, hidden); weight (hidden,). Computed in float32, h rounded to x's dtype first, as the two
separate operations would. Backward, with n = h / √(…) and g = weight · dy:

    dx = (g − n · mean(g · n)) / √(…) + dh        dweight = Σ_rows dy · n

Source: "Root Mean Square Layer Normalization", https://arxiv.org/abs/1910.07467.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any, Final, overload

import torch

from medvllm_kernels.triton_support import Launch, as_rows, cdiv, check, choose, jit, next_power_of_2, processors, tl

__all__ = ["plan_rms_norm", "plan_rms_norm_backward", "rms_norm", "rms_norm_reference"]

_LONGEST_BLOCK: Final = 8192  # columns that a program holds in registers; longer rows are read twice


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, h) in PyTorch; h is x itself without a residual."""
    h = x if residual is None else x + residual
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (normal * weight.to(wide.dtype)).to(x.dtype), h


@jit
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,  # None: no residual
    weight_ptr,
    y_ptr,
    h_ptr,
    rstd_ptr,  # None: not wanted
    rows,
    x_row,
    residual_row,
    eps,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = (row < rows)[:, None]
    row = row.to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    h = squares
    for at in range(0, HIDDEN, BLOCK):
        inside = here & (at + column < HIDDEN)
        h = tl.load(x_ptr + row * x_row + at + column, mask=inside, other=0.0).to(tl.float32)
        if residual_ptr is not None:
            h += tl.load(residual_ptr + row * residual_row + at + column, mask=inside, other=0.0).to(tl.float32)
            h = h.to(h_ptr.dtype.element_ty).to(tl.float32)
            tl.store(h_ptr + row * HIDDEN + at + column, h.to(h_ptr.dtype.element_ty), mask=inside)
        squares += h * h
    rstd = 1.0 / tl.sqrt(tl.sum(squares, 1) / HIDDEN + eps)
    if rstd_ptr is not None:
        tl.store(rstd_ptr + row, rstd[:, None], mask=here)
    for at in range(0, HIDDEN, BLOCK):
        inside = here & (at + column < HIDDEN)
        if HIDDEN > BLOCK:  # a longer row does not stay in registers
            h = tl.load(x_ptr + row * x_row + at + column, mask=inside, other=0.0).to(tl.float32)
            if residual_ptr is not None:
                h += tl.load(residual_ptr + row * residual_row + at + column, mask=inside, other=0.0).to(tl.float32)
                h = h.to(h_ptr.dtype.element_ty).to(tl.float32)
        weight = tl.load(weight_ptr + at + column, mask=at + column < HIDDEN, other=0.0).to(tl.float32)
        y = h * rstd[:, None] * weight
        tl.store(y_ptr + row * HIDDEN + at + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _rms_norm_backward_kernel(
    dy_ptr,
    dh_ptr,  # None: no gradient of h
    h_ptr,
    weight_ptr,
    rstd_ptr,
    dx_ptr,
    dweight_ptr,  # (programs, HIDDEN): each program's part, zeros to begin with
    rows,
    dy_row,
    dh_row,
    h_row,
    programs,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK)[None, :]
    part_ptr = dweight_ptr + program.to(tl.int64) * HIDDEN
    weight_grad = tl.zeros((1, BLOCK), tl.float32)
    for first in range(program * ROWS, rows, programs * ROWS):
        row = first + tl.arange(0, ROWS)
        here = (row < rows)[:, None]
        rstd = tl.load(rstd_ptr + row, mask=row < rows, other=0.0)[:, None]
        row = row.to(tl.int64)[:, None]
        products = tl.zeros((ROWS, BLOCK), tl.float32)
        normal = products
        dy = products
        weight = tl.zeros((1, BLOCK), tl.float32)
        for at in range(0, HIDDEN, BLOCK):
            inside = here & (at + column < HIDDEN)
            normal = tl.load(h_ptr + row * h_row + at + column, mask=inside, other=0.0).to(tl.float32) * rstd
            dy = tl.load(dy_ptr + row * dy_row + at + column, mask=inside, other=0.0).to(tl.float32)
            weight = tl.load(weight_ptr + at + column, mask=at + column < HIDDEN, other=0.0).to(tl.float32)
            products += dy * weight * normal
        mean = tl.sum(products, 1)[:, None] / HIDDEN
        for at in range(0, HIDDEN, BLOCK):
            inside = here & (at + column < HIDDEN)
            if HIDDEN > BLOCK:
                normal = tl.load(h_ptr + row * h_row + at + column, mask=inside, other=0.0).to(tl.float32) * rstd
                dy = tl.load(dy_ptr + row * dy_row + at + column, mask=inside, other=0.0).to(tl.float32)
                weight = tl.load(weight_ptr + at + column, mask=at + column < HIDDEN, other=0.0).to(tl.float32)
            dx = (dy * weight - normal * mean) * rstd
            if dh_ptr is not None:
                dx += tl.load(dh_ptr + row * dh_row + at + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(dx_ptr + row * HIDDEN + at + column, dx.to(dx_ptr.dtype.element_ty), mask=inside)
            part = tl.sum(dy * normal, 0)[None, :]
            if HIDDEN > BLOCK:
                mine = at + column < HIDDEN
                part += tl.load(part_ptr + at + column, mask=mine, other=0.0)
                tl.store(part_ptr + at + column, part, mask=mine)
            else:
                weight_grad += part
        if HIDDEN > BLOCK:
            tl.debug_barrier()  # the next row's loads of the parts see these stores, whichever thread made them
    if HIDDEN <= BLOCK:
        tl.store(part_ptr + column, weight_grad, mask=column < HIDDEN)


def _tile(hidden: int, longest: int) -> tuple[int, int, int]:
    """Rows and columns of a program's tile, and its warps."""
    block = min(next_power_of_2(hidden), longest)
    rows = max(1, 1024 // block)
    return rows, block, 4 if block * rows <= 2048 else 8 if block <= 4096 else 16


def plan_rms_norm(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    y: torch.Tensor,
    h: torch.Tensor | None,
    rstd: torch.Tensor | None,
    *,
    eps: float,
) -> Launch:
    """The forward launch, for x and residual (rows, hidden); writes y, h (with a residual) and rstd (rows,)."""
    count, hidden = x.shape
    rows, block, warps = _tile(hidden, _LONGEST_BLOCK)
    return Launch(
        _rms_norm_kernel,
        cdiv(count, rows) if hidden else 0,
        {
            "x_ptr": x,
            "residual_ptr": residual,
            "weight_ptr": weight,
            "y_ptr": y,
            "h_ptr": h,
            "rstd_ptr": rstd,
            "rows": count,
            "x_row": x.stride(0),
            "residual_row": 0 if residual is None else residual.stride(0),
            "eps": float(eps),
            "HIDDEN": hidden,
            "ROWS": rows,
            "BLOCK": block,
        },
        num_warps=warps,
    )


def plan_rms_norm_backward(
    dy: torch.Tensor,
    dh: torch.Tensor | None,
    h: torch.Tensor,
    weight: torch.Tensor,
    rstd: torch.Tensor,
    dx: torch.Tensor,
) -> tuple[Launch, torch.Tensor]:
    """The backward launch for (rows, hidden), and the parts of dweight (programs, hidden) that it fills."""
    count, hidden = h.shape
    rows, block, warps = _tile(hidden, _LONGEST_BLOCK // 2)
    programs = min(cdiv(count, rows), 4 * processors(h.device))
    parts = torch.zeros(programs, hidden, dtype=torch.float32, device=h.device)
    launch = Launch(
        _rms_norm_backward_kernel,
        programs if hidden else 0,
        {
            "dy_ptr": dy,
            "dh_ptr": dh,
            "h_ptr": h,
            "weight_ptr": weight,
            "rstd_ptr": rstd,
            "dx_ptr": dx,
            "dweight_ptr": parts,
            "rows": count,
            "dy_row": dy.stride(0),
            "dh_row": 0 if dh is None else dh.stride(0),
            "h_row": h.stride(0),
            "programs": programs,
            "HIDDEN": hidden,
            "ROWS": rows,
            "BLOCK": block,
        },
        num_warps=warps,
    )
    return launch, parts


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flat = as_rows(x)
        flat_residual = None if residual is None else as_rows(residual)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        h = None if residual is None else torch.empty_like(y)
        wanted = any(ctx.needs_input_grad)
        rstd = torch.empty(flat.shape[0], dtype=torch.float32, device=x.device) if wanted else None
        plan_rms_norm(
            flat,
            flat_residual,
            weight.contiguous(),
            y.view(flat.shape),
            None if h is None else h.view(flat.shape),
            rstd,
            eps=eps,
        ).run()
        if wanted:
            ctx.save_for_backward(flat if h is None else h, weight, rstd)
        ctx.has_residual = residual is not None
        if h is None:
            h = y.new_empty(0)
            ctx.mark_non_differentiable(h)
        return y, h

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor, dh: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        h, weight, rstd = ctx.saved_tensors
        dx = torch.empty(dy.shape, dtype=h.dtype, device=h.device)
        launch, parts = plan_rms_norm_backward(
            as_rows(dy),
            as_rows(dh) if ctx.has_residual and dh is not None else None,
            as_rows(h),
            weight.contiguous(),
            rstd,
            as_rows(dx),
        )
        launch.run()
        return dx, parts.sum(0).to(weight.dtype), None, dx if ctx.has_residual else None


@overload
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float = ..., residual: None = ...) -> torch.Tensor: ...
@overload
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]: ...
def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-6, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y (…, hidden); with a residual (y, h), where h = x + residual is the next residual.

    Args:
        x: (…, hidden), any strides.
        weight: (hidden,).
        eps: added to the mean of squares.
        residual: of x's shape and dtype, or None.

    Raises:
        KernelArgumentError: shapes, dtypes or devices do not fit.
    """
    check(
        x.dim() >= 1 and weight.shape == x.shape[-1:],
        lambda: f"weight must be (hidden,) for x (…, hidden), got {tuple(weight.shape)} for {tuple(x.shape)}",
    )
    check(
        residual is None or (residual.shape == x.shape and residual.dtype == x.dtype),
        lambda: f"residual must be {tuple(x.shape)} of {x.dtype}, got {tuple(residual.shape)} of {residual.dtype}",  # type: ignore[union-attr]
    )
    check(weight.device == x.device, lambda: f"x is on {x.device}, weight on {weight.device}; move one")
    if choose("rms_norm", x, weight, residual).fused:
        y, h = _RMSNorm.apply(x, weight, eps, residual)
    else:
        y, h = rms_norm_reference(x, weight, eps, residual)
    return y if residual is None else (y, h)
