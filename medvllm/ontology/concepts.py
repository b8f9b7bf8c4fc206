"""Merging the vocabularies' records into concepts, and choosing each concept's codes in every vocabulary.

Two records become one concept only on good evidence: a cross-reference together with a shared name, a
cross-reference that is unique in both directions, or equal preferred names that no cross-reference
contradicts. A concept holds at most one record of each vocabulary. What a cross-reference states without such
evidence is kept as a code with a lower score; no code is made up."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from medvllm.errors import MedvllmError
from medvllm.ontology.sources import Record
from medvllm.ontology.terms import key_of, permutation

__all__ = ["Concept", "ConceptCode", "assign_codes", "default_icd_keys", "merge"]

_DISEASE_VOCABULARIES = ("MESH", "MONDO", "DOID", "HPO")


@dataclass(frozen=True, slots=True)
class ConceptCode:
    """A code of a concept; `score` (0–1) is how surely the code means the concept; `name` the code's own
    title."""

    vocabulary: str
    code: str
    score: float
    name: str | None = None


@dataclass(slots=True)
class Concept:
    """Records that mean one thing, at most one per vocabulary, in the order they were merged."""

    records: dict[str, Record]
    name: str = ""
    type: str = ""
    detect: bool = False
    codes: list[ConceptCode] = field(default_factory=list)

    @property
    def home(self) -> Record:
        """The record that gives the concept its own vocabulary and code."""
        for vocabulary in ("MESH", "MONDO", "DOID", "HPO", "CHEBI", "ICD10CM", "UNII"):
            if vocabulary in self.records:
                return self.records[vocabulary]
        raise AssertionError("a concept has a record")


@dataclass(frozen=True, slots=True, order=True)
class _Edge:
    weakness: int  # 0 strongest
    left: tuple[str, str]
    right: tuple[str, str]


def merge(
    records: list[Record],
    mappings: Iterable[tuple[str, str, str]],
    judgements: Mapping[tuple[tuple[str, str], tuple[str, str]], bool],
) -> list[Concept]:
    """Concepts in the order of their first record.

    `mappings` are (MeSH code, vocabulary, code) equivalences; `judgements` say of pairs of (vocabulary,
    code), in either order, whether they mean one thing, against what the sources say."""
    by_id = {(record.vocabulary, record.code): record for record in records}
    for (left, right), same in judgements.items():
        for one, other in ((left, right), (right, left)):
            if one not in by_id:
                raise MedvllmError(f"equivalents.tsv: {one[0]} {one[1]} is not a code of the vocabularies")
            if not same:
                by_id[one].xrefs = [xref for xref in by_id[one].xrefs if xref != other]
    cluster = {identity: identity for identity in by_id}
    members = {identity: {identity[0]: identity} for identity in by_id}

    def root(identity: tuple[str, str]) -> tuple[str, str]:
        while cluster[identity] != identity:
            cluster[identity] = cluster[cluster[identity]]
            identity = cluster[identity]
        return identity

    edges = [_Edge(-1, *sorted(pair)) for pair, same in judgements.items() if same]
    edges.extend(edge for edge in _edges(by_id, mappings) if judgements.get((edge.right, edge.left), True))
    for edge in sorted(edges):
        left, right = root(edge.left), root(edge.right)
        if left == right or not members[left].keys().isdisjoint(members[right].keys()):
            continue
        cluster[right] = left
        members[left].update(members.pop(right))
    concepts: list[Concept] = []
    done: set[tuple[str, str]] = set()
    for identity in by_id:
        top = root(identity)
        if top not in done:
            done.add(top)
            concepts.append(Concept({vocabulary: by_id[member] for vocabulary, member in members[top].items()}))
    for concept in concepts:
        concept.name = _display_name(concept)
    return concepts


def _edges(by_id: dict[tuple[str, str], Record], mappings: Iterable[tuple[str, str, str]]) -> Iterator[_Edge]:
    references: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    incoming: Counter[tuple[tuple[str, str], str]] = Counter()
    for identity, record in by_id.items():
        for xref in record.xrefs:
            if xref in by_id and xref[0] != identity[0]:
                references[identity].append(xref)
                incoming[xref, identity[0]] += 1
    terms = {identity: _term_keys(by_id[identity]) for identity in _touched(by_id, references)}
    for identity, targets in references.items():
        per_vocabulary = Counter(target[0] for target in targets)
        for target in targets:
            mutual = per_vocabulary[target[0]] == 1 and incoming[target, identity[0]] == 1
            weakness = _weakness(by_id[identity], by_id[target], terms, mutual)
            if weakness is not None:
                yield _Edge(weakness, target, identity)
    for code, vocabulary, other in mappings:
        left, right = ("MESH", code), (vocabulary, other)
        if left in by_id and right in by_id:
            yield _Edge(2, left, right)
    yield from _same_name_edges(by_id, references)
    yield from _chemical_name_edges(by_id)


def _touched(
    by_id: dict[tuple[str, str], Record], references: dict[tuple[str, str], list[tuple[str, str]]]
) -> set[tuple[str, str]]:
    return {identity for identity in by_id if identity[0] in ("MONDO", "DOID", "HPO")} | {
        target for targets in references.values() for target in targets
    }


def _term_keys(record: Record) -> frozenset[str]:
    return frozenset(key_of(term) for term in (record.name, *record.synonyms))


def _weakness(left: Record, right: Record, terms: dict[tuple[str, str], frozenset[str]], mutual: bool) -> int | None:
    left_terms, right_terms = terms[left.vocabulary, left.code], terms[right.vocabulary, right.code]
    if key_of(left.name) == key_of(right.name):
        return 0
    shared = key_of(left.name) in right_terms or key_of(right.name) in left_terms
    if shared:
        return 1 if mutual else 3
    return 2 if mutual and _share_a_word(left_terms, right_terms) else None


def _share_a_word(left: frozenset[str], right: frozenset[str]) -> bool:
    """Whether two sets of term keys have the beginning of a content word in common."""

    def stems(terms: frozenset[str]) -> set[str]:
        return {word[:5] for term in terms for word in term.split(" ") if len(word) > 3} - _EMPTY_STEMS

    return not stems(left).isdisjoint(stems(right))


# Beginnings of words that say nothing about which disease is meant.
_EMPTY_STEMS = frozenset(
    {"disea", "disor", "syndr", "type", "famil", "acute", "chron", "conge", "hered", "with", "abnor"}
)


def _same_name_edges(
    by_id: dict[tuple[str, str], Record], references: dict[tuple[str, str], list[tuple[str, str]]]
) -> Iterator[_Edge]:
    """Equal preferred names of two disease vocabularies, where neither record points elsewhere in the
    other's."""
    named: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identity, record in by_id.items():
        if identity[0] in ("MONDO", "DOID", "HPO") or (identity[0] == "MESH" and _is_disease(record)):
            named[key_of(record.name)].append(identity)
    for identities in named.values():
        identities.sort(key=lambda identity: _DISEASE_VOCABULARIES.index(identity[0]))
        for index, left in enumerate(identities):
            for right in identities[index + 1 :]:
                if left[0] != right[0] and not _points_elsewhere(left, right, references):
                    yield _Edge(4, left, right)


