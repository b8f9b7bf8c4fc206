"""Tiny random encoders of several kinds with real tokenizers, as transformers saves them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = """Patient with hypertension (HTN) and type 2 diabetes mellitus denies chest pain; mother had stroke.
Metformin 500 mg p.o. b.i.d., lisinopril-hydrochlorothiazide 10/12.5 mg. α-Methyldopa reversed the naloxone effect.
Fièvre à 38,5 °C since 3 days — übel. COVID-19 positive? "No pneumonia," said Dr. O'Neill: CRP 12 mg/L, Na+ 140."""
SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
DISTIL = {"dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80}
LABELS = ["O", "B-Disease", "I-Disease", "B-Chemical", "I-Chemical"]

Make = Callable[..., Path]


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator([TEXT], trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _fast(kind: str) -> transformers.PreTrainedTokenizerFast:
    if kind == "roberta":
        names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=_bpe(), model_max_length=64, **names)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=_wordpiece(), model_max_length=64, **names)


# Kind → its model classes' prefix, and the fields of its configuration. ELECTRA has no native path.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES | {"max_position_embeddings": 64}),
    "roberta": ("Roberta", SIZES | {"max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": ("DistilBert", DISTIL | {"max_position_embeddings": 64}),
    "electra": ("Electra", SIZES | {"max_position_embeddings": 64, "embedding_size": 24}),
}


def make(folder: Path, kind: str = "bert", *, task: str = "TokenClassification", labels: list[str] = LABELS) -> Path:
    """A model of random weights, large enough that its labels differ from token to token."""
    prefix, fields = KINDS[kind]
    tokenizer = _fast(kind)
    torch.manual_seed(3)
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokenizer),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        initializer_range=0.4,
        **fields,
    )
    model = getattr(transformers, f"{prefix}For{task}")(config)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """make(kind, …) once for the same arguments; the folder is not to be changed."""
    known: dict[str, Path] = {}

    def get(kind: str = "bert", **options: Any) -> Path:
        key = f"{kind} {sorted(options.items())}"
        if key not in known:
            known[key] = make(tmp_path_factory.mktemp(kind), kind, **options)
        return known[key]

    return get


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty registry and an empty cache of the hub."""
    monkeypatch.setenv("MEDVLLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
