"""Ending a text where it should end: at a sentence near a number of words, within a number of characters."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Cut", "count_words", "cut_to_chars", "cut_to_words", "settled"]

# A word is a run without white space that holds a letter or a digit: list marks, dashes and ** alone are none.
_WORD = re.compile(r"\S*[^\W_]\S*")
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]*_]*\Z""")
# A text does not end on what announces more: "What to do:", "## Treatment", "**Causes**", the mark of an empty item.
_LEADS_ON = re.compile(r"#|.*:[*_ ]*\Z|\*\*[^*]*\*\*\Z|[\W\d_]*\Z", re.S)


class Cut(NamedTuple):
    """What is kept of a text, and where it was cut: `sentence`, `word`, `character`, or None where nothing went."""

    text: str
    at: str | None
    words_left_out: int


def count_words(text: str) -> int:
    """Words separated by white space; marks without a letter or digit (-, **, •) are none."""
    return sum(1 for _ in _WORD.finditer(text))


def cut_to_words(text: str, target: int, *, complete: bool) -> Cut:
    """The text up to the sentence whose end comes nearest to `target` words; of two as near, the earlier.

    `complete` says that the text was ended by its writer; otherwise a last sentence that looks unfinished goes, unless
    it is all there is.
    """
    best, best_distance = 0, float("inf")
    for end in _ends(text, complete=complete):
        distance = abs(count_words(text[:end]) - target)
        if distance < best_distance:
            best, best_distance = end, distance
    return _cut(text, best or len(text), "sentence")


def cut_to_chars(text: str, limit: int) -> Cut:
    """The text in at most `limit` characters: whole sentences where one fits, else whole words, else characters."""
    if len(text) <= limit:
        return Cut(text, None, 0)
    ends = [end for end in _ends(text, complete=False) if end <= limit]
    if ends:
        return _cut(text, ends[-1], "sentence")
    spaces = [match.start() for match in re.finditer(r"\s", text[: limit + 1]) if match.start()]
    if spaces and text[: spaces[-1]].strip():
        return _cut(text, spaces[-1], "word")
    return _cut(text, limit, "character")


def settled(text: str, target: int) -> tuple[int, bool]:
    """While a text is being written: (characters that will stay whatever follows, whether it may stop growing).

    The last sentence seen is never sure, for it may go on. A sentence that ends at or before the target stays; the
    first one that ends past it decides, and nothing after it counts.
    """
    ends = _ends(text, complete=False)
    if ends and ends[-1] == len(text.rstrip()):
        ends.pop()  # "3." may become "3.5 mg"
    stays = 0
    for end in ends:
        words = count_words(text[:end])
        if words >= target:
            return len(cut_to_words(text[:end], target, complete=True).text), True
        stays = end
    return stays, False


def _ends(text: str, *, complete: bool) -> list[int]:
    """Where sentences, list items and lines end on which a text may end, in order."""
    from medvllm.tasks.sections import split_sentences

    spans = split_sentences(text)
    if spans and not complete and not _SENTENCE_END.search(text[slice(*spans[-1])]):
        spans.pop()
    return [end for start, end in spans if not _LEADS_ON.match(text[start:end])]


def _cut(text: str, end: int, at: str) -> Cut:
    kept = text[:end].rstrip()
    left_out = count_words(text) - count_words(kept)
    if not text[len(kept) :].strip():
        return Cut(kept, None, 0)
    return Cut(kept, at, left_out)
