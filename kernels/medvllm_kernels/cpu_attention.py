"""Attention over a paged key-value cache on the CPU, and the store into it.

    out_i = sum_j softmax_j(softcap(scale q_i · k_j)) v_j,   softcap(s) = softcap tanh(s / softcap) where one is given

Keys and values are read where they lie: caches are (num_blocks, block_size, kv_heads, head_dim), block_tables give the
blocks of each sequence in order. The new tokens are the last of their context, so one call serves decoding (one token
a sequence), prefill and any chunk of one, also mixed. Softmax is online, over chunks of 256 keys at absolute positions:
a row's result is the same bit by bit in any batch, any split of its prompt and with any number of threads.
"""

from __future__ import annotations

import ctypes

import torch

from medvllm_kernels import engine_native

__all__ = ["MAX_HEAD_DIM", "paged_attention", "paged_attention_reference", "store_kv", "store_kv_reference"]

MAX_HEAD_DIM = 256  # larger heads, or those not a multiple of 8, take the reference
_DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}


class NativeAttention(ctypes.Structure):
    """struct AttentionCall of engine.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "out", "k_cache", "v_cache")),
        *((name, ctypes.c_void_p) for name in ("block_table", "context_lens", "cu_seqlens_q")),
        *((name, ctypes.c_int64) for name in ("q_stride", "out_stride", "block_stride", "slot_stride", "head_stride")),
        *((name, ctypes.c_int64) for name in ("table_stride", "sequences", "query_heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("block_size", "window", "causal", "activation_dtype", "cache_dtype")),
        ("scale", ctypes.c_float),
        ("softcap", ctypes.c_float),
    ]


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """(tokens, query_heads, head_dim) → the same shape and dtype, float32 or bfloat16; caches are either, too.

    Args:
        q: the new tokens of all sequences, one after the other; heads and elements contiguous.
        k_cache, v_cache: (num_blocks, block_size, kv_heads, head_dim), elements contiguous, the same strides.
        block_tables: (sequences, at least the blocks of the context) int32, read only as far as the context goes.
        context_lens: (sequences,) int32, keys of each sequence with its new tokens.
        cu_seqlens_q: (sequences + 1,) int32, where each sequence's new tokens begin and end; 0 tokens are allowed.
        scale: factor of the scores.
        causal: whether a token sees only keys up to its own position.
        window: it sees only the last `window` of these, its own included.
        softcap: bound of the scores.
        out: where the result goes; heads and elements contiguous.
        threads: those of engine_native by default.

    A token that sees no key gives 0. Raises ValueError where shapes, dtypes or lengths do not fit.
    """
    _check(q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, window, out)
    _, query_heads, head_dim = q.shape
    _, block_size, kv_heads, _ = k_cache.shape
    library = engine_native.library()
    if library is None or head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return paged_attention_reference(
            q, k_cache, v_cache, block_tables, context_lens, cu_seqlens_q, scale, causal, window, softcap, out
        )
    if out is None:
        out = torch.empty(q.shape, dtype=q.dtype)
    call = NativeAttention(
        q.data_ptr(),
        out.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        block_tables.data_ptr(),
        context_lens.data_ptr(),
        cu_seqlens_q.data_ptr(),
        q.stride(0),
        out.stride(0),
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        block_tables.stride(0),
        context_lens.numel(),
        query_heads,
        kv_heads,
        head_dim,
        block_size,
        window or 0,
        int(causal),
        _DTYPE_CODES[q.dtype],
        _DTYPE_CODES[k_cache.dtype],
        scale,
        softcap or 0.0,
    )
    library.mv_engine_attention(ctypes.byref(call), threads or engine_native.threads())
    return out


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    scale: float,
    causal: bool = True,
    window: int | None = None,
    softcap: float | None = None,
    out: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """The same in torch, in float, sequence by sequence over gathered keys; `threads` is torch's own."""
    result = torch.zeros_like(q) if out is None else out.zero_()
    block_size, groups = k_cache.shape[1], q.shape[1] // k_cache.shape[2]
    bounds = cu_seqlens_q.tolist()
    for sequence, context in enumerate(context_lens.tolist()):
        begin, end = bounds[sequence], bounds[sequence + 1]
        if begin == end or context == 0:
            continue
        first = context - (end - begin)
        low = max(0, first - window + 1) if window else 0  # blocks before it may have been given away
        keys = torch.arange(low, context)
        slots = block_tables[sequence, keys // block_size].long(), keys % block_size
        k = k_cache[slots].float().repeat_interleave(groups, dim=1)  # (keys, query_heads, head_dim)
        v = v_cache[slots].float().repeat_interleave(groups, dim=1)
        scores = torch.einsum("qhd,khd->hqk", q[begin:end].float() * scale, k)
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        distance = torch.arange(first, context)[:, None] - keys[None]
        hidden = torch.zeros_like(distance, dtype=torch.bool)
        if causal:
            hidden |= distance < 0
        if window:
            hidden |= distance >= window
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1).nan_to_num(0.0)
        result[begin:end] = torch.einsum("hqk,khd->qhd", weights, v).to(result.dtype)
    return result


