"""Sampling: distributions, seeds, penalties, log-probabilities, stops, and text held to a schema."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from medvllm_kernels import cpu_sampling, engine_native
from transformers.generation import logits_process as hf

from medvllm import LLM, SamplingParams
from medvllm.errors import MedvllmError
from medvllm.layers.sampler import SamplingRows, sample, sample_reference

DRAWS = 20000
# Of a chi-square test with 40 degrees of freedom at most, 90 is passed by chance once in 10^5.
FILTERS: dict[str, dict[str, float]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top-k": {"top_k": 7},
    "top-p": {"top_p": 0.8},
    "min-p": {"min_p": 0.1},
    "all": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
}


def rows(count: int, uniform: torch.Tensor, **settings: float) -> SamplingRows:
    def column(name: str, default: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((count,), settings.get(name, default), dtype=dtype)

    return SamplingRows(
        column("temperature", 1.0, torch.float32),
        column("top_k", 0, torch.int64),
        column("top_p", 1.0, torch.float32),
        column("min_p", 0.0, torch.float32),
        uniform,
    )


def _columns(settings: SamplingRows) -> tuple[torch.Tensor, ...]:
    return settings.temperature, settings.top_k, settings.top_p, settings.min_p, settings.uniform


def warped(logits: torch.Tensor, settings: dict[str, float]) -> torch.Tensor:
    """The distribution that transformers' warpers leave of logits (vocab,)."""
    scores = logits.unsqueeze(0)
    warpers: list[Any] = [hf.TemperatureLogitsWarper(settings.get("temperature", 1.0))]
    if "top_k" in settings:
        warpers.append(hf.TopKLogitsWarper(int(settings["top_k"])))
    if "top_p" in settings:
        warpers.append(hf.TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        warpers.append(hf.MinPLogitsWarper(settings["min_p"]))
    for warper in warpers:
        scores = warper(None, scores)
    return scores.softmax(-1)[0]


@pytest.mark.parametrize("case", FILTERS)
@pytest.mark.parametrize("vocab", [41, 1000])
@pytest.mark.parametrize("by", [sample, sample_reference])
def test_distribution(by: Callable[..., torch.Tensor], case: str, vocab: int) -> None:
    """Chi-square of 20,000 draws against transformers' distribution; nothing outside it is ever drawn."""
    torch.manual_seed(0)
    logits = torch.randn(vocab) * (2 if vocab < 100 else 4)
    probs = warped(logits, FILTERS[case])
    uniform = torch.rand(DRAWS, dtype=torch.float64)
    counts = Counter(by(logits.repeat(DRAWS, 1), rows(DRAWS, uniform, **FILTERS[case])).tolist())
    assert all(probs[token] > 0 for token in counts)
    likely = [token for token in range(vocab) if probs[token] * DRAWS >= 5]
    chi2 = sum((counts[token] - probs[token].item() * DRAWS) ** 2 / (probs[token].item() * DRAWS) for token in likely)
    degrees = len(likely) - 1
    assert chi2 < degrees + 5 * math.sqrt(2 * degrees) + 10


@pytest.mark.skipif(engine_native.library() is None, reason=engine_native.status())
@pytest.mark.parametrize("case", FILTERS)
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
def test_native_choices_are_the_references(case: str, spread: float) -> None:
    torch.manual_seed(2)
    logits, uniform = torch.randn(400, 1003) * spread, torch.rand(400, dtype=torch.float64)
    logits[:, ::7] = -math.inf  # as a grammar forbids tokens
    settings = rows(400, uniform, **FILTERS[case])
    same = sample(logits, settings) == sample_reference(logits, settings)
    assert int((~same).sum()) <= 1  # a number that falls on the border between two tokens, to rounding
    assert torch.equal(sample(logits, settings), cpu_sampling.sample(logits, *_columns(settings), threads=3))


FLAT: list[dict[str, float]] = [
    {"top_p": 0.9},
    {"top_p": 0.3, "temperature": 1.5},
    {"top_p": 1 - 1e-6},
    {"min_p": 0.01},
    {"top_p": 0.95, "min_p": 0.2, "temperature": 0.8},
    {"top_p": 0.95, "temperature": 1e6},
]


@pytest.mark.skipif(engine_native.library() is None, reason=engine_native.status())
@pytest.mark.parametrize("settings", FLAT)
@pytest.mark.parametrize("spread", [0.0, 0.4, 2.0])
def test_rows_in_which_thousands_of_tokens_may_be_chosen(settings: dict[str, float], spread: float) -> None:
    """These are not put in order to be chosen from; equal ones are still taken by their number."""
    torch.manual_seed(5)
    logits, uniform = torch.randn(40, 9001) * spread, torch.rand(40, dtype=torch.float64)
    uniform[0], uniform[1] = 0.0, 1 - 2.0**-53
    logits[:, ::9] = -math.inf
    logits[:, 1::9] = logits[:, 2:3]
    told = rows(40, uniform, **settings)
    found = sample(logits, told)
    ordered, tokens = logits.double().sort(dim=-1, descending=True, stable=True)
    weights = ((ordered - ordered[:, :1]) / settings.get("temperature", 1.0)).exp()
    before = weights.cumsum(-1) - weights
    kept = weights.where(before < told.top_p.double().unsqueeze(1) * weights.sum(-1, keepdim=True), 0.0)
    kept = kept.where(kept >= told.min_p.unsqueeze(1), 0.0)
    places = (kept.cumsum(-1) <= uniform.unsqueeze(1) * kept.sum(-1, keepdim=True)).sum(-1, keepdim=True)
    places = places.minimum((kept > 0).sum(-1, keepdim=True) - 1)
    expected = tokens.gather(1, places).squeeze(1)
    assert int((found != expected).sum()) <= 1, (found != expected).nonzero()


def test_distribution_of_a_flat_row() -> None:
    """Chi-square of 8,000 draws by top-p among 5,000 tokens, in 40 groups of them."""
    torch.manual_seed(6)
    logits = torch.randn(5000)
    probs = warped(logits, {"top_p": 0.9})
    tokens = sample(logits.repeat(8000, 1), rows(8000, torch.rand(8000, dtype=torch.float64), top_p=0.9))
    assert bool((probs[tokens] > 0).all())
    found, expected = (
        torch.zeros(40).index_add_(0, index % 40, weights)
        for index, weights in ((tokens, torch.ones(8000)), (torch.arange(5000), 8000 * probs))
    )
    assert float(((found - expected) ** 2 / expected).sum()) < 39 + 5 * math.sqrt(2 * 39) + 10


EDGES: list[dict[str, float]] = [
    {"top_k": 10**6},  # more than there are
    {"top_k": 1},
    {"top_p": 1e-9},
    {"top_p": 1 - 1e-7},
    {"min_p": 1.0},  # none but the likeliest and its equals
    {"top_k": 10**6, "top_p": 1e-9, "min_p": 1.0},
    {"temperature": 1e-6},
    {"temperature": 100.0, "top_k": 3},
]


@pytest.mark.parametrize("settings", EDGES)
def test_the_ends_of_the_settings_ranges(settings: dict[str, float]) -> None:
    """Native and reference alike, at the smallest and greatest random numbers too."""
    torch.manual_seed(4)
    logits = torch.randn(50, 333) * 4
    logits[:, 10] = -math.inf
    uniform = torch.rand(50, dtype=torch.float64)
    uniform[0], uniform[1] = 0.0, 1 - 2.0**-53
    told = rows(50, uniform, **settings)
    found = sample(logits, told)
    assert int((found != sample_reference(logits, told)).sum()) <= 1
    assert 10 not in found.tolist()
    if settings.get("temperature") == 1e-6 or settings.get("top_k") == 1 or settings.get("min_p") == 1:
        assert torch.equal(found, logits.argmax(-1))


def test_an_infinite_logit_is_taken() -> None:
    logits = torch.randn(2, 300)
    logits[:, 123] = math.inf
    for filters in ({}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}):
        if engine_native.library() is not None:
            assert sample(logits, rows(2, torch.tensor([0.0, 0.9]).double(), **filters)).tolist() == [123, 123]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e300])
