"""The recipe of the linear NER model: labels, scores, calibration, and training end to end on a few sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from medvllm_kernels.crf import LinearModel
from medvllm_kernels.crf_features import PhraseClasses
from medvllm_kernels.text import PhraseTable
from medvllm_kernels.tokens import tokenize

from medvllm.errors import MedvllmError
from medvllm.tasks.detection import Calibration
from medvllm.training.linear_ner_data import Corpus, CorpusDocument, read_corpus, strict_scores, token_labels
from medvllm.training.linear_ner_rules import calibration_error, fit_steps
from medvllm.training.linear_ner_train import Settings, make_sequences, pack_weights, train


def labels(text: str, *spans: tuple[int, int, str], kind: str = "disease") -> str:
    tokens = tokenize(text)
    return "".join(token_labels(tokens.starts, tokens.ends, spans, kind))


def test_labels_mark_begin_inside_end_and_single() -> None:
    assert labels("had a left heart failure, fever", (6, 24, "disease"), (26, 31, "disease")) == "OOBIEOS"


def test_labels_prefer_the_longer_of_overlapping_spans() -> None:
    assert labels("heart failure", (0, 5, "disease"), (0, 13, "disease")) == "BE"


def test_labels_leave_out_other_kinds_and_spans_inside_tokens() -> None:
    assert labels("aspirin fever", (0, 7, "chemical"), (9, 13, "disease")) == "OO"


def test_scores_count_exact_spans_of_the_right_kind() -> None:
    gold = [frozenset({(0, 4, "disease"), (5, 9, "chemical")})]
    found = [frozenset({(0, 4, "disease"), (5, 9, "disease")})]
    scores = strict_scores(gold, found)
    assert (scores["disease"].precision, scores["disease"].recall) == (0.5, 1.0)
    assert scores["chemical"].f1 == 0.0
    assert (scores["micro"].precision, scores["micro"].recall, scores["micro"].f1) == (0.5, 0.5, 0.5)


def test_steps_never_fall_and_follow_the_share_that_is_right() -> None:
    observations = [(score, score % 10 < score // 100) for score in range(1000)]
    edges, values = fit_steps(observations, smallest=100)
    assert values == sorted(values)
    assert len(values) == len(edges) + 1
    probability = Calibration(edges, values)
    for score in (50, 450, 950):
        assert probability(score) == pytest.approx(score // 100 / 10, abs=0.06)


def test_steps_pool_what_falls() -> None:
    observations = [(score, score < 200) for score in range(400)]
    edges, values = fit_steps(observations, smallest=100)
    assert edges == []
    assert values == [pytest.approx(0.5, abs=0.01)]


def test_steps_of_nothing_are_even_odds() -> None:
    assert fit_steps([]) == ([], [0.5])


def test_calibration_error_is_the_mean_distance() -> None:
    bins = [{"confidence": 0.9, "right": 0.8, "mentions": 30.0}, {"confidence": 0.5, "right": 0.5, "mentions": 10.0}]
    assert calibration_error(bins) == pytest.approx(0.075)
    assert calibration_error([]) is None


def test_a_corpus_that_is_missing_or_wrong_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match="--corpora"):
        read_corpus(tmp_path, "bc5cdr_train.jsonl")
    entity = {"start": 0, "end": 99, "type": "disease"}
    (tmp_path / "bc5cdr_train.jsonl").write_text(json.dumps({"text": "short", "entities": [entity]}) + "\n")
    with pytest.raises(MedvllmError, match="outside its text"):
        read_corpus(tmp_path, "bc5cdr_train.jsonl")


def small_corpus() -> Corpus:
    documents = []
    for disease in ("nephritis", "colitis", "hepatitis", "gastritis", "arthritis", "dermatitis"):
        for drug in ("metoprolol", "atenolol", "propranolol", "nadolol"):
            text = f"A patient with {disease} was given {drug} every day. No {disease} came of {drug}."
            spans = {
                (text.index(word, first), text.index(word, first) + len(word), kind)
                for word, kind in ((disease, "disease"), (drug, "chemical"))
                for first in (0, text.index("No"))
            }
            documents.append(CorpusDocument(text, frozenset(spans)))
    return Corpus("small", ("disease", "chemical"), tuple(documents), "0")


def trained() -> bytes:
    table, classes = PhraseTable.from_phrases([("colitis", 1 << 27 | 1)]), PhraseClasses.build([])
    sequences = make_sequences([small_corpus()], table, classes)
    settings = Settings(c1=0.05, c2=0.1, iterations=40, min_frequency=1)
    weights = {kind: train(sequences, kind, settings) for kind in ("disease", "chemical")}
    return pack_weights(weights, classes, {}, min_weight=0.001)


def test_training_learns_endings_and_is_deterministic() -> None:
    """Words never seen are found by their endings, and a second run gives the same bytes."""
    pytest.importorskip("pycrfsuite", reason="python-crfsuite is not installed")
    data = trained()
    assert data == trained()
    text = "A patient with pancreatitis was given bisoprolol every day."
    found = LinearModel.from_bytes(data).tag(text, PhraseTable.from_phrases([("colitis", 1 << 27 | 1)])).findings()
    assert [(text[start:end], kind) for start, end, kind, *_ in found] == [("pancreatitis", 1), ("bisoprolol", 2)]
