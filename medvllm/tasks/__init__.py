"""The medical tasks: text in, typed results out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medvllm.tasks.entities import Entity, OntologyLink
    from medvllm.tasks.ner_processor import NERProcessor
    from medvllm.tasks.text_generator import TextGenerator

__all__ = ["Entity", "NERProcessor", "OntologyLink", "TextGenerator"]

_HOMES = {
    "Entity": "medvllm.tasks.entities",
    "NERProcessor": "medvllm.tasks.ner_processor",
    "OntologyLink": "medvllm.tasks.entities",
    "TextGenerator": "medvllm.tasks.text_generator",
}


def __getattr__(name: str) -> Any:
    """Imports a task when it is first used, so that one task does not pay for the others."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
