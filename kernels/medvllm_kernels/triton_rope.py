"""Rotary position embedding of queries and keys, in one launch.

    (a, b) → (a · cos − b · sin,  b · cos + a · sin)      angles of a token: cos_sin[positions[token]]

Shapes: q (tokens, num_heads, head_dim), k (tokens, num_kv_heads, head_dim); positions (tokens,); cos_sin
(max_position, rotary_dim), the cosines in the first half of a row and the sines in the second. Of each head the first
rotary_dim dimensions turn, the rest pass. A pair (a, b) is dimensions (i, i + rotary_dim / 2), or (2i, 2i + 1) when
interleaved. The backward pass turns the other way.
Source: "RoFormer", https://arxiv.org/abs/2104.09864; the halves, GPT-NeoX; the interleaved pairs, GPT-J.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Any

import torch

from medvllm_kernels.triton_support import Launch, check, choose, jit, next_power_of_2, tl

__all__ = ["plan_rotary", "rotary", "rotary_reference"]


def rotary_reference(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, *, interleaved: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in PyTorch."""
    half = cos_sin.shape[1] // 2
    wide = torch.promote_types(q.dtype, torch.float32)
    cos, sin = cos_sin[positions.long()].to(wide)[:, None, :].split(half, -1)  # (tokens, 1, half)

    def turn(x: torch.Tensor) -> torch.Tensor:
        turning, passing = x[..., : 2 * half], x[..., 2 * half :]
        pairs = turning.to(wide).unflatten(-1, (half, 2) if interleaved else (2, half))
        a, b = pairs.unbind(-1 if interleaved else -2)
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1 if interleaved else -2).flatten(-2)
        return torch.cat((turned.to(x.dtype), passing), -1)

    return turn(q), turn(k)


@jit
def _turn_heads(
    in_ptr,
    out_ptr,
    in_head,
    cos_ptr,
    sin_ptr,
    sign,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    PADDED_REST: tl.constexpr,
    TILE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    pair = tl.arange(0, PADDED_HALF)
    cos = tl.load(cos_ptr + pair, mask=pair < HALF, other=1.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + pair, mask=pair < HALF, other=0.0).to(tl.float32)[None, :] * sign
    for first in range(0, HEADS, TILE):
        head = first + tl.arange(0, TILE)[:, None]
        if INTERLEAVED:
            dim = tl.arange(0, 2 * PADDED_HALF)[None, :]
            inside = (head < HEADS) & (dim < 2 * HALF)
            x = tl.load(in_ptr + head * in_head + dim, mask=inside, other=0.0).to(tl.float32)
            a, b = tl.split(tl.reshape(x, (TILE, PADDED_HALF, 2)))
            turned = tl.join(a * cos - b * sin, b * cos + a * sin)
            turned = tl.reshape(turned, (TILE, 2 * PADDED_HALF)).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + head * HEAD_DIM + dim, turned, mask=inside)
        else:
            dim = pair[None, :]
            inside = (head < HEADS) & (dim < HALF)
            a = tl.load(in_ptr + head * in_head + dim, mask=inside, other=0.0).to(tl.float32)
            b = tl.load(in_ptr + head * in_head + HALF + dim, mask=inside, other=0.0).to(tl.float32)
            turned = (a * cos - b * sin).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + head * HEAD_DIM + dim, turned, mask=inside)
            turned = (b * cos + a * sin).to(out_ptr.dtype.element_ty)
            tl.store(out_ptr + head * HEAD_DIM + HALF + dim, turned, mask=inside)
        if HEAD_DIM > 2 * HALF:
            rest = 2 * HALF + tl.arange(0, PADDED_REST)[None, :]
            inside = (head < HEADS) & (rest < HEAD_DIM)
            passing = tl.load(in_ptr + head * in_head + rest, mask=inside)
            tl.store(out_ptr + head * HEAD_DIM + rest, passing, mask=inside)