def test_temperatures_beyond_float32(temperature: float, engine: Callable[..., LLM]) -> None:
    """Towards 0 they are greedy, towards infinity every token is as likely."""
    llm = engine()
    params = SamplingParams(temperature=temperature, seed=3, max_tokens=12, ignore_eos=True)
    found = llm.generate("abc", params)[0].outputs[0].token_ids
    greedy = llm.generate("abc", params.clone(temperature=0))[0].outputs[0].token_ids
    assert (found == greedy) == (temperature < 1)
    assert len(set(found)) > 3 or temperature < 1


def test_rows_that_allow_one_token_or_none() -> None:
    logits = torch.full((3, 200), -math.inf)
    logits[1, 77], logits[2, :] = -3.0, math.nan
    for filters in ({}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}):
        tokens = sample(logits, rows(3, torch.full((3,), 0.999, dtype=torch.float64), **filters)).tolist()
        assert tokens[1] == 77
        assert all(0 <= token < 200 for token in tokens)


def test_nucleus_wider_than_the_first_try() -> None:
    """A flat row of 1,000 tokens needs more than those that are looked at first."""
    logits = torch.linspace(0, 0.5, 1000)
    probs = warped(logits, {"top_p": 0.9})
    uniform = torch.arange(0, 1, 1 / 5000, dtype=torch.float64)
    tokens = sample(logits.repeat(5000, 1), rows(5000, uniform, top_p=0.9))
    assert set(tokens.tolist()) == set(probs.nonzero().squeeze(1).tolist())


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(1)
    logits, uniform = torch.randn(30, 500) * 3, torch.rand(30, dtype=torch.float64)
    settings = rows(30, uniform, top_p=0.9)
    mixed = SamplingRows(
        settings.temperature, (torch.arange(30) % 3) * 10, settings.top_p, torch.linspace(0, 0.2, 30), uniform
    )
    together = sample(logits, mixed).tolist()
    for index in range(30):
        one = slice(index, index + 1)
        alone = SamplingRows(
            mixed.temperature[one], mixed.top_k[one], mixed.top_p[one], mixed.min_p[one], mixed.uniform[one]
        )
        assert sample(logits[one], alone).item() == together[index]


