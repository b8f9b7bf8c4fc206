"""Finding the entities of a text: a vocabulary, a small learned model, and what the document says about itself.

`full` joins the spans of a linear-chain model (medvllm_kernels/crf.py, trained by medvllm/training/linear_ner.py) with
the phrases of the ontology store, examination findings (findings.py), the abbreviations that the text defines, and
further places where the same words stand. `fast` is the vocabulary alone.
"""

from __future__ import annotations

import functools
import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from operator import getitem, gt, itemgetter, not_
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from medvllm_kernels.crf import Findings, LinearModel, LinearModelError, Tagging

from medvllm.errors import MedvllmError
from medvllm.ontology.store import OntologyStore
from medvllm.tasks.abbreviations import Definition, find_definitions, occurrences
from medvllm.tasks.entities import ENTITY_TYPES
from medvllm.tasks.findings import find_findings
from medvllm.tasks.term_variants import variants

__all__ = ["DATA_DIR", "Calibration", "Detector", "Mention", "Mode", "Rules", "builtin_model"]

DATA_DIR: Final = Path(__file__).parent / "data"
MODEL_FILE: Final = "linear_ner.bin"

Mode = Literal["full", "fast"]
_MODES: Final = ("full", "fast")
_TYPE_SHIFT: Final = 27

# The entity types of each of the model's kinds, the one taken without the vocabulary's word first.
_TYPES_OF: Final = (("condition", "symptom"), ("chemical", "medication"))
# [kind][type code of a phrase] -> the phrase's type where that is of the kind, else the kind's first.
_TYPE_NAMES: Final = tuple(
    tuple(name if name in types else types[0] for name in ("", *ENTITY_TYPES, *[""] * (15 - len(ENTITY_TYPES))))
    for types in _TYPES_OF
)
_BLOCK: Final = 6_000  # characters within which a document is made consistent; keeps the work linear
# The least mean margin over all places of a mention's words at which all of them are marked; less lenient for words in
# capitals, which are often names of genes. Chosen on held-out train documents.
_LEAST_MEAN_MARGIN: Final = -2000
_LEAST_MEAN_MARGIN_OF_CAPITALS: Final = -1000
_MOST_REPEATS: Final = 2  # places marked so for each place that the model marked
_LONGEST_SHORT: Final = 10  # characters of an abbreviation
_WORD: Final = re.compile(r"[^\W_][\w/+\-.']*")
# The end of a long form whose short form names a gene or its product: "Wiskott-Aldrich syndrome protein (WASP)".
_OF_GENES: Final = re.compile(
    r"(?:genes?|loc(?:us|i)|proteins?|receptors?|transporters?|(?<!dise)ases?)\W*\Z", re.IGNORECASE
)


class Mention(NamedTuple):
    """A span found in a text, before it is linked.

    `confidence` is the estimated probability that span and type are right; `term` a payload of the store that names the
    span, or None; `source` is model, vocabulary, finding, abbreviation or document; `long_form` what an abbreviation
    stands for in this text.
    """

    start: int
    end: int
    type: str
    confidence: float | None
    term: int | None
    source: str
    long_form: str | None = None


class Calibration:
    """Probability as a step function of a score: `values[i]` holds from `edges[i - 1]` up to `edges[i]`."""

    def __init__(self, edges: Sequence[float], values: Sequence[float]) -> None:
        """`values` has one entry more than the ascending `edges`."""
        if len(values) != len(edges) + 1:
            raise ValueError(f"{len(edges)} edges need {len(edges) + 1} values, got {len(values)}")
        self.edges, self.values = list(edges), list(values)

    def __call__(self, score: float) -> float:
        """The probability at `score`."""
        return self.values[bisect_right(self.edges, score)]


@dataclass(frozen=True, slots=True)
class Rules:
    """What was learned beside the weights: see medvllm/training/linear_ner_rules.py."""

    model: tuple[Calibration, Calibration]  # margin of a span of the model -> probability, for each of KINDS
    vocabulary: dict[str, Calibration]  # type -> (margin of a phrase outside the model's spans -> probability)
    alone: dict[str, float]  # type -> probability of a phrase of the vocabulary where no model is asked
    dropped: frozenset[str]  # phrases, in lower case, that are rarely what the vocabulary takes them for
    sources: dict[str, float]  # abbreviation, document -> probability
    least: float  # probability below which a phrase of the vocabulary is left out

    @classmethod
    def from_json(cls, extra: dict[str, Any]) -> Rules:
        """From the JSON packed with the model."""
        return cls(
            model=(Calibration(*extra["model"][0]), Calibration(*extra["model"][1])),
            vocabulary={kind: Calibration(*steps) for kind, steps in extra["vocabulary"].items()},
            alone=extra["alone"],
            dropped=frozenset(extra["dropped"]),
            sources=extra["sources"],
            least=extra["least"],
        )

    def vocabulary_of(self, name: str) -> tuple[str, list[float], list[float], bool]:
        """The type, edges and values of its step function, and whether its score is the margin of diseases."""
        steps = self.vocabulary.get(name)
        return name, steps.edges if steps else [], steps.values if steps else [], name in _TYPES_OF[0]


