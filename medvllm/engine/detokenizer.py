"""Text of a sequence that grows token by token, and the texts that stop it."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

__all__ = ["Detokenizer"]

_INCOMPLETE = "�"  # what decoding gives for the first bytes of a character


class Detokenizer:
    """Decodes each new token with the few before it that its spacing depends on.

    `text` is what is certain: a character whose bytes have not all come is held back, and, with stop texts, so is what
    may be the beginning of one.
    """

    def __init__(
        self, tokenizer: Any, prompt_token_ids: Many[int], *, stop: Many[str] = (), skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._stop = tuple(stop)
        self._ids = list(prompt_token_ids[-6:])  # enough context for a tokenizer that glues or splits spaces
        self._start, self._read = 0, len(self._ids)
        self._all = ""
        self.stopped_by: str | None = None

    @property
    def text(self) -> str:
        """The text so far."""
        if not self._stop or self.stopped_by is not None:
            return self._all
        held_back = max(map(len, self._stop)) - 1
        return self._all[: max(0, len(self._all) - held_back)]

    def add(self, token: int, *, include_stop: bool = False) -> None:
        """Takes the next token; `stopped_by` then names the stop text it completed, and the text ends there."""
        self._ids.append(token)
        known = self._decode(self._ids[self._start : self._read])
        grown = self._decode(self._ids[self._start :])
        if len(grown) <= len(known) or grown.endswith(_INCOMPLETE):
            return
        self._start, self._read = self._read, len(self._ids)
        before = len(self._all)
        self._all += grown[len(known) :]
        self._look_for_stop(before, include_stop)

    def all_at_once(self, tokens: Many[int]) -> str:
        """The text of these tokens after the prompt, without going through them one by one."""
        known = self._decode(self._ids)
        return self._decode([*self._ids, *tokens])[len(known) :]

    def finish(self) -> str:
        """The whole text, an incomplete character at its end included."""
        if self.stopped_by is None:
            known = self._decode(self._ids[self._start : self._read])
            self._all += self._decode(self._ids[self._start :])[len(known) :]
            self._stop = ()
        return self._all

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=self._skip))

    def _look_for_stop(self, before: int, include_stop: bool) -> None:
        hits = [(self._all.find(stop, max(0, before - len(stop) + 1)), stop) for stop in self._stop]
        found = [(place, stop) for place, stop in hits if place >= 0]
        if found:
            place, self.stopped_by = min(found, key=lambda hit: hit[0])
            self._all = self._all[: place + len(self.stopped_by) if include_stop else place]
