"""The ontology store at run time: phrases to concepts, concepts to codes.

A store is a folder with `terms.bin` and `lookup.bin` (memory-mapped phrase tables: phrases that are found in
running text, and phrases that are only looked up and linked) and `concepts.sqlite` (read lazily). The
built-in store may be layered with stores imported by the user, whose senses and codes come first."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from medvllm_kernels.text import PhraseTable

from medvllm.errors import MedvllmError
from medvllm.tasks.entities import ENTITY_TYPES, OntologyLink

__all__ = ["VOCABULARIES", "Concept", "Lookup", "OntologyStore", "Sense", "resolve_vocabulary"]

VOCABULARIES = ("UMLS", "MESH", "ICD10CM", "SNOMED", "HPO", "MONDO", "DOID", "CHEBI", "UNII", "ALL")
_ALIASES = {
    "ICD10": "ICD10CM",
    "ICD-10-CM": "ICD10CM",
    "ICD-10": "ICD10CM",
    "SNOMEDCT": "SNOMED",
    "SNOMEDCT_US": "SNOMED",
}
_ALIASES |= {"HP": "HPO", "MSH": "MESH", "SNOMED-CT": "SNOMED", "SNOMED_CT": "SNOMED"}

FORMAT_VERSION = 1
CASED = 1 << 31
TYPE_SHIFT = 27
TERM_ID_MASK = (1 << TYPE_SHIFT) - 1
_MAPPED_BYTES = 1 << 30  # of concepts.sqlite, at most
_LAYER_SHIFT = 32  # a term or concept id of layer n carries n << 32

BUILTIN_PATH = Path(__file__).parent / "_data"
_KINDS = ("name", "synonym", "curated", "variant")
# How sure an exact match of each kind is to mean the concept. Set by hand around one measured figure: on BC5CDR dev,
# 93 % of the first MeSH links of exact spans are right (docs/NER.md).
_KIND_SCORE = (0.97, 0.95, 0.93, 0.92)
_NEAR_PREFIX = 3  # characters in which a misspelt phrase and what was meant agree
_NEAR_SHORTEST, _NEAR_LONGEST = 5, 100  # characters of a phrase whose misspellings are tried one by one
_NEAR_LENGTH = 3  # characters by which they differ in length, at most
_LATER_SENSE = 0.5  # factor for the second and later senses of an ambiguous phrase


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning of a phrase. `kind` is name, synonym, curated (abbreviations and lay terms) or variant;
    `preferred` is true for the first."""

    concept_id: int
    type: str | None
    preferred: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Code:
    """A concept's code in one vocabulary; `score` (0–1) is how surely it means the concept."""

    code: str
    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept; `vocabulary` and `code` are its own, `codes` those in every vocabulary, best first."""

    vocabulary: str
    code: str
    name: str
    type: str | None
    codes: dict[str, tuple[Code, ...]] = field(hash=False)

    @property
    def xrefs(self) -> dict[str, list[str]]:
        """Codes by vocabulary, best first."""
        return {vocabulary: [code.code for code in codes] for vocabulary, codes in self.codes.items()}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What `lookup` found: the concept and how the phrase names it."""

    concept: Concept
    kind: str
    found_in_text: bool


def resolve_vocabulary(name: str, imported: Iterable[str] = ()) -> str:
    """The vocabulary's name in capitals, from VOCABULARIES or those a user has imported.

    Raises MedvllmError listing the valid names for an unknown one.
    """
    upper = name.upper()
    upper = _ALIASES.get(upper, upper)
    known = [*VOCABULARIES[:-1], *(extra for extra in imported if extra not in VOCABULARIES), VOCABULARIES[-1]]
    if upper not in known:
        raise MedvllmError(f"unknown ontology '{name}'; choose one of {', '.join(known)}")
    return upper


