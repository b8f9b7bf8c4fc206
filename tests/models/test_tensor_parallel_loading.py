"""Each of two ranks loads its part of every weight: the sizes, and values that are the whole's when put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from medvllm.errors import MedvllmError
from medvllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from medvllm.layers.parallel import set_tensor_parallel_group

RANKS = 2


@contextmanager
def rank_of_two(rank: int) -> Iterator[None]:
    """This process as one rank of a group whose other rank is not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=RANKS)
    set_tensor_parallel_group(dist.group.WORLD)
    try:
        yield
    finally:
        set_tensor_parallel_group(None)
        dist.destroy_process_group()


def parts_of(module: Any, tensor: torch.Tensor) -> list[torch.Tensor]:
    """A fused weight's parts: q, k, v, or gate, up."""
    if isinstance(module, QKVParallelLinear):
        return list(tensor.split([module.q_size, module.kv_size, module.kv_size]))
    if isinstance(module, MergedColumnParallelLinear):
        return list(tensor.split(module.parts))
    return [tensor]


@pytest.mark.parametrize("name", ["llama-biased", "qwen2", "gemma3", "gpt2", "biogpt"])
def test_two_ranks_hold_the_whole_between_them(name: str, tiny: Callable[..., Any], ours: Callable[..., Any]) -> None:
    folder = tiny(name, vocab_size=98).folder
    whole = ours(folder)
    ranks = []
    for rank in range(RANKS):
        with rank_of_two(rank):
            ranks.append(ours(folder))
    modules = dict(whole.named_modules())
    sharded = [dict(model.named_modules()) for model in ranks]
    parameters = [dict(model.named_parameters()) for model in ranks]
    for path, tensor in whole.named_parameters():
        owner, _, kind = path.rpartition(".")
        first, second = (own[path] for own in parameters)
        if first.shape == tensor.shape:
            row_bias = isinstance(modules[owner], RowParallelLinear) and kind == "bias"
            assert torch.equal(first, tensor)
            assert torch.equal(second, torch.zeros_like(tensor) if row_bias else tensor)
            continue
        assert first.numel() == second.numel() == tensor.numel() // RANKS, path
        dim = 1 if isinstance(modules[owner], RowParallelLinear) else 0
        halves = [parts_of(own[owner], part) for own, part in zip(sharded, (first, second), strict=True)]
        joined = [torch.cat(pair, dim=dim) for pair in zip(*halves, strict=True)]
        assert torch.equal(torch.cat(joined), tensor), path


def test_a_vocabulary_that_does_not_divide_is_padded_with_zeros(
    tiny: Callable[..., Any], ours: Callable[..., Any]
) -> None:
    folder = tiny("llama").folder  # 97 tokens
    whole = ours(folder).model.embed_tokens.weight
    with rank_of_two(1):
        last = ours(folder).model.embed_tokens.weight
    assert last.shape == (49, 48)
    assert torch.equal(last[:48], whole[49:])
    assert not last[48:].any()


def test_heads_that_do_not_divide_are_refused(tiny: Callable[..., Any], ours: Callable[..., Any]) -> None:
    folder = tiny("llama", num_key_value_heads=3).folder
    with rank_of_two(0), pytest.raises(MedvllmError, match="num_key_value_heads is 3, which 2 ranks can't share"):
        ours(folder)