def _is_disease(record: Record) -> bool:
    return any(tree.startswith(("C", "F03")) for tree in record.trees) and record.code.startswith("D")


def _points_elsewhere(
    left: tuple[str, str], right: tuple[str, str], references: dict[tuple[str, str], list[tuple[str, str]]]
) -> bool:
    for one, other in ((left, right), (right, left)):
        targets = [target for target in references.get(one, ()) if target[0] == other[0]]
        if targets and other not in targets:
            return True
    return False


def _chemical_name_edges(by_id: dict[tuple[str, str], Record]) -> Iterator[_Edge]:
    """ChEBI entries named exactly as one MeSH chemical."""
    mesh: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identity, record in by_id.items():
        if identity[0] == "MESH" and (record.code.startswith("C") or any(t.startswith("D") for t in record.trees)):
            mesh[record.name.lower()].append(identity)
    for identity, record in by_id.items():
        if identity[0] == "CHEBI":
            matches = mesh.get(record.name.lower(), ())
            if len(matches) == 1:
                yield _Edge(4, matches[0], identity)


def _display_name(concept: Concept) -> str:
    """The name people use: MeSH's, turned round where it is inverted and the natural order is a listed
    term."""
    home = concept.home
    if home.vocabulary in ("MONDO", "DOID") and home.name.split(" ")[0].islower():
        return home.name[:1].upper() + home.name[1:]
    if home.vocabulary != "MESH" or ", " not in home.name:
        return home.name
    natural = permutation(home.name)
    known = {term.lower(): term for record in concept.records.values() for term in (record.name, *record.synonyms)}
    if natural is not None and natural.lower() in known:
        return natural
    for vocabulary in ("MONDO", "DOID", "HPO"):
        record = concept.records.get(vocabulary)
        if record is not None and ", " not in record.name:
            return record.name[:1].upper() + record.name[1:]
    return home.name


_ICD_TAIL = re.compile(r"(, unspecified organism|, unspecified|, uncomplicated| without complications?| NOS)$")
_ICD_PARENTHESES = re.compile(r"\s*\([^)]*\)")


def default_icd_keys(title: str) -> list[str]:
    """Keys under which an ICD-10-CM title is the default code: as written, then without its "unspecified"
    parts."""
    keys = [key_of(title)]
    plain = _ICD_PARENTHESES.sub("", title).strip()
    while _ICD_TAIL.search(plain):
        plain = _ICD_TAIL.sub("", plain)
    if plain.lower().startswith("unspecified "):
        plain = plain[len("unspecified ") :]
    key = key_of(plain)
    return keys if key in keys or not key else [*keys, key]


