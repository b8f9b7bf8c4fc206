"""SwiGLU's gate: silu of one half times the other.

    y = gate · σ(gate) · up

Shapes: gate, up, y (…, width); packed, x (…, 2 · width) holds gate before up, as a fused projection leaves them.
Backward, with s = σ(gate):  dgate = dy · up · s · (1 + gate · (1 − s)),  dup = dy · gate · s.
Source: "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch

from medvllm_kernels.triton_support import Launch, as_rows, cdiv, check, choose, jit, row_tile, tl

__all__ = ["plan_swiglu", "plan_swiglu_backward", "silu_and_mul", "swiglu", "swiglu_reference"]


def swiglu_reference(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The same in PyTorch, rounded once."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (torch.nn.functional.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype)


@jit
def _swiglu_kernel(
    gate_ptr, up_ptr, y_ptr, rows, gate_row, up_row, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    tiles: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    row = row.to(tl.int64)
    gate = tl.load(gate_ptr + row * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_row + column, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(y_ptr + row * WIDTH + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@jit
def _swiglu_backward_kernel(
    dy_ptr,
    gate_ptr,
    up_ptr,
    dgate_ptr,
    dup_ptr,
    rows,
    dy_row,
    gate_row,
    up_row,
    grad_row,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tiles: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    row = (program // tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (program % tiles) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < WIDTH)
    row = row.to(tl.int64)
    dy = tl.load(dy_ptr + row * dy_row + column, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * gate_row + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_row + column, mask=inside, other=0.0).to(tl.float32)
    s = 1.0 / (1.0 + tl.exp(-gate))
    dgate = dy * up * s * (1.0 + gate * (1.0 - s))
    dup = dy * gate * s
    tl.store(dgate_ptr + row * grad_row + column, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
    tl.store(dup_ptr + row * grad_row + column, dup.to(dup_ptr.dtype.element_ty), mask=inside)


def _tile(rows: int, width: int) -> tuple[int, dict[str, int]]:
    """Programs, and the tile of each."""
    tall, block = row_tile(rows, width)
    return cdiv(rows, tall) * cdiv(width, block), {"WIDTH": width, "ROWS": tall, "BLOCK": block}


def plan_swiglu(gate: torch.Tensor, up: torch.Tensor, y: torch.Tensor) -> Launch:
    """The forward launch for gate and up (rows, width) with contiguous rows; y is contiguous."""
    programs, tile = _tile(*gate.shape)
    return Launch(
        _swiglu_kernel,
        programs,
        {
            "gate_ptr": gate,
            "up_ptr": up,
            "y_ptr": y,
            "rows": gate.shape[0],
            "gate_row": gate.stride(0),
            "up_row": up.stride(0),
            **tile,
        },
    )


def plan_swiglu_backward(
    dy: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, dgate: torch.Tensor, dup: torch.Tensor
) -> Launch:
    """The backward launch; dgate and dup have one stride between rows, so that they may be halves of one tensor."""
    programs, tile = _tile(*gate.shape)
    return Launch(
        _swiglu_backward_kernel,
        programs,
        {
            "dy_ptr": dy,
            "gate_ptr": gate,
            "up_ptr": up,
            "dgate_ptr": dgate,
            "dup_ptr": dup,
            "rows": gate.shape[0],
            "dy_row": dy.stride(0),
            "gate_row": gate.stride(0),
            "up_row": up.stride(0),
            "grad_row": dgate.stride(0),
            **tile,
        },
    )


class _SwiGLU(torch.autograd.Function):
    """Of gate and up, or of both packed in one tensor when `up` is None."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor | None) -> torch.Tensor:
        packed = up is None
        flat_gate, flat_up = as_rows(gate).chunk(2, -1) if up is None else (as_rows(gate), as_rows(up))
        y = torch.empty(*gate.shape[:-1], flat_gate.shape[-1], dtype=gate.dtype, device=gate.device)
        plan_swiglu(flat_gate, flat_up, y.view(flat_gate.shape)).run()
        ctx.save_for_backward(flat_gate, flat_up)
        ctx.packed, ctx.shape = packed, gate.shape
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        gate, up = ctx.saved_tensors
        rows, width = gate.shape
        parts = 2 if ctx.packed else 1
        grads = [torch.empty(rows, parts * width, dtype=gate.dtype, device=gate.device) for _ in range(3 - parts)]
        dgate, dup = grads[0].chunk(2, -1) if ctx.packed else grads
        plan_swiglu_backward(as_rows(dy), gate, up, dgate, dup).run()
        return grads[0].view(ctx.shape), None if ctx.packed else grads[1].view(ctx.shape)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up, contiguous, of gate's dtype.

    Args:
        gate: (…, width), any strides.
        up: of gate's shape, dtype and device.

    Raises:
        KernelArgumentError: the two differ in shape, dtype or device.
    """
    check(
        gate.shape == up.shape and gate.dtype == up.dtype and gate.device == up.device and gate.dim() >= 1,
        lambda: (
            "gate and up must have one shape, dtype and device, "
            f"got {tuple(gate.shape)} {gate.dtype} {gate.device} and {tuple(up.shape)} {up.dtype} {up.device}"
        ),
    )
    if choose("silu_and_mul", gate, up).fused:
        y: torch.Tensor = _SwiGLU.apply(gate, up)
        return y
    return swiglu_reference(gate, up)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(x[…, :width]) · x[…, width:] of x (…, 2 · width): (…, width), contiguous.

    Raises:
        KernelArgumentError: the last dimension is odd.
    """
    check(x.dim() >= 1 and x.shape[-1] % 2 == 0, lambda: f"x must be (…, 2 · width), got {tuple(x.shape)}")
    if choose("silu_and_mul", x).fused:
        y: torch.Tensor = _SwiGLU.apply(x, None)
        return y
    return swiglu_reference(*x.chunk(2, -1))
