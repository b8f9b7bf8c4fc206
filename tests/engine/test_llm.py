"""The façade: prompts of all kinds, chat, streaming, statistics, refusals, interruption."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import medvllm
from medvllm import LLM, BeamSearchParams, SamplingParams
from medvllm.engine.memory import kv_blocks
from medvllm.errors import MedvllmError
from medvllm.outputs import GenerationInterrupted

GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, medvllm; medvllm.SamplingParams, medvllm.__version__; assert 'torch' not in sys.modules"
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = medvllm.nothing


def test_kinds_of_prompts(engine: Callable[..., LLM]) -> None:
    llm = engine()
    text = llm.generate("abc", GREEDY)
    ids = llm.generate(llm.tokenizer("abc").input_ids, GREEDY)
    both = llm.generate(["abc", llm.tokenizer("abc").input_ids], [GREEDY, GREEDY])
    assert len({tuple(each.outputs[0].token_ids) for each in (*text, *ids, *both)}) == 1
    assert text[0].prompt == "abc"
    assert text[0].prompt_token_ids == ids[0].prompt_token_ids
    assert llm.generate([], GREEDY) == []


def test_chat_uses_the_template(engine: Callable[..., LLM]) -> None:
    llm = engine()
    output = llm.chat([{"role": "user", "content": "hi"}], GREEDY)[0]
    assert llm.tokenizer.decode(output.prompt_token_ids) == "user: hi\nassistant:"


def test_stream_grows_to_the_whole(engine: Callable[..., LLM]) -> None:
    llm = engine()
    whole = llm.generate("hello", GREEDY.clone(max_tokens=40))[0].outputs[0]
    outputs = list(llm.stream("hello", GREEDY.clone(max_tokens=40)))
    texts = [output.outputs[0].text for output in outputs]
    assert len(outputs) == 40
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert (texts[-1], outputs[-1].outputs[0].token_ids) == (whole.text, whole.token_ids)
    assert [output.finished for output in outputs] == [False] * 39 + [True]


def test_leaving_a_stream_frees_its_blocks(engine: Callable[..., LLM]) -> None:
    llm = engine()
    for _ in llm.stream("hello", GREEDY):
        break
    assert llm.stats().kv_blocks_used == 0
    assert not llm.engine.requests


def test_streamed_stop_text_is_held_back(engine: Callable[..., LLM]) -> None:
    llm = engine()
    free = llm.generate("hello", GREEDY.clone(max_tokens=40))[0].outputs[0].text
    place = next(i for i in range(6, 30) if "�" not in free[i : i + 4])
    stop = free[place : place + 4]
    outputs = list(llm.stream("hello", GREEDY.clone(max_tokens=40, stop=stop)))
    cut = free[: free.find(stop)]
    assert all(cut.startswith(output.outputs[0].text) for output in outputs)
    assert outputs[-1].outputs[0].text == cut
    at_once = list(llm.stream("hello", GREEDY.clone(max_tokens=40, stop=free[: place + 4])))
    assert {output.outputs[0].text for output in at_once} == {""}  # the text begins with it


def test_statistics(engine: Callable[..., LLM]) -> None:
    llm = engine(seed=5)
    outputs = llm.generate(["abc" * 12, "abc" * 12], GREEDY)
    stats = llm.stats()
    assert (stats.prompt_tokens, stats.output_tokens, stats.requests_finished) == (72, 24, 2)
    assert stats.steps == 12
    assert stats.prefix_cache_hit_tokens == 32
    assert outputs[1].num_cached_tokens == 32
    assert stats.ttft_s is not None
    assert stats.tokens_per_s is not None
    assert 0 < stats.ttft_s < stats.step_s
    assert stats.tokens_per_s == pytest.approx(24 / stats.step_s)
    assert 0 < stats.model_s < stats.step_s
    assert stats.overhead_share == pytest.approx(1 - stats.model_s / stats.step_s)
    assert (stats.device, stats.dtype, stats.seed, stats.runner) == ("cpu", "float32", 5, "medvllm")
    assert stats.peak_memory_bytes is not None
    assert stats.peak_memory_bytes > stats.weight_bytes > 100_000
    for output in outputs:
        assert output.metrics.ttft_s is not None
        assert output.metrics.latency_s is not None
        assert 0 < output.metrics.ttft_s <= output.metrics.latency_s
    llm.reset_stats()
    assert llm.stats().steps == 0
    assert llm.stats().tokens_per_s is None


def test_pool(engine: Callable[..., LLM]) -> None:
    """Every intermediate of the pool's roles comes from the arena; a cap makes some fall back, counted."""
    free = engine(attention_impl="sdpa")
    free.generate(["abc", "de"], GREEDY)
    pool = free.stats().pool
    assert pool is not None
    assert (pool.hit_rate, pool.misses, pool.fallback_bytes, pool.max_bytes) == (1.0, 0, 0, None)
    assert pool.hits > 0
    capped = engine(attention_impl="sdpa", pool_max_bytes=pool.reserved_bytes // 2)
    capped.generate(["abc", "de"], GREEDY)
    less = capped.stats().pool
    assert less is not None
    assert 0 < less.reserved_bytes <= pool.reserved_bytes // 2
    assert less.misses > 0
    assert less.fallback_bytes > 0
    assert engine(memory_pooling=False).stats().pool is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"no_such": 1}, "LLM has no option 'no_such'"),
        ({"dtype": "float8"}, "dtype must be one of auto, float32"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, got 0"),
        ({"max_num_batched_tokens": 3}, "max_num_batched_tokens must be at least max_num_seqs=64"),
        ({"max_model_len": 999}, "max_model_len must be at most the model's context of 256 tokens, got 999"),
        ({"kv_cache_bytes": 5000}, "5000|holds .* needs 16 .*give at least"),
        ({"num_kv_blocks": 3}, "num_kv_blocks must be at least 16"),
        ({"num_kv_blocks": 30, "kv_cache_bytes": 10**6}, "say the same"),
        ({"kv_cache_bytes": 2**60}, "the KV cache asked for needs"),
        ({"attention_impl": "fast"}, "attention_impl must be one of auto, flash, sdpa, manual"),
        ({"quantization": "int3"}, "quantization must be one of int8, int4"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 100}, "at least max_model_len=256, got 100"),
        ({"pool_device": "cuda"}, "pool_device must be auto or the model's device cpu"),
        ({"compile_mode": "best"}, "compile_mode must be one of default"),
    ],
)
def test_wrong_options(options: dict[str, Any], words: str, engine: Callable[..., LLM]) -> None:
    with pytest.raises(MedvllmError, match=words):
        engine(**options)


