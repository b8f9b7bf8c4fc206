"""The pytorch backend against transformers itself: tokens, counts, limits, times."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llenergymeasure.backends import get_backend
from llenergymeasure.backends.base import RequestOutcome
from llenergymeasure.config import ExperimentConfig
from llenergymeasure.errors import LemError
from llenergymeasure.orchestration.traffic import Requests
from llenergymeasure.prompts import Prompt

TEXTS = (
    "Hypertension is",
    "A",
    "The patient was given metformin for",
    "Which of these",
    "Fever and",
    "No",
    "Aspirin 100",
)
PROMPTS = [Prompt(id=f"p{index}", index=index, text=text) for index, text in enumerate(TEXTS)]


@pytest.fixture
def configure(tiny_model: Path) -> Callable[..., ExperimentConfig]:
    def make(**changes: Any) -> ExperimentConfig:
        base: dict[str, Any] = {
            "config_name": "t",
            "model_name": str(tiny_model),
            "max_output_tokens": 12,
            "fp_precision": "float32",
            "save_outputs": True,
            "decoder": {"preset": "deterministic"},
        }
        return ExperimentConfig.model_validate(base | changes)

    return make


def complete(config: ExperimentConfig, *, streaming: bool = False, prompts: list[Prompt] = PROMPTS) -> list[Any]:
    backend = get_backend(config.backend)
    backend.load(config, process_index=0, num_processes=1)
    source = Requests(prompts, tokens=backend.prepare(prompts), batching=config.batching)
    found = list(backend.run(source, streaming=streaming))
    backend.close()
    return found


def requests_of(outcomes: list[Any]) -> list[RequestOutcome]:
    return sorted((each for outcome in outcomes for each in outcome.requests), key=lambda each: each.prompt.index)


@pytest.fixture(scope="module")
def completions(tiny_model: Path) -> list[list[int]]:
    """The new tokens of each prompt completed by itself in transformers, greedily, up to 12."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
        found.append(out[0, ids.input_ids.shape[1] :].tolist())
    return found


