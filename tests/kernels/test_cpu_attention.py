"""Paged attention and the store: native against the torch reference, and against itself in other batches and chunks."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import pytest
import torch
from medvllm_kernels import engine_native
from medvllm_kernels.cpu_attention import (
    paged_attention,
    paged_attention_reference,
    store_kv,
    store_kv_reference,
)

native_only = pytest.mark.skipif(engine_native.library() is None, reason=engine_native.status())


@dataclasses.dataclass
class Batch:
    """Sequences with the whole context in the cache; unused slots are NaN, unused table entries -1."""

    k_cache: torch.Tensor
    v_cache: torch.Tensor
    block_tables: torch.Tensor
    queries: list[torch.Tensor]  # of every position, (context, query_heads, head_dim)

    def attend(self, new: list[int], contexts: list[int] | None = None, **options: Any) -> torch.Tensor:
        contexts = contexts or [q.shape[0] for q in self.queries]
        q = torch.cat([q[c - n : c] for q, n, c in zip(self.queries, new, contexts, strict=True)])
        function = options.pop("function", paged_attention)
        result: torch.Tensor = function(
            q,
            self.k_cache,
            self.v_cache,
            self.block_tables,
            torch.tensor(contexts, dtype=torch.int32),
            torch.tensor([0, *itertools.accumulate(new)], dtype=torch.int32),
            q.shape[2] ** -0.5,
            **options,
        )
        return result


def make_batch(
    contexts: list[int],
    *,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 64,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype = torch.float32,
) -> Batch:
    torch.manual_seed(sum(contexts) + head_dim)
    blocks = [-(-context // block_size) for context in contexts]
    order = torch.randperm(sum(blocks) + 1).tolist()
    k_cache = torch.full((sum(blocks) + 1, block_size, kv_heads, head_dim), float("nan")).to(cache_dtype)
    v_cache = k_cache.clone()
    tables = torch.full((len(contexts), max(*blocks, 1) + 1), -1, dtype=torch.int32)
    for row, (context, count) in enumerate(zip(contexts, blocks, strict=True)):
        own = [order.pop() for _ in range(count)]
        tables[row, :count] = torch.tensor(own, dtype=torch.int32)
        slots = torch.tensor([own[i // block_size] * block_size + i % block_size for i in range(context)]).int()
        k, v = torch.randn(2, context, kv_heads, head_dim).to(dtype)
        store_kv(k, v, k_cache, v_cache, slots)
    queries = [torch.randn(context, heads, head_dim).to(dtype) for context in contexts]
    return Batch(k_cache, v_cache, tables, queries)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_batches_equal_the_reference(dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    choose = random.Random(7)
    for _ in range(25):
        contexts = [choose.choice([0, 1, 5, 16, 31, 33, 100, 256, 257, 600]) for _ in range(choose.randint(2, 4))]
        kv_heads = choose.choice([1, 2, 3])
        batch = make_batch(
            contexts,
            heads=kv_heads * choose.choice([1, 2, 3, 4, 7]),
            kv_heads=kv_heads,
            head_dim=choose.choice([8, 24, 64, 96, 128, 256]),
            block_size=choose.choice([1, 7, 16, 32]),
            dtype=dtype,
            cache_dtype=cache_dtype,
        )
        new = [choose.randint(0, min(context, choose.choice([1, 40, 600]))) for context in contexts]
        options = {
            "causal": choose.random() < 0.8,
            "window": choose.choice([None, None, 1, 17, 300]),
            "softcap": choose.choice([None, 5.0]),
        }
        actual = batch.attend(new, threads=choose.choice([1, 2]), **options)
        expected = batch.attend(new, function=paged_attention_reference, **options)
        tolerance = 5e-6 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("window", [1, 15, 16, 17, 31, 32, 33, 64])
def test_window_edges(window: int) -> None:
    batch = make_batch([65, 300])
    expected = batch.attend([65, 300], function=paged_attention_reference, window=window)
    torch.testing.assert_close(batch.attend([65, 300], window=window), expected, rtol=5e-6, atol=5e-6)


def test_blocks_before_the_window_are_not_read() -> None:
    batch = make_batch([200])
    expected = batch.attend([1], window=20)
    batch.block_tables[0, : (200 - 20) // 16] = -1
    assert torch.equal(batch.attend([1], window=20), expected)


@native_only
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_bit_by_bit_however_it_is_computed(cache_dtype: torch.dtype) -> None:
    contexts = [700, 33, 257]
    batch = make_batch(contexts, cache_dtype=cache_dtype)
    whole = batch.attend(contexts, threads=1)
    assert torch.equal(batch.attend(contexts, threads=2), whole)
    last = torch.stack([whole[end - 1] for end in itertools.accumulate(contexts)])
    for threads in (1, 2, 7):  # one token each: chunks of a context are split over threads
        assert torch.equal(batch.attend([1, 1, 1], threads=threads), last)
    assert torch.equal(batch.attend([100, 0, 57])[99], last[0])
    middle = batch.attend([50, 1, 1], contexts=[411, 33, 257])  # a chunk of the first prompt
    assert torch.equal(middle[:50], whole[361:411])


def test_a_head_dim_without_a_kernel_takes_the_reference() -> None:
    batch = make_batch([20], head_dim=12)
    assert torch.equal(batch.attend([3]), batch.attend([3], function=paged_attention_reference))


def test_strided_queries_and_output() -> None:
    batch = make_batch([40, 9])
    expected = batch.attend([2, 2])
    fused = torch.randn(4, 10, 64)
    fused[:, :6] = torch.cat([q[-2:] for q in batch.queries])
    out = torch.zeros(4, 8, 64)
    tensors = (torch.tensor([40, 9], dtype=torch.int32), torch.tensor([0, 2, 4], dtype=torch.int32))
    paged_attention(
        fused[:, :6], batch.k_cache, batch.v_cache, batch.block_tables, *tensors, 0.125, out=out[:, 1:7], threads=1
    )
    assert torch.equal(out[:, 1:7], expected)
    assert not out[:, 0].any()
    assert not out[:, 7].any()


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_store_writes_only_the_slots_named(dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    qkv = torch.randn(5, 9, 24).to(dtype)  # keys and values are slices of a fused projection
    k, v = qkv[:, 3:6], qkv[:, 6:]
    slots = torch.tensor([3, -1, 0, 17, 11], dtype=torch.int64)
    caches = [torch.randn(5, 4, 3, 24).to(cache_dtype) for _ in range(2)]
    expected = [cache.clone() for cache in caches]
    store_kv(k, v, *caches, slots)
    store_kv_reference(k, v, *expected, slots)
    assert torch.equal(caches[0], expected[0])
    assert torch.equal(caches[1], expected[1])
    store_kv(k[:0], v[:0], *caches, slots[:0])


def test_what_does_not_fit_is_refused() -> None:
    batch = make_batch([20])
    with pytest.raises(ValueError, match="its 1 new tokens must fit its context of 999"):
        paged_attention(
            batch.queries[0][:1],
            batch.k_cache,
            batch.v_cache,
            batch.block_tables,
            torch.tensor([999], dtype=torch.int32),
            torch.tensor([0, 1], dtype=torch.int32),
            0.125,
        )
    with pytest.raises(ValueError, match="window must be positive, or None"):
        batch.attend([1], window=0)
    with pytest.raises(ValueError, match="7 heads of 64 do not fit a cache of 2 heads of 64"):
        Batch(batch.k_cache, batch.v_cache, batch.block_tables, [torch.randn(20, 7, 64)]).attend([1])
    k = torch.randn(1, 2, 64)
    with pytest.raises(ValueError, match="slot_mapping names slot 48 of a cache of 48"):
        store_kv(k, k, batch.k_cache, batch.v_cache, torch.tensor([48]))
