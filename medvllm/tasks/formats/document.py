"""What the writers of more than one document take: an id, the text and the entities found in it."""

from __future__ import annotations

from typing import NamedTuple

from medvllm.tasks.entities import Entity

__all__ = ["Document", "assertion_labels"]


class Document(NamedTuple):
    """One text with its entities; entity offsets are indexes into `text`."""

    id: str
    text: str
    entities: list[Entity]


def assertion_labels(entity: Entity) -> list[str]:
    """What sets the entity apart from a present finding of the patient; empty for a plain one."""
    labels = []
    if entity.negation != "affirmed":
        labels.append(entity.negation)
    if entity.temporality != "recent":
        labels.append(entity.temporality)
    if entity.experiencer != "patient":
        labels.append(entity.experiencer)
    return labels
