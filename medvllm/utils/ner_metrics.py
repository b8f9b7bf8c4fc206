"""Precision, recall and F1 of named entities, by exact and by overlapping spans. No third-party package.

A span is (start, end, type), characters with `end` exclusive.

- exact: start, end and type are equal. This is seqeval's strict mode and nervaluate's "strict", type by type.
- overlap: the types are equal and the spans share a character. A span counts for one partner at most, and partners are
  given so that as many spans as can be have one (a maximum matching).

Precision is matched / predicted, recall matched / gold, F1 their harmonic mean, 2 · matched / (predicted + gold).
Micro sums the counts over all types; macro is the mean over the types that are in gold or predicted, where a type's
undefined precision or recall (nothing predicted, nothing in gold) counts as 0, as in seqeval and scikit-learn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypedDict

from medvllm.errors import MedvllmError

__all__ = ["AnnotatedText", "Matching", "NERMetrics", "Scores", "Span", "ner_metrics", "read_annotated"]

Span = tuple[int, int, str]


class Scores(TypedDict):
    """Scores of 0–1, None where undefined, and the counts behind them. `support` is the number of gold spans."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    predicted: int
    matched: int


class Matching(TypedDict):
    """One way to match: all types together, their mean, and each type by itself."""

    micro: Scores
    macro: Scores
    per_type: dict[str, Scores]


class NERMetrics(TypedDict):
    """Both ways to match, and how many texts were scored."""

    exact: Matching
    overlap: Matching
    texts: int


class AnnotatedText(NamedTuple):
    """A text with its gold spans."""

    id: str
    text: str
    spans: frozenset[Span]


def ner_metrics(gold: Sequence[Iterable[Span]], predicted: Sequence[Iterable[Span]]) -> NERMetrics:
    """Scores of predicted spans against gold ones, text by text in the same order. A span given twice counts once.

    Raises:
        MedvllmError: the two have different lengths, or a span is empty or starts before its text.
    """
    if len(gold) != len(predicted):
        raise MedvllmError(f"gold and predicted must be of the same texts, got {len(gold)} and {len(predicted)}")
    exact: dict[str, list[int]] = {}
    overlap: dict[str, list[int]] = {}
    for number, (wanted, found) in enumerate(zip(gold, predicted, strict=True)):
        wanted_by_type, found_by_type = _by_type(wanted, number), _by_type(found, number)
        for kind in wanted_by_type.keys() | found_by_type.keys():
            want, have = wanted_by_type.get(kind, set()), found_by_type.get(kind, set())
            same = want & have
            _add(exact, kind, len(same), len(have), len(want))
            _add(overlap, kind, _most_partners(sorted(want), sorted(have)), len(have), len(want))
    return NERMetrics(exact=_matching(exact), overlap=_matching(overlap), texts=len(gold))


def read_annotated(path: str | os.PathLike[str]) -> list[AnnotatedText]:
    """Reads JSONL of {"id", "text", "entities": [{"start", "end", "type", "text"}]}; `id` and inner `text` may lack.

    Raises:
        MedvllmError: a line (named) is not of that form, or a span is outside its text or not the text it names.
    """
    texts = []
    try:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    texts.append(_annotated(line, f"{os.fspath(path)}:{number}", str(number)))
    except OSError as error:
        raise MedvllmError(f"{os.fspath(path)}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MedvllmError(f"{os.fspath(path)}: expected UTF-8 text ({error.reason})") from error
    return texts


def _annotated(line: str, where: str, number: str) -> AnnotatedText:
    try:
        record = json.loads(line)
        text = record["text"]
        entities = [
            (int(row["start"]), int(row["end"]), str(row["type"]), row.get("text")) for row in record["entities"]
        ]
        identifier = str(record.get("id", number))
        size = len(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MedvllmError(
            f'{where}: expected {{"text", "entities": [{{"start", "end", "type"}}]}} ({type(error).__name__}: {error})'
        ) from error
    for start, end, _, named in entities:
        if not 0 <= start < end <= size:
            raise MedvllmError(f"{where}: the span {start}–{end} is outside its text of {size} characters")
        if named is not None and text[start:end] != named:
            raise MedvllmError(f"{where}: {start}–{end} is {text[start:end]!r}, and the annotation says {named!r}")
    return AnnotatedText(identifier, text, frozenset(entity[:3] for entity in entities))


def _by_type(spans: Iterable[Span], number: int) -> dict[str, set[tuple[int, int]]]:
    by_type: dict[str, set[tuple[int, int]]] = {}
    for start, end, kind in spans:
        if not 0 <= start < end:
            raise MedvllmError(f"text {number}: a span needs 0 <= start < end, got {start}–{end} ({kind})")
        by_type.setdefault(kind, set()).add((start, end))
    return by_type


def _most_partners(gold: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]) -> int:
    """The size of a maximum matching of overlapping spans, by augmenting paths (Kuhn 1955)."""
    partner: dict[int, int] = {}  # of gold spans: the number of the predicted one

    def place(number: int, tried: set[int]) -> bool:
        start, end = found[number]
        for other, (gold_start, gold_end) in enumerate(gold):
            if gold_start >= end:
                return False
            if gold_end > start and other not in tried:
                tried.add(other)
                if other not in partner or place(partner[other], tried):
                    partner[other] = number
                    return True
        return False

    return sum(place(number, set()) for number in range(len(found)))


def _add(counts: dict[str, list[int]], kind: str, *more: int) -> None:
    counts[kind] = [total + new for total, new in zip(counts.get(kind, (0, 0, 0)), more, strict=True)]


def _matching(counts: dict[str, list[int]]) -> Matching:
    per_type = {kind: _scores(*counts[kind]) for kind in sorted(counts)}
    micro = _scores(*(sum(column) for column in zip(*counts.values(), strict=True))) if counts else _scores(0, 0, 0)
    macro = micro.copy()
    for name in ("precision", "recall", "f1"):
        values = [scores[name] or 0.0 for scores in per_type.values()]
        macro[name] = sum(values) / len(values) if values else None
    return Matching(micro=micro, macro=macro, per_type=per_type)


def _scores(matched: int, predicted: int, support: int) -> Scores:
    return Scores(
        precision=matched / predicted if predicted else None,
        recall=matched / support if support else None,
        f1=2 * matched / (predicted + support) if predicted + support else None,
        support=support,
        predicted=predicted,
        matched=matched,
    )
