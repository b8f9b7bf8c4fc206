"""Tokens of clinical text, and the hashes phrases are looked up by: the Python twin of native/text.cc.

A token is a run of letters, a run of digits, or one other character that is not white space. Its hash is that
of the folded token (see chars.py), so "Sjögren", "SJOGREN" and "sjøgren" are one. No part of a phrase, and
marked IGNORED, are

* a hyphen with no space before it and no hyphen beside it: "beta-blocker", "short- and long-term";
* an apostrophe after a letter, alone ("patients'") or with an s ("Crohn's").
"""

from __future__ import annotations

import ctypes
import functools
import re
import sys
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from medvllm_kernels import chars, native

__all__ = [
    "BREAK_BEFORE",
    "CLASS_MASK",
    "HAS_LOWER",
    "HAS_UPPER",
    "IGNORED",
    "MAX_TEXT_CHARS",
    "NEWLINE_BEFORE",
    "SPACE_BEFORE",
    "TextTooLongError",
    "Tokens",
    "tokenize",
]

# Bits of Tokens.flags; the lowest two are chars.LETTER, DIGIT or OTHER. The same numbers stand in
# native/text.h.
CLASS_MASK: Final = 3
IGNORED: Final = 4
BREAK_BEFORE: Final = 8  # two or more line breaks before it: no phrase goes across
SPACE_BEFORE: Final = 16  # white space, or the start of the text, before it
HAS_LOWER: Final = 32
HAS_UPPER: Final = 64
NEWLINE_BEFORE: Final = 128  # a line break, or the start of the text, before it

MAX_TEXT_CHARS: Final = 0xFFFF_FFF0  # positions are 32-bit

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_TOKEN_SEED: Final = 0xCBF29CE484222325
_TOKEN_PRIME: Final = 0x100000001B3
_MIX_A: Final = 0xFF51AFD7ED558CCD
_MIX_B: Final = 0xC4CEB9FE1A85EC53
_LONG_TOKEN: Final = 40  # longer tokens are rarely seen twice and are not kept
_KEPT_TOKENS: Final = 100_000

PHRASE_SEED: Final = 0x9AE16A3B2F90404F


class TextTooLongError(ValueError):
    """A text has more code points than positions can count."""


class Tokens:
    """Parallel arrays over the tokens of one text."""

    __slots__ = ("ends", "flags", "hashes", "starts")

    def __init__(self, starts: array[int], ends: array[int], hashes: array[int], flags: array[int]) -> None:
        self.starts = starts  # (tokens,) uint32, code points
        self.ends = ends  # (tokens,) uint32, exclusive
        self.hashes = hashes  # (tokens,) uint64
        self.flags = flags  # (tokens,) uint8

    def __len__(self) -> int:
        return len(self.starts)


def tokenize(text: str) -> Tokens:
    """The tokens of `text`, in order. Raises TextTooLongError above MAX_TEXT_CHARS."""
    library = native.library()
    return tokenize_python(text) if library is None else tokenize_native(library, text)


def encode_text(text: str) -> bytes:
    """`text` as the native library reads it: one little-endian uint32 for each code point, surrogates too."""
    if len(text) > MAX_TEXT_CHARS:
        raise TextTooLongError(
            f"a text must have at most {MAX_TEXT_CHARS} characters, got {len(text)}; split it into documents"
        )
    global _last
    held, encoded = _last
    if held is not text:  # a note goes to the library four times on its way
        encoded = text.encode("utf-32-le", "surrogatepass")
        if len(text) <= _MOST_HELD:
            _last = text, encoded
    return encoded


_MOST_HELD = 1 << 20  # characters
_last: tuple[str, bytes] = ("", b"")  # replaced as a whole, so threads may race


