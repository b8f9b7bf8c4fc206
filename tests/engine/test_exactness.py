"""Greedy float32 tokens equal those of transformers, whatever the engine does to batch, cache and prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from medvllm import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=24)

CASES: dict[str, dict[str, Any]] = {
    "one at a time": {"max_num_seqs": 1},
    "batches of 7": {"max_num_seqs": 7},
    "all at once": {},
    "chunks of 8 tokens": {"max_num_seqs": 8, "max_num_batched_tokens": 8},
    "no chunks": {"enable_chunked_prefill": False},
    "no prefix cache": {"enable_prefix_caching": False},
    "preempted": {"num_kv_blocks": 80, "block_size": 4, "max_model_len": 128},
    "preempted without prefix cache": {
        "num_kv_blocks": 80, "block_size": 4, "max_model_len": 128, "enable_prefix_caching": False,
    },
    "preempted in chunks": {
        "num_kv_blocks": 80, "block_size": 4, "max_model_len": 128, "max_num_seqs": 16, "max_num_batched_tokens": 16,
    },
    "blocks of 1": {"block_size": 1},
    "sdpa": {"attention_impl": "sdpa"},
    "manual": {"attention_impl": "manual", "max_num_batched_tokens": 100},
    "deterministic": {"deterministic": True},
    "no pool": {"memory_pooling": False},
    "small pool": {"pool_max_bytes": 10000},
    "cache in float32 by name": {"kv_cache_dtype": "float32", "dtype": "fp32"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_greedy_equals_transformers(
    case: str, engine: Callable[..., LLM], prompts: list[list[int]], expected: list[list[int]]
) -> None:
    llm = engine(**CASES[case])
    outputs = llm.generate(prompts, GREEDY)
    assert [output.outputs[0].token_ids for output in outputs] == expected
    stats = llm.stats()
    assert stats.kv_blocks_used == 0
    assert stats.kv_blocks_peak <= stats.kv_blocks_total
    assert (stats.preemptions > 0) == ("preempted" in case)
    assert (stats.prefix_cache_hit_tokens > 0) == (case not in ("no prefix cache", "preempted without prefix cache"))
    again = llm.generate(prompts[:8], GREEDY)
    assert [output.outputs[0].token_ids for output in again] == expected[:8]


def test_without_native_code(tiny: Any, prompts: list[list[int]], expected: list[list[int]]) -> None:
    """The torch layers give the same tokens; in a process of its own, for the library is probed once."""
    import json
    import os
    import subprocess
    import sys

    code = (
        "import json, sys\n"
        "from medvllm import LLM, SamplingParams\n"
        "folder, prompts = json.load(sys.stdin)\n"
        "llm = LLM(folder)\n"
        "stats = llm.stats()\n"
        "assert (stats.attention_kernel, stats.linear_kernel) == ('torch-sdpa', 'torch'), stats\n"
        "outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=24))\n"
        "print(json.dumps([output.outputs[0].token_ids for output in outputs]))\n"
    )
    environment = os.environ | {"MEDVLLM_DISABLE_NATIVE": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(tiny), prompts[:16]]),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected[:16]


def test_many_requests_through_a_cache_for_few(engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    """500 requests of mixed length with a cache for 20 of the longest finish, with the tokens of a large cache."""
    many = [[i % 256, *prompts[i % 64][: i % 60]] for i in range(500)]
    params = [SamplingParams(temperature=0, max_tokens=1 + i % 37, ignore_eos=True) for i in range(500)]
    roomy = engine().generate(many, params)
    tight = engine(num_kv_blocks=400, block_size=4, max_model_len=100, max_num_seqs=100)
    outputs = tight.generate(many, params)
    assert [output.outputs[0].token_ids for output in outputs] == [output.outputs[0].token_ids for output in roomy]
    stats = tight.stats()
    assert stats.preemptions > 0
    assert stats.kv_blocks_peak == stats.kv_blocks_total == 400
    assert stats.kv_blocks_used == 0
    assert stats.output_tokens == sum(param.max_tokens or 0 for param in params)


def test_results_come_in_the_order_of_the_prompts(engine: Callable[..., LLM]) -> None:
    llm = engine(max_num_seqs=4)
    params = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (9, 1, 5, 3, 2, 7)]
    outputs = llm.generate(["abc"] * 6, params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [9, 1, 5, 3, 2, 7]
    assert all(output.outputs[0].finish_reason == "length" for output in outputs)
    assert [output.prompt for output in outputs] == ["abc"] * 6
