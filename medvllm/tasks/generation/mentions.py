"""Drugs and diseases that a generated text mentions, and which of them its input does not: found by the project's NER.

Two mentions are the same thing where they share a concept of the ontology, so "high blood pressure" in the text is
supported by "hypertension" in the input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvllm.tasks.entities import Entity
    from medvllm.tasks.ner_processor import NERProcessor

__all__ = ["CHECKED_TYPES", "mention_report"]

CHECKED_TYPES = ("condition", "medication")
_GENERIC = frozenset(
    {"UMLS:C0012634", "MESH:D004358", "MESH:D004364"}
)  # disease; drug therapy; pharmaceutical preparation


def mention_report(source: str, text: str, processor: NERProcessor) -> dict[str, Any]:
    """The distinct mentions of drugs and diseases in `text`, those without a code, those not in `source`."""
    known = {key for entity in processor.process(source) for key in _keys(entity)}
    mentions: dict[str, Entity] = {}
    for entity in processor.process(text):
        if entity.type in CHECKED_TYPES and _identity(entity) not in _GENERIC:
            mentions.setdefault(_identity(entity), entity)
    unsupported = [entity for entity in mentions.values() if not known.intersection(_keys(entity))]
    unlinked = [entity for entity in mentions.values() if not entity.ontology_links]
    return {
        "mentions": len(mentions),
        "linked": len(mentions) - len(unlinked),
        "unlinked": [entity.text for entity in unlinked],
        "unsupported": [_described(entity) for entity in unsupported],
    }


def _keys(entity: Entity) -> Iterable[str]:
    """Everything by which two mentions are the same: their words and their codes."""
    yield entity.text.lower()
    for link in entity.ontology_links or ():
        yield f"{link.ontology}:{link.code}"
        yield link.name.lower()


def _identity(entity: Entity) -> str:
    """One name for the thing mentioned: its best code, else its words."""
    links = entity.ontology_links
    return f"{links[0].ontology}:{links[0].code}" if links else entity.text.lower()


def _described(entity: Entity) -> dict[str, str]:
    links = entity.ontology_links
    code = {"code": f"{links[0].ontology}:{links[0].code}"} if links else {}
    return {"text": entity.text, "type": entity.type, **code}
