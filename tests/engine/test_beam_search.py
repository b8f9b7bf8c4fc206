"""Beams equal those of transformers, in tokens and scores, also when the cache is too small for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvllm import LLM, BeamSearchParams, SamplingParams
from medvllm.errors import MedvllmError

CASES: dict[str, dict[str, Any]] = {
    "width 2": {"num_beams": 2},
    "width 4": {"num_beams": 4},
    "width 5, all returned": {"num_beams": 5, "num_return_sequences": 5},
    "long favoured": {"num_beams": 3, "length_penalty": 2.0},
    "short favoured": {"num_beams": 3, "length_penalty": -1.0, "num_return_sequences": 3},
    "no penalty": {"num_beams": 3, "length_penalty": 0.0},
    "early stopping": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
    "never early": {"num_beams": 3, "early_stopping": "never"},
    "width 1": {"num_beams": 1},
}


def beams_of(reference: Any, prompt: list[int], count: int, **options: Any) -> tuple[list[list[int]], list[float]]:
    """transformers' beams of one prompt without padding, and their scores."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        found = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=259,
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    tokens = [[token for token in row.tolist() if token != 259] for row in found.sequences[:, len(prompt) :]]
    scores = getattr(found, "sequences_scores", None)
    return tokens, [] if scores is None else scores.tolist()


@pytest.fixture(scope="module")
def many_ends(reference: Any) -> Any:
    """The tokens that end a text in these tests: common ones, so that beams do end."""
    return [256, 10, 77, 130]


def beam_params(options: dict[str, Any], count: int, ends: list[int]) -> BeamSearchParams:
    return BeamSearchParams(
        beam_width=options["num_beams"],
        n=options.get("num_return_sequences", 1),
        length_penalty=options.get("length_penalty", 1.0),
        early_stopping=options.get("early_stopping", False),
        max_tokens=count,
        stop_token_ids=ends,
    )


@functools.cache
def expected_beams(
    reference: Any, case: str, prompt: tuple[int, ...], ends: tuple[int, ...]
) -> tuple[list[list[int]], list[float]]:
    """transformers' answer, once for both sizes of our cache: it takes most of the time."""
    return beams_of(reference, list(prompt), 16, eos_token_id=list(ends), **CASES[case])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cache", ["roomy", "tight"])
def test_beams_equal_transformers(
    case: str, cache: str, engine: Callable[..., LLM], reference: Any, prompts: list[list[int]], many_ends: list[int]
) -> None:
    options = CASES[case]
    ends = tuple(many_ends)
    small = {"num_kv_blocks": 30, "block_size": 4, "max_model_len": 120} if cache == "tight" else {}
    llm = engine(**small)
    outputs = llm.generate(prompts[:10], beam_params(options, 16, many_ends))
    for prompt, output in zip(prompts, outputs, strict=False):
        tokens, scores = expected_beams(reference, case, tuple(prompt), ends)
        assert [each.token_ids for each in output.outputs] == tokens
        if scores:
            assert [each.cumulative_logprob for each in output.outputs] == pytest.approx(scores, abs=1e-4, rel=1e-5)
    assert llm.stats().kv_blocks_used == 0
    if cache == "tight" and options["num_beams"] > 2:
        assert llm.stats().preemptions > 0


def test_without_end_tokens(engine: Callable[..., LLM], reference: Any, prompts: list[list[int]]) -> None:
    params = BeamSearchParams(beam_width=3, n=3, max_tokens=12, ignore_eos=True)
    output = engine(block_size=4).generate([prompts[0]], params)[0]
    tokens, _ = beams_of(reference, prompts[0], 12, eos_token_id=None, num_beams=3, num_return_sequences=3)
    assert [each.token_ids for each in output.outputs] == tokens
    assert {each.finish_reason for each in output.outputs} == {"length"}


def test_beside_other_requests(
    engine: Callable[..., LLM], reference: Any, prompts: list[list[int]], generate: Any
) -> None:
    """Beams, samples and greedy requests share steps."""
    llm = engine(block_size=4)
    params: list[SamplingParams | BeamSearchParams]
    params = [BeamSearchParams(beam_width=3, max_tokens=10), SamplingParams(temperature=0, max_tokens=14)] * 3
    params.append(SamplingParams(temperature=1, n=4, max_tokens=5, seed=1, ignore_eos=True))
    outputs = llm.generate(prompts[:7], params)
    for index in (0, 2, 4):
        assert outputs[index].outputs[0].token_ids == beams_of(reference, prompts[index], 10, num_beams=3)[0][0]
        assert outputs[index + 1].outputs[0].token_ids == generate(prompts[index + 1], 14, do_sample=False)
    assert [len(each.token_ids) for each in outputs[6].outputs] == [5] * 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beam_width": 0}, "beam_width must be at least 1, got 0"),
        ({"beam_width": 2, "n": 3}, "n must be in"),
        ({"beam_width": 2, "early_stopping": "maybe"}, "early_stopping"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvllmError, match=words):
        BeamSearchParams(**options)


def test_more_beams_than_seats(engine: Callable[..., LLM]) -> None:
    with pytest.raises(MedvllmError, match="beam_width must be at most max_num_seqs=2, got 3"):
        engine(max_num_seqs=2).generate("a", BeamSearchParams(beam_width=3))
