"""On a GPU: greedy tokens, CUDA graphs against eager steps, beams, deterministic mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medvllm import LLM, BeamSearchParams, SamplingParams

pytestmark = pytest.mark.cuda
GREEDY = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)


@pytest.fixture
def gpu(engine: Callable[..., LLM]) -> Callable[..., LLM]:
    """Makes engines on the GPU; skips where there is none."""
    from medvllm.utils.device import unavailable

    reason = unavailable("cuda")
    if reason:
        pytest.skip(reason)
    return lambda **options: engine(device="cuda", num_kv_blocks=options.pop("num_kv_blocks", 2000), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"enforce_eager": True},
        {"attention_impl": "sdpa"},
        {"attention_impl": "manual", "max_num_batched_tokens": 64},
        {"memory_pooling": False},
        {"num_kv_blocks": 80, "block_size": 4, "max_model_len": 128},
    ],
)
def test_greedy_equals_transformers(
    options: dict[str, Any], gpu: Callable[..., LLM], prompts: list[list[int]], expected: list[list[int]]
) -> None:
    llm = gpu(dtype="float32", **options)
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=24))
    assert [output.outputs[0].token_ids for output in outputs] == expected
    graphs = llm.stats().cuda_graphs
    assert (graphs > 0) == (not options.get("enforce_eager") and "attention_impl" not in options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_graphs_equal_eager_steps(dtype: str, gpu: Callable[..., LLM], prompts: list[list[int]]) -> None:
    found = [
        [output.outputs[0].token_ids for output in gpu(dtype=dtype, enforce_eager=eager).generate(prompts[:13], GREEDY)]
        for eager in (False, True)
    ]
    same = sum(a == b for left, right in zip(*found, strict=True) for a, b in zip(left, right, strict=True))
    assert same >= 0.9 * 13 * 24  # a rounding may tip a close choice


def test_beams_equal_the_cpu(gpu: Callable[..., LLM], engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    params = BeamSearchParams(beam_width=4, n=4, max_tokens=12)
    there = gpu(dtype="float32", block_size=4).generate(prompts[:6], params)
    here = engine(block_size=4).generate(prompts[:6], params)
    for one, two in zip(there, here, strict=True):
        assert [each.token_ids for each in one.outputs] == [each.token_ids for each in two.outputs]


def test_deterministic(gpu: Callable[..., LLM], prompts: list[list[int]]) -> None:
    """In bfloat16 a request's tokens are the same alone and in a crowd."""
    alone = gpu(deterministic=True, dtype="bfloat16", max_num_seqs=1)
    crowd = gpu(deterministic=True, dtype="bfloat16", max_num_batched_tokens=64)
    together = crowd.generate(prompts, GREEDY)
    for index in range(6):
        single = alone.generate([prompts[index]], GREEDY)[0].outputs[0].token_ids
        assert single == together[index].outputs[0].token_ids


def test_statistics(gpu: Callable[..., LLM]) -> None:
    llm = gpu()
    llm.generate("abc", GREEDY)
    stats = llm.stats()
    assert stats.device == "cuda"
    assert stats.peak_memory_bytes > stats.weight_bytes
    assert stats.pool is not None
    assert stats.pool.device.startswith("cuda")
