"""What a reader of a note knows beyond the words of an entity.

Headings name sections and are no findings, a dose is no part of a drug's name, and in a note the vocabulary's word
counts for more than the model's, which learned from abstracts of papers.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

from medvllm.ontology.store import CASED, TYPE_SHIFT, OntologyStore
from medvllm.tasks.entities import ENTITY_TYPES, Entity
from medvllm.tasks.sections import headings

__all__ = ["clean", "is_note"]

_UNLINKED: Final = 0  # a payload that no term has: not looked up by its words either


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words, between white space, that clinicians write and authors of papers hardly do.
_OF_NOTES: Final = _words(
    """Pt pt Pt. pt. pts y/o c/o s/p S/P h/o H/O w/ r/o R/O r/o. PMH PMH: PMHx: HPI: denies Denies DENIES DENIED PO
    BID BID, BID. TID TID, TID. QHS qhs prn PRN Meds: Allergies: ALLERGIES: ALLERGIES
    MEDICATIONS: MEDICATIONS IMPRESSION: IMPRESSION Impression: INDICATION: Indication: Labs: Labs LABORATORY COMMENT:
    CC: EXAM: Vitals Vitals: VITALS: DISCHARGE EXAMINATION: HISTORY: NKDA PERRLA RRR CTAB A/P: ASSESSMENT:
    PLAN: Plan: afebrile Examination: examination: Investigations: d/c d/c'd f/u"""
)
_MOST: Final = 20_000  # characters read for them
_FIRST_WORDS: Final = 64
_LEAST: Final = 300  # characters; a shorter text is a line somebody dictated rather than an abstract
_UNIT: Final = r"(?:mg|mcg|ug|µg|μg|g|gm|mls?|units?|iu|meq|mmol|tabs?|tablets?|caps?|puffs?)"
_DOSE: Final = re.compile(rf"[\s,]+\d[\d.,/]*(?:\s?-\s?\d[\d.,]*)?\s?-?{_UNIT}\b", re.IGNORECASE)
_TYPES: Final = (None, *ENTITY_TYPES, *[None] * (15 - len(ENTITY_TYPES)))  # by the type code of a term
_MARKS: Final = frozenset("-–—•*·+>#,;:. \t\r\n")
_JOIN: Final = re.compile(r"\s+(?:and|or)\s+|/", re.IGNORECASE)
_HEADING: Final = re.compile(
    r"[ \t]*(?:[#*-]{1,6}[ \t]*)?(?:\(?[\dA-Za-z]{1,2}[.)][ \t]*)?([A-Za-z][A-Za-z/&,' -]{0,59})"
)
_AFTER_HEADING: Final = re.compile(r"[ \t]*(?:[:\t\r\n]|\Z)")
_LONGEST: Final = 60  # characters of a heading
_OF_DRUGS: Final = ("medication", "chemical")
_JUDGED: Final = frozenset(["test", "condition", "chemical"])
_NO_HEADING: Final = ("anatomical_structure", "temporal", "lab_value")
# In capitals these are words of a sentence typed in capitals far more often than the abbreviations they also are.
_WORDS_IN_CAPITALS: Final = _words(
    """ALL AGE AS AT AM AN ARE BE BUT BY CAN DO FOR GO HAD HAS HE HER HIS IF IN IS IT LAST ME MG MY NO NOT OF OFF ON OR
    OUT SO SHE THE TO TIP UP US WAS WE WHO MAN MEN CUP FAT"""
)
# Names that mean one thing in notes and that the model, which judges by papers, often refuses.
_CERTAIN: Final = _words(
    """T1DM T2DM CKD ESRD AAA URI URTI HCV HBV MRSA VRE LBBB RBBB NSTEMI STEMI DKA HFrEF HFpEF OSA PVD PAD BPH MDD PTSD
    COPD GERD DVT TIA CVA PCOS IBS COVID-19 COVID ICH SAH SDH SIADH ACS CHF CAD"""
)
_EVERYDAY: Final = frozenset(
    """flu; the flu; hep c; hep b; influenza a; influenza b; smoker; bruise; bruises; breathless; low grade temp;
    stage 3 ckd; ckd stage 3; stage 4 ckd; ckd stage 4""".replace("\n    ", " ").split("; ")
)
# Phrases of the vocabulary that are no entity of a note.
_REFUSED: Final = frozenset(["low grade", "high grade", "cellulose", "peroxidase", "thrombin", "tracer"])


