"""Softmax of attention scores times the values, in one pass over the scores (opt-in).

    out[…, i, :] = Σ_j softmax(scores[…, i, :])_j · v[…, j, :]

Shapes: scores (…, S, T), v (…, T, D), out (…, S, D); any S, T and D. The softmax is the online one: a program streams
its rows' scores tile by tile, so a row of any length fits. Backward, with P the softmax and δ = Σ_d dout · out:

    dscores = P · (dout · vᵀ − δ)        dv = Pᵀ · dout

Eager PyTorch moves the scores three times; this moves them once. Attention that never stores the scores (SDPA,
FlashAttention) moves none of them and stays faster: use it where the scores themselves are not needed.
Source: "Online normalizer calculation for softmax", https://arxiv.org/abs/1805.02867.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch

from medvllm_kernels.triton_support import Launch, cdiv, check, choose, jit, next_power_of_2, tl

__all__ = ["plan_softmaxv", "plan_softmaxv_backward", "softmaxv", "softmaxv_reference"]


def softmaxv_reference(scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same in PyTorch."""
    return scores.softmax(-1) @ v


@jit
def _softmaxv_kernel(
    scores_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,  # (batch, S), base 2; None: not wanted
    S,
    T,
    scores_batch,
    scores_row,
    v_batch,
    v_row,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
):
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    m_tiles = tl.cdiv(S, BLOCK_M)
    program = tl.program_id(0)
    d_tile = program % d_tiles
    program = program // d_tiles
    row = (program % m_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = (program // m_tiles).to(tl.int64)
    dim = d_tile * BLOCK_D + tl.arange(0, BLOCK_D)
    scores_ptr += batch * scores_batch + row.to(tl.int64)[:, None] * scores_row
    v_ptr += batch * v_batch

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    sums = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for at in tl.range(0, T, BLOCK_N, num_stages=STAGES):
        column = at + tl.arange(0, BLOCK_N)
        inside = (row < S)[:, None] & (column < T)[None, :]
        scores = tl.load(scores_ptr + column[None, :], mask=inside, other=float("-inf"))
        scores = scores.to(tl.float32) * 1.4426950408889634
        higher = tl.maximum(best, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing but −∞ so far: weights of 0, not NaN
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(best - base)
        in_values = (column < T)[:, None] & (dim < D)[None, :]
        v = tl.load(v_ptr + column.to(tl.int64)[:, None] * v_row + dim[None, :], mask=in_values, other=0.0)
        sums = tl.dot(weights.to(v.dtype), v, acc=sums * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        best = higher
    out = (sums / total[:, None]).to(out_ptr.dtype.element_ty)
    out_at = (batch * S + row)[:, None] * D + dim[None, :]
    tl.store(out_ptr + out_at, out, mask=(row < S)[:, None] & (dim < D)[None, :])
    if lse_ptr is not None:
        tl.store(lse_ptr + batch * S + row, best + tl.log2(total), mask=(row < S) & (d_tile == 0))


@jit
def _scores_gradient_kernel(
    scores_ptr,
    v_ptr,
    out_ptr,
    dout_ptr,
    lse_ptr,
    dscores_ptr,
    S,
    T,
    scores_batch,
    scores_row,
    v_batch,
    v_row,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    m_tiles = tl.cdiv(S, BLOCK_M)
    program = tl.program_id(0)
    row = (program % m_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    batch = (program // m_tiles).to(tl.int64)
    dims = tl.arange(0, BLOCK_D)
    scores_ptr += batch * scores_batch + row.to(tl.int64)[:, None] * scores_row
    dscores_ptr += (batch * S + row)[:, None] * T
    out_ptr += (batch * S + row)[:, None] * D
    dout_ptr += (batch * S + row)[:, None] * D
    v_ptr += batch * v_batch
    in_rows = (row < S)[:, None]
    lse = tl.load(lse_ptr + batch * S + row, mask=row < S, other=0.0)

    delta = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, D, BLOCK_D):
        dim = first + dims[None, :]
        out = tl.load(out_ptr + dim, mask=in_rows & (dim < D), other=0.0).to(tl.float32)
        dout = tl.load(dout_ptr + dim, mask=in_rows & (dim < D), other=0.0).to(tl.float32)
        delta += tl.sum(out * dout, 1)
    for at in range(0, T, BLOCK_N):
        column = at + tl.arange(0, BLOCK_N)
        inside = in_rows & (column < T)[None, :]
        scores = tl.load(scores_ptr + column[None, :], mask=inside, other=float("-inf")).to(tl.float32)
        weights = tl.exp2(scores * 1.4426950408889634 - lse[:, None])
        dweights = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first in range(0, D, BLOCK_D):
            dim = first + dims[None, :]
            in_values = (column < T)[:, None] & (dim < D)
            v = tl.load(v_ptr + column.to(tl.int64)[:, None] * v_row + dim, mask=in_values, other=0.0)
            dout = tl.load(dout_ptr + dim, mask=in_rows & (dim < D), other=0.0)
            dweights = tl.dot(dout, tl.trans(v), acc=dweights, input_precision="ieee")
        dscores = weights * (dweights - delta[:, None])
        tl.store(dscores_ptr + column[None, :], dscores.to(dscores_ptr.dtype.element_ty), mask=inside)


@jit
def _values_gradient_kernel(
    scores_ptr,
    dout_ptr,
    lse_ptr,
    dv_ptr,
    S,
    T,
    scores_batch,
    scores_row,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    d_tiles: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    n_tiles = tl.cdiv(T, BLOCK_N)
    program = tl.program_id(0)
    dim = (program % d_tiles) * BLOCK_D + tl.arange(0, BLOCK_D)
    program = program // d_tiles
    column = (program % n_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    batch = (program // n_tiles).to(tl.int64)
    scores_ptr += batch * scores_batch
    sums = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for at in range(0, S, BLOCK_M):
        row = at + tl.arange(0, BLOCK_M)
        inside = (row < S)[:, None] & (column < T)[None, :]
        scores_at = row.to(tl.int64)[:, None] * scores_row + column[None, :]
        scores = tl.load(scores_ptr + scores_at, mask=inside, other=float("-inf")).to(tl.float32)
        lse = tl.load(lse_ptr + batch * S + row, mask=row < S, other=0.0)
        weights = tl.exp2(scores * 1.4426950408889634 - lse[:, None])
        in_dout = (row < S)[:, None] & (dim < D)[None, :]
        dout = tl.load(dout_ptr + (batch * S + row)[:, None] * D + dim[None, :], mask=in_dout, other=0.0)
        sums = tl.dot(tl.trans(weights.to(dout.dtype)), dout, acc=sums, input_precision="ieee")
    dv_at = (batch * T + column)[:, None] * D + dim[None, :]
    in_dv = (column < T)[:, None] & (dim < D)[None, :]
    tl.store(dv_ptr + dv_at, sums.to(dv_ptr.dtype.element_ty), mask=in_dv)


def _tiles(dtype: torch.dtype, d: int) -> tuple[dict[str, int], int]:
    """BLOCK_M, BLOCK_N, BLOCK_D and the warps; float32 products use no tensor cores and hold more in registers."""
    warps = 4 if d <= 64 else 8
    if dtype == torch.float32:
        return {"BLOCK_M": 32, "BLOCK_N": 32, "BLOCK_D": max(16, min(64, next_power_of_2(d)))}, warps
    return {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_D": max(16, min(256, next_power_of_2(d)))}, warps


def _scores_arguments(scores: torch.Tensor) -> dict[str, Any]:
    return {
        "scores_ptr": scores,
        "S": scores.shape[1],
        "T": scores.shape[2],
        "scores_batch": scores.stride(0),
        "scores_row": scores.stride(1),
    }


def plan_softmaxv(scores: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None) -> Launch:
    """The forward launch for scores (batch, S, T), v (batch, T, D), out (batch, S, D) contiguous, lse (batch, S)."""
    batch, rows, _ = scores.shape
    d = v.shape[2]
    tiles, warps = _tiles(scores.dtype, d)
    arguments = {
        **_scores_arguments(scores),
        "v_ptr": v,
        "out_ptr": out,
        "lse_ptr": lse,
        "v_batch": v.stride(0),
        "v_row": v.stride(1),
        "D": d,
        "STAGES": 3,
        **tiles,
    }
    programs = batch * cdiv(rows, tiles["BLOCK_M"]) * cdiv(d, tiles["BLOCK_D"])
    return Launch(_softmaxv_kernel, programs, arguments, num_warps=warps, num_stages=3)


def plan_softmaxv_backward(
    scores: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    dout: torch.Tensor,
    lse: torch.Tensor,
    dscores: torch.Tensor,
    dv: torch.Tensor,
) -> tuple[Launch, Launch]:
    """The launches that fill dscores (batch, S, T) and dv (batch, T, D); out, dout and both are contiguous."""
    batch, rows, columns = scores.shape
    d = v.shape[2]
    tiles, warps = _tiles(scores.dtype, d)
    tiles["BLOCK_D"] = min(tiles["BLOCK_D"], 64)
    common = {**_scores_arguments(scores), "dout_ptr": dout, "lse_ptr": lse, "D": d, **tiles}
    for_scores = Launch(
        _scores_gradient_kernel,
        batch * cdiv(rows, tiles["BLOCK_M"]),
        {
            **common,
            "v_ptr": v,
            "out_ptr": out,
            "dscores_ptr": dscores,
            "v_batch": v.stride(0),
            "v_row": v.stride(1),
        },
        num_warps=warps,
        num_stages=2,
    )
    for_values = Launch(
        _values_gradient_kernel,
        batch * cdiv(columns, tiles["BLOCK_N"]) * cdiv(d, tiles["BLOCK_D"]),
        {**common, "dv_ptr": dv},
        num_warps=warps,
        num_stages=2,
    )
    return for_scores, for_values


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """(batch, rows, columns) with contiguous rows; a copy only where the strides ask for one."""
    flat = tensor.reshape(tensor.shape[:-2].numel(), *tensor.shape[-2:])
    return flat if flat.stride(-1) == 1 else flat.contiguous()


class _SoftmaxV(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        flat, values = _flat(scores), _flat(v)
        batch, rows, _ = flat.shape
        out = torch.empty(batch, rows, values.shape[2], dtype=v.dtype, device=v.device)
        wanted = any(ctx.needs_input_grad)
        lse = torch.empty(batch, rows, dtype=torch.float32, device=v.device) if wanted else None
        plan_softmaxv(flat, values, out, lse).run()
        if wanted:
            ctx.save_for_backward(flat, values, out, lse)
        ctx.shapes = scores.shape, v.shape
        return out.view(*scores.shape[:-1], values.shape[2])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dout: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        scores, v, out, lse = ctx.saved_tensors
        need_scores, need_v = ctx.needs_input_grad
        dscores = torch.empty(scores.shape, dtype=scores.dtype, device=v.device)
        dv = torch.empty(v.shape, dtype=v.dtype, device=v.device)
        for_scores, for_values = plan_softmaxv_backward(
            scores, v, out, dout.reshape(out.shape).contiguous(), lse, dscores, dv
        )
        if need_scores:
            for_scores.run()
        if need_v:
            for_values.run()
        scores_shape, v_shape = ctx.shapes
        return dscores.view(scores_shape) if need_scores else None, dv.view(v_shape) if need_v else None


def softmaxv(scores: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(scores) · v, contiguous. The kernel runs where MEDVLLM_ENABLE_TRITON_SOFTMAXV=1 allows it.

    A row whose scores are all −∞ gives NaN, as PyTorch's softmax does.

    Args:
        scores: (…, S, T), any strides.
        v: (…, T, D), the same leading dimensions, dtype and device.

    Raises:
        KernelArgumentError: shapes, dtypes or devices do not fit.
    """
    check(
        scores.dim() >= 2 and scores.shape[:-2] == v.shape[:-2] and scores.shape[-1] == v.shape[-2],
        lambda: f"scores must be (…, S, T) and v (…, T, D), got {tuple(scores.shape)} and {tuple(v.shape)}",
    )
    check(
        scores.dtype == v.dtype and scores.device == v.device,
        lambda: (
            "scores and v must have one dtype and device, "
            f"got {scores.dtype} on {scores.device} and {v.dtype} on {v.device}"
        ),
    )
    if choose("softmaxv", scores, v, unless="there are no scores" if scores.numel() == 0 else None).fused:
        out: torch.Tensor = _SoftmaxV.apply(scores, v)
        return out
    return softmaxv_reference(scores, v)
