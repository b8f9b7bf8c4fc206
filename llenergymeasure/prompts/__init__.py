"""Prompts: of built-in data sets, of the hub, of local files; what was used is counted and hashed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llenergymeasure.prompts.sources import Prompt, PromptSet, load_prompts

__all__ = ["Prompt", "PromptSet", "load_prompts"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.sources"), name)