def store_kv(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    threads: int | None = None,
) -> None:
    """Writes k and v (tokens, kv_heads, head_dim) into the caches, rounded to their dtype.

    slot_mapping (tokens,) is int32 or int64: block * block_size + place in it; a negative slot is left out.
    """
    _check_store(k, v, k_cache, v_cache, slot_mapping)
    library = engine_native.library()
    if library is None:
        return store_kv_reference(k, v, k_cache, v_cache, slot_mapping)
    slots = slot_mapping.to(torch.int64).contiguous()
    library.mv_engine_store_kv(
        k.data_ptr(),
        v.data_ptr(),
        k.stride(0),
        v.stride(0),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        slots.data_ptr(),
        k.shape[0],
        k.shape[1],
        k.shape[2],
        k_cache.shape[1],
        k_cache.stride(0),
        k_cache.stride(1),
        k_cache.stride(2),
        _DTYPE_CODES[k.dtype],
        _DTYPE_CODES[k_cache.dtype],
        threads or engine_native.threads(),
    )


def store_kv_reference(
    k: torch.Tensor,
    v: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    *,
    threads: int | None = None,
) -> None:
    """The same in torch."""
    kept = slot_mapping >= 0
    slots = slot_mapping[kept].long()
    place = slots // k_cache.shape[1], slots % k_cache.shape[1]
    k_cache[place] = k[kept].to(k_cache.dtype)
    v_cache[place] = v[kept].to(v_cache.dtype)


def _check_caches(k_cache: torch.Tensor, v_cache: torch.Tensor, heads_dim: tuple[int, int]) -> None:
    if k_cache.dim() != 4 or k_cache.shape != v_cache.shape or k_cache.stride() != v_cache.stride():
        raise ValueError(
            "k_cache and v_cache must be (num_blocks, block_size, kv_heads, head_dim) with the same strides, "
            f"got {tuple(k_cache.shape)} and {tuple(v_cache.shape)}"
        )
    if k_cache.dtype not in _DTYPE_CODES or k_cache.dtype != v_cache.dtype or k_cache.stride(3) != 1:
        raise ValueError(
            f"caches must be both float32 or both bfloat16 with contiguous heads, got {k_cache.dtype}, {v_cache.dtype}"
        )
    heads, head_dim = heads_dim
    if k_cache.shape[3] != head_dim or heads % k_cache.shape[2]:
        raise ValueError(
            f"{heads} heads of {head_dim} do not fit a cache of {k_cache.shape[2]} heads of {k_cache.shape[3]}"
        )


