"""Tokens of a text with their characters, and the overlapping windows that a model of limited length reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Frame", "TextTokens", "Window", "frame_of", "tokenize", "windows"]

_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # half a character, as "\ud800" in JSON: no tokenizer takes it


class TextTokens(NamedTuple):
    """Tokens of a text without special ones: ids, characters [start, end) without white space, number of the word.

    A token of white space alone has no characters.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]
    words: list[int]  # ascending; tokens of one word stand together


class Frame(NamedTuple):
    """The special tokens that a model expects before and after a text."""

    before: list[int]
    after: list[int]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.before) + len(self.after)


class Window(NamedTuple):
    """Tokens [start, stop) of a text, which the model reads, of which it is asked about [own_start, own_stop).

    The own parts of a text's windows are all its tokens, each once, and no word is cut by them.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int


def frame_of(tokenizer: Tokenizer) -> Frame:
    """The special tokens around a single text."""
    encoding = tokenizer.encode("a")
    inner = [at for at, special in enumerate(encoding.special_tokens_mask) if not special]
    first, last = (inner[0], inner[-1]) if inner else (len(encoding.ids), len(encoding.ids))
    return Frame(list(encoding.ids[:first]), list(encoding.ids[last + 1 :]))


def tokenize(tokenizer: Tokenizer, text: str) -> TextTokens:
    """The tokens of the whole text, however long."""
    encoding = tokenizer.encode(_SURROGATE.sub("\ufffd", text), add_special_tokens=False)
    tokens = TextTokens([], [], [], [])
    last_word = -1
    for token, (start, end), word in zip(encoding.ids, encoding.offsets, encoding.word_ids, strict=True):
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        last_word = last_word + 1 if word is None else word
        tokens.ids.append(token)
        tokens.starts.append(start)
        tokens.ends.append(end)
        tokens.words.append(last_word)
    return tokens


def windows(words: list[int], *, capacity: int, overlap: int) -> list[Window]:
    """Windows of at most `capacity` tokens, neighbours sharing at least `overlap` of them, for tokens of these words.

    They are as few as they can be and, where they overlap, of about the same length: 330 tokens are read as 2 * 181
    with an overlap of 32, not as 256 and 106 whose last words would see less of the text. A window begins at a word,
    unless the word alone is longer than what it has room for. Between two windows each is asked about the half of what
    they share that is further from its own edge.
    """
    count = len(words)
    if capacity < 1 or not 0 <= overlap < capacity:
        raise ValueError(f"0 <= overlap < capacity is needed, got an overlap of {overlap} and a capacity of {capacity}")
    if count <= capacity:
        return [Window(0, count, 0, count)] if count else []
    size, starts = capacity, _starts(words, capacity, overlap)
    least = -(-(count + (len(starts) - 1) * overlap) // len(starts)) if overlap else size
    while least < size:
        middle = (least + size) // 2
        tried = _starts(words, middle, overlap)
        if len(tried) > len(starts):
            least = middle + 1
        else:
            size, starts = middle, tried
    result: list[Window] = []
    own_start = 0
    for at, start in enumerate(starts):
        stop = min(start + size, count)
        own_stop = count
        if at + 1 < len(starts):
            middle = (starts[at + 1] + stop + 1) // 2
            own_stop = _word_start(words, middle)
            if own_stop < starts[at + 1] or own_stop <= own_start:
                own_stop = middle
        result.append(Window(start, stop, own_start, own_stop))
        own_start = own_stop
    return result


def _starts(words: list[int], size: int, overlap: int) -> list[int]:
    """Where windows of `size` tokens begin, the first at 0."""
    starts = [0]
    while starts[-1] + size < len(words):
        wanted = starts[-1] + size - overlap
        start = _word_start(words, wanted)
        starts.append(start if start > starts[-1] else wanted)
    return starts


def _word_start(words: list[int], at: int) -> int:
    """The first token of the word that token `at` is in."""
    while 0 < at < len(words) and words[at] == words[at - 1]:
        at -= 1
    return at
