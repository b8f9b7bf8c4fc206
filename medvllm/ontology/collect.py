"""All surface forms with their senses: which concepts a phrase can mean, and whether it is found in running
text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.ontology.concepts import Concept, ConceptCode
from medvllm.ontology.sources import CODE_PATTERNS, Record
from medvllm.ontology.terms import british, is_acronym, junk_synonym, key_of, permutation, plural_variants, read_tsv
from medvllm.tasks.entities import ENTITY_TYPES

__all__ = ["CURATED", "NAME", "SYNONYM", "VARIANT", "Term", "collect_terms", "read_checked_codes", "read_judgements"]

# How a phrase names a concept, best first; stored with each sense.
NAME, SYNONYM, CURATED, VARIANT = range(4)
_VOCABULARY_ORDER = ("MESH", "MONDO", "DOID", "HPO", "CHEBI", "ICD10CM", "UNII")
_MAX_TOKENS = 9  # longer phrases are not in any note; they would fill half the table with prefixes


# Set on a kind in Term.senses: the phrase may be found in running text with this meaning.
_FOUND = 8


class Term:
    """A phrase: its meanings, the entity type under which it is found in text ("" for lookup only), and its
    case rule.

    `senses` maps concept index to kind; `order` lists the indexes, best first; `cased` says that the phrase
    counts only in capitals."""

    __slots__ = ("cased", "curated", "order", "senses", "type")

    def __init__(self, position: int, kind: int, cased: bool) -> None:
        self.senses = {position: kind}
        self.order: list[int] | tuple[int, ...] = ()
        self.type = ""
        self.cased = cased
        self.curated = False

    def kind(self, position: int) -> int:
        """How the phrase names a concept: NAME, SYNONYM, CURATED or VARIANT."""
        return self.senses[position] & ~_FOUND


class _Collector:
    def __init__(self, concepts: list[Concept]) -> None:
        self.concepts = concepts
        self.terms: dict[str, Term] = {}

    def add(self, position: int, phrase: str, kind: int, detect: bool) -> None:
        """Add one phrase; the better kind wins where a concept has the phrase twice."""
        if junk_synonym(phrase):
            return
        key = key_of(phrase)
        if not key or key.count(" ") >= _MAX_TOKENS:
            return
        if detect:
            kind |= _FOUND
        term = self.terms.get(key)
        if term is None:
            self.terms[key] = Term(position, kind, is_acronym(phrase))
            return
        known = term.senses.get(position, kind)
        term.senses[position] = min(known & ~_FOUND, kind & ~_FOUND) | (known | kind) & _FOUND
        if term.cased:
            term.cased = is_acronym(phrase)


def collect_terms(
    concepts: list[Concept], drug_names: list[tuple[int, str, bool]], icd: list[Record], data_dir: Path
) -> dict[str, Term]:
    """key -> Term for every phrase of the store; `data_dir` holds clinical_terms.tsv and stop_terms.tsv."""
    collector = _Collector(concepts)
    words = _ordinary_words(concepts, icd)
    for position, concept in enumerate(concepts):
        for record in concept.records.values():
            _add_record(collector, position, concept, record, words)
    for position, name, _ in drug_names:
        key = key_of(name)
        if len(key) >= 4 and key not in words and key.count(" ") <= 2 and key not in collector.terms:
            collector.add(position, name.capitalize(), SYNONYM, key.replace(" ", "").isalpha())
    _add_icd(collector, icd)
    _add_variants(collector)
    by_code = {
        (record.vocabulary, record.code): position
        for position, concept in enumerate(concepts)
        for record in concept.records.values()
    }
    _add_curated(collector, by_code, data_dir / "clinical_terms.tsv")
    stops = _stop_list(data_dir / "stop_terms.tsv", by_code)
    for key, term in collector.terms.items():
        _decide(key, term, concepts, stops)
    return {key: term for key, term in collector.terms.items() if term.senses}


def _ordinary_words(concepts: list[Concept], icd: list[Record]) -> frozenset[str]:
    """Words of disease, anatomy and procedure names and of ICD-10-CM: a brand name equal to one is not
    taken."""
    words: set[str] = set()
    for record in icd:
        for text in (record.name, *record.synonyms):
            words.update(key_of(text).split(" "))
    for concept in concepts:
        if concept.type not in ("chemical", "medication"):
            for record in concept.records.values():
                words.update(key_of(record.name).split(" "))
    return frozenset(words)


def _add_record(collector: _Collector, position: int, concept: Concept, record: Record, words: frozenset[str]) -> None:
    detect = concept.detect and record.vocabulary == "MESH"
    disease = record.vocabulary in ("MONDO", "DOID")
    phenotype = record.vocabulary == "HPO" and bool(record.trees)
    supplementary = record.vocabulary == "MESH" and record.code.startswith("C")
    for index, phrase in enumerate((record.name, *record.synonyms)):
        found = detect
        if supplementary:
            found = detect and len(phrase) >= 5 and (" " in phrase or key_of(phrase) not in words)
        elif record.vocabulary == "UNII":
            key = key_of(phrase)
            found = concept.detect and len(key) > 5 and key.replace(" ", "").isalpha() and key not in words
        elif phenotype and index == 0:
            found = len(phrase) > 5
        elif disease:
            # Single words among these synonyms are mostly abbreviations and stray words: they cost 4 points
            # of precision on BC5CDR diseases for 0.2 of recall.
            found = " " in phrase
        collector.add(position, phrase, SYNONYM if index else NAME, found)
        turned = permutation(phrase) if concept.type != "chemical" else None
        if turned is not None:
            collector.add(position, turned, VARIANT, found)


def _add_icd(collector: _Collector, icd: list[Record]) -> None:
    """ICD-10-CM titles and inclusion terms: synonyms of the concept that owns the code, else concepts of
    their own."""
    owner: dict[str, int] = {}
    for position, concept in enumerate(collector.concepts):
        for code in concept.codes:
            if code.vocabulary == "ICD10CM":
                if code.score >= 0.98:
                    owner.setdefault(code.code, position)
                break
    for record in icd:
        position = owner.get(record.code, len(collector.concepts))
        if position == len(collector.concepts):
            collector.concepts.append(_icd_concept(record))
        for index, phrase in enumerate((record.name, *record.synonyms)):
            kind = SYNONYM if index or record.code in owner else NAME
            collector.add(position, phrase, kind, False)


def _icd_concept(record: Record) -> Concept:
    concept = Concept({"ICD10CM": record}, record.name, "condition")
    concept.codes = [ConceptCode("ICD10CM", record.code, 1.0, record.name)]
    return concept


def _variants(key: str) -> Iterator[str]:
    yield from plural_variants(key)
    spelled = british(key)
    if spelled != key:
        yield spelled
        yield from plural_variants(spelled)


def _add_variants(collector: _Collector) -> None:
    """The other number of the last word and the British spelling, for terms found in text, where not listed."""
    found: dict[str, Term] = {}
    for key, term in collector.terms.items():
        if term.cased:
            continue
        for position, kind in term.senses.items():
            if kind & _FOUND:
                for variant in _variants(key):
                    if variant not in collector.terms:
                        found.setdefault(variant, Term(position, VARIANT, False)).senses[position] = VARIANT | _FOUND
    collector.terms.update(found)


def _add_curated(collector: _Collector, by_code: dict[tuple[str, str], int], path: Path) -> None:
    """clinical_terms.tsv: surface, flags, target. Raises MedvllmError naming the line of an unknown target or
    flag."""
    for number, columns in read_tsv(path):
        if len(columns) not in (3, 4):
            raise MedvllmError(
                f"{path.name}:{number}: expected surface, flags, target, name; got {len(columns)} columns"
            )
        surface, flags, target = columns[:3]
        position = by_code.get(split_target(target))
        if position is None:
            raise MedvllmError(f"{path.name}:{number}: {target} is not a code of the built vocabularies")
        chosen = [flag for flag in flags.split(",") if flag not in ("", "-")]
        unknown = [flag for flag in chosen if flag not in ("cased", *ENTITY_TYPES)]
        if unknown:
            raise MedvllmError(f"{path.name}:{number}: unknown flag {unknown[0]}; use cased or an entity type")
        key = key_of(surface)
        term = collector.terms.setdefault(key, Term(position, CURATED, True))
        if not term.curated:
            term.curated, term.cased, term.order = True, True, []
        term.cased = term.cased and "cased" in chosen
        types = [flag for flag in chosen if flag != "cased"]
        term.type = term.type or (types[0] if types else collector.concepts[position].type)
        if is_acronym(surface) or term.senses.get(position, VARIANT) & ~_FOUND == VARIANT:
            term.senses[position] = CURATED  # an abbreviation is less sure than a name, whoever lists it
        if position not in term.order:
            term.order = [*term.order, position]


def split_target(target: str) -> tuple[str, str]:
    """`MESH:D006973` -> (MESH, D006973); `MONDO:0005015` -> (MONDO, MONDO:0005015); the same for HP and
    DOID."""
    prefix, _, rest = target.partition(":")
    named = {"HP": "HPO", "MONDO": "MONDO", "DOID": "DOID", "CHEBI": "CHEBI"}
    return (named[prefix], target) if prefix in named else (prefix, rest)


def read_judgements(path: Path) -> dict[tuple[tuple[str, str], tuple[str, str]], bool]:
    """equivalents.tsv: pairs of (vocabulary, code), in both orders, and whether they mean one thing."""
    judgements: dict[tuple[tuple[str, str], tuple[str, str]], bool] = {}
    for number, columns in read_tsv(path):
        if len(columns) != 3 or columns[1] not in ("=", "!="):
            raise MedvllmError(f"{path.name}:{number}: expected code, = or !=, code; got {columns}")
        left, right = split_target(columns[0]), split_target(columns[2])
        judgements[left, right] = judgements[right, left] = columns[1] == "="
    return judgements


def read_checked_codes(path: Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """codes.tsv: (vocabulary, code) of a concept -> the codes it has in other vocabularies."""
    codes: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for number, columns in read_tsv(path):
        if len(columns) != 4 or columns[1] not in CODE_PATTERNS or not CODE_PATTERNS[columns[1]].fullmatch(columns[2]):
            raise MedvllmError(f"{path.name}:{number}: expected concept, vocabulary, code, meaning; got {columns}")
        codes.setdefault(split_target(columns[0]), []).append((columns[1], columns[2]))
    return codes


@dataclass(slots=True)
class _Stops:
    """key -> action: `lookup` (never found in text), `cased`, or the concepts that a phrase must not mean."""

    actions: dict[str, str] = field(default_factory=dict)
    removed: dict[str, set[int]] = field(default_factory=dict)


def _stop_list(path: Path, by_code: dict[tuple[str, str], int]) -> _Stops:
    stops = _Stops()
    for number, columns in read_tsv(path):
        if len(columns) != 2:
            raise MedvllmError(f"{path.name}:{number}: expected surface and action; got {len(columns)} columns")
        surface, action = columns
        key = key_of(surface)
        if action in ("lookup", "cased"):
            stops.actions[key] = action
        elif action.startswith("not "):
            position = by_code.get(split_target(action[4:]))
            if position is None:
                raise MedvllmError(f"{path.name}:{number}: {action[4:]} is not a code of the built vocabularies")
            stops.removed.setdefault(key, set()).add(position)
        else:
            raise MedvllmError(f"{path.name}:{number}: unknown action {action}; use lookup, cased or not CODE")
    return stops


# Keys that say nothing by themselves: numbers, "the syndrome", "grade 3".
_NOT_IN_TEXT = re.compile(r"(\d+|(the|an?) .*|(grade|type|stage|class|group|level|phase|form) ([ivx]+|\d|[a-e]))$")


def _decide(key: str, term: Term, concepts: list[Concept], stops: _Stops) -> None:
    """Order the senses and fix the type under which the phrase is found in text."""
    for position in stops.removed.get(key, ()):
        term.senses.pop(position, None)
    if len(term.senses) == 1 and not term.order:
        term.order = tuple(term.senses)
    else:
        curated = [position for position in term.order if position in term.senses]
        rest = [position for position in term.senses if position not in curated]
        rest.sort(key=lambda position: (term.kind(position), _rank(concepts[position]), position))
        term.order = (*curated, *rest)
    action = stops.actions.get(key)
    if not term.curated:
        term.type = _detected_type(term, concepts)
        if action == "lookup" or (len(key) < 3 and not term.cased) or _NOT_IN_TEXT.match(key):
            term.type = ""
    if action == "cased":
        term.cased = True


def _detected_type(term: Term, concepts: list[Concept]) -> str:
    for position in term.order:
        if term.senses[position] & _FOUND:
            return concepts[position].type
        if term.kind(position) == NAME and concepts[position].home.vocabulary == "MESH":
            return ""  # the phrase is the name of something else, e.g. a protein
    return ""


def _rank(concept: Concept) -> int:
    home = concept.home
    if home.vocabulary == "MESH" and home.code.startswith("C"):
        return 4
    return _VOCABULARY_ORDER.index(home.vocabulary)
