"""Attention over the paged cache in torch's own operators: SDPA, and the formula written out ("manual").

Both gather a sequence's keys from its blocks, so they cost a copy that the paged kernels avoid; they are what runs
where no such kernel is built, and what those are checked against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from medvllm.layers.context import Context

__all__ = ["attend", "attend_by_row", "causal_mask", "manual", "sdpa"]


def causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """(queries, keys) bool: which keys the last `queries` positions of `keys` may see; None when all may see all."""
    if queries == 1 and (window is None or keys <= window):
        return None
    position = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device)
    seen = key <= position
    return seen if window is None else seen & (key > position - window)


def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """q (…, heads, queries, head_dim), k and v (…, kv_heads, keys, head_dim) by torch's fused operator."""
    grouped = q.shape[-3] != k.shape[-3]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped)


def manual(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None = None) -> Tensor:
    """softmax(q kᵀ · scale) v in `sdpa`'s shapes, the softmax in float32, of cap · tanh(score / cap) with a softcap."""
    groups = q.shape[-3] // k.shape[-3]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=-3), v.repeat_interleave(groups, dim=-3)
    scores = q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


def attend(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    context: Context,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    fused: bool,
) -> Tensor:
    """q (tokens, heads, head_dim) over the cache (blocks, block_size, kv_heads, head_dim) or, without one, over the
    step's own keys (tokens, kv_heads, head_dim); → (tokens, heads, head_dim). `fused` takes SDPA, unless capped.
    """
    if context.slot_mapping is not None and context.max_seqlen_q == 1 and len(context.seqlens_q) > 1:
        return _decode(q, keys, context, scale=scale, window=window, softcap=softcap, fused=fused)
    out = torch.empty_like(q)
    for rows, k, v in _sequences(q, keys, context):
        queries = q[rows].transpose(0, 1)  # (heads, queries, head_dim)
        mask = causal_mask(queries.shape[1], k.shape[1], window, q.device)
        if fused and softcap is None:
            out[rows] = sdpa(queries.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), mask, scale)[0].transpose(0, 1)
        else:
            out[rows] = manual(queries, k, v, mask, scale, softcap).transpose(0, 1)
    return out


def attend_by_row(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    context: Context,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """`attend` one query at a time over exactly the keys it sees: a row's result depends on its own context alone."""
    out = torch.empty_like(q)
    for rows, k, v in _sequences(q, keys, context):
        count, total = rows.stop - rows.start, k.shape[1]
        for row in range(count):
            end = total - count + row + 1
            start = 0 if window is None else max(0, end - window)
            query = q[rows.start + row].unsqueeze(1)  # (heads, 1, head_dim)
            seen = manual(query, k[:, start:end], v[:, start:end], None, scale, softcap)
            out[rows.start + row] = seen.squeeze(1)
    return out


def _sequences(q: Tensor, keys: tuple[Tensor, Tensor], context: Context) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Each sequence's rows of q, and its keys and values (kv_heads, keys, head_dim)."""
    start = 0
    for index, count in enumerate(context.seqlens_q or (q.shape[0],)):
        rows = slice(start, start + count)
        start += count
        if context.slot_mapping is None or context.block_tables is None:
            yield rows, keys[0][rows].transpose(0, 1), keys[1][rows].transpose(0, 1)
            continue
        length, block_size = context.seqlens_k[index], keys[0].shape[1]
        blocks = context.block_tables[index, : -(-length // block_size)]
        k, v = (cache[blocks].flatten(0, 1)[:length].transpose(0, 1).to(q.dtype) for cache in keys)
        yield rows, k, v


def _decode(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    context: Context,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    fused: bool,
) -> Tensor:
    """One query of each sequence at once, over keys padded to the longest."""
    assert context.block_tables is not None
    assert context.context_lens is not None
    # (seqs, kv_heads, keys, head_dim)
    k, v = (cache[context.block_tables].flatten(1, 2).transpose(1, 2).to(q.dtype) for cache in keys)
    key = torch.arange(k.shape[2], device=q.device)
    lengths = context.context_lens.unsqueeze(1)
    mask = key < lengths
    if window is not None:
        mask &= key >= lengths - window
    mask = mask[:, None, None, :]
    query = q.unsqueeze(2)
    if fused and softcap is None:
        return sdpa(query, k, v, mask, scale).squeeze(2)
    return manual(query, k, v, mask, scale, softcap).squeeze(2)