def test_drawn_by_the_engine(engine: Callable[..., LLM], reference: Any) -> None:
    """First tokens of 3,000 samples follow the model's distribution."""
    prompt = [72, 101, 108]
    outputs = [
        each
        for output in engine().generate(
            [prompt] * 60, SamplingParams(temperature=0.8, top_k=12, n=50, max_tokens=1, ignore_eos=True)
        )
        for each in output.outputs
    ]
    counts = Counter(each.token_ids[0] for each in outputs)
    with torch.inference_mode():
        probs = warped(reference(torch.tensor([prompt])).logits[0, -1], {"temperature": 0.8, "top_k": 12})
    expected = {token: probs[token].item() * len(outputs) for token in probs.nonzero().squeeze(1).tolist()}
    assert set(counts) <= set(expected)
    chi2 = sum((counts[token] - value) ** 2 / value for token, value in expected.items() if value >= 5)
    assert chi2 < 45  # 11 degrees of freedom; by chance less than once in 10^5


def test_seed_fixes_a_request_in_any_batch(engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=11, max_tokens=12, n=2)
    alone = engine().generate([prompts[5]], params)[0]
    crowd = [SamplingParams(temperature=1.0, max_tokens=9)] * 63
    tight = engine(num_kv_blocks=80, block_size=4, max_model_len=128)
    beside = tight.generate([*prompts[:5], prompts[5], *prompts[6:]], [*crowd[:5], params, *crowd[5:]])[5]
    assert [each.token_ids for each in alone.outputs] == [each.token_ids for each in beside.outputs]
    assert alone.outputs[0].token_ids != alone.outputs[1].token_ids
    other = engine().generate([prompts[5]], params.clone(seed=12))[0]
    assert other.outputs[0].token_ids != alone.outputs[0].token_ids


def test_engine_seed(engine: Callable[..., LLM]) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    texts = [engine(seed=seed).generate("abc", params)[0].outputs[0].token_ids for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_repetition_penalty_equals_transformers(
    engine: Callable[..., LLM], prompts: list[list[int]], generate: Callable[..., list[int]]
) -> None:
    params = SamplingParams(temperature=0, repetition_penalty=1.4, max_tokens=20)
    outputs = engine(num_kv_blocks=60, block_size=4, max_model_len=128).generate(prompts[:12], params)
    for prompt, output in zip(prompts, outputs, strict=False):
        assert output.outputs[0].token_ids == generate(prompt, 20, do_sample=False, repetition_penalty=1.4)


@pytest.mark.parametrize("kind", ["presence_penalty", "frequency_penalty"])
def test_presence_and_frequency(kind: str, engine: Callable[..., LLM], reference: Any) -> None:
    """Greedy with a penalty equals the same choice made by hand."""
    prompt: list[int] = [10, 20, 30]
    tokens: list[int] = []
    for _ in range(16):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens])).logits[0, -1].numpy().copy()
        for token, count in Counter(tokens).items():
            logits[token] -= 2.0 * (count if kind == "frequency_penalty" else 1)
        tokens.append(int(logits.argmax()))
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True).clone(**{kind: 2.0})
    assert engine().generate([prompt], params)[0].outputs[0].token_ids == tokens


