"""A tiny random Llama with a byte tokenizer, what transformers makes of prompts with it, and engines over it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medvllm import LLM

EOS = 256
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and an end-of-sequence token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", chat_template=TEMPLATE)


def save_tiny_llama(folder: Path, **changes: Any) -> Path:
    """A Llama of 2 layers with weights wide enough that its greedy text is not one token over and over."""
    torch.manual_seed(7)
    options: dict[str, Any] = {
        "vocab_size": 260,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
        "eos_token_id": EOS,
        "bos_token_id": None,
        "dtype": "float32",
    }
    model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    model.generation_config.eos_token_id = EOS
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def reference(tiny: Path) -> Any:
    """The tiny model in transformers."""
    return LlamaForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def generate(reference: Any) -> Callable[..., list[int]]:
    """transformers.generate of one prompt alone: its new tokens."""

    def run(prompt: list[int], count: int, **options: Any) -> list[int]:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            found = reference.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, pad_token_id=0, **options
            )
        return [int(token) for token in found[0, len(prompt) :]]

    return run


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """64 prompts of 1 to 90 tokens; many begin alike, so that they share blocks of the cache."""
    rng = random.Random(3)
    shared = [[rng.randrange(256) for _ in range(48)] for _ in range(3)]
    made = []
    for index in range(64):
        head = shared[index % 3][: rng.choice((0, 16, 32, 48))]
        made.append(head + [rng.randrange(256) for _ in range(rng.randint(1, 42))])
    return made


@pytest.fixture(scope="session")
def expected(prompts: list[list[int]], generate: Callable[..., list[int]]) -> list[list[int]]:
    """What transformers generates greedily for each prompt, one by one."""
    return [generate(prompt, 24, do_sample=False) for prompt in prompts]


@pytest.fixture
def engine(tiny: Path) -> Iterator[Callable[..., LLM]]:
    """Makes engines over the tiny model."""
    made: list[LLM] = []

    def build(**options: Any) -> LLM:
        made.append(LLM(str(tiny), **options))
        return made[-1]

    yield build
    for llm in made:
        llm.shutdown()