@functools.cache
def prepare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the library the character table and its functions their types, once."""
    table = _entries()  # cached there, so alive as long as the library
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.mv_set_chars.argtypes = [pointer]
    library.mv_set_chars.restype = None
    library.mv_set_chars(table.buffer_info()[0])
    signatures: dict[str, list[type]] = {
        "mv_tokenize": [ctypes.c_char_p, size, pointer, pointer, pointer, pointer],
        "mv_find": [pointer, ctypes.c_char_p, size, ctypes.c_int32, pointer, size],
        "mv_get": [pointer, ctypes.c_char_p, size],
        "mv_phrase_nodes": [ctypes.c_char_p, pointer, pointer, size, pointer, pointer, pointer],
        "mv_sort_nodes": [pointer, pointer, size],
        "mv_place_nodes": [pointer, pointer, size, ctypes.c_uint64, ctypes.c_uint64, pointer, pointer, size],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int64
    return library


def checked(count: int) -> int:
    """A count returned by the native library; raises MemoryError for its -1."""
    if count < 0:
        raise MemoryError("the native text library ran out of memory")
    return count


def tokenize_native(library: ctypes.CDLL, text: str) -> Tokens:
    encoded = encode_text(text)
    zeros = bytes(8 * len(text))
    starts, ends = array("I", zeros[: len(zeros) // 2]), array("I", zeros[: len(zeros) // 2])
    hashes, flags = array("Q", zeros), array("B", zeros[: len(text)])
    count = checked(
        prepare(library).mv_tokenize(
            encoded, len(text), *(out.buffer_info()[0] for out in (starts, ends, hashes, flags))
        )
    )
    return Tokens(starts[:count], ends[:count], hashes[:count], flags[:count])


def tokenize_python(text: str) -> Tokens:
    if len(text) > MAX_TEXT_CHARS:
        encode_text(text)
    known = _known_tokens()
    starts, ends, hashes, flags = array("I"), array("I"), array("Q"), array("B")
    before = BREAK_BEFORE | NEWLINE_BEFORE | SPACE_BEFORE
    last_end = 0
    for found in _token_pattern().finditer(text):
        start, end = found.span()
        if start != last_end:
            before |= SPACE_BEFORE
            if not (start == last_end + 1 and text[last_end] == " "):
                breaks = len(_LINE_BREAK.findall(text, last_end, start))
                before |= (NEWLINE_BEFORE if breaks else 0) | (BREAK_BEFORE if breaks > 1 else 0)
        token = found.group()
        token_hash, token_flags = known[token] if len(token) <= _LONG_TOKEN else _describe(token)
        starts.append(start)
        ends.append(end)
        hashes.append(token_hash)
        flags.append(token_flags | before)
        last_end = end
        before = 0
    tokens = Tokens(starts, ends, hashes, flags)
    _mark_ignored(tokens)
    return tokens


_LINE_BREAK = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")


class _KnownTokens(dict[str, tuple[int, int]]):
    """Token → (hash, flags), computed when first asked for; texts repeat their tokens."""

    def __missing__(self, token: str) -> tuple[int, int]:
        if len(self) >= _KEPT_TOKENS:
            self.clear()
        described = self[token] = _describe(token)
        return described


@functools.cache
def _known_tokens() -> _KnownTokens:
    return _KnownTokens()


def _describe(token: str) -> tuple[int, int]:
    """The hash of a token, and those of its flags that don't depend on where it stands."""
    folds, lower, upper = _folding()
    value = _TOKEN_SEED
    for folded in map(ord, token.translate(folds)):
        value = ((value ^ folded) * _TOKEN_PRIME) & _MASK
    value ^= value >> 32
    value = (value * _MIX_A) & _MASK
    value ^= value >> 29
    flags = class_of(token[0])
    if not lower.isdisjoint(token):
        flags |= HAS_LOWER
    if not upper.isdisjoint(token):
        flags |= HAS_UPPER
    return value, flags


def class_of(char: str) -> int:
    """chars.SPACE, LETTER, DIGIT or OTHER."""
    return (_entries()[ord(char)] >> chars.CLASS_SHIFT) & 3 if char < "\U00010000" else chars.OTHER


def capitals_in(text: str) -> int:
    upper = _folding()[2]
    return sum(char in upper for char in text)


def has_lower(text: str) -> bool:
    return not _folding()[1].isdisjoint(text)


def mix(node: int, token_hash: int) -> int:
    """The hash of a phrase one token longer than that of `node`."""
    value = ((((node << 23) & _MASK) | (node >> 41)) ^ token_hash) * _MIX_A & _MASK
    value ^= value >> 29
    value = value * _MIX_B & _MASK
    return (value ^ (value >> 32)) or 1  # 0 marks an empty slot


@functools.cache
def _entries() -> array[int]:
    return chars.load()