def assign_codes(
    concepts: list[Concept], icd: list[Record], checked: Mapping[tuple[str, str], list[tuple[str, str]]]
) -> None:
    """Fill `codes` of every concept, best first per vocabulary; own codes score 1, cross-references less.

    `checked` gives (vocabulary, code) pairs for a concept's own (vocabulary, code) that come before all others.

    A code that several concepts claim belongs to the one with the most votes; the others keep it at a lower
    score, unless the code's own title names them."""
    titles = {record.code: record.name for record in icd}
    by_key = _icd_index(icd)
    votes = [_votes(concept, by_key, titles) for concept in concepts]
    for concept, vote in zip(concepts, votes, strict=True):
        for record in concept.records.values():
            for identity in checked.get((record.vocabulary, record.code), ()):
                vote[identity] += _CHECKED
    best: dict[tuple[str, str], float] = {}
    for vote in votes:
        for identity, weight in vote.items():
            if weight > best.get(identity, 0.0):
                best[identity] = weight
    for concept, vote in zip(concepts, votes, strict=True):
        codes = [ConceptCode(r.vocabulary, r.code, 1.0, r.name) for r in concept.records.values()]
        if vote:
            held = concept.records.keys() - {"ICD10CM"}
            claims = [(identity, weight, weight >= best[identity]) for identity, weight in vote.items()]
            codes.extend(_scored([claim for claim in claims if claim[0][0] not in held], titles))
        concept.codes = codes


def _scored(claims: list[tuple[tuple[str, str], float, bool]], titles: dict[str, str]) -> Iterator[ConceptCode]:
    """Claims of (identity, votes, whether no other concept has more) as codes, best first in each
    vocabulary."""
    claims.sort(key=_claim_order)
    owned: dict[str, float] = defaultdict(float)
    for (name, _), weight, owner in claims:
        if owner:
            owned[name] += weight
    vocabulary, first = "", 0.0
    for (name, code), weight, owner in claims:
        if name == vocabulary:
            score = min(first * 0.5, 0.49)  # a second cross-reference is mostly broader or narrower
        elif name == "ICD10CM" and weight >= _NAMED:
            score = 0.98
        elif not owner:
            score = 0.65
        elif weight >= 1.0:
            score = 0.98
        else:
            share = weight / owned[name]  # below a half: one record points at several codes, none is surely right
            score = 0.95 if share >= 0.5 else 0.95 * share
        if name != vocabulary:
            vocabulary, first = name, score
        yield ConceptCode(name, code, round(score, 3), titles.get(code))


def _claim_order(claim: tuple[tuple[str, str], float, bool]) -> tuple[str, float, int, str]:
    (name, code), weight, owner = claim
    length = -len(code) if name == "ICD10CM" else 0  # a category and its leaf often have one title: the leaf is billed
    return name, -weight * (1.0 if owner else 0.5), length, code


_CHECKED = 10.0  # votes of a checked code: more than all sources together
# Votes from which on an ICD-10-CM code was found by its title or an inclusion term, not only by
# cross-references.
_NAMED = 2.0


def _icd_index(icd: list[Record]) -> dict[str, list[tuple[str, float]]]:
    """key -> (code, votes): 3 for a title (a little more for a stripped "unspecified" leaf), 2 for an
    inclusion term."""
    index: dict[str, dict[str, float]] = defaultdict(dict)
    for record in icd:
        for position, key in enumerate(default_icd_keys(record.name)):
            index[key][record.code] = 3.0 + 0.1 * position
        for synonym in record.synonyms:
            for key in default_icd_keys(synonym):
                index[key].setdefault(record.code, 2.0)
    return {key: sorted(codes.items()) for key, codes in index.items()}


def _votes(
    concept: Concept, by_key: dict[str, list[tuple[str, float]]], titles: dict[str, str]
) -> dict[tuple[str, str], float]:
    votes: dict[tuple[str, str], float] = defaultdict(float)
    disease = concept.type in ("condition", "symptom")
    if not disease and not any(record.xrefs for record in concept.records.values()):
        return votes
    snomed_elsewhere = any(
        xref[0] == "SNOMED"
        for record in concept.records.values()
        if record.vocabulary != "DOID"
        for xref in record.xrefs
    )
    for record in concept.records.values():
        per_vocabulary = Counter(vocabulary for vocabulary, _ in record.xrefs)
        for vocabulary, code in record.xrefs:
            if vocabulary == "ICD10CM" and code not in titles:
                continue
            if (record.vocabulary, vocabulary) == ("DOID", "SNOMED") and snomed_elsewhere:
                continue  # DOID's SNOMED codes are often retired ones
            votes[vocabulary, code] += (0.9 if record.vocabulary == "HPO" else 1.0) / per_vocabulary[vocabulary]
    if disease:
        names = {key_of(record.name) for record in concept.records.values()} | {key_of(concept.name)}
        synonyms = {key_of(term) for record in concept.records.values() for term in record.synonyms} - names
        for keys, factor in ((names, 1.0), (synonyms, 0.7)):
            found: dict[str, float] = {}
            for key in keys:
                for code, weight in by_key.get(key, ()):
                    found[code] = max(found.get(code, 0.0), weight * factor)
            for code, weight in found.items():
                votes["ICD10CM", code] += weight
    return votes