class _Layer:
    """One store folder, opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("terms.bin", "lookup.bin", "concepts.sqlite"):
            if not (path / name).is_file():
                raise MedvllmError(
                    f"no ontology store at {path} ({name} is missing); run python -m medvllm.ontology.build"
                )
        try:
            self.table = PhraseTable.open(path / "terms.bin")
            self._lookup = PhraseTable.open(path / "lookup.bin")
        except (OSError, ValueError) as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, reason: str) -> MedvllmError:
        return MedvllmError(
            f"the ontology store at {self.path} is damaged ({reason}); run python -m medvllm.ontology.build"
        )

    def get(self, phrase: str) -> int | None:
        """The payload of a whole phrase, whether it is found in text or only looked up."""
        payload = self.table.get(phrase)
        return self._lookup.get(phrase) if payload is None else payload

    @cached_property
    def _database(self) -> sqlite3.Connection:
        uri = (self.path / "concepts.sqlite").resolve().as_uri() + "?mode=ro&immutable=1"
        try:
            connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")  # first links cost a tenth less
            found = connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone()
        except sqlite3.Error as error:
            raise self._corrupt(str(error)) from error
        if found is None or found[0] != str(FORMAT_VERSION):
            raise self._corrupt(f"format {found and found[0]}, expected {FORMAT_VERSION}")
        return connection

    def rows(self, query: str, *values: object) -> list[Any]:
        """All rows of a query; a damaged file is reported as MedvllmError."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise self._corrupt(str(error)) from error

    @cached_property
    def vocabularies(self) -> list[str]:
        """Vocabulary names by their number in the file."""
        return [str(name) for (name,) in self.rows("SELECT name FROM vocabulary ORDER BY id")]

    def code_counts(self) -> dict[str, int]:
        """Distinct codes by vocabulary, counted in the tables."""
        query = (
            "SELECT vocabulary, count(*) FROM"
            " (SELECT vocabulary, code FROM concept UNION SELECT vocabulary, code FROM code) GROUP BY vocabulary"
        )
        return {self.vocabularies[number]: int(count) for number, count in self.rows(query)}

    def names_beginning(self, prefix: str) -> list[str]:
        """Names of concepts and titles of codes that begin so, in any case."""
        pattern = re.sub(r"([%_\\])", r"\\\1", prefix) + "%"
        query = (
            "SELECT name FROM concept WHERE name LIKE ?1 ESCAPE '\\'"
            " UNION SELECT name FROM code WHERE name LIKE ?1 ESCAPE '\\'"
        )
        return [str(name) for (name,) in self.rows(query, pattern)]

    def senses(self, term_id: int) -> list[tuple[int, int, int]]:
        """(concept id, kind, type code) of a term, best first."""
        query = (
            "SELECT s.concept, s.kind, c.type FROM sense s JOIN concept c ON c.id = s.concept"
            " WHERE s.term = ? ORDER BY s.rank"
        )
        return self.rows(query, term_id)

    def concept(self, number: int) -> Concept:
        """Read one concept with its codes."""
        found = self.rows("SELECT vocabulary, code, type, name FROM concept WHERE id = ?", number)
        if not found:
            raise KeyError(number)
        own, code, kind, name = found[0]
        home = self.vocabularies[own]
        codes: dict[str, list[Code]] = {}
        for vocabulary, other, score, title in self.rows(
            "SELECT vocabulary, code, score, name FROM code WHERE concept = ? ORDER BY vocabulary, rank",
            number,
        ):
            listed = codes.setdefault(self.vocabularies[vocabulary], [])
            listed.append(Code(str(other), str(title if title is not None else name), score / 1000))
        if all(entry.code != code for entry in codes.get(home, ())):
            codes.setdefault(home, []).insert(0, Code(str(code), str(name), 1.0))
        frozen = {vocabulary: tuple(entries) for vocabulary, entries in codes.items()}
        return Concept(home, str(code), str(name), ENTITY_TYPES[kind - 1] if kind else None, frozen)

    def concepts_with(self, vocabulary: str, code: str) -> list[int]:
        """Ids of the concepts that hold a code, their own first."""
        if vocabulary not in self.vocabularies:
            return []
        number = self.vocabularies.index(vocabulary)
        own = self.rows("SELECT id FROM concept WHERE code = ? AND vocabulary = ?", code, number)
        other = self.rows(
            "SELECT concept FROM code WHERE code = ? AND vocabulary = ? ORDER BY score DESC, concept",
            code,
            number,
        )
        return list(dict.fromkeys(row[0] for row in [*own, *other]))


