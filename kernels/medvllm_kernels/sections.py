"""Where the sections and the sentences of a clinical note begin and end, in time linear in the text."""

from __future__ import annotations

import ctypes
import functools
import weakref
from array import array
from collections.abc import Callable, Mapping
from typing import Final

from medvllm_kernels import native
from medvllm_kernels import sections_python as twin
from medvllm_kernels.tokens import encode_text

__all__ = ["Layout", "describe_chars", "prepare_layout"]

_UNKNOWN_CHAR: Final = -2
_CODE_POINTS: Final = 0x110000
# Flags of a character and of a word; the same numbers stand in native/sections.cc.
_KNOWN: Final = 1
_CHAR_TESTS: Final[tuple[tuple[Callable[[str], bool], int], ...]] = (
    (str.isspace, 2),
    (str.isalpha, 4),
    (str.isupper, 8),
    (str.islower, 16),
    (str.isdigit, 32),
    (str.isdecimal, 64),
    (lambda char: char.isalnum() or char == "_", 128),
)
_WORD_SETS: Final = (
    (twin.ABBREVIATIONS, 1),
    (twin.NEVER_LAST, 2),
    (twin.OPEN_WORDS, 4),
    (twin.GOING_ON, 8),
    (twin.PROSE, 16),
    (twin.NEEDS_COLON, 32),
    (twin.SYSTEMS, 64),
)


class Layout:
    """Finds sections and sentences. `headings` maps a heading, in lower case ASCII, to the name of its section.

    Safe to use from several threads.
    """

    def __init__(self, headings: Mapping[str, str]) -> None:
        self._headings = headings
        self._names: list[str | None] = [None, *dict.fromkeys([*headings.values(), *twin.SOAP.values()])]
        self._lexicon: int | None = None

    def sections(self, text: str) -> list[tuple[int, int, str | None]]:
        """(start, end, name) of the sections in order, covering the text; [] for an empty one.

        A heading is a known one followed by a colon, at the start of a line or of a sentence, or alone on its line,
        in any case; S:, O:, A:, P: count where two of them occur. An unknown heading in capitals with a colon at the
        start of a line ends the section before it, unless it names an organ system; then the name is None.
        """
        library = native.library()
        if library is None:
            return twin.find_sections(self._headings, text)
        flat = self._call(prepare_layout(library).mv_sections, library, text, columns=3)
        names = self._names
        return [(start, end, names[name]) for start, end, name in zip(flat[0::3], flat[1::3], flat[2::3], strict=True)]

    def section_starts(self, library: ctypes.CDLL, text: str) -> tuple[list[int], list[str | None]]:
        """Where the sections start, and their names."""
        flat = self._call(prepare_layout(library).mv_sections, library, text, columns=3)
        return flat[0::3], list(map(self._names.__getitem__, flat[2::3]))

    def sentences(self, text: str) -> list[tuple[int, int]]:
        """(start, end) of the sentences in order, without surrounding white space.

        A line break ends a sentence before a blank line, a list item or a label, and after a line too short to have
        been wrapped; a full stop does not after a title or an abbreviation, within a number or after a list number.
        """
        library = native.library()
        if library is None:
            return twin.split_sentences(text)
        flat = self._call(prepare_layout(library).mv_sentences, library, text, columns=2)
        return list(zip(flat[0::2], flat[1::2], strict=True))

    def _call(self, function: ctypes._NamedFuncPointer, library: ctypes.CDLL, text: str, *, columns: int) -> list[int]:
        """The rows that the function writes for the text, one after the other."""
        encoded = encode_text(text)
        lexicon = self.lexicon(library)
        room = len(text) // 32 + 16
        while True:
            rows = array("I", bytes(4 * columns * room))
            count = function(lexicon, describe_chars()[1], encoded, len(text), rows.buffer_info()[0], room)
            if count == _UNKNOWN_CHAR:
                describe_chars(text)
            elif count < 0:
                raise MemoryError("the native text library ran out of memory")
            elif count <= room:
                return rows[: columns * count].tolist()
            else:
                room = count

    def lexicon(self, library: ctypes.CDLL) -> int:
        """The words as the native library holds them: a pointer that is good as long as this object is."""
        return self._lexicon or self._load(library)

    def _load(self, library: ctypes.CDLL) -> int:
        numbers = {name: number for number, name in enumerate(self._names)}
        flags: dict[str, int] = {}
        for words, flag in _WORD_SETS:
            for word in words:
                flags[word] = flags.get(word, 0) | flag
        headings = {**self._headings, **twin.SOAP}
        lines = [
            f"{flags.get(word, 0)} {numbers[headings.get(word)] if word in headings else 0} {word}\n"
            for word in dict.fromkeys([*flags, *headings])
        ]
        lexicon: int | None = prepare_layout(library).mv_lexicon_new("".join(lines).encode("ascii"))
        if lexicon is None:
            raise MemoryError("the native text library ran out of memory")
        weakref.finalize(self, library.mv_lexicon_free, lexicon)
        self._lexicon = lexicon
        return lexicon


@functools.cache
def prepare_layout(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the functions their types, once."""
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.mv_lexicon_new.argtypes = [ctypes.c_char_p]
    library.mv_lexicon_new.restype = pointer
    library.mv_lexicon_free.argtypes = [pointer]
    library.mv_lexicon_free.restype = None
    for function in (library.mv_sentences, library.mv_sections):
        function.argtypes = [pointer, pointer, ctypes.c_char_p, size, pointer, size]
        function.restype = ctypes.c_int64
    return library


@functools.cache
def _char_flags() -> tuple[bytearray, int]:
    """A byte of flags for each code point, and its address. Filled as texts need it: all of it would take a second."""
    flags = bytearray(_CODE_POINTS)
    for code_point in range(128):
        flags[code_point] = _flags_of(chr(code_point))
    return flags, ctypes.addressof(ctypes.c_char.from_buffer(flags))


def _flags_of(char: str) -> int:
    return _KNOWN | sum(flag for test, flag in _CHAR_TESTS if test(char))


def describe_chars(text: str = "") -> tuple[bytearray, int]:
    """The flags, in which the characters of the text are then described, and their address."""
    flags = _char_flags()
    for char in set(text):
        flags[0][ord(char)] = _flags_of(char)
    return flags
