"""Corpora for the linear NER model: reading, labels of tokens, and strict scores."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvllm.errors import MedvllmError

__all__ = ["CORPORA", "Corpus", "CorpusDocument", "Scores", "read_corpus", "strict_scores", "token_labels"]

# File of each split -> the kinds of spans annotated in it. Train files are needed, development files are scored.
CORPORA = {
    "bc5cdr_train.jsonl": ("disease", "chemical"),
    "ncbi_disease_train.jsonl": ("disease",),
    "bc5cdr_dev.jsonl": ("disease", "chemical"),
    "ncbi_disease_dev.jsonl": ("disease",),
}

Span = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A text and its annotated spans (start, end, kind)."""

    text: str
    spans: frozenset[Span]


@dataclass(frozen=True, slots=True)
class Corpus:
    """One file: its documents, the kinds annotated in it, and its SHA-256."""

    name: str
    kinds: tuple[str, ...]
    documents: tuple[CorpusDocument, ...]
    sha256: str


def read_corpus(folder: Path, name: str) -> Corpus:
    """Read a JSONL file of {"text", "entities": [{"start", "end", "type"}]}; raises MedvllmError where it can't be."""
    path = folder / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MedvllmError(
            f"{path}: {error.strerror}; --corpora must name a folder with {', '.join(CORPORA)}"
        ) from error
    documents = []
    for number, line in enumerate(raw.decode("utf-8").splitlines(), 1):
        if line.strip():
            documents.append(_document(json.loads(line), f"{path}:{number}"))
    return Corpus(name, CORPORA[name], tuple(documents), hashlib.sha256(raw).hexdigest())


def _document(record: dict[str, Any], where: str) -> CorpusDocument:
    try:
        text = record["text"]
        spans = frozenset((int(e["start"]), int(e["end"]), str(e["type"])) for e in record["entities"])
    except (KeyError, TypeError, ValueError) as error:
        raise MedvllmError(f"{where}: expected text and entities with start, end and type: {error!r}") from error
    if any(not 0 <= start < end <= len(text) for start, end, _ in spans):
        raise MedvllmError(f"{where}: an entity lies outside its text")
    return CorpusDocument(text, spans)


def token_labels(starts: Sequence[int], ends: Sequence[int], spans: Iterable[Span], kind: str) -> list[str]:
    """O, B, I, E, S for each token. Of overlapping spans the longest counts; one that cuts a token is left out."""
    first = {start: at for at, start in enumerate(starts)}
    last = {end: at for at, end in enumerate(ends)}
    labels = ["O"] * len(starts)
    for start, end, span_kind in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        if span_kind != kind or start not in first or end not in last:
            continue
        a, b = first[start], last[end]
        if any(label != "O" for label in labels[a : b + 1]):
            continue
        labels[a : b + 1] = ["S"] if a == b else ["B", *["I"] * (b - a - 1), "E"]
    return labels


@dataclass(frozen=True, slots=True)
class Scores:
    """Precision, recall and F1 (0–1) on exact spans of the right kind."""

    precision: float
    recall: float
    f1: float
    gold: int


def strict_scores(gold: Iterable[frozenset[Span]], found: Iterable[frozenset[Span]]) -> dict[str, Scores]:
    """Scores of each annotated kind, and of all together as "micro"."""
    right: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    for want, have in zip(gold, found, strict=True):
        for span in want:
            wanted[span[2]] += 1
            right[span[2]] += span in have
        for span in have:
            given[span[2]] += 1
    result = {kind: _scores(right[kind], given[kind], wanted[kind]) for kind in sorted(wanted)}
    kinds = list(result)
    result["micro"] = _scores(sum(right[k] for k in kinds), sum(given[k] for k in kinds), sum(wanted[k] for k in kinds))
    return result


def _scores(right: int, given: int, wanted: int) -> Scores:
    precision = right / given if given else 0.0
    recall = right / wanted if wanted else 0.0
    f1 = 2 * right / (given + wanted) if given + wanted else 0.0
    return Scores(round(precision, 4), round(recall, 4), round(f1, 4), wanted)
