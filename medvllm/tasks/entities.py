"""What NER returns: entities with their character spans, assertion and ontology links."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["ENTITY_TYPES", "Entity", "OntologyLink"]

ENTITY_TYPES = (
    "condition",
    "symptom",
    "medication",
    "chemical",
    "procedure",
    "test",
    "anatomical_structure",
    "lab_value",
    "temporal",
)


@dataclass(frozen=True, slots=True)
class OntologyLink:
    """One code for an entity; shared by the entities that have it.

    `ontology` is the vocabulary's name (UMLS, MESH, ICD10CM, HPO, MONDO, DOID, SNOMED, CHEBI, …), `code` its
    code there, `name` the concept's preferred name, `score` the estimated probability (0–1) that the code is right.
    """

    ontology: str
    code: str
    name: str
    score: float
    encoded: str | None = field(default=None, init=False, repr=False, compare=False)  # as compact JSON, see keep

    def keep(self, encoded: str) -> str:
        """Keep the link's JSON, which is always the same, for the next time."""
        object.__setattr__(self, "encoded", encoded)
        return encoded

    def to_dict(self) -> dict[str, Any]:
        """The link as in the JSON schema."""
        return {"ontology": self.ontology, "code": self.code, "name": self.name, "score": self.score}


@dataclass(slots=True)
class Entity:
    """A span of the text with its type; offsets are indexes into the str, `end` is exclusive.

    `confidence` is a calibrated probability (0–1), or None where none is estimated. `ontology_links` is None when
    linking was switched off. `attributes` holds what belongs to the type: value and unit of a lab value; dose, route
    and frequency of a medication.
    """

    text: str
    type: str
    start: int
    end: int
    confidence: float | None = None
    ontology_links: list[OntologyLink] | None = None
    negation: str = "affirmed"  # affirmed | negated | possible
    temporality: str = "recent"  # recent | historical | hypothetical
    experiencer: str = "patient"  # patient | family | other
    section: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    # The ontology term that was matched (a payload of OntologyStore), where one was; not part of the output.
    term: int | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The entity as in the JSON schema; keys without a value are left out."""
        out: dict[str, Any] = {"text": self.text, "type": self.type, "start": self.start, "end": self.end}
        if self.confidence is not None:
            out["confidence"] = self.confidence
        if self.ontology_links is not None:
            out["ontology_links"] = [link.to_dict() for link in self.ontology_links]
        out["negation"] = self.negation
        out["temporality"] = self.temporality
        out["experiencer"] = self.experiencer
        if self.section is not None:
            out["section"] = self.section
        if self.attributes:
            out["attributes"] = self.attributes
        return out