class OntologyStore:
    """The built-in store, with the user's stores on top of it.

    Ids of terms and concepts carry the number of their layer in bits 32 and up; the built-in layer is 0, so
    ids of the built-in table are used as they are."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._layers = tuple(layers)
        self._senses: dict[int, tuple[Sense, ...]] = {}
        self._concepts: dict[int, Concept] = {}

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | None = None, *, user: Sequence[str | os.PathLike[str]] = ()
    ) -> OntologyStore:
        """Open the store in folder `path` (default: the built-in one), with `user` stores on top, first one
        first.

        Raises MedvllmError when a store is missing or cannot be read.
        """
        base = _Layer(Path(path) if path is not None else BUILTIN_PATH)
        return cls([base, *(_Layer(Path(folder)) for folder in user)])

    def resolve(self, ontology: str) -> str:
        """The name of a vocabulary of this store; raises MedvllmError listing the valid names."""
        try:
            return resolve_vocabulary(ontology)
        except MedvllmError:
            return resolve_vocabulary(ontology, self._imported())

    def _imported(self) -> list[str]:
        return sorted({name for layer in self._layers for name in layer.vocabularies} - set(VOCABULARIES))

    def code_counts(self) -> dict[str, int]:
        """How many codes each vocabulary has, over all layers: VOCABULARIES but ALL, then the imported ones."""
        counts = dict.fromkeys([*VOCABULARIES[:-1], *self._imported()], 0)
        for layer, meta in zip(self._layers, self.info(), strict=True):
            kept = {name: int(meta[f"count.{name} codes"]) for name in VOCABULARIES if f"count.{name} codes" in meta}
            for name, count in (kept or layer.code_counts()).items():  # only the built-in store keeps counts
                counts[name] += count
        return counts

    @property
    def table(self) -> PhraseTable:
        """The built-in phrase table."""
        return self._layers[0].table

    @property
    def layered(self) -> bool:
        """Whether a user's store lies on top of the built-in one."""
        return len(self._layers) > 1

    def find(self, text: str, *, overlapping: bool = False) -> list[tuple[int, int, int]]:
        """(start, end, payload) of phrases in text, over all layers; of equal spans the user's payload is
        kept.

        Without `overlapping`, the longest match at the leftmost place wins, whichever layer it is from.
        """
        if not self.layered:
            return self.table.find(text, overlapping=overlapping)
        best: dict[tuple[int, int], int] = {}
        for number, layer in self._in_order():
            for start, end, payload in layer.table.find(text, overlapping=True):
                best.setdefault((start, end), payload | number << _LAYER_SHIFT)
        matches = sorted(((start, end, payload) for (start, end), payload in best.items()), key=lambda m: (m[0], -m[1]))
        if overlapping:
            return sorted(matches)
        kept: list[tuple[int, int, int]] = []
        for match in matches:
            if not kept or match[0] >= kept[-1][1]:
                kept.append(match)
        return kept

    def _in_order(self) -> Iterator[tuple[int, _Layer]]:
        """Layers with their numbers, the user's first."""
        yield from enumerate(self._layers[1:], 1)
        yield 0, self._layers[0]

    def get(self, phrase: str) -> int | None:
        """The payload of a whole phrase, the user's layers first; None when no layer knows it."""
        for number, layer in self._in_order():
            payload = layer.get(phrase)
            if payload is not None:
                return payload | number << _LAYER_SHIFT
        return None

    @staticmethod
    def term_id(payload: int) -> int:
        """The term id of a payload of `find` or `get`."""
        return (payload & TERM_ID_MASK) | (payload >> _LAYER_SHIFT << _LAYER_SHIFT)

    @staticmethod
    def term_type(payload: int) -> str | None:
        """The entity type of a payload; None for phrases that are only looked up, not found in text."""
        code = payload >> TYPE_SHIFT & 0xF
        return ENTITY_TYPES[code - 1] if code else None

    def senses(self, term_id: int) -> tuple[Sense, ...]:
        """The meanings of a term, best first."""
        found = self._senses.get(term_id)
        if found is None:
            layer = term_id >> _LAYER_SHIFT
            rows = self._layers[layer].senses(term_id & TERM_ID_MASK)
            found = self._senses[term_id] = tuple(
                Sense(
                    concept | layer << _LAYER_SHIFT,
                    ENTITY_TYPES[kind_code - 1] if kind_code else None,
                    rank == 0,
                    _KINDS[kind],
                )
                for rank, (concept, kind, kind_code) in enumerate(rows)
            )
        return found

    def concept(self, concept_id: int) -> Concept:
        """A concept by id. Raises KeyError for an unknown id."""
        found = self._concepts.get(concept_id)
        if found is None:
            layer = self._layers[concept_id >> _LAYER_SHIFT]
            found = self._concepts[concept_id] = layer.concept(concept_id & (1 << _LAYER_SHIFT) - 1)
        return found

    def phrase_senses(self, phrase: str) -> tuple[Sense, ...]:
        """The meanings of a whole phrase over all layers, the user's first; empty when it is unknown."""
        found: list[Sense] = []
        for number, layer in self._in_order():
            payload = layer.get(phrase)
            if payload is not None:
                found.extend(self.senses(payload & TERM_ID_MASK | number << _LAYER_SHIFT))
        return tuple(found)

    def links(
        self,
        term: int | str | Sequence[Sense],
        *,
        ontology: str = "UMLS",
        strict: bool = False,
        type: str | None = None,
        limit: int = 5,
    ) -> list[OntologyLink]:
        """Codes for a phrase (text, term id or senses), best first, at most `limit`.

        `ontology` is one of VOCABULARIES. For UMLS a concept without a CUI gives its code in its own
        vocabulary, named as such, unless `strict`. `type` keeps only senses of that entity type when there
        are any. An unknown phrase gives an empty list; an unknown ontology raises MedvllmError."""
        vocabulary = self.resolve(ontology)
        if isinstance(term, str):
            senses: Sequence[Sense] = self.phrase_senses(term)
        else:
            senses = self.senses(term) if isinstance(term, int) else term
        if type is not None:
            senses = _of_type(senses, type)
        links: dict[tuple[str, str], OntologyLink] = {}
        for position, sense in enumerate(senses):
            concept = self.concept(sense.concept_id)
            base = _KIND_SCORE[_KINDS.index(sense.kind)] * (_LATER_SENSE if position else 1.0)
            for name, code in self._codes(concept, vocabulary, own_code=not strict and position == 0):
                score = round(base * code.score, 2)
                known = links.get((name, code.code))
                if known is None or known.score < score:
                    links[name, code.code] = OntologyLink(name, code.code, code.name, score)
        ordered = sorted(links.values(), key=lambda link: -link.score)
        return ordered if vocabulary == "ALL" else ordered[:limit]

    def _codes(self, concept: Concept, vocabulary: str, *, own_code: bool) -> Iterator[tuple[str, Code]]:
        """The concept's codes in a vocabulary; for UMLS without a CUI its own code, where that is wanted."""
        if vocabulary == "ALL":
            for name, codes in concept.codes.items():
                yield from ((name, code) for code in codes)
            return
        codes = concept.codes.get(vocabulary) or self._codes_by_equality(concept, vocabulary)
        if codes:
            yield from ((vocabulary, code) for code in codes)
        elif vocabulary == "UMLS" and own_code:
            yield concept.vocabulary, concept.codes[concept.vocabulary][0]

    def _codes_by_equality(self, concept: Concept, vocabulary: str) -> tuple[Code, ...]:
        """Codes that a user's store gives to a concept with the same code in another vocabulary."""
        for layer in self._layers[1:]:
            for number in layer.concepts_with(concept.vocabulary, concept.code):
                codes = layer.concept(number).codes.get(vocabulary)
                if codes:
                    return codes
        return ()

    def lookup(self, phrase: str) -> list[Lookup]:
        """The concepts that a phrase, or a code such as I10 or MESH:D006973, names; empty when there is
        none."""
        found = []
        payload = self.get(phrase)
        for sense in self.phrase_senses(phrase):
            in_text = payload is not None and self.term_type(payload) is not None
            found.append(Lookup(self.concept(sense.concept_id), sense.kind, in_text))
        return found or [Lookup(self.concept(number), "code", False) for number in self._with_code(phrase.strip())]

    def _with_code(self, text: str) -> list[int]:
        prefix, colon, rest = text.partition(":")
        prefixed = bool(colon) and prefix.upper() in {*VOCABULARIES, *_ALIASES, *self._imported()}
        wanted = self.resolve(prefix) if prefixed else None
        spellings = {text, text.upper(), rest, rest.upper()} - {""}
        numbers: dict[int, None] = {}
        for number, layer in self._in_order():
            for vocabulary in layer.vocabularies:
                if wanted in (None, vocabulary):
                    for code in sorted(spellings):
                        for concept in layer.concepts_with(vocabulary, code):
                            numbers[concept | number << _LAYER_SHIFT] = None
        return list(numbers)

    def near(self, phrase: str, *, limit: int = 3) -> list[str]:
        """Terms a letter away from an unknown phrase, else names of concepts and codes written much like it."""
        import difflib

        wanted = phrase.strip().lower()
        a_letter_away = [other for other in _a_letter_away(wanted[:_NEAR_LONGEST]) if self.get(other) is not None]
        if a_letter_away:
            return a_letter_away[:limit]
        names: dict[str, str] = {}
        for _, layer in self._in_order():
            for name in layer.names_beginning(wanted[:_NEAR_PREFIX]) if wanted else ():
                if abs(len(name) - len(wanted)) <= _NEAR_LENGTH:
                    names.setdefault(name.lower(), name)
        return [names[name] for name in difflib.get_close_matches(wanted, names, n=limit, cutoff=0.8)]

    def info(self) -> list[dict[str, str]]:
        """The meta table of every layer, built-in first, with the folder under `path`."""
        return [
            {
                "path": str(layer.path),
                **{str(key): str(value) for key, value in layer.rows("SELECT key, value FROM meta ORDER BY key")},
            }
            for layer in self._layers
        ]


def _a_letter_away(word: str) -> list[str]:
    """The phrase with one letter put in, changed, left out, or two swapped, in order of place."""
    if len(word) < _NEAR_SHORTEST:
        return []  # nearly every short phrase is a letter away from some abbreviation
    letters = "abcdefghijklmnopqrstuvwxyz"
    found: dict[str, None] = {}
    for at in range(len(word) + 1):
        before, after = word[:at], word[at:]
        found |= dict.fromkeys([before + letter + after for letter in letters])
        if after:
            found |= dict.fromkeys([before + letter + after[1:] for letter in letters])
            found[before + after[1:]] = None
        if len(after) > 1:
            found[before + after[1] + after[0] + after[2:]] = None
    found.pop(word, None)
    return list(found)


def _of_type(senses: Sequence[Sense], wanted: str) -> Sequence[Sense]:
    groups = ({"condition", "symptom"}, {"medication", "chemical"}, {"procedure", "test"})
    accepted: set[str] = next((group for group in groups if wanted in group), {wanted})
    return [sense for sense in senses if sense.type in accepted] or senses