class Detector:
    """Finds mentions with the vocabulary of one store. Safe to use from several threads on the native path."""

    def __init__(
        self, store: OntologyStore, *, mode: Mode = "full", model: LinearModel | None = None, rules: Rules | None = None
    ) -> None:
        """`model` and `rules` replace the built-in ones. Raises MedvllmError for an unknown mode or a bad model."""
        if mode not in _MODES:
            raise MedvllmError(f"unknown detection mode '{mode}'; choose one of {', '.join(_MODES)}")
        self._store = store
        self._mode = mode
        self._model = model if model is not None else builtin_model()
        self._rules = rules if rules is not None else Rules.from_json(self._model.extra())
        # [type code] -> (type, probability) of a phrase where no model is asked
        self._alone = [("", None), *((name, self._rules.alone.get(name)) for name in ENTITY_TYPES)]
        # [type code] -> type, edges and values of its calibration, if any, and whether it looks at the disease's margin
        self._vocabulary = [("", [], [], False), *map(self._rules.vocabulary_of, ENTITY_TYPES)]
        self._terms: dict[str, int | None] = {}

    def detect(self, text: str, *, nested: bool = False) -> list[Mention]:
        """The mentions in `text` by start; none overlap, unless `nested` adds the phrases inside and across others."""
        mentions = (
            self._typed(text, self._store.find(text)) if self._mode == "fast" else self.detect_with_phrases(text)[0]
        )
        if nested:
            spans = {(mention.start, mention.end) for mention in mentions}
            found = self._typed(text, self._store.find(text, overlapping=True))
            mentions += (mention for mention in found if (mention.start, mention.end) not in spans)
            mentions.sort(key=lambda mention: (mention.start, -mention.end))
        return mentions

    def _typed(self, text: str, matches: Iterable[tuple[int, int, int]]) -> list[Mention]:
        """Mentions of the matches that are for detection."""
        dropped, alone = self._rules.dropped, self._alone
        return [
            _mention(Mention, (start, end, *alone[code], payload, "vocabulary", None))
            for start, end, payload in matches
            if (code := payload >> _TYPE_SHIFT & 15) and text[start:end].lower() not in dropped
        ]

    def detect_with_phrases(self, text: str) -> tuple[list[Mention], list[tuple[int, int, int]]]:
        """The mentions of `full`, and what the store finds in the text: (start, end, payload) by start."""
        document = _Draft(text)
        definitions = find_definitions(text)
        tagging = self._model.tag(text, self._store.table, definitions)
        phrases, spans = tagging.phrases(), tagging.spans()
        clashing = any(map(gt, spans.ends, spans.starts[1:]))
        # Spans whose words stand nowhere else, which the tokens tell where letters have but one small letter.
        unique: Set[int] = frozenset()
        if text.isascii() and not clashing:
            unique = set(itertools.compress(spans.starts, map(not_, spans.payloads)))
        self._add_model_spans(document, spans, phrases, clashing=clashing)
        if self._store.layered:
            self._add_users_phrases(document)
        self._propagate(document, definitions, tagging, unique)
        self._add_findings(document)
        self._add_vocabulary(document, phrases)
        mentions = document.mentions
        if genes := _genes(text, definitions):
            mentions = [m for m in mentions if m.type not in _TYPES_OF[0] or text[m.start : m.end] not in genes]
        mentions.sort(key=_start)
        if self._store.layered:
            return mentions, self._store.find(text)
        return mentions, list(zip(phrases.starts, phrases.ends, phrases.payloads, strict=True))

    def _add_model_spans(self, document: _Draft, spans: Findings, phrases: Findings, *, clashing: bool) -> None:
        """The model's spans, the surest first where two overlap (`clashing`); one word said again and again is as many
        mentions.
        """
        text, add, mentions, taken = document.text, document.add, document.mentions, document.taken
        ending = dict(zip(phrases.ends, zip(phrases.starts, phrases.payloads, strict=True), strict=True)).get
        calibrations = [(calibration.edges, calibration.values) for calibration in self._rules.model]
        listed: Iterable[tuple[int, int, int, int]] = zip(*_own_margins(spans), strict=True)
        if clashing:
            listed = sorted(listed, reverse=True)
        for margin, start, end, kind in listed:
            if clashing and not document.is_free(start, end):
                continue
            edges, values = calibrations[kind]
            confidence = values[bisect_right(edges, margin)]
            first, payload = ending(end, _NO_PHRASE)
            name = _TYPE_NAMES[kind][payload >> _TYPE_SHIFT & 15]
            if first == start:
                mentions.append(_mention(Mention, (start, end, name, confidence, payload, "model", None)))
                taken[start:end] = b"\1" * (end - start)
            elif first > start and (parts := _repeats(text, start, end, first)):
                for part in parts:
                    add(Mention(*part, name, confidence, payload, "model"))
            else:
                term = self._term(text[start:end])
                if term is not None and (code := term >> _TYPE_SHIFT & 15):
                    name = _TYPE_NAMES[kind][code]
                add(_mention(Mention, (start, end, name, confidence, term, "model", None)))

    def _term(self, surface: str) -> int | None:
        """The payload of a phrase of the store, or of a variant where it is not listed; kept between texts."""
        known = self._terms.get(surface, -1)
        if known == -1:
            if len(self._terms) >= 50_000:
                self._terms.clear()
            known = self._store.get(surface)
            if known is None:
                known = next(
                    (term for other in variants(surface) if (term := self._store.get(other)) is not None), None
                )
            self._terms[surface] = known
        return known

    def _propagate(self, document: _Draft, definitions: list[Definition], tagging: Tagging, unique: Set[int]) -> None:
        """Mark abbreviations of mentions, then the other places where a mention's words stand.

        The words of the mentions that start at the places `unique` stand nowhere else.
        """
        text = document.text
        named = self._named(document, definitions) if definitions else {}
        mentions = [mention for mention in document.mentions if mention[0] not in unique]
        if not mentions and not named:
            return
        mentions.sort(key=_start)
        at = 0
        for begin in range(0, len(text), _BLOCK):
            block = text[begin : begin + _BLOCK]
            first = at
            while at < len(mentions) and mentions[at].start < begin + _BLOCK:
                at += 1
            if named:
                for short in sorted(named.keys() & set(_WORD.findall(block)), key=lambda words: (-len(words), words)):
                    self._mark(document, block, begin, short, named[short])
            if first < at:
                self._mark_repeats(document, block, begin, mentions[first:at], named.keys(), tagging)

    def _named(self, document: _Draft, definitions: list[Definition]) -> dict[str, Mention]:
        """Short forms of mentions; short forms that are mentions already get the term of their long form."""
        text = document.text
        longs = {text[found.short_start : found.short_end]: found for found in reversed(definitions)}
        ends = {mention.end: mention for mention in document.mentions}
        named: dict[str, Mention] = {}
        terms: dict[str, tuple[int | None, str]] = {}
        for short, found in longs.items():
            long = text[found.long_start : found.long_end]
            mention = ends.get(found.long_end)
            whole = mention is not None and mention.start <= found.long_start + 1
            terms[short] = mention.term if mention is not None and whole else self._term(long), long
            if mention is not None and whole:
                confidence = self._rules.sources["abbreviation"]
                named[short] = mention._replace(source="abbreviation", confidence=confidence, long_form=long)
        for at, mention in enumerate(document.mentions):
            if mention.end - mention.start <= _LONGEST_SHORT and (
                known := terms.get(text[mention.start : mention.end])
            ):
                term, long = known
                document.mentions[at] = mention._replace(
                    term=term if term is not None else mention.term, long_form=long
                )
        return named

    def _mark(self, document: _Draft, block: str, begin: int, words: str, like: Mention) -> None:
        for start, end in occurrences(block, words):
            if document.is_free(begin + start, begin + end):
                document.add(like._replace(start=begin + start, end=begin + end))

    def _mark_repeats(
        self, document: _Draft, block: str, begin: int, mentions: list[Mention], named: Set[str], tagging: Tagging
    ) -> None:
        """Mark the other places of a mention's words, unless the model's margins there speak against it."""
        folded = block.lower()
        if len(folded) != len(block):  # a few capitals have two small letters
            folded = block
        counts: dict[tuple[str, str], list[Mention]] = {}
        text = document.text
        for mention in mentions:
            start, end, name = mention[:3]
            surface = text[start:end]
            if end - start >= 3 and surface not in named:
                words = surface if surface.isupper() else surface.lower()
                same = counts.get((words, name))
                if same is None:
                    counts[words, name] = [mention]
                else:
                    same.append(mention)
        for (words, name), same in counts.items():
            source = block if words.isupper() else folded
            if source.count(words) <= len(same):
                continue
            spans = [(begin + start, begin + end) for start, end in occurrences(source, words)]
            free = [span for span in spans if document.is_free(*span)]
            if not free:
                continue
            kind = 0 if name in _TYPES_OF[0] else 1
            margins = [
                margin[kind] for span in {*free, *((m.start, m.end) for m in same)} if (margin := tagging.margin(*span))
            ]
            least = _LEAST_MEAN_MARGIN_OF_CAPITALS if words.isupper() else _LEAST_MEAN_MARGIN
            if len(free) <= _MOST_REPEATS * len(same) and sum(margins) >= least * len(margins):
                like = same[0]._replace(confidence=self._rules.sources["document"], source="document")
                for start, end in free:
                    document.add(like._replace(start=start, end=end))

    def _add_vocabulary(self, document: _Draft, phrases: Findings) -> None:
        """Phrases of the vocabulary outside all spans so far, where the model doesn't rule them out."""
        text, is_taken, add = document.text, document.taken.find, document.mentions.append
        dropped, least, types = self._rules.dropped, self._rules.least, self._vocabulary
        for start, end, payload, disease, chemical in zip(*phrases.without_kinds(), strict=True):
            if is_taken(1, start, end) >= 0:
                continue
            name, edges, values, of_disease = types[payload >> _TYPE_SHIFT & 15]
            confidence = None
            if values:
                confidence = values[bisect_right(edges, disease if of_disease else chemical)]
                if confidence < least:
                    continue
            if text[start:end].lower() not in dropped:  # phrases don't overlap, so none is marked as taken
                add(_mention(Mention, (start, end, name, confidence, payload, "vocabulary", None)))

    def _add_findings(self, document: _Draft) -> None:
        """Findings, whose probability no corpus at hand could tell. An observation is a test, another a symptom, unless
        the vocabulary calls it a condition."""
        for start, end, observed in find_findings(document.text):
            if document.is_free(start, end):
                term = self._term(document.text[start:end])
                code = term >> _TYPE_SHIFT & 15 if term is not None else 0
                known = code and ENTITY_TYPES[code - 1] == "condition"
                name = "test" if observed else "condition" if known else "symptom"
                document.add(Mention(start, end, name, None, term, "finding"))

    def _add_users_phrases(self, document: _Draft) -> None:
        """Phrases of the user's own stores, which are not in the table the model was given."""
        for mention in self._typed(document.text, self._store.find(document.text)):
            if mention.term is not None and mention.term >> 32 and document.is_free(mention.start, mention.end):
                document.add(mention)


