"""Text classification beside transformers' own pipeline, and of texts longer than it reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from medvllm.tasks.classification import TextClassifier

Made = Callable[..., Path]
TEXTS = ["The medication worked well.", "No pneumonia; fever since 3 days.", "x", "α-Methyldopa reversed it"]
LABELS = ["NEGATIVE", "POSITIVE", "MIXED"]


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_scores_are_the_pipelines(made: Made, tmp_path: Path, kind: str, problem: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(made(kind, task="SequenceClassification", labels=LABELS), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
    pipeline = transformers.pipeline("text-classification", model=str(folder), top_k=None)
    for text, found in zip(TEXTS, TextClassifier(str(folder)).classify(TEXTS), strict=True):
        wanted = [(one["label"], pytest.approx(one["score"], abs=2e-4)) for one in pipeline([text])[0]]
        assert [list(pair) for pair in found.scores] == [list(pair) for pair in wanted]
        assert (found.label, found.score) == found.scores[0]
        assert found.to_dict() == {"label": found.label, "score": found.score}
        assert len(found.to_dict(top=2)["scores"]) == 2


def test_a_long_text_is_the_weighted_mean_of_its_windows(made: Made) -> None:
    from medvllm.tasks.model_ner_windows import tokenize, windows

    classifier = TextClassifier(str(made("bert", task="SequenceClassification", labels=LABELS)))
    text = " ".join(TEXTS * 40)
    tokens = tokenize(classifier.model.tokenizer, text)
    parts = windows(tokens.words, capacity=62, overlap=7)
    assert len(parts) > 5
    logits = classifier.model.logits([[2, *tokens.ids[one.start : one.stop], 3] for one in parts])
    weights = torch.tensor([float(one.own_stop - one.own_start) for one in parts])
    mean = (torch.stack(logits) * weights[:, None]).sum(0) / weights.sum()
    found = dict(classifier.classify([text])[0].scores)
    assert found == pytest.approx(dict(zip(LABELS, mean.softmax(-1).tolist(), strict=True)), abs=1e-3)
    assert sum(found.values()) == pytest.approx(1, abs=1e-3)


def test_a_text_without_a_token_has_a_label_all_the_same(made: Made) -> None:
    classifier = TextClassifier(str(made("bert", task="SequenceClassification", labels=LABELS)))
    assert classifier.classify([" \n", "x"])[1] == classifier.classify(["x"])[0]
    assert classifier.classify([]) == []