def _check(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    window: int | None,
    out: torch.Tensor | None,
) -> None:
    if q.dim() != 3 or q.dtype not in _DTYPE_CODES or q.stride()[1:] != (q.shape[2], 1):
        raise ValueError(
            "q must be float32 or bfloat16 (tokens, query_heads, head_dim) with contiguous heads, "
            f"got {q.dtype} {tuple(q.shape)}"
        )
    _check_caches(k_cache, v_cache, (q.shape[1], q.shape[2]))
    if out is not None and (out.shape != q.shape or out.dtype != q.dtype or out.stride()[1:] != q.stride()[1:]):
        raise ValueError(f"out must be like q, {q.dtype} {tuple(q.shape)}, got {out.dtype} {tuple(out.shape)}")
    if window is not None and window < 1:
        raise ValueError(f"window must be positive, or None for no window, got {window}")
    check_batch(q.shape[0], k_cache, block_tables, context_lens, cu_seqlens_q)


def check_batch(
    tokens: int,
    k_cache: torch.Tensor,
    block_tables: torch.Tensor,
    context_lens: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
) -> None:
    """Raises ValueError where a batch's lengths, bounds and block tables do not fit each other."""
    sequences = context_lens.numel()
    for name, tensor in (
        ("block_tables", block_tables),
        ("context_lens", context_lens),
        ("cu_seqlens_q", cu_seqlens_q),
    ):
        if tensor.dtype != torch.int32 or tensor.device.type != "cpu" or tensor.stride(-1) != 1:
            raise ValueError(f"{name} must be contiguous int32 on the CPU, got {tensor.dtype} on {tensor.device}")
    if block_tables.dim() != 2 or block_tables.shape[0] != sequences or cu_seqlens_q.numel() != sequences + 1:
        raise ValueError(
            f"{sequences} sequences need block_tables ({sequences}, blocks) and {sequences + 1} cu_seqlens_q, "
            f"got {tuple(block_tables.shape)} and {tuple(cu_seqlens_q.shape)}"
        )
    lengths, bounds = context_lens.tolist(), cu_seqlens_q.tolist()
    if bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"cu_seqlens_q must go from 0 to {tokens} tokens, got {bounds[0]} to {bounds[-1]}")
    room = block_tables.shape[1] * k_cache.shape[1]
    for sequence, context in enumerate(lengths):
        new = bounds[sequence + 1] - bounds[sequence]
        if not 0 <= new <= context <= room:
            raise ValueError(
                f"sequence {sequence}: its {new} new tokens must fit its context of {context}, that its {room} slots"
            )


def _check_store(
    k: torch.Tensor, v: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    contiguous = (k.shape[-1], 1)
    if (
        k.dim() != 3
        or k.shape != v.shape
        or k.dtype not in _DTYPE_CODES
        or k.dtype != v.dtype
        or k.stride()[1:] != contiguous
        or v.stride()[1:] != contiguous
    ):
        raise ValueError(
            "k and v must be float32 or bfloat16 (tokens, kv_heads, head_dim) with contiguous heads, "
            f"got {k.dtype} {tuple(k.shape)} and {v.dtype} {tuple(v.shape)}"
        )
    _check_caches(k_cache, v_cache, (k.shape[1], k.shape[2]))
    if k_cache.shape[2] != k.shape[1]:
        raise ValueError(f"{k.shape[1]} heads do not fit a cache of {k_cache.shape[2]}")
    check_slots(slot_mapping, k.shape[0], k_cache)


def check_slots(slot_mapping: torch.Tensor, tokens: int, k_cache: torch.Tensor) -> None:
    """Raises ValueError where slots are not those of the cache."""
    if slot_mapping.shape != (tokens,) or slot_mapping.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"slot_mapping must be int32 or int64 ({tokens},), got {slot_mapping.dtype} {tuple(slot_mapping.shape)}"
        )
    slots = k_cache.shape[0] * k_cache.shape[1]
    highest = engine_native.span(slot_mapping)[1] if tokens else -1
    if highest >= slots:
        raise ValueError(f"slot_mapping names slot {highest} of a cache of {slots}")