@functools.cache
def _folding() -> tuple[dict[int, int | str | None], frozenset[str], frozenset[str]]:
    """What str.translate needs to fold a token, and the sets of lower-case and of capital letters."""
    folds: dict[int, int | str | None] = {}
    lower, upper = [], []
    plain = chars.OTHER << chars.CLASS_SHIFT  # the bits of a character that stays as it is
    for code_point, entry in [pair for pair in enumerate(_entries()) if pair[1] & ~plain]:
        if entry & chars.LOWER:
            lower.append(chr(code_point))
        elif entry & chars.UPPER:
            upper.append(chr(code_point))
        if entry & chars.DROPPED:
            folds[code_point] = None
        elif entry & chars.EXPANDS:
            letters = (entry & 31, (entry >> 5) & 31, (entry >> 10) & 31)
            folds[code_point] = "".join(chr(96 + letter) for letter in letters if letter)
        elif entry & 0xFFFF:
            folds[code_point] = (code_point + entry) & 0xFFFF
    return folds, frozenset(lower), frozenset(upper)


@functools.cache
def _token_pattern() -> re.Pattern[str]:
    third_bytes = _entries().tobytes()[2 if sys.byteorder == "little" else 1 :: 4]
    kinds = third_bytes.translate(bytes(value & 3 for value in range(256)))
    sets = ["".join(_ranges(kinds, kind)) for kind in (chars.SPACE, chars.LETTER, chars.DIGIT)]
    return re.compile("[{1}]+|[{2}]+|[^{0}]".format(*sets), re.DOTALL)


def _ranges(kinds: bytes, kind: int) -> Iterator[str]:
    """The code points of one class as ranges of a regular expression's set."""
    for run in re.finditer(re.escape(bytes([kind])) + b"+", kinds):
        yield f"\\u{run.start():04x}-\\u{run.end() - 1:04x}"


def _hash_of(char: str) -> int:
    return _known_tokens()[char][0]


def _mark_ignored(tokens: Tokens) -> None:
    """Set IGNORED where the docstring of this module says so."""
    dash, apostrophe, letter_s = _hash_of("-"), _hash_of("'"), _hash_of("s")
    starts, ends, hashes, flags = tokens.starts, tokens.ends, tokens.hashes, tokens.flags
    for at in [at for at, value in enumerate(hashes) if value in (dash, apostrophe)]:
        if at == 0 or ends[at - 1] != starts[at]:
            continue
        joined = at + 1 < len(starts) and starts[at + 1] == ends[at]
        if hashes[at] == dash:
            if hashes[at - 1] != dash and not (joined and hashes[at + 1] == dash):
                flags[at] |= IGNORED
        elif flags[at - 1] & CLASS_MASK == chars.LETTER:
            if not joined or flags[at + 1] & CLASS_MASK == chars.OTHER:
                flags[at] |= IGNORED
            elif hashes[at + 1] == letter_s and ends_run(tokens, at + 1):
                flags[at] |= IGNORED
                flags[at + 1] |= IGNORED


def starts_run(tokens: Tokens, at: int) -> bool:
    """Whether a phrase may start here: not inside a run of letters and digits, nor at an ignored token."""
    flags = tokens.flags
    if flags[at] & IGNORED:
        return False
    if flags[at] & CLASS_MASK == chars.OTHER or at == 0 or tokens.ends[at - 1] != tokens.starts[at]:
        return True
    return flags[at - 1] & CLASS_MASK == chars.OTHER


def ends_run(tokens: Tokens, at: int) -> bool:
    """Whether a phrase may end with this token."""
    flags = tokens.flags
    if flags[at] & CLASS_MASK == chars.OTHER or at + 1 == len(flags) or tokens.starts[at + 1] != tokens.ends[at]:
        return True
    return flags[at + 1] & CLASS_MASK == chars.OTHER


def phrase_tokens(phrase: str) -> list[int]:
    """The hashes of the tokens that make up a phrase."""
    tokens = tokenize_python(phrase)
    return [value for value, flags in zip(tokens.hashes, tokens.flags, strict=True) if not flags & IGNORED]


def phrase_hash(token_hashes: Iterable[int]) -> int:
    node = PHRASE_SEED
    for value in token_hashes:
        node = mix(node, value)
    return node