def test_logprobs_equal_transformers(engine: Callable[..., LLM], reference: Any, prompts: list[list[int]]) -> None:
    params = SamplingParams(temperature=0.7, max_tokens=8, logprobs=4, prompt_logprobs=2, seed=3, ignore_eos=True)
    outputs = engine(max_num_batched_tokens=64, enable_chunked_prefill=True).generate(prompts[:6], params)
    for prompt, output in zip(prompts, outputs, strict=False):
        completion = output.outputs[0]
        with torch.inference_mode():
            truth = reference(torch.tensor([prompt + completion.token_ids])).logits[0].log_softmax(-1)
        assert completion.logprobs is not None
        for place, entry in enumerate(completion.logprobs):
            row = truth[len(prompt) - 1 + place]
            assert completion.token_ids[place] in entry
            assert set(row.topk(4).indices.tolist()) <= set(entry)
            for token, found in entry.items():
                assert found.logprob == pytest.approx(row[token].item(), abs=1e-4)
                assert found.rank == int((row > row[token]).sum()) + 1
        assert completion.cumulative_logprob == pytest.approx(
            sum(entry[token].logprob for entry, token in zip(completion.logprobs, completion.token_ids, strict=True))
        )
        assert output.prompt_logprobs is not None
        assert output.prompt_logprobs[0] is None
        assert len(output.prompt_logprobs) == len(prompt)
        for place, known in enumerate(output.prompt_logprobs[1:]):
            assert known is not None
            assert known[prompt[place + 1]].logprob == pytest.approx(truth[place, prompt[place + 1]].item(), abs=1e-4)


def test_logprobs_are_those_before_penalties(engine: Callable[..., LLM]) -> None:
    plain, penalised = (
        engine().generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=1, logprobs=3, repetition_penalty=p))[0]
        for p in (1.0, 1.9)
    )
    assert plain.outputs[0].logprobs is not None
    assert penalised.outputs[0].logprobs is not None
    first, second = plain.outputs[0].logprobs[0], penalised.outputs[0].logprobs[0]
    for token in set(first) & set(second):
        assert first[token].logprob == pytest.approx(second[token].logprob)


def test_stop_texts_and_tokens(engine: Callable[..., LLM]) -> None:
    llm = engine()
    free = llm.generate("hello", SamplingParams(temperature=0, max_tokens=40, ignore_eos=True))[0].outputs[0]
    place = next(i for i in range(5, 30) if "�" not in free.text[i : i + 3])
    stop = free.text[place : place + 3]
    cut = llm.generate("hello", SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=[stop, "§"]))[0]
    assert cut.outputs[0].text == free.text[: free.text.find(stop)]
    assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == ("stop", stop)
    kept = llm.generate(
        "hello",
        SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop=stop, include_stop_str_in_output=True),
    )[0]
    assert kept.outputs[0].text == free.text[: free.text.find(stop) + 3]
    token = free.token_ids[6]
    ended = llm.generate("hello", SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, stop_token_ids=[token]))
    assert ended[0].outputs[0].token_ids == free.token_ids[: free.token_ids.index(token) + 1]
    assert ended[0].outputs[0].stop_reason == token


def test_min_tokens_holds_the_end_back(engine: Callable[..., LLM]) -> None:
    llm = engine()
    first = llm.generate("x", SamplingParams(temperature=0, max_tokens=1, ignore_eos=True))[0].outputs[0].token_ids[0]
    params = SamplingParams(temperature=0, max_tokens=20, stop_token_ids=[first], min_tokens=5)
    found = llm.generate("x", params)[0].outputs[0]
    assert len(found.token_ids) >= 5
    assert first not in found.token_ids[:5]


def test_json_schema(engine: Callable[..., LLM]) -> None:
    """Even a random model writes valid JSON when it is held to a schema."""
    schema = {
        "type": "object",
        "properties": {
            "drug": {"type": "string", "enum": ["aspirin", "insulin"]},
            "mg": {"type": "integer", "minimum": 0, "maximum": 999},
        },
        "required": ["drug", "mg"],
        "additionalProperties": False,
    }
    params = SamplingParams(temperature=1, n=6, seed=2, max_tokens=200, json_schema=schema)
    output, other = engine().generate(["Which drug?", "abc"], [params, SamplingParams(temperature=0, max_tokens=4)])
    for completion in output.outputs:
        found = json.loads(completion.text)
        assert set(found) == {"drug", "mg"}
        assert found["drug"] in ("aspirin", "insulin")
        assert completion.finish_reason == "stop"
    assert len(other.outputs[0].token_ids) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, got -0.1"),
        ({"temperature": math.inf}, "temperature must be finite"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"min_tokens": 9, "max_tokens": 4}, "min_tokens must be at most max_tokens=4, got 9"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 2, "temperature": 0}, "n must be 1 when temperature is 0"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ["ok", ""]}, "stop must be texts"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvllmError, match=words):
        SamplingParams(**options)


@pytest.mark.parametrize("schema", ["{not json", '{"type": "no such type"}'])
def test_wrong_schema(schema: str, engine: Callable[..., LLM]) -> None:
    llm = engine()
    with pytest.raises(MedvllmError, match="json_schema"):
        llm.generate("a", SamplingParams(json_schema=schema))
    assert len(llm.generate("a", SamplingParams(temperature=0, max_tokens=2))[0].outputs[0].token_ids) == 2