def is_note(text: str) -> bool:
    """Whether the text reads like a clinical note and not like a paper: by its words, or length."""
    if len(text) < _LEAST:
        return True
    first = text[:_MOST].split(None, _FIRST_WORDS)  # most notes tell with these; the last item is the rest
    return not (
        _OF_NOTES.isdisjoint(first[:_FIRST_WORDS]) and _OF_NOTES.isdisjoint("".join(first[_FIRST_WORDS:]).split())
    )


def clean(
    text: str, entities: Iterable[Entity], store: OntologyStore, phrases: Iterable[tuple[int, int, int]]
) -> list[Entity]:
    """The entities without headings and with spans put right; some are changed in place.

    `entities` are in order of start and do not overlap; so is the result. `phrases` are what the store finds in the
    text. Takes time linear in the text.
    """
    note = is_note(text)
    kept: list[Entity] = []
    keep = kept.append
    for entity in entities:
        term = entity.term
        if term is None:
            _trim(text, entity, store)
            if entity.end <= entity.start:
                continue
        elif term & CASED and _is_word_in_capitals(text, entity.start, entity.end):
            continue
        start = entity.start
        if text[start].isupper() and _is_heading(text, start, entity.end, entity.type):
            continue
        if note:
            if (entity.type in _JUDGED or entity.text == "NAD") and not _judge(text, entity):
                continue
            if entity.term is None:  # corpora of papers annotate "A and B" as one mention
                kept += _split(text, entity, store)
                continue
        keep(entity)
    return _with_vocabulary(text, kept, phrases) if note else kept


@functools.cache
def _headings() -> frozenset[str]:
    """The headings, in lower case, that are no finding. "EKG: sinus rhythm" names the test, so imaging's may be."""
    return frozenset(heading for heading, name in headings().items() if name != "imaging")


def _type_of(term: int | None) -> str | None:
    return None if term is None else _TYPES[term >> TYPE_SHIFT & 0xF]


def _trim(text: str, entity: Entity, store: OntologyStore) -> None:
    """Cut list marks and labels before an entity, and of a drug the dose and what follows it."""
    start, end = entity.start, entity.end
    while start < end and text[start] in _MARKS:
        start += 1
    label = text.rfind(": ", start, end) if entity.type != "test" else -1  # "Abdomen: soft" is one finding
    if label >= 0:  # "Skin: ecchymosis"
        start = label + 2
        while start < end and text[start].isspace():
            start += 1
    if entity.type in _OF_DRUGS and end - start > 6:
        dose = _DOSE.search(text, start, end)
        if dose is not None and dose.start() > start:
            end = dose.start()
    if (start, end) == (entity.start, entity.end):
        return
    entity.start, entity.end, entity.text = start, end, text[start:end]
    entity.term = store.get(entity.text)
    name = _type_of(entity.term)
    if name is not None and (name in _OF_DRUGS) == (entity.type in _OF_DRUGS):
        entity.type = name


def _is_heading(text: str, start: int, end: int, name: str) -> bool:
    """Whether the words stand in a section's heading. Organs and imaging, which head their results, do not count."""
    if name in _NO_HEADING or end - start > _LONGEST:
        return False
    line = text.rfind("\n", max(0, start - _LONGEST), start) + 1
    if line or start <= _LONGEST:
        found = _HEADING.match(text, line)
        if found is not None and found.start(1) <= start and found.end() >= end:
            heading = found[1].strip()
            if _AFTER_HEADING.match(text, found.end()) or (heading.isupper() and text[found.end()].isdigit()):
                return " ".join(heading.lower().split()) in _headings()
    if text[end : end + 1] != ":" or text[start:end].lower() not in _headings():
        return False
    return text[max(0, start - 3) : start].rstrip()[-1:] in (".", ";", "")


