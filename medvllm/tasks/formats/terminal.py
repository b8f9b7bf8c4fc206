"""The text with its entities marked, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.document import assertion_labels
from medvllm.tasks.formats.plain import strip_controls

__all__ = ["highlight"]

# 256-colour foregrounds that read on black and on white.
_COLORS = {
    "condition": 160,
    "symptom": 166,
    "medication": 32,
    "chemical": 37,
    "procedure": 133,
    "test": 98,
    "anatomical_structure": 64,
    "lab_value": 30,
    "temporal": 102,
}
_RESET = "\x1b[0m"


def highlight(text: str, entities: Sequence[Entity], *, color: bool) -> str:
    """The text with each entity as `[words](type, assertion)`, in the type's colour when `color`.

    Control characters of the text become spaces, so that a note can't steer the terminal. Of entities that
    overlap the first and longest is shown.
    """
    pieces = []
    at = 0
    for entity in sorted(entities, key=lambda entity: (entity.start, -entity.end)):
        if entity.start < at or not entity.start < entity.end <= len(text):
            continue
        pieces.append(strip_controls(text[at : entity.start]))
        pieces.append(_mark(strip_controls(text[entity.start : entity.end]), entity, color))
        at = entity.end
    pieces.append(strip_controls(text[at:]))
    return "".join(pieces)


def _mark(words: str, entity: Entity, color: bool) -> str:
    label = ", ".join([strip_controls(entity.type), *assertion_labels(entity)])
    if not color:
        return f"[{words}]({label})"
    shade = f"\x1b[38;5;{_COLORS.get(entity.type, 102)}"
    style = ";9" if entity.negation == "negated" else ""  # struck through
    return f"{shade};1{style}m[{words}]{_RESET}{shade}m({label}){_RESET}"
