"""Attention of one new token a sequence over its keys and values in the paged cache (decode).

    out[b, h] = softmax(scale · q[b, h] · K[b, h // group]ᵀ) · V[b, h // group],   group = num_heads / num_kv_heads

Shapes: q, out (batch, num_heads, head_dim); k_cache, v_cache (num_blocks, block_size, num_kv_heads, head_dim);
block_tables (batch, max_blocks); context_lens (batch,), the new token included. Token n of sequence b lies in block
block_tables[b, n // block_size] at n % block_size. With `window` only the last `window` tokens count; with `softcap`
scores become softcap · tanh(score / softcap). A context of 0 gives zeros, so that a batch can be padded.

A long context is split over several programs (split-k); a second, small kernel merges their results by their
log-sum-exp. Sources: PagedAttention, https://arxiv.org/abs/2309.06180; online softmax and the split,
https://arxiv.org/abs/2205.14135 and https://pytorch.org/blog/flash-decoding; softcap, Gemma 2,
https://arxiv.org/abs/2408.00118.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

from typing import Final

import torch

from medvllm_kernels.triton_support import Launch, cdiv, check, choose, jit, next_power_of_2, processors, tl

__all__ = ["MAX_HEAD_DIM", "paged_decode_attention", "paged_decode_attention_reference", "plan_paged_decode_attention"]

MAX_HEAD_DIM: Final = 256
_MAX_SPLITS: Final = 32
_MIN_SPLIT_TOKENS: Final = 256
_PROGRAMS_PER_PROCESSOR: Final = 8  # about four waves of two resident programs: the last one costs little


def paged_decode_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """The same in PyTorch, one sequence after another, in float32 (float64 for float64)."""
    heads, head_dim = q.shape[1:]
    block_size, kv_heads = k_cache.shape[1:3]
    scale = head_dim**-0.5 if scale is None else scale
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q)
    for row, length in enumerate(context_lens.tolist()):
        first = 0 if window is None else max(0, length - window)
        if length == 0:
            continue
        token = torch.arange(first, length, device=q.device)
        block = block_tables[row].long()[token // block_size]
        k, v = (cache[block, token % block_size].to(wide) for cache in (k_cache, v_cache))  # (tokens, kv_heads, dim)
        grouped = q[row].to(wide).view(kv_heads, heads // kv_heads, head_dim)
        scores = torch.einsum("hgd,nhd->hgn", grouped, k) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        out[row] = torch.einsum("hgn,nhd->hgd", scores.softmax(-1), v).reshape(heads, head_dim).to(out.dtype)
    return out


@jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    table_ptr,
    length_ptr,
    out_ptr,  # the output, or with SPLITS > 1 the parts (batch, heads, SPLITS, HEAD_DIM) in float32
    lse_ptr,  # (batch, heads, SPLITS), base 2
    scale,
    softcap,
    window,
    q_batch,
    q_head,
    k_block,
    k_slot,
    k_head,
    v_block,
    v_slot,
    v_head,
    table_batch,
    out_batch,
    out_head,
    out_split,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    STAGES: tl.constexpr,
):
    group_tiles: tl.constexpr = (GROUP + GROUP_TILE - 1) // GROUP_TILE
    program = tl.program_id(0)
    split = program % SPLITS
    rest = program // SPLITS
    tile = rest % group_tiles
    rest = rest // group_tiles
    kv_head = rest % KV_HEADS
    batch = (rest // KV_HEADS).to(tl.int64)

    member = tile * GROUP_TILE + tl.arange(0, GROUP_TILE)
    head = kv_head * GROUP + member
    dim = tl.arange(0, PADDED_DIM)
    in_group = (member < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
    q_at = batch * q_batch + head[:, None] * q_head + dim[None, :]
    q = tl.load(q_ptr + q_at, mask=in_group, other=0.0)  # (GROUP_TILE, PADDED_DIM)

    length = tl.load(length_ptr + batch).to(tl.int32)
    first = 0
    if HAS_WINDOW:
        first = tl.maximum(length - window, 0)
    chunk = tl.cdiv(tl.cdiv(length - first, SPLITS), TOKENS) * TOKENS
    start = first + split * chunk
    end = tl.minimum(start + chunk, length)

    best = tl.full((GROUP_TILE,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_TILE,), tl.float32)
    sums = tl.zeros((GROUP_TILE, PADDED_DIM), tl.float32)
    for at in tl.range(start, end, TOKENS, num_stages=STAGES):
        token = at + tl.arange(0, TOKENS)
        here = token < end
        block = tl.load(table_ptr + batch * table_batch + token // BLOCK_SIZE, mask=here, other=0).to(tl.int64)
        slot = token % BLOCK_SIZE
        inside = here[:, None] & (dim < HEAD_DIM)[None, :]
        k_at = (block * k_block + slot * k_slot + kv_head * k_head)[:, None] + dim[None, :]
        k = tl.load(k_ptr + k_at, mask=inside, other=0.0).to(q.dtype)  # (TOKENS, PADDED_DIM)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if HAS_SOFTCAP:
            scores = softcap * (1.0 - 2.0 / (tl.exp2(scores * (2.0 * 1.4426950408889634 / softcap)) + 1.0))
        scores = tl.where(here[None, :], scores * 1.4426950408889634, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)
        v_at = (block * v_block + slot * v_slot + kv_head * v_head)[:, None] + dim[None, :]
        v = tl.load(v_ptr + v_at, mask=inside, other=0.0).to(q.dtype)
        sums = tl.dot(weights.to(q.dtype), v, acc=sums * shrink[:, None], input_precision="ieee")
        total = total * shrink + tl.sum(weights, 1)
        best = higher

    found = total > 0.0
    out = tl.where(found[:, None], sums / tl.where(found, total, 1.0)[:, None], 0.0)
    out_at = batch * out_batch + head[:, None] * out_head + split * out_split + dim[None, :]
    tl.store(out_ptr + out_at, out.to(out_ptr.dtype.element_ty), mask=in_group)
    if SPLITS > 1:
        lse = tl.where(found, best + tl.log2(tl.where(found, total, 1.0)), float("-inf"))
        tl.store(lse_ptr + (batch * KV_HEADS * GROUP + head) * SPLITS + split, lse, mask=member < GROUP)


@jit
def _merge_kernel(
    part_ptr,
    lse_ptr,
    out_ptr,
    out_batch,
    out_head,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLITS: tl.constexpr,  # a power of two
):
    row = tl.program_id(0).to(tl.int64)  # batch * HEADS + head
    split = tl.arange(0, SPLITS)
    dim = tl.arange(0, PADDED_DIM)
    lse = tl.load(lse_ptr + row * SPLITS + split)
    best = tl.max(lse, 0)
    weights = tl.where(lse > float("-inf"), tl.exp2(lse - best), 0.0)
    total = tl.sum(weights, 0)
    weights = weights / tl.where(total > 0.0, total, 1.0)
    part_at = (row * SPLITS + split)[:, None] * HEAD_DIM + dim[None, :]
    parts = tl.load(part_ptr + part_at, mask=(dim < HEAD_DIM)[None, :], other=0.0)
    out = tl.sum(parts * weights[:, None], 0)
    out_at = (row // HEADS) * out_batch + (row % HEADS) * out_head + dim
    tl.store(out_ptr + out_at, out.to(out_ptr.dtype.element_ty), mask=dim < HEAD_DIM)


def _check(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    window: int | None,
    softcap: float | None,
) -> None:
    check(q.dim() == 3, lambda: f"q must be (batch, num_heads, head_dim), got {tuple(q.shape)}")
    check(
        k_cache.dim() == 4 and k_cache.shape == v_cache.shape and k_cache.shape[3] == q.shape[2],
        lambda: (
            f"k_cache and v_cache must be (num_blocks, block_size, num_kv_heads, {q.shape[2]}), "
            f"got {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        ),
    )
    check(
        k_cache.shape[2] > 0 and q.shape[1] % k_cache.shape[2] == 0,
        lambda: f"num_heads must be a multiple of num_kv_heads, got {q.shape[1]} and {k_cache.shape[2]}",
    )
    check(
        block_tables.dim() == 2 and block_tables.shape[0] == q.shape[0] and context_lens.shape == q.shape[:1],
        lambda: (
            f"block_tables must be ({q.shape[0]}, max_blocks) and context_lens ({q.shape[0]},), "
            f"got {tuple(block_tables.shape)} and {tuple(context_lens.shape)}"
        ),
    )
    check(
        {block_tables.dtype, context_lens.dtype} <= {torch.int32, torch.int64},
        lambda: (
            f"block_tables and context_lens must be int32 or int64, got {block_tables.dtype} and {context_lens.dtype}"
        ),
    )
    check(
        k_cache.stride(3) == 1 and v_cache.stride(3) == 1,
        lambda: f"the caches' head_dim must be contiguous, got strides {k_cache.stride()} and {v_cache.stride()}",
    )
    check(
        len({tensor.device for tensor in (q, k_cache, v_cache, block_tables, context_lens)}) == 1,
        lambda: f"all tensors must be on one device, got q on {q.device}, the cache on {k_cache.device}",
    )
    check(window is None or window >= 1, lambda: f"window must be at least 1 or None, got {window}")
    check(softcap is None or softcap > 0, lambda: f"softcap must be positive or None, got {softcap}")


def _splits(programs: int, max_context_len: int, device: torch.device) -> int:
    """Into how many parts a context is split: enough programs to fill the GPU, none much shorter than 256 tokens.

    A power of two, because each number is a kernel of its own and a context grows from step to step.
    """
    wanted = cdiv(_PROGRAMS_PER_PROCESSOR * processors(device), max(1, programs))
    return min(_MAX_SPLITS, next_power_of_2(max(1, min(wanted, cdiv(max_context_len, _MIN_SPLIT_TOKENS)))))


def plan_paged_decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    out: torch.Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    max_context_len: int | None = None,
) -> list[Launch]:
    """The launches that `paged_decode_attention` runs on a GPU: the attention and, when split, the merge."""
    q = q if q.stride(2) == 1 else q.contiguous()
    block_tables = block_tables if block_tables.stride(1) == 1 else block_tables.contiguous()
    batch, heads, head_dim = q.shape
    block_size, kv_heads = k_cache.shape[1:3]
    group = heads // kv_heads
    exact = q.dtype == torch.float32  # no tensor cores: products by FMA, in registers
    group_tile = 16 if exact else min(64, max(16, next_power_of_2(group)))
    padded_dim = max(16, next_power_of_2(head_dim))
    tiles = cdiv(group, group_tile)
    longest = block_tables.shape[1] * block_size
    longest = longest if max_context_len is None else min(longest, max_context_len)
    longest = longest if window is None else min(longest, window)
    splits = _splits(batch * kv_heads * tiles, longest, q.device)
    parts, lse = out, None
    if splits > 1:
        parts = torch.empty(batch, heads, splits, head_dim, dtype=torch.float32, device=q.device)
        lse = torch.empty(batch, heads, splits, dtype=torch.float32, device=q.device)
    # In float32 four warps spilled 200 to 4,000 registers' worth on sm_90; eight need 58 to 92.
    warps = 8 if exact or group_tile * padded_dim > 8192 else 4
    attention = Launch(
        _decode_kernel,
        batch * kv_heads * tiles * splits,
        {
            "q_ptr": q,
            "k_ptr": k_cache,
            "v_ptr": v_cache,
            "table_ptr": block_tables,
            "length_ptr": context_lens.contiguous(),
            "out_ptr": parts,
            "lse_ptr": lse,
            "scale": float(head_dim**-0.5 if scale is None else scale),
            "softcap": float(softcap or 1.0),
            "window": window or 0,
            "q_batch": q.stride(0),
            "q_head": q.stride(1),
            "k_block": k_cache.stride(0),
            "k_slot": k_cache.stride(1),
            "k_head": k_cache.stride(2),
            "v_block": v_cache.stride(0),
            "v_slot": v_cache.stride(1),
            "v_head": v_cache.stride(2),
            "table_batch": block_tables.stride(0),
            "out_batch": parts.stride(0),
            "out_head": parts.stride(1),
            "out_split": parts.stride(2) if splits > 1 else 0,
            "KV_HEADS": kv_heads,
            "GROUP": group,
            "GROUP_TILE": group_tile,
            "HEAD_DIM": head_dim,
            "PADDED_DIM": padded_dim,
            "BLOCK_SIZE": block_size,
            "TOKENS": 64 if padded_dim * q.element_size() <= 256 else 32,
            "SPLITS": splits,
            "HAS_WINDOW": window is not None,
            "HAS_SOFTCAP": softcap is not None,
            "STAGES": 3,
        },
        num_warps=warps,
        num_stages=3,
    )
    if splits == 1:
        return [attention]
    merge = Launch(
        _merge_kernel,
        batch * heads,
        {
            "part_ptr": parts,
            "lse_ptr": lse,
            "out_ptr": out,
            "out_batch": out.stride(0),
            "out_head": out.stride(1),
            "HEADS": heads,
            "HEAD_DIM": head_dim,
            "PADDED_DIM": padded_dim,
            "SPLITS": splits,
        },
    )
    return [attention, merge]


def paged_decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    scale: float | None = None,
    *,
    window: int | None = None,
    softcap: float | None = None,
    max_context_len: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one token a sequence over the paged cache; inference only, no gradients.

    Args:
        q: (batch, num_heads, head_dim).
        k_cache: (num_blocks, block_size, num_kv_heads, head_dim), head_dim contiguous.
        v_cache: the same.
        block_tables: (batch, max_blocks) int32 or int64; entries beyond a sequence's context are not read.
        context_lens: (batch,) int32 or int64, the new token included.
        scale: factor of the scores; 1/√head_dim by default.
        window: how many of the last tokens count; None for all.
        softcap: bound of the scores' magnitude; None for none.
        max_context_len: the longest context, known to the caller; it only steers the split. Inside a CUDA graph
            give the longest that a replay may have, or leave it out.
        out: where to write, (batch, num_heads, head_dim) with head_dim contiguous; made when None.

    Raises:
        KernelArgumentError: shapes, dtypes or devices do not fit.
    """
    _check(q, k_cache, v_cache, block_tables, context_lens, window, softcap)
    check(
        out is None or (out.shape == q.shape and out.stride(2) == 1),
        lambda: f"out must be {tuple(q.shape)} with head_dim contiguous, got {None if out is None else out.shape}",
    )
    with torch.no_grad():
        unless = f"head_dim {q.shape[2]} exceeds {MAX_HEAD_DIM}" if q.shape[2] > MAX_HEAD_DIM else None
        if choose("paged_decode_attention", q, k_cache, v_cache, unless=unless).fused:
            result = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
            for launch in plan_paged_decode_attention(
                q,
                k_cache,
                v_cache,
                block_tables,
                context_lens,
                result,
                scale=scale,
                window=window,
                softcap=softcap,
                max_context_len=max_context_len,
            ):
                launch.run()
            return result
        result = paged_decode_attention_reference(
            q, k_cache, v_cache, block_tables, context_lens, scale=scale, window=window, softcap=softcap
        )
        return result if out is None else out.copy_(result)