def test_too_little_memory_says_how_much_is_needed(engine: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    from medvllm.engine import model_runner

    monkeypatch.setattr(model_runner, "available_bytes", lambda device: 100_000)
    with pytest.raises(MedvllmError, match=r"model .* needs [\d,]+ MiB, [\d,]+ MiB are available"):
        engine()


def test_the_caches_share_of_the_memory() -> None:
    """What all sequences could need, at most a share of the memory, and one whole sequence at least."""
    sizes = {"block_bytes": 100, "block_size": 16, "max_model_len": 160, "max_num_seqs": 8, "budget": None}
    assert kv_blocks(**sizes, limit=1_000_000, share=0.5) == 80
    assert kv_blocks(**sizes, limit=40_000, share=0.125) == 50
    assert kv_blocks(**sizes, limit=2_000, share=0.125) == 10
    assert kv_blocks(**sizes, limit=None, share=0.125) == 80


def test_prompt_longer_than_the_context(engine: Callable[..., LLM]) -> None:
    llm = engine(max_model_len=64)
    with pytest.raises(MedvllmError, match="the prompt has 70 tokens, the context holds 64"):
        llm.generate(["ok", "x" * 70], GREEDY)
    assert not llm.engine.requests
    output = llm.generate("x" * 50 + "y" * 30, GREEDY, truncate=True)[0]
    assert len(output.prompt_token_ids) == 64 - 12
    assert llm.tokenizer.decode(output.prompt_token_ids).endswith("y" * 30)
    full = llm.generate("x" * 60, SamplingParams(temperature=0, max_tokens=None, ignore_eos=True))[0].outputs[0]
    assert (len(full.token_ids), full.finish_reason) == (4, "length")


@pytest.mark.parametrize(
    ("prompt", "words"), [("", "at least one token"), ([5, 260], r"token ids must be in \[0, 260\)")]
)
def test_wrong_prompts(prompt: Any, words: str, engine: Callable[..., LLM]) -> None:
    with pytest.raises(MedvllmError, match=words):
        engine().generate([prompt], GREEDY)


def test_parameters_must_match_the_prompts(engine: Callable[..., LLM]) -> None:
    with pytest.raises(MedvllmError, match="one for each of 2 prompts, got 3"):
        engine().generate(["a", "b"], [GREEDY] * 3)


def test_interruption_keeps_what_there_is(engine: Callable[..., LLM], expected: Any, prompts: Any) -> None:
    """Ctrl-C in the middle: the outputs so far are in the exception, and the engine can be used again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background begins without it
    llm = engine(enable_prefix_caching=True)

    def interrupt(steps: int) -> None:
        while llm.engine.clock.steps < steps:  # not by the clock: on a busy machine prompts may still be taken in
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(3):
        timer = threading.Thread(target=interrupt, args=(llm.engine.clock.steps + 5,))
        timer.start()
        with pytest.raises(GenerationInterrupted) as caught:
            llm.generate(["abc", "defg"] * 200, SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))
        timer.join()
        assert isinstance(caught.value, KeyboardInterrupt)
        outputs = caught.value.outputs
        assert [output.prompt for output in outputs] == ["abc", "defg"] * 200
        unfinished = [output for output in outputs if not output.finished]
        assert {output.outputs[0].finish_reason for output in unfinished} == {"abort"}
        assert any(output.outputs[0].token_ids for output in outputs)
        assert llm.stats().kv_blocks_used == 0
    outputs = llm.generate(prompts[:6], SamplingParams(temperature=0, max_tokens=24))
    assert [output.outputs[0].token_ids for output in outputs] == expected[:6]


def test_deterministic_whatever_else_runs(engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    """In bfloat16: alone, in a crowd, in chunks, preempted, with a cached prefix or not, the tokens are the same."""
    params = SamplingParams(temperature=0, max_tokens=30, logprobs=0, ignore_eos=True)
    alone = engine(deterministic=True, dtype="bfloat16", max_num_seqs=1)
    first = [alone.generate([prompt], params)[0].outputs[0] for prompt in prompts[:12]]
    crowds: tuple[dict[str, Any], ...] = (
        {},
        {"max_num_batched_tokens": 64},
        {"num_kv_blocks": 110, "block_size": 4, "max_model_len": 128},
        {"enable_prefix_caching": False},
    )
    for options in crowds:
        llm = engine(deterministic=True, dtype="bfloat16", **options)
        outputs = [output.outputs[0] for output in llm.generate(prompts, params)[:12]]
        assert [each.token_ids for each in outputs] == [each.token_ids for each in first]
        assert [each.cumulative_logprob for each in outputs] == [each.cumulative_logprob for each in first]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised(quantization: str, engine: Callable[..., LLM], prompts: list[list[int]], reference: Any) -> None:
    """Quantised weights change logits a little: int8 by less than int4; weights take less memory."""
    llm = engine(quantization=quantization)
    assert llm.stats().weight_bytes < engine().stats().weight_bytes / (2 if quantization == "int8" else 2.5)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    errors = []
    for prompt, output in zip(prompts[:6], llm.generate(prompts[:6], params), strict=True):
        with torch.inference_mode():
            truth = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
        assert output.prompt_logprobs is not None
        for place, entry in enumerate(output.prompt_logprobs[1:]):
            assert entry is not None
            errors.append(abs(entry[prompt[place + 1]].logprob - truth[place, prompt[place + 1]].item()))
    mean = sum(errors) / len(errors)
    assert 0 < mean < (0.2 if quantization == "int8" else 2.0)


def test_no_growth_of_memory(engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    """400 steps of mixed requests after 200 of warming up add less than 4 MiB."""
    llm = engine(num_kv_blocks=40, max_model_len=128, max_num_seqs=16)
    params = [SamplingParams(temperature=1.0, top_p=0.9, max_tokens=1 + i % 30) for i in range(64)]

    def run(steps: int) -> None:
        end = llm.stats().steps + steps
        while llm.stats().steps < end:
            llm.generate(prompts, params)

    run(200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(400)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4096


@pytest.mark.slow
def test_no_growth_of_memory_over_10000_steps(engine: Callable[..., LLM], prompts: list[list[int]]) -> None:
    llm = engine(num_kv_blocks=40, max_model_len=128, max_num_seqs=16)
    params = [SamplingParams(temperature=1.0, top_p=0.9, max_tokens=1 + i % 30) for i in range(64)]
    llm.generate(prompts, params)
    before = 0
    while llm.stats().steps < 10000:
        llm.generate(prompts, params)
        if llm.stats().steps < 2000:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8192


@pytest.mark.slow
def test_compiled_layers(engine: Callable[..., LLM], prompts: list[list[int]], expected: list[list[int]]) -> None:
    llm = engine(compile_mode="default")
    outputs = llm.generate(prompts[:8], SamplingParams(temperature=0, max_tokens=24))
    assert [output.outputs[0].token_ids for output in outputs] == expected[:8]
    stats = llm.stats()
    assert (stats.compiled, stats.linear_kernel, stats.pool) == ("default", "torch", None)


def test_two_engines_in_one_process(tiny: Path, expected: list[list[int]], prompts: list[list[int]]) -> None:
    """Engines in two threads do not see each other's steps."""
    found: dict[int, list[list[int]]] = {}

    def run(number: int) -> None:
        outputs = LLM(str(tiny), max_num_seqs=3 + number).generate(
            prompts[:16], SamplingParams(temperature=0, max_tokens=24)
        )
        found[number] = [output.outputs[0].token_ids for output in outputs]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: expected[:16], 1: expected[:16]}


def test_no_warnings_by_default(engine: Callable[..., LLM]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine().generate("abc", [BeamSearchParams(beam_width=2)])