def _is_word_in_capitals(text: str, start: int, end: int) -> bool:
    """Whether an abbreviation is an ordinary word of a line typed in capitals throughout."""
    if text[start:end] not in _WORDS_IN_CAPITALS:
        return False
    around = text[max(0, start - 40) : end + 40]
    return around.isupper() and sum(map(str.isalpha, around)) > 20


def _judge(text: str, entity: Entity) -> bool:
    """Put the type of an entity of a note right; whether it is one at all."""
    if entity.type == "test":
        known = _type_of(entity.term)
        if known in ("condition", "symptom", "chemical"):
            entity.type = known
    elif entity.type == "condition":
        known = _type_of(entity.term)
        if known in ("test", "procedure"):  # the model calls every one that it takes for an entity a condition
            entity.type, entity.confidence = known, None
        elif known is None and entity.text.lower().startswith("non-"):
            return False
    elif entity.type == "chemical" and _DOSE.match(text, entity.end):
        entity.type = "medication"
    if entity.text == "NAD":  # no acute distress, not the coenzyme
        entity.type, entity.term, entity.confidence = "test", _UNLINKED, None
    return True


def _split(text: str, entity: Entity, store: OntologyStore) -> list[Entity]:
    """Two names joined by "and", "or" or a stroke, where the vocabulary knows both; else the entity."""
    if entity.type not in ("condition", "symptom", *_OF_DRUGS):
        return [entity]
    joins = list(_JOIN.finditer(text, entity.start, entity.end))
    if len(joins) != 1:
        return [entity]
    parts: list[Entity] = []
    for start, end in ((entity.start, joins[0].start()), (joins[0].end(), entity.end)):
        term = store.get(text[start:end])
        name = _type_of(term)
        if name is None or (name in _OF_DRUGS) != (entity.type in _OF_DRUGS):
            return [entity]
        parts.append(Entity(text[start:end], name, start, end, confidence=entity.confidence, term=term))
    return parts


def _with_vocabulary(text: str, entities: list[Entity], phrases: Iterable[tuple[int, int, int]]) -> list[Entity]:
    """In a note: longer phrases of the vocabulary in place of the entities in them, and phrases the model refused."""
    ends = {entity.start: entity.end for entity in entities}
    end_at = ends.get
    starts = list(ends)
    gone: set[int] = set()
    added: list[Entity] = []
    for start, end, term in phrases:
        if end_at(start, -1) >= end:
            continue
        at = bisect_left(starts, start)
        if at and entities[at - 1].end > start:
            continue  # an entity begins before the phrase
        last = bisect_left(starts, end, at)
        if last > at and entities[last - 1].end > end:
            continue
        if last - at > 1 and _JOIN.search(text, start, end):
            continue  # "nausea and vomiting": two say more than one
        name, surface = _type_of(term), text[start:end]
        if name is None or surface.lower() in _REFUSED or (last == at and not _is_certain(surface, name)):
            continue
        if name == "anatomical_structure" and any(entity.type != name for entity in entities[at:last]):
            continue
        if term & CASED and _is_word_in_capitals(text, start, end):
            continue
        if surface[0].isupper() and _is_heading(text, start, end, name):
            continue
        gone.update(range(at, last))
        added.append(Entity(surface, name, start, end, term=term))
    if not added:
        return entities
    kept = [entity for index, entity in enumerate(entities) if index not in gone] + added
    kept.sort(key=lambda entity: entity.start)
    return kept


def _is_certain(surface: str, name: str) -> bool:
    """Whether a phrase that the model refused is meant in a note all the same."""
    if name == "medication":
        return len(surface) > 4
    return surface in _CERTAIN or surface.lower() in _EVERYDAY