@pytest.fixture(scope="module")
def alone(tiny_model: Path, completions: list[list[int]]) -> list[tuple[int, str]]:
    """(tokens, text) of each completion."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return [(len(tokens), tokenizer.decode(tokens, skip_special_tokens=True)) for tokens in completions]


@pytest.mark.parametrize("strategy", ["static", "dynamic", "sorted_static", "sorted_dynamic"])
def test_batches_complete_prompts_as_alone_and_count_no_padding(
    configure: Callable[..., ExperimentConfig], alone: list[tuple[int, str]], strategy: str
) -> None:
    outcomes = complete(configure(batching={"batch_size": 3, "strategy": strategy}))
    assert [len(outcome.requests) for outcome in outcomes] == [3, 3, 1]
    done = requests_of(outcomes)
    assert [each.input_tokens for each in done] == [len(text) for text in TEXTS]  # one token a byte, no padding
    assert [(each.output_tokens, each.text) for each in done] == alone


def test_completion_stops_at_its_end_token_and_counts_it(
    configure: Callable[..., ExperimentConfig], tiny_model: Path, tmp_path: Path, completions: list[list[int]]
) -> None:
    ending = completions[0][3]  # the fourth token of the first completion ends it now
    folder = shutil.copytree(tiny_model, tmp_path / "ends")
    for name in ("config.json", "generation_config.json"):
        data = json.loads((folder / name).read_text())
        data["eos_token_id"] = [256, ending]
        (folder / name).write_text(json.dumps(data))
    done = requests_of(complete(configure(model_name=str(folder), batching={"batch_size": 7})))
    assert done[0].output_tokens == completions[0].index(ending) + 1 < 12
    assert max(each.output_tokens for each in done) == 12  # the others go on


@pytest.mark.parametrize("backend", ["pytorch", "medvllm"])
def test_streaming_keeps_the_limit_and_times_each_token(
    configure: Callable[..., ExperimentConfig], alone: list[tuple[int, str]], backend: str
) -> None:
    outcomes = complete(configure(backend=backend, batching={"batch_size": 4}), streaming=True)
    done = requests_of(outcomes)
    assert [(each.output_tokens, each.text) for each in done] == alone
    for each in done:
        assert each.output_tokens <= 12
        assert each.ttft_ms is not None
        assert each.itl_ms is not None
        assert len(each.itl_ms) == each.output_tokens - 1
        whole_ms = (each.finished_s - each.started_s) * 1000
        assert each.ttft_ms + sum(each.itl_ms) == pytest.approx(whole_ms, rel=1e-6)


@pytest.mark.parametrize("backend", ["pytorch", "medvllm"])
def test_phases_cover_the_run_without_overlap(configure: Callable[..., ExperimentConfig], backend: str) -> None:
    outcomes = complete(configure(backend=backend, batching={"batch_size": 4}))
    phases = [phase for outcome in outcomes for phase in outcome.phases]
    assert {phase.kind for phase in phases} == {"prefill", "decode"}
    assert all(phase.end_s > phase.start_s for phase in phases)
    assert all(after.start_s >= before.end_s for before, after in itertools.pairwise(phases))
    assert phases[0].start_s >= min(each.started_s for each in requests_of(outcomes)) - 1e-9
    assert requests_of(outcomes)[0].ttft_ms is None  # only when it is asked for


def test_a_seed_repeats_a_sample_and_0_is_a_seed(configure: Callable[..., ExperimentConfig]) -> None:
    def sampled(seed: int | None) -> list[str | None]:
        decoder = {"temperature": 1.5, "top_k": 0}
        return [each.text for each in requests_of(complete(configure(decoder=decoder, random_seed=seed)))]

    zero = sampled(0)
    assert sampled(0) == zero
    assert sampled(1) != zero
    assert sampled(None) != sampled(None)


def test_beams_are_those_of_transformers(configure: Callable[..., ExperimentConfig], tiny_model: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = configure(decoder={"temperature": 0, "beam_search": {"num_beams": 3}}, batching={"batch_size": 4})
    done = requests_of(complete(config, prompts=PROMPTS[:4]))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(tiny_model)(TEXTS[2], return_tensors="pt")
    out = model.generate(**ids, max_new_tokens=12, do_sample=False, num_beams=3, pad_token_id=0)
    text = AutoTokenizer.from_pretrained(tiny_model).decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    assert done[2].text == text


def test_minimum_and_one_token(configure: Callable[..., ExperimentConfig]) -> None:
    done = requests_of(complete(configure(max_output_tokens=1), streaming=True, prompts=PROMPTS[:2]))
    assert [(each.output_tokens, each.itl_ms) for each in done] == [(1, ()), (1, ())]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pytorch": {"attn": "sdpa"}}, "pytorch has no option 'attn'; the options are attn_implementation"),
        ({"parallelism": {"strategy": "tensor_parallel", "degree": 2}}, "use backend vllm or medvllm"),
        ({"max_output_tokens": 256}, "leaves no room for a prompt in the model's context of 256 tokens"),
        ({"backend": "medvllm", "medvllm": {"model": "x"}}, "medvllm has no option 'model'"),
    ],
)
def test_options_that_cannot_be_met_say_so(
    configure: Callable[..., ExperimentConfig], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(LemError, match=re.escape(said)):
        complete(configure(**changes))


def test_prompts_are_cut_to_what_the_context_leaves(configure: Callable[..., ExperimentConfig]) -> None:
    config = configure(max_input_tokens=512, max_output_tokens=200)
    backend = get_backend("pytorch")
    model = backend.load(config, process_index=0, num_processes=1)
    assert model.max_input_tokens == 56
    assert "cut to 56 tokens" in model.warnings[0]
    assert backend.prepare([Prompt("x", 0, "a" * 300)]) == {"x": 56}
    with pytest.raises(LemError, match="prompt 3 has no tokens"):
        backend.prepare([Prompt("y", 2, "")])


def test_an_iterator_left_early_leaves_medvllm_usable(configure: Callable[..., ExperimentConfig]) -> None:
    config = configure(backend="medvllm", batching={"batch_size": 2})
    backend = get_backend("medvllm")
    backend.load(config, process_index=0, num_processes=1)
    tokens = backend.prepare(PROMPTS)
    running = backend.run(Requests(PROMPTS, tokens=tokens, batching=config.batching), streaming=False)
    next(running)
    running.close()  # type: ignore[attr-defined]
    again = list(backend.run(Requests(PROMPTS, tokens=tokens, batching=config.batching), streaming=False))
    assert len(requests_of(again)) == len(PROMPTS)
    backend.close()
