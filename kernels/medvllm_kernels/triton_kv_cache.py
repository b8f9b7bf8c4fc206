"""Stores keys and values of a step's tokens in the paged KV cache.

    cache[slot // block_size, slot % block_size] = k[token]    where slot = slot_mapping[token] ≥ 0

Shapes: k, v (tokens, num_kv_heads, head_dim); k_cache, v_cache (num_blocks, block_size, num_kv_heads, head_dim);
slot_mapping (tokens,). A slot of −1 marks a padding token and is skipped.
Source of the layout and the names: vLLM's paged attention, "Efficient Memory Management for Large Language Model
Serving with PagedAttention", https://arxiv.org/abs/2309.06180.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls

from __future__ import annotations

import torch

from medvllm_kernels.triton_support import Launch, cdiv, check, choose, jit, next_power_of_2, tl

__all__ = ["plan_store_kv", "store_kv", "store_kv_reference"]


def store_kv_reference(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """The same in PyTorch; a slot beyond the cache raises IndexError."""
    kept = slot_mapping >= 0  # (tokens,)
    slots = slot_mapping[kept].long()
    block_size = k_cache.shape[1]
    for values, cache in ((k, k_cache), (v, v_cache)):
        cache[slots // block_size, slots % block_size] = values[kept].to(cache.dtype)


@jit
def _store_kv_kernel(
    k_ptr,
    v_ptr,
    k_cache_ptr,
    v_cache_ptr,
    slot_ptr,
    tokens,
    num_slots,
    k_token,
    k_head,
    v_token,
    v_head,
    kc_block,
    kc_slot,
    kc_head,
    vc_block,
    vc_slot,
    vc_head,
    WIDTH: tl.constexpr,  # num_kv_heads * head_dim
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    FLAT: tl.constexpr,  # the heads of a token lie one after another, in all four tensors
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column_tiles: tl.constexpr = (WIDTH + COLUMNS - 1) // COLUMNS
    program = tl.program_id(0)
    token = (program // column_tiles) * TOKENS + tl.arange(0, TOKENS)
    column = (program % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    slot = tl.load(slot_ptr + token, mask=token < tokens, other=-1).to(tl.int64)
    # A slot beyond the cache is never written: it would be another tensor's memory.
    kept = ((slot >= 0) & (slot < num_slots))[:, None] & (column < WIDTH)[None, :]
    block = slot // BLOCK_SIZE
    offset = slot % BLOCK_SIZE
    token = token.to(tl.int64)
    if FLAT:
        k_from = (token * k_token)[:, None] + column[None, :]
        v_from = (token * v_token)[:, None] + column[None, :]
        k_to = (block * kc_block + offset * kc_slot)[:, None] + column[None, :]
        v_to = (block * vc_block + offset * vc_slot)[:, None] + column[None, :]
    else:
        head = column // HEAD_DIM
        dim = column % HEAD_DIM
        k_from = (token * k_token)[:, None] + (head * k_head + dim)[None, :]
        v_from = (token * v_token)[:, None] + (head * v_head + dim)[None, :]
        k_to = (block * kc_block + offset * kc_slot)[:, None] + (head * kc_head + dim)[None, :]
        v_to = (block * vc_block + offset * vc_slot)[:, None] + (head * vc_head + dim)[None, :]
    keys = tl.load(k_ptr + k_from, mask=kept)
    values = tl.load(v_ptr + v_from, mask=kept)
    tl.store(k_cache_ptr + k_to, keys.to(k_cache_ptr.dtype.element_ty), mask=kept)
    tl.store(v_cache_ptr + v_to, values.to(v_cache_ptr.dtype.element_ty), mask=kept)


def _check(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    check(
        k.dim() == 3 and k.shape == v.shape,
        lambda: f"k and v must be (tokens, num_kv_heads, head_dim) alike, got {tuple(k.shape)} and {tuple(v.shape)}",
    )
    check(
        k_cache.dim() == 4 and k_cache.shape == v_cache.shape and k_cache.shape[2:] == k.shape[1:],
        lambda: (
            f"k_cache and v_cache must be (num_blocks, block_size, {k.shape[1]}, {k.shape[2]}), "
            f"got {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        ),
    )
    check(
        slot_mapping.shape == k.shape[:1] and slot_mapping.dtype in (torch.int32, torch.int64),
        lambda: (
            f"slot_mapping must hold {k.shape[0]} int32 or int64 slots, "
            f"got {tuple(slot_mapping.shape)} of {slot_mapping.dtype}"
        ),
    )
    check(
        k_cache.stride(3) == 1 and v_cache.stride(3) == 1,
        lambda: f"the caches' head_dim must be contiguous, got strides {k_cache.stride()} and {v_cache.stride()}",
    )
    check(
        len({tensor.device for tensor in (k, v, k_cache, v_cache, slot_mapping)}) == 1,
        lambda: f"all tensors must be on one device, got k on {k.device}, the cache on {k_cache.device}",
    )


def plan_store_kv(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> Launch:
    """The launch that `store_kv` runs on a GPU."""
    k, v = (tensor if tensor.stride(2) == 1 else tensor.contiguous() for tensor in (k, v))
    tokens, heads, head_dim = k.shape
    width = heads * head_dim
    # A program moves about 4096 elements (k and v): four 16-byte loads a thread in 16 bits.
    columns = min(next_power_of_2(width), 2048)
    rows = max(1, 2048 // columns) if tokens >= 2048 else 1
    return Launch(
        _store_kv_kernel,
        cdiv(tokens, rows) * cdiv(width, columns) if width else 0,
        {
            "k_ptr": k,
            "v_ptr": v,
            "k_cache_ptr": k_cache,
            "v_cache_ptr": v_cache,
            "slot_ptr": slot_mapping.contiguous(),
            "tokens": tokens,
            "num_slots": k_cache.shape[0] * k_cache.shape[1],
            "k_token": k.stride(0),
            "k_head": k.stride(1),
            "v_token": v.stride(0),
            "v_head": v.stride(1),
            "kc_block": k_cache.stride(0),
            "kc_slot": k_cache.stride(1),
            "kc_head": k_cache.stride(2),
            "vc_block": v_cache.stride(0),
            "vc_slot": v_cache.stride(1),
            "vc_head": v_cache.stride(2),
            "WIDTH": width,
            "HEAD_DIM": head_dim,
            "BLOCK_SIZE": k_cache.shape[1],
            "FLAT": heads == 1 or all(tensor.stride(-2) == head_dim for tensor in (k, v, k_cache, v_cache)),
            "TOKENS": rows,
            "COLUMNS": columns,
        },
        num_warps=4 if columns * rows >= 1024 else 2,
    )


def store_kv(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Writes k and v (tokens, num_kv_heads, head_dim) to their slots in the caches, in place.

    The caches' dtype may differ from k's and v's; values are converted. Gradients do not flow through a cache.

    Args:
        k: keys; any strides.
        v: values, of k's shape.
        k_cache: (num_blocks, block_size, num_kv_heads, head_dim), head_dim contiguous.
        v_cache: the same.
        slot_mapping: (tokens,) int32 or int64; −1 skips the token. On a GPU a slot beyond the cache is skipped too.

    Raises:
        KernelArgumentError: shapes, dtypes or devices do not fit.
        IndexError: a slot lies beyond the cache (PyTorch path).
    """
    _check(k, v, k_cache, v_cache, slot_mapping)
    with torch.no_grad():
        if choose("store_kv", k, v, k_cache, v_cache).fused:
            plan_store_kv(k, v, k_cache, v_cache, slot_mapping).run()
        else:
            store_kv_reference(k, v, k_cache, v_cache, slot_mapping)
