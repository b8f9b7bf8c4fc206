"""A tiny random Llama over a vocabulary of words, so that samples are sentences; and the command, in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WORDS = """
Take Eat Walk Ask high blood pressure is a common disease that can lead to stroke and heart failure less salt each day
your doctor may give you lisinopril or aspirin it lowers the risk of pain in chest with more water for weeks
"""
MARKS = [".", "!", "?", ","]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model of words, which all begin a sentence as well as any; 512 positions."""
    from tokenizers import models

    pieces = ["<unk>", "</s>", *(f"Ġ{word}" for word in dict.fromkeys(WORDS.title().split())), *MARKS]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return _save(tmp_path_factory.mktemp("words"), models.WordLevel(vocabulary, unk_token="<unk>"), len(pieces))


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of single bytes: any text, and no sense in it."""
    from tokenizers import models, pre_tokenizers

    pieces = ["<unk>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return _save(tmp_path_factory.mktemp("bytes"), models.BPE(vocabulary, [], unk_token="<unk>"), len(pieces))


def _save(folder: Path, pieces: Any, count: int) -> Path:
    """A random Llama of 2 layers over `count` pieces, the first two of which it hardly ever says."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(pieces)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=isinstance(pieces, models.WordLevel))
    tokenizer.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(1)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=count,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    with torch.no_grad():
        network.lm_head.weight *= 2
        network.lm_head.weight[:2] = 0
    network.save_pretrained(folder)
    return folder


@dataclass
class Done:
    """What the command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata after the text."""
        found: dict[str, Any] = json.loads(self.stdout[self.stdout.index("\n{\n") :] if self.text else self.stdout)
        return found

    @property
    def text(self) -> str:
        """The text before the metadata."""
        before, separator, _ = self.stdout.partition("\n{\n")
        return before if separator else "" if self.stdout.startswith("{\n") else self.stdout


class _Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        """It is one."""
        return True


class Generate:
    """generate("--text", …) → Done, in this process, with an empty home."""

    def __init__(self, model: Path, home: Path) -> None:
        self.model, self.home = model, home

    def __call__(
        self, *arguments: str, text: str | None = "Explain high blood pressure.", terminal: bool = False
    ) -> Done:
        from medvllm.cli import main

        given = [] if text is None else ["--text", text]
        model = [] if "--model" in arguments else ["--model", str(self.model)]
        line = ["inference", "generate", *model, *given, *arguments]
        out, err = io.StringIO(), _Terminal() if terminal else io.StringIO()
        code = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _arguments(line, self.home):
            try:
                main()
            except SystemExit as end:
                code = int(end.code or 0)
        return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _arguments(line: list[str], home: Path) -> Any:
    import signal
    import sys

    before, handler = sys.argv, signal.getsignal(signal.SIGTERM)
    home_before = os.environ.get("MEDVLLM_HOME")
    sys.argv, os.environ["MEDVLLM_HOME"] = ["medvllm", *line], str(home)
    try:
        yield
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, handler)
        if home_before is None:
            del os.environ["MEDVLLM_HOME"]
        else:
            os.environ["MEDVLLM_HOME"] = home_before


@pytest.fixture
def generate(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """The command with the tiny model, in an empty folder."""
    work = tmp_path / "here"
    work.mkdir()
    monkeypatch.chdir(work)
    return Generate(model, tmp_path / "home")
