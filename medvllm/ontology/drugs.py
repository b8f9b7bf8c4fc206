"""Which chemicals are medications, and the brand names of them, from the FDA substance registry."""

from __future__ import annotations

from medvllm.ontology.concepts import Concept
from medvllm.ontology.semantics import CLINICAL_TAGS
from medvllm.ontology.sources import Record, UniiSubstance
from medvllm.ontology.terms import key_of

__all__ = ["match_substances"]

# Words of a salt, hydrate or ester at the end of a substance's name; what stands before them is the active
# moiety.
_SALT_WORDS = """
acetate anhydrous besylate bitartrate bromide butyrate calcium camsylate carbonate chloride citrate
dihydrate dihydrochloride dimaleate dimesylate dipropionate disodium enanthate esylate estolate
ethylsuccinate fumarate furoate gluconate hemihydrate hemifumarate hydrobromide hydrochloride hydrate
hyclate hydroxide isethionate lactate lactobionate lysine magnesium malate maleate mesylate monohydrate
monohydrochloride mucate napsylate nitrate oxalate palmitate pamoate phosphate potassium propionate
salicylate sesquihydrate sodium stearate succinate sulfate tannate tartrate tosylate trihydrate trisodium
tromethamine valerate xinafoate medoxomil axetil proxetil mofetil pivoxil cilexetil etexilate hemisulfate
decanoate cypionate
"""
_SALTS = frozenset(_SALT_WORDS.split())
# Compendium tags that only medicines have; the others are on foods, dyes and excipients too.
_TAGS_OF_MEDICINES = frozenset({"INN", "USAN", "JAN", "PURPLE BOOK CDER", "ORANGE BOOK", "EMA EPAR"})
# Chemicals that keep their type although they are also given: elements, ions, and what laboratories report.
_NEVER_MEDICATION = ("D01.268", "D01.552", "D01.248.497.158.459", "D12.125")


def match_substances(concepts: list[Concept], substances: dict[str, UniiSubstance]) -> list[tuple[int, str, bool]]:
    """Set type `medication` on the chemicals that compendia list, give them their UNII codes, and append the medicines
    that no other vocabulary has; return (concept index, name, is brand) to add."""
    index = _chemical_index(concepts)
    bases = _bases(index)
    extra: list[tuple[int, str, bool]] = []
    for code in sorted(substances, key=lambda code: (substances[code].name.count(" "), code)):
        substance = substances[code]
        position, exact = _find(index, bases, substance)
        if position is None:
            if substance.tags & _TAGS_OF_MEDICINES:
                index[key_of(substance.name)] = len(concepts)
                extra.extend((len(concepts), brand, True) for brand in substance.brands)
                concepts.append(_medicine(substance))
            continue
        concept = concepts[position]
        if concept.type == "chemical" and substance.tags & CLINICAL_TAGS and _can_be_given(concept):
            concept.type, concept.detect = "medication", True
        if substance.brands and concept.type == "medication":
            extra.extend((position, brand, True) for brand in substance.brands)
        if exact:
            extra.extend((position, name, False) for name in substance.names)
            if index.get(key_of(substance.name)) == position:
                concept.records.setdefault("UNII", Record("UNII", code, substance.name.capitalize()))
    return [entry for entry in extra if concepts[entry[0]].type == "medication"]


def _medicine(substance: UniiSubstance) -> Concept:
    record = Record("UNII", substance.code, substance.name.capitalize())
    return Concept({"UNII": record}, record.name, "medication", detect=True)


def _chemical_index(concepts: list[Concept]) -> dict[str, int]:
    index: dict[str, int] = {}
    for names in (True, False):
        for position, concept in enumerate(concepts):
            if concept.type not in ("chemical", "medication"):
                continue
            for record in concept.records.values():
                for term in (record.name,) if names else record.synonyms:
                    if len(term) > 3:
                        index.setdefault(key_of(term), position)
    return index


def _bases(index: dict[str, int]) -> dict[str, int]:
    """The index by what stands before the salt, for vocabularies that list a drug only as its salt."""
    bases: dict[str, int] = {}
    for key, position in index.items():
        base = _without_salt(key)
        if base != key and base not in index:
            bases.setdefault(base, position)
    return bases


def _without_salt(key: str) -> str:
    words = key.split(" ")
    while len(words) > 1 and words[-1] in _SALTS:
        words.pop()
    return " ".join(words)


def _find(index: dict[str, int], bases: dict[str, int], substance: UniiSubstance) -> tuple[int | None, bool]:
    """The concept of a substance, and whether its names are names of the concept too: not those of another salt."""
    key = key_of(substance.name)
    for known in (index, bases):
        if key in known:
            return known[key], True
    words = key.split(" ")
    while len(words) > 1 and words[-1] in _SALTS:  # "sodium phosphate monohydrate" is the phosphate, not sodium
        words.pop()
        base = " ".join(words)
        if base in index or base in bases:
            return index.get(base, bases.get(base)), False
    return None, False


def _can_be_given(concept: Concept) -> bool:
    mesh = concept.records.get("MESH")
    return mesh is None or not any(tree.startswith(_NEVER_MEDICATION) for tree in mesh.trees)
