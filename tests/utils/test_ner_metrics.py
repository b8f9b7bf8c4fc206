"""NER scores against seqeval and nervaluate on random spans, and by hand."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvllm.errors import MedvllmError
from medvllm.utils import ner_metrics as module
from medvllm.utils.ner_metrics import Span, ner_metrics, read_annotated

TYPES = ("condition", "medication", "procedure")
LENGTH = 30


@st.composite
def flat_spans(draw: st.DrawFn) -> list[Span]:
    """Spans that do not overlap, as tags B and I can say them."""
    cuts = sorted(draw(st.sets(st.integers(0, LENGTH), max_size=12)))
    return [
        (start, end, draw(st.sampled_from(TYPES))) for start, end in itertools.pairwise(cuts) if draw(st.booleans())
    ]


def _tags(spans: list[Span]) -> list[str]:
    tags = ["O"] * LENGTH
    for start, end, kind in spans:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


texts_of_spans = st.lists(st.tuples(flat_spans(), flat_spans()), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(texts_of_spans)
def test_exact_scores_are_those_of_seqeval(texts: list[tuple[list[Span], list[Span]]]) -> None:
    from seqeval.metrics import classification_report
    from seqeval.scheme import IOB2

    gold, found = [text[0] for text in texts], [text[1] for text in texts]
    ours = ner_metrics(gold, found)["exact"]
    if not ours["per_type"]:
        return
    theirs = classification_report(
        [_tags(spans) for spans in gold],
        [_tags(spans) for spans in found],
        mode="strict",
        scheme=IOB2,
        output_dict=True,
        zero_division=0,
    )
    for kind, scores in [*ours["per_type"].items(), ("micro avg", ours["micro"]), ("macro avg", ours["macro"])]:
        them = theirs[kind]
        assert (scores["precision"] or 0) == pytest.approx(them["precision"])
        assert (scores["recall"] or 0) == pytest.approx(them["recall"])
        assert (scores["f1"] or 0) == pytest.approx(them["f1-score"])
        assert scores["support"] == them["support"]


def _nervaluate(gold: list[list[Span]], found: list[list[Span]], kind: str, strategy: str) -> Any:
    """nervaluate's counts of one type. Its ends are inclusive."""
    from nervaluate import Evaluator

    def rows(texts: list[list[Span]]) -> list[list[dict[str, Any]]]:
        return [
            [{"label": k, "start": s, "end": e - 1} for s, e, k in sorted(set(text)) if k == kind] for text in texts
        ]

    return Evaluator(rows(gold), rows(found), tags=[kind], loader="dict").evaluate()["overall"][strategy]


@settings(max_examples=60, deadline=None)
@given(texts_of_spans)
def test_exact_scores_are_those_of_nervaluate(texts: list[tuple[list[Span], list[Span]]]) -> None:
    gold, found = [text[0] for text in texts], [text[1] for text in texts]
    for kind, scores in ner_metrics(gold, found)["exact"]["per_type"].items():
        strict = _nervaluate(gold, found, kind, "strict")
        # It pairs a wrong span with one that a later prediction meets exactly, so its count can be lower.
        assert scores["matched"] >= strict.correct
        exact = sum(len(set(a) & set(b)) for a, b in zip(_of(gold, kind), _of(found, kind), strict=True))
        assert scores["matched"] == exact


def _of(texts: list[list[Span]], kind: str) -> list[list[Span]]:
    return [[span for span in text if span[2] == kind] for text in texts]


def _jittered(seed: int) -> tuple[list[list[Span]], list[list[Span]]]:
    """Gold spans far apart, predictions beside or upon them: each overlaps one partner at most, so all greeds agree."""
    generator = random.Random(seed)
    gold: list[list[Span]] = []
    found: list[list[Span]] = []
    for _ in range(20):
        gold.append([])
        found.append([])
        for place in range(0, 400, 20):
            start, end, kind = place + 6, place + 6 + generator.randint(1, 6), generator.choice(TYPES)
            gold[-1].append((start, end, kind))
            fate = generator.random()
            if fate < 0.4:
                found[-1].append((start, end, kind))
            elif fate < 0.7:
                found[-1].append((start - generator.randint(0, 5), end + generator.randint(0, 5), kind))
            elif fate < 0.8:
                found[-1].append((start, end, generator.choice(TYPES)))
            elif fate < 0.9:
                found[-1].append((place, place + 4, kind))
    return gold, found


