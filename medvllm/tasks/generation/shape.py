"""From what the model writes to the text that is given out: white space, targets, disclaimer."""

from __future__ import annotations

from medvllm.tasks.generation.length import count_words, cut_to_chars, cut_to_words, settled
from medvllm.tasks.generation.options import GenerationOptions
from medvllm.tasks.generation.report import Ending

__all__ = ["Draft", "finished_text"]

_NO_TARGET = 10**9  # words


def finished_text(
    raw: str, finish_reason: str | None, options: GenerationOptions, *, interrupted: bool = False
) -> tuple[str, Ending]:
    """The text with its disclaimer, and how it ended; `finish_reason` is the engine's, None where we ended it.

    A text that was interrupted is not cut to its words. Nothing inside the text is changed.
    """
    text = raw.strip()
    if options.json_schema is not None:
        return text, Ending("interrupted" if interrupted else finish_reason or "stop")
    reason, at = "interrupted" if interrupted else finish_reason or "target_words", None
    kept = text
    if options.target_words is not None and not interrupted:
        cut = cut_to_words(kept, options.target_words, complete=finish_reason == "stop")
        if cut.at is not None:
            kept, reason, at = cut.text, "target_words", cut.at
    if options.target_chars is not None:
        cut = cut_to_chars(kept, options.target_chars - len(options.disclaimer_text))
        if cut.at is not None:
            kept, reason, at = cut.text, "target_chars", cut.at
    left_out = count_words(text) - count_words(kept)
    return f"{kept}{options.disclaimer_text}".lstrip(), Ending(reason, at, left_out)


class Draft:
    """A text while it is written: what of it is sure to stay, and when enough is there."""

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._shown = 0

    def advance(self, raw: str) -> tuple[str, bool]:
        """The next sure piece (empty where nothing is sure yet), and whether the rest would be cut off."""
        text = raw.strip()
        stays, enough = self._sure(text)
        piece = text[self._shown : stays]
        self._shown = max(self._shown, stays)
        return piece, enough

    def rest(self, final: str) -> str:
        """What of the finished text has not been handed out."""
        return final[self._shown :]

    def _sure(self, text: str) -> tuple[int, bool]:
        options = self._options
        if options.json_schema is not None or (options.target_words is None and options.target_chars is None):
            return len(text), False
        stays, enough = settled(text, options.target_words or _NO_TARGET)
        if options.target_chars is not None:
            room = options.target_chars - len(options.disclaimer_text)
            if len(text) > room:
                stays, enough = min(stays, len(cut_to_chars(text, room).text)), True
        return stays, enough
