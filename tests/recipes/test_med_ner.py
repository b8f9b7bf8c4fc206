"""Annotated texts → a published token classifier → `medvllm inference ner --model art://…`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast

from nemotron.kit.artifacts import ArtifactRegistry
from nemotron.kit.errors import KitError
from nemotron.recipes.med_ner.train import MedNERConfig, TrainSettings, main

DRUGS = ["metformin", "lisinopril", "warfarin", "insulin"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A BERT of one thin layer that knows the words of the texts."""
    folder = tmp_path / "base"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "patient", "takes", "daily", "not", ".", *DRUGS]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    BertWordPieceTokenizer(str(folder / "vocab.txt")).save(str(folder / "tokenizer.json"))
    BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")).save_pretrained(folder)
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    return folder


def annotated(path: Path, count: int, seed: int) -> Path:
    chance = random.Random(seed)
    lines = []
    for _ in range(count):
        drug = chance.choice(DRUGS)
        text = f"The patient takes {drug} daily."
        start = text.index(drug)
        lines.append({"text": text, "entities": [{"start": start, "end": start + len(drug), "type": "medication"}]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_model_is_trained_published_and_used(base: Path, tmp_path: Path, registry: Path) -> None:
    artifact = main(
        MedNERConfig(
            train_path=annotated(tmp_path / "train.jsonl", 64, 1),
            eval_path=annotated(tmp_path / "eval.jsonl", 16, 2),
            base_model=str(base),
            output_dir=tmp_path / "run",
            train=TrainSettings(epochs=8, batch_size=8, lr=5e-3, warmup_steps=4, device="cpu"),
        )
    )
    assert artifact is not None
    assert artifact.metadata["f1"] == 1.0
    assert ArtifactRegistry(registry).verify("ModelArtifact-med_ner") == []
    command = [sys.executable, "-m", "medvllm.cli", "inference", "ner", "--text", "The patient takes warfarin daily."]
    command += ["--model", "art://ModelArtifact-med_ner:latest", "--json-out", "--no-link"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [each["text"] for each in json.loads(done.stdout)["entities"]] == ["warfarin"]


def test_wrong_data_is_a_line_that_names_its_place(base: Path, tmp_path: Path) -> None:
    path = annotated(tmp_path / "train.jsonl", 4, 1)
    path.write_text(path.read_text() + '{"text": "x", "entities": [{"start": 0, "end": 9, "type": "medication"}]}\n')
    with pytest.raises(KitError, match=r"train\.jsonl.*5"):
        main(MedNERConfig(train_path=path, base_model=str(base), output_dir=tmp_path / "run"))
