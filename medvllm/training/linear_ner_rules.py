"""What the detector needs beside the weights, learned from predictions on documents the model was not trained on.

The train documents are split in two halves; each half is tagged by a model trained on the other. From these predictions
come the probabilities of the model's spans and of phrases of the vocabulary by margin, the phrases to drop, and how
often the other sources are right. No development document is used.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvllm_kernels.crf import KINDS, LinearModel

from medvllm.ontology.store import OntologyStore
from medvllm.tasks.abbreviations import find_definitions
from medvllm.tasks.detection import Detector, Mention, Rules
from medvllm.tasks.entities import ENTITY_TYPES
from medvllm.training.linear_ner_data import CorpusDocument

__all__ = ["CALIBRATED_TYPES", "HeldOut", "calibration_error", "fit_steps", "learn_rules", "reliability"]

CALIBRATED_TYPES = {"condition": "disease", "symptom": "disease", "medication": "chemical", "chemical": "chemical"}
_SOURCES = ("abbreviation", "document")
_DROP_SHARE = 0.3  # a phrase of the vocabulary that touches an annotated span less often than this is dropped
_DROP_SEEN = 3  # times it must have been seen
_LEAST = 0.25  # a phrase outside the model's spans that is less probable than this is left out

Observation = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Documents with the kinds annotated in them, and a model that has not seen them."""

    documents: Sequence[tuple[CorpusDocument, tuple[str, ...]]]
    model: LinearModel


@dataclass(slots=True)
class _Observed:
    model: dict[str, list[Observation]] = field(default_factory=lambda: defaultdict(list))
    vocabulary: dict[str, list[Observation]] = field(default_factory=lambda: defaultdict(list))
    alone: dict[str, list[tuple[str, bool]]] = field(default_factory=lambda: defaultdict(list))  # phrase, right
    seen: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)


def learn_rules(store: OntologyStore, held_out: Sequence[HeldOut]) -> dict[str, Any]:
    """The JSON that Rules.from_json reads."""
    observed = _Observed()
    for part in held_out:
        for document, kinds in part.documents:
            _observe(observed, store, part.model, document, kinds)
    dropped = sorted(
        words
        for words, seen in observed.seen.items()
        if seen >= _DROP_SEEN and observed.right[words] < _DROP_SHARE * seen
    )
    extra: dict[str, Any] = {
        "model": [fit_steps(observed.model[kind]) for kind in KINDS],
        "vocabulary": {name: fit_steps(observed.vocabulary[name]) for name in CALIBRATED_TYPES},
        "alone": {name: _share(observed.alone[name], dropped) for name in CALIBRATED_TYPES},
        "dropped": dropped,
        "sources": dict.fromkeys(_SOURCES, 0.5),
        "least": _LEAST,
    }
    extra["sources"] = _source_shares(store, held_out, Rules.from_json(extra))
    return extra


def _share(judged: Iterable[tuple[str, bool]], dropped: Sequence[str]) -> float:
    """How often the phrases that are not dropped are right."""
    kept = [right for words, right in judged if words not in dropped]
    return round((sum(kept) + 1) / (len(kept) + 2), 3)


def _observe(
    observed: _Observed, store: OntologyStore, model: LinearModel, document: CorpusDocument, kinds: tuple[str, ...]
) -> None:
    tagging = model.tag(document.text, store.table, find_definitions(document.text))
    taken = bytearray(len(document.text))
    findings = list(tagging.findings())
    for start, end, row_kind, _, *margins in findings:
        if row_kind and KINDS[row_kind - 1] in kinds:
            kind = KINDS[row_kind - 1]
            observed.model[kind].append((margins[row_kind - 1], (start, end, kind) in document.spans))
            taken[start:end] = b"\1" * (end - start)
    for start, end, row_kind, payload, *margins in findings:
        name = ENTITY_TYPES[(payload >> 27 & 15) - 1] if row_kind == 0 else ""
        kind = CALIBRATED_TYPES.get(name, "")
        if kind not in kinds:
            continue
        right = (start, end, kind) in document.spans
        words = document.text[start:end].lower()
        observed.alone[name].append((words, right))
        observed.seen[words] += 1
        observed.right[words] += any(a < end and start < b for a, b, gold in document.spans if gold == kind)
        if taken.find(1, start, end) < 0:
            observed.vocabulary[name].append((margins[KINDS.index(kind)], right))


def _source_shares(store: OntologyStore, held_out: Sequence[HeldOut], rules: Rules) -> dict[str, float]:
    """How often the mentions of each source are right."""
    seen: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for part in held_out:
        detector = Detector(store, model=part.model, rules=rules)
        for document, kinds in part.documents:
            for mention in detector.detect(document.text):
                kind = CALIBRATED_TYPES.get(mention.type, "")
                if kind in kinds:
                    seen[mention.source] += 1
                    right[mention.source] += (mention.start, mention.end, kind) in document.spans
    return {source: round((right[source] + 1) / (seen[source] + 2), 3) for source in _SOURCES}


def fit_steps(observations: Iterable[Observation], *, smallest: int = 60) -> tuple[list[float], list[float]]:
    """Isotonic regression as (edges, values) of a Calibration: the share right never falls as the score rises.

    Steps hold at least `smallest` observations before neighbours that fall are pooled; shares are (right + 1)/(n + 2).
    """
    ordered = sorted(observations)
    pools: list[tuple[float, int, int]] = []  # lowest score, right, n
    for first in range(0, len(ordered), smallest):
        part = ordered[first : first + smallest]
        if pools and (len(part) < smallest or part[0][0] == pools[-1][0]):
            low, right, n = pools.pop()
            part_right, part_n = right + sum(ok for _, ok in part), n + len(part)
        else:
            low, part_right, part_n = part[0][0], sum(ok for _, ok in part), len(part)
        pools.append((low, part_right, part_n))
        while len(pools) > 1 and pools[-1][1] * pools[-2][2] <= pools[-2][1] * pools[-1][2]:
            _, right, n = pools.pop()
            low, lower_right, lower_n = pools.pop()
            pools.append((low, lower_right + right, lower_n + n))
    if not pools:
        return [], [0.5]
    return [low for low, _, _ in pools[1:]], [round((right + 1) / (n + 2), 3) for _, right, n in pools]


def reliability(mentions: Iterable[tuple[Mention, bool]], *, bins: int = 10) -> list[dict[str, float]]:
    """For each bin of equal width that holds any: mean confidence, share right, and how many."""
    held: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for mention, right in mentions:
        if mention.confidence is not None:
            held[min(bins - 1, int(mention.confidence * bins))].append((mention.confidence, right))
    return [
        {
            "confidence": round(sum(c for c, _ in pairs) / len(pairs), 4),
            "right": round(sum(ok for _, ok in pairs) / len(pairs), 4),
            "mentions": len(pairs),
        }
        for _, pairs in sorted(held.items())
    ]


def calibration_error(bins: Sequence[dict[str, float]]) -> float | None:
    """Expected calibration error: the mean distance of confidence and share right; None without mentions."""
    total = sum(entry["mentions"] for entry in bins)
    if not total:
        return None
    return round(sum(abs(entry["confidence"] - entry["right"]) * entry["mentions"] for entry in bins) / total, 4)