@pytest.mark.parametrize("seed", range(5))
def test_both_ways_are_those_of_nervaluate_where_spans_have_one_partner(seed: int) -> None:
    gold, found = _jittered(seed)
    ours = ner_metrics(gold, found)
    for kind in TYPES:
        for matching, strategy in ((ours["exact"], "strict"), (ours["overlap"], "ent_type")):
            theirs = _nervaluate(gold, found, kind, strategy)
            scores = matching["per_type"][kind]
            assert scores["matched"] == theirs.correct
            assert scores["precision"] == pytest.approx(theirs.precision)
            assert scores["recall"] == pytest.approx(theirs.recall)
            assert scores["f1"] == pytest.approx(theirs.f1)
    assert ours["overlap"]["micro"]["matched"] > ours["exact"]["micro"]["matched"] > 50


@settings(max_examples=80, deadline=None)
@given(texts_of_spans)
def test_overlap_is_a_maximum_matching(texts: list[tuple[list[Span], list[Span]]]) -> None:
    gold, found = [text[0] for text in texts], [text[1] for text in texts]
    for kind, scores in ner_metrics(gold, found)["overlap"]["per_type"].items():
        assert scores["matched"] >= _nervaluate(gold, found, kind, "ent_type").correct
        best = sum(_best(a, b) for a, b in zip(_of(gold, kind), _of(found, kind), strict=True))
        assert scores["matched"] == best


def _best(gold: list[Span], found: list[Span]) -> int:
    """The maximum matching by trying everything."""
    if not found:
        return 0
    start, end, _ = found[0]
    best = _best(gold, found[1:])
    for number, (gold_start, gold_end, _) in enumerate(gold):
        if gold_start < end and start < gold_end:
            best = max(best, 1 + _best(gold[:number] + gold[number + 1 :], found[1:]))
    return best


def test_one_prediction_over_two_gold_spans_counts_once() -> None:
    gold = [(0, 4, "condition"), (5, 9, "condition")]
    overlap = ner_metrics([gold], [[(0, 9, "condition")]])["overlap"]["micro"]
    assert overlap == {"precision": 1, "recall": 0.5, "f1": 2 / 3, "support": 2, "predicted": 1, "matched": 1}


def test_touching_spans_do_not_overlap_and_types_must_agree() -> None:
    gold = [(0, 4, "condition"), (10, 14, "condition")]
    found = [(4, 8, "condition"), (10, 14, "medication")]
    assert ner_metrics([gold], [found])["overlap"]["micro"]["matched"] == 0


def test_what_is_undefined_is_none() -> None:
    empty = ner_metrics([[]], [[]])
    assert empty["exact"]["micro"]["f1"] is None
    assert empty["exact"]["macro"]["f1"] is None
    assert empty["texts"] == 1
    missed = ner_metrics([[(0, 1, "a")]], [[]])["exact"]
    assert missed["per_type"]["a"]["precision"] is None
    assert missed["per_type"]["a"]["f1"] == 0
    assert missed["macro"]["precision"] == 0


def test_a_span_given_twice_counts_once() -> None:
    span = (0, 4, "condition")
    assert ner_metrics([[span]], [[span, span]])["exact"]["micro"]["precision"] == 1


def test_errors_of_the_caller() -> None:
    with pytest.raises(MedvllmError, match="got 1 and 2"):
        ner_metrics([[]], [[], []])
    with pytest.raises(MedvllmError, match="text 1: a span needs"):
        ner_metrics([[], [(4, 4, "a")]], [[], []])


def test_reading_checks_offsets(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    good = {"text": "HTN, déjà vu", "entities": [{"start": 5, "end": 12, "type": "symptom", "text": "déjà vu"}]}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(good | {"id": "b"}) + "\n")
    texts = read_annotated(path)
    assert [text.id for text in texts] == ["1", "b"]
    assert texts[0].spans == {(5, 12, "symptom")}
    for wrong, words in (
        ({"text": "HTN"}, "expected"),
        ({"text": "HTN", "entities": [{"start": 1, "end": 9, "type": "x"}]}, "outside its text of 3"),
        ({"text": "HTN", "entities": [{"start": 0, "end": 2, "type": "x", "text": "HTN"}]}, "is 'HT'"),
        (["HTN"], "expected"),
    ):
        path.write_text(json.dumps(good) + "\n" + json.dumps(wrong) + "\n")
        with pytest.raises(MedvllmError, match=words) as caught:
            read_annotated(path)
        assert f"{path}:2" in str(caught.value)
    with pytest.raises(MedvllmError, match="No such file"):
        read_annotated(tmp_path / "none.jsonl")


def test_no_third_party_package_is_imported() -> None:
    root = Path(module.__file__).parent.parent.parent
    program = f"import sys; sys.path.insert(0, {str(root)!r}); import medvllm.utils.ner_metrics"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
