"""Two ranks over gloo give the tokens of one; what can't be split is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medvllm import LLM, BeamSearchParams, SamplingParams
from medvllm.errors import MedvllmError

GREEDY = SamplingParams(temperature=0, max_tokens=24)


def test_two_ranks_equal_one(
    engine: Callable[..., LLM], prompts: list[list[int]], expected: list[list[int]], tiny: Path
) -> None:
    """Greedy in chunks and with preempted sequences, which are computed again on both ranks, and beams."""
    small = {"num_kv_blocks": 40, "block_size": 4, "max_model_len": 128, "max_num_batched_tokens": 64}
    with LLM(str(tiny), tensor_parallel_size=2, threads=1, **small) as llm:
        outputs = llm.generate(prompts[:10], GREEDY)
        assert [output.outputs[0].token_ids for output in outputs] == expected[:10]
        assert llm.stats().preemptions > 0
        beams = BeamSearchParams(beam_width=3, n=3, max_tokens=8)
        split = llm.generate(prompts[:2], beams)
        weights = llm.stats().weight_bytes
    whole = engine()
    for one, two in zip(whole.generate(prompts[:2], beams), split, strict=True):
        assert [each.token_ids for each in one.outputs] == [each.token_ids for each in two.outputs]
    assert weights < 0.6 * whole.stats().weight_bytes
    with LLM(str(tiny), tensor_parallel_size=2, threads=1) as again:  # the group was given back
        assert again.generate(prompts[:1], GREEDY)[0].outputs[0].token_ids == expected[0]


def test_heads_that_do_not_split(engine: Callable[..., LLM]) -> None:
    with pytest.raises(MedvllmError, match="num_attention_heads is 4, which 3 ranks can't share evenly"):
        engine(tensor_parallel_size=3)