def _repeats(text: str, start: int, end: int, last: int) -> list[tuple[int, int]]:
    """The spans of the words text[last:end] where text[start:end] is nothing but them, again and again; else empty."""
    words, span = text[last:end].lower(), text[start:end].lower()
    if len(span) != end - start or span.replace(words, "").strip():
        return []
    return [(start + first, start + stop) for first, stop in occurrences(span, words)]


def _genes(text: str, definitions: Iterable[Definition]) -> set[str]:
    """The abbreviations that the text defines as names of genes and proteins, which are no conditions."""
    return {
        text[found.short_start : found.short_end]
        for found in definitions
        if _OF_GENES.search(text, max(found.long_start, found.long_end - 16), found.long_end)
    }


_NO_PHRASE: Final = (-1, 0)  # start and payload
_start: Final = itemgetter(0)
_mention: Final = tuple.__new__  # of a tuple of all seven: half the time of Mention(...)


def _own_margins(spans: Findings) -> tuple[Iterable[int], list[int], list[int], list[int]]:
    """The columns margin, start, end and index in KINDS: of the two margins that of the span's own kind."""
    kinds = [kind - 1 for kind in spans.kinds]
    return map(getitem, zip(spans.disease, spans.chemical, strict=True), kinds), spans.starts, spans.ends, kinds


class _Draft:
    """The mentions found so far, none overlapping, and which characters they take."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.mentions: list[Mention] = []
        self.taken = bytearray(len(text))

    def is_free(self, start: int, end: int) -> bool:
        """Whether no mention takes a character of the span."""
        return self.taken.find(1, start, end) < 0

    def add(self, mention: Mention) -> None:
        """Take a free span."""
        start, end = mention[0], mention[1]
        self.taken[start:end] = b"\1" * (end - start)
        self.mentions.append(mention)


@functools.cache
def builtin_model() -> LinearModel:
    """The model that comes with the package; raises MedvllmError where it can't be used."""
    path = DATA_DIR / MODEL_FILE
    try:
        return LinearModel.open(path)
    except (OSError, LinearModelError) as error:
        raise MedvllmError(f"the NER model cannot be used ({error}); reinstall the package") from error