@jit
def _rotary_kernel(
    q_ptr,
    k_ptr,
    q_out_ptr,
    k_out_ptr,
    position_ptr,
    cos_sin_ptr,
    sign,
    q_token,
    q_head,
    k_token,
    k_head,
    cos_sin_row,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    PADDED_REST: tl.constexpr,
    Q_TILE: tl.constexpr,
    K_TILE: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    cos_ptr = cos_sin_ptr + tl.load(position_ptr + token).to(tl.int64) * cos_sin_row
    q_ptr += token * q_token
    q_out_ptr += token * HEADS * HEAD_DIM
    _turn_heads(
        q_ptr,
        q_out_ptr,
        q_head,
        cos_ptr,
        cos_ptr + HALF,
        sign,
        HEADS,
        HEAD_DIM,
        HALF,
        PADDED_HALF,
        PADDED_REST,
        Q_TILE,
        INTERLEAVED,
    )
    k_ptr += token * k_token
    k_out_ptr += token * KV_HEADS * HEAD_DIM
    _turn_heads(
        k_ptr,
        k_out_ptr,
        k_head,
        cos_ptr,
        cos_ptr + HALF,
        sign,
        KV_HEADS,
        HEAD_DIM,
        HALF,
        PADDED_HALF,
        PADDED_REST,
        K_TILE,
        INTERLEAVED,
    )


def plan_rotary(
    q: torch.Tensor,
    k: torch.Tensor,
    q_out: torch.Tensor,
    k_out: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    *,
    interleaved: bool = False,
    backwards: bool = False,
) -> Launch:
    """The launch that turns q and k into the contiguous q_out and k_out; `backwards` turns by the negative angle."""
    q, k = (x if x.stride(2) == 1 else x.contiguous() for x in (q, k))
    tokens, heads, head_dim = q.shape
    half = cos_sin.shape[1] // 2
    padded_half = next_power_of_2(half)
    tile = max(1, 2048 // padded_half)  # heads at a time: 16 pairs a thread
    return Launch(
        _rotary_kernel,
        tokens if head_dim else 0,
        {
            "q_ptr": q,
            "k_ptr": k,
            "q_out_ptr": q_out,
            "k_out_ptr": k_out,
            "position_ptr": positions.contiguous(),
            "cos_sin_ptr": cos_sin,
            "sign": -1.0 if backwards else 1.0,
            "q_token": q.stride(0),
            "q_head": q.stride(1),
            "k_token": k.stride(0),
            "k_head": k.stride(1),
            "cos_sin_row": cos_sin.stride(0),
            "HEADS": heads,
            "KV_HEADS": k.shape[1],
            "HEAD_DIM": head_dim,
            "HALF": half,
            "PADDED_HALF": padded_half,
            "PADDED_REST": next_power_of_2(head_dim - 2 * half),
            "Q_TILE": min(tile, next_power_of_2(heads)),
            "K_TILE": min(tile, next_power_of_2(k.shape[1])),
            "INTERLEAVED": interleaved,
        },
    )


def _launch(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, interleaved: bool, backwards: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    q_out, k_out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k))
    plan_rotary(q, k, q_out, k_out, positions, cos_sin, interleaved=interleaved, backwards=backwards).run()
    return q_out, k_out


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, interleaved: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(positions, cos_sin)
        ctx.interleaved = interleaved
        return _launch(q, k, positions, cos_sin, interleaved, False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dq: torch.Tensor, dk: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        positions, cos_sin = ctx.saved_tensors
        return *_launch(dq, dk, positions, cos_sin, ctx.interleaved, True), None, None, None


def rotary(
    q: torch.Tensor, k: torch.Tensor, positions: torch.Tensor, cos_sin: torch.Tensor, *, interleaved: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """q and k turned by their tokens' angles, as new contiguous tensors. No gradient reaches `cos_sin`.

    Args:
        q: (tokens, num_heads, head_dim), any strides.
        k: (tokens, num_kv_heads, head_dim), any strides.
        positions: (tokens,) int32 or int64, each below max_position; not checked on a GPU.
        cos_sin: (max_position, rotary_dim), rows contiguous; any float dtype.
        interleaved: pairs (2i, 2i + 1) instead of (i, i + rotary_dim / 2).

    Raises:
        KernelArgumentError: shapes, dtypes or devices do not fit.
    """
    check(
        q.dim() == 3 and k.dim() == 3 and q.shape[0] == k.shape[0] and q.shape[2] == k.shape[2],
        lambda: f"q and k must be (tokens, heads, head_dim) alike but for heads, got {q.shape} and {k.shape}",
    )
    check(
        cos_sin.dim() == 2 and cos_sin.shape[1] % 2 == 0 and 0 < cos_sin.shape[1] <= q.shape[2],
        lambda: f"cos_sin must be (max_position, even rotary_dim ≤ {q.shape[2]}), got {tuple(cos_sin.shape)}",
    )
    check(cos_sin.stride(1) == 1, lambda: f"rows of cos_sin must be contiguous, got strides {cos_sin.stride()}")
    check(
        positions.shape == q.shape[:1] and positions.dtype in (torch.int32, torch.int64),
        lambda: f"positions must be int32 or int64 ({q.shape[0]},), got {positions.dtype} {tuple(positions.shape)}",
    )
    check(
        len({x.device for x in (q, k, positions, cos_sin)}) == 1,
        lambda: f"all tensors must be on one device, got q on {q.device}, cos_sin on {cos_sin.device}",
    )
    if choose("rotary", q, k, cos_sin).fused:
        turned: tuple[torch.Tensor, torch.Tensor] = _Rotary.apply(q, k, positions, cos_sin, interleaved)
        return turned
    return rotary_reference(q, k, positions, cos_sin, interleaved=interleaved)
