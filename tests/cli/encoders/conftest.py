"""Two tiny random models, and the command in this process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

TEXT = "The medication worked well. Patient with Hypertension denies chest pain; on metformin 500 mg, no fever. stroke"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
NER_LABELS = ["O", "B-Disease", "I-Disease", "B-Drug", "B-Dosage"]


def _save(folder: Path, task: str, labels: list[str]) -> Path:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = transformers.DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=32,
        n_layers=1,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        initializer_range=0.5,
    )
    torch.manual_seed(1)
    getattr(transformers, f"DistilBertFor{task}")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ner_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a token-classification model."""
    return _save(tmp_path_factory.mktemp("ner"), "TokenClassification", NER_LABELS)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sequence-classification model."""
    return _save(tmp_path_factory.mktemp("classifier"), "SequenceClassification", ["NEGATIVE", "POSITIVE"])


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


class Command:
    """run(*arguments, input="") → the result; in this process, which has torch already, in a folder of its own."""

    def __init__(self, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self._patch = work, monkeypatch

    def __call__(self, *arguments: str, input: str = "") -> Result:
        from medvllm.cli import main

        out, err = io.StringIO(), io.StringIO()
        stdin = io.TextIOWrapper(io.BytesIO(input.encode()), encoding="utf-8")
        with self._patch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.work)
            patch.setattr("sys.stdin", stdin)
            patch.setattr("sys.argv", ["medvllm", *arguments])
            code: Any = 0
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        return Result(int(code), out.getvalue(), err.getvalue())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, with an empty registry and an empty cache of the hub."""
    monkeypatch.setenv("MEDVLLM_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    return Command(work, monkeypatch)
