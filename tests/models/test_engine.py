"""Every architecture through the engine: batches, chunks, shared prefixes and preemption change no greedy token."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from medvllm import LLM, SamplingParams

OURS = ["llama", "mistral", "qwen2-window", "qwen3", "gemma3", "gpt2-biomedlm", "biogpt"]
THROUGH_TRANSFORMERS = ["opt", "gpt-neox", "gemma2", "mixtral", "granite", "bloom", "mamba"]


def prompts() -> list[list[int]]:
    """Prompts of 1 to 40 tokens, three of them with the same beginning."""
    draw = random.Random(7)
    lists = [[draw.randrange(3, 97) for _ in range(length)] for length in (1, 40, 13, 7, 22)]
    return lists + [lists[1][:33] + tail for tail in ([5, 6], [9])]


@pytest.mark.parametrize("name", OURS)
def test_own_layers(name: str, tiny: Callable[..., Any]) -> None:
    model = tiny(name)
    with LLM(str(model.folder), dtype="float32", **small()) as llm:
        compare(llm, model)
        assert llm.stats().runner == "medvllm"
        assert llm.stats().preemptions > 0


@pytest.mark.parametrize("name", THROUGH_TRANSFORMERS)
def test_through_transformers(name: str, tiny: Callable[..., Any]) -> None:
    model = tiny(name)
    with pytest.warns(RuntimeWarning, match="runs through transformers"):
        llm = LLM(str(model.folder), dtype="float32", **small())
    with llm:
        compare(llm, model)
        assert llm.stats().runner == "transformers"


def small() -> dict[str, Any]:
    """Options under which seven prompts are chunked and do not fit the cache together."""
    return {"block_size": 4, "num_kv_blocks": 34, "max_num_batched_tokens": 16, "max_num_seqs": 6, "max_model_len": 128}


def compare(llm: LLM, model: Any) -> None:
    outputs = llm.generate(prompts(), SamplingParams(temperature=0, max_tokens=18, ignore_eos=True))
    for prompt, output in zip(prompts(), outputs, strict=True):
        assert output.outputs[0].token_ids == model.greedy(prompt, 18), len(prompt)
