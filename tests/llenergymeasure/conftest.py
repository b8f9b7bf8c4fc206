"""A tiny random Llama with a byte tokenizer, and `lem` run in this process, for the tests that run experiments."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

EOS = 256


@dataclasses.dataclass(frozen=True)
class Ran:
    """A finished command line."""

    code: int
    stdout: str
    stderr: str


def save_tiny_llama(folder: Path, *, eos: int | list[int] = EOS, **changes: Any) -> Path:
    """A Llama of 2 layers, one token per byte, with weights wide enough that its greedy text is not one token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
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
        "eos_token_id": eos,
        "bos_token_id": None,
        "dtype": "float32",
    }
    model = LlamaForCausalLM(LlamaConfig(**(options | changes)))
    model.generation_config.eos_token_id = eos
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_tiny() -> Callable[..., Path]:
    """Saves a tiny model with changes."""
    return save_tiny_llama


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture
def lem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Ran]]:
    """Runs a command line of `lem` in this process, in a folder of its own, without a terminal."""
    monkeypatch.chdir(tmp_path)
    for name in ("LLM_ENERGY_RESULTS_DIR", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    handler = signal.getsignal(signal.SIGTERM)

    def run_lem(*arguments: object) -> Ran:
        from llenergymeasure.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        return Ran(int(code or 0), out.getvalue(), err.getvalue())

    yield run_lem
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def write_config(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Writes a configuration of the tiny model, quick to run, with changes; JSON is YAML."""

    def write(name: str = "tiny.yaml", **changes: Any) -> Path:
        config: dict[str, Any] = {
            "config_name": "tiny",
            "model_name": str(tiny_model),
            "max_input_tokens": 64,
            "max_output_tokens": 8,
            "fp_precision": "float32",
            "decoder": {"preset": "deterministic"},
            "warmup": {"max": 1, "min": 1},
            "dataset": {"name": "builtin", "sample_size": 6},
        }
        path = tmp_path / name
        path.write_text(json.dumps(config | changes))
        return path

    return write


@pytest.fixture
def subprocess_environment() -> dict[str, str]:
    """What another Python needs to find this checkout."""
    import sys

    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
