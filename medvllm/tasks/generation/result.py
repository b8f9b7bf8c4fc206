"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["GeneratedText", "GenerationResult", "TextInterrupted"]


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One text, the disclaimer included, and what is measured on it (empty where that was not asked for)."""

    text: str
    finish_reason: str  # stop, length, target_words, target_chars or interrupted
    num_tokens: int  # new tokens, those cut off again included
    constraints_report: dict[str, Any] = field(default_factory=dict)
    factual_report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The texts for one prompt, best first, and the metadata of `--json-meta`."""

    outputs: tuple[GeneratedText, ...]
    metadata: dict[str, Any]

    @property
    def text(self) -> str:
        """The first text."""
        return self.outputs[0].text


class TextInterrupted(KeyboardInterrupt):
    """Ctrl-C while a text was written; `result` holds what there is of it."""

    def __init__(self, result: GenerationResult) -> None:
        super().__init__("generation was interrupted")
        self.result = result
