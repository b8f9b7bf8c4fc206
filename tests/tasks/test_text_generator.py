"""TextGenerator: options to text and metadata, the same text streamed, alone and among others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvllm.errors import MedvllmError
from medvllm.tasks import TextGenerator
from medvllm.tasks.generation.options import DISCLAIMER, GenerationOptions, Style

WORDS = "Take Eat Walk Salt Water Stroke Lisinopril Doctor Day Each Less More Pressure Blood High Risk Call Drink Rest"


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> TextGenerator:
    """A random Llama over words without a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    pieces = ["<unk>", "</s>", *(f"Ġ{word}" for word in WORDS.split()), ".", "!"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(2)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(pieces),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=300,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    with torch.no_grad():
        network.lm_head.weight[:2] = 0
    network.save_pretrained(folder)
    return TextGenerator(str(folder), kv_cache_bytes=2**22, device="cpu")


def sampled(**more: Any) -> GenerationOptions:
    return GenerationOptions(strategy="sampling", temperature=1.0, seed=7, **more)


def test_metadata_is_of_this_text(generator: TextGenerator) -> None:
    result = generator.generate("Walk.", sampled(max_length=50))
    assert result.text.endswith(f"\n\n{DISCLAIMER}")
    body = result.text.removesuffix(DISCLAIMER).strip()
    report = result.metadata["constraints_report"]
    assert report["words"]["achieved"] == len(body.split())
    assert report["characters"]["achieved"] == len(result.text)
    assert result.metadata["prompt"]["template"] == "plain"
    assert ("Stroke" in body) == any(
        mention["text"] == "Stroke" for mention in result.metadata["factual_report"]["unsupported"]
    )
    assert result.metadata["output_tokens"] == result.outputs[0].num_tokens > 9


@pytest.mark.parametrize(
    "more",
    [{}, {"target_words": 20}, {"target_chars": 200}, {"target_words": 30, "target_chars": 170}, {"disclaimer": False}],
)
def test_pieces_shown_are_the_text(generator: TextGenerator, more: dict[str, Any]) -> None:
    """Ending early at a target gives what cutting the whole text gives."""
    options = sampled(max_length=120, **more)
    pieces: list[str] = []
    result = generator.generate("Walk.", options, on_text=pieces.append)
    assert "".join(pieces) == result.text
    (whole,) = generator.generate_many(["Walk."], options)
    assert not isinstance(whole, MedvllmError)
    assert whole.text == result.text
    if not more:
        assert len(pieces) > 0.8 * result.outputs[0].num_tokens, "token by token"
    if "target_words" in more:
        assert result.metadata["output_tokens"] < 120, "it stops when enough is there"


def test_many_prompts_with_one_too_long(generator: TextGenerator) -> None:
    texts = ["Walk.", "Take salt. " * 200, "Eat less."]
    results = generator.generate_many(texts, GenerationOptions(max_length=4))
    assert isinstance(results[1], MedvllmError)
    for place in (0, 2):
        alone = generator.generate(texts[place], GenerationOptions(max_length=4))
        result = results[place]
        assert not isinstance(result, MedvllmError)
        assert result.text == alone.text


def test_truncation_keeps_the_instruction_and_the_head_of_the_text(generator: TextGenerator) -> None:
    options = GenerationOptions(max_length=10, truncate=True, style=Style(purpose="patient"))
    result = generator.generate("Take salt. " * 200, options)
    assert result.metadata["prompt"]["truncated_tokens"] > 0
    assert result.metadata["prompt"]["tokens"] <= 290
    assert result.metadata["output_tokens"] == 10


def test_beams(generator: TextGenerator) -> None:
    result = generator.generate("Walk.", GenerationOptions(strategy="beam", beam_width=4, n=3, max_length=8))
    assert len({one.text for one in result.outputs}) == 3
    assert result.metadata["parameters"]["beam_width"] == 4
    assert [set(one) >= {"constraints_report", "finish_reason"} for one in result.metadata["outputs"]] == [True] * 3


def test_an_llm_that_is_loaded_is_taken(generator: TextGenerator) -> None:
    again = TextGenerator(generator.llm)
    assert again.generate("Walk.", sampled()).text == generator.generate("Walk.", sampled()).text
    with pytest.raises(MedvllmError, match="loaded already; give dtype where it is made"):
        TextGenerator(generator.llm, dtype="float32")


def test_the_name_is_lazy() -> None:
    import subprocess
    import sys

    program = (
        "import sys, medvllm.tasks as tasks\ntasks.NERProcessor, tasks.TextGenerator\nprint('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "False\n", done.stderr
