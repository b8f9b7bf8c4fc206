"""Numbers and words of time in a note, sorted by what can come of them, by the native library.

The rules stand in medvllm/tasks/measurements.py and temporal.py, whose functions are asked about what the library
leaves open; where there is no library, they read every number.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from medvllm_kernels.sections import describe_chars
from medvllm_kernels.tokens import encode_text, prepare

__all__ = ["ASK", "ASK_READ", "ASK_UNIT", "CASED", "COLUMNS", "TIME", "VALUE", "VITAL", "ValueWords", "Values"]

# Flags of a name: its values are not plain; it counts as spelled; it does so in any spelling near a vital sign; its
# values with a unit are not plain.
ASK: Final = 1
CASED: Final = 2
VITAL: Final = 4
ASK_UNIT: Final = 8
# The first number of a row: a time may be there, a value is, or a value may be.
TIME: Final = 1
VALUE: Final = 2
ASK_READ: Final = 3
COLUMNS: Final = 12
_UNKNOWN_CHAR: Final = -2


class Values(NamedTuple):
    """What the library found in a text."""

    rows: list[int]  # (numbers, COLUMNS), see Row in native/values.cc
    anchors: list[int]  # (words, 2) index of the anchor, place; by anchor, then place
    beginnings: array[int]  # (places, 2) where a part of a prescription may begin; see Scan::Beginnings of values.cc


class ValueWords:
    """The words that values are read by; safe to use from several threads.

    `names` maps a name to its flags and, where it is CASED, its spellings; `by_last_word` a word to the numbers of the
    names that end in it, longest first; `connectors` a word between name and number to whether it may not be the last
    one; `units` holds each unit and whether it is plain, in the order in which they are tried; `beginnings` are those
    of the parts of a prescription that begin with a letter: a space stands for white space or a hyphen, "#" for a
    digit, "|" at the end for the word's end. Names, connectors and beginnings are ASCII.
    """

    def __init__(
        self,
        *,
        names: Mapping[str, tuple[int, Iterable[str]]],
        by_last_word: Mapping[str, Iterable[int]],
        connectors: Mapping[str, bool],
        units: Iterable[tuple[str, bool]],
        beginnings: Iterable[str],
    ) -> None:
        lines = [f"n\t{flags}\t{name}\n" for name, (flags, _) in names.items()]
        for number, (_, spellings) in enumerate(names.values()):
            lines += [f"s\t{number}\t{spelling}\n" for spelling in sorted(spellings)]
        lines += [f"l\t{number}\t{word}\n" for word, numbers in by_last_word.items() for number in numbers]
        lines += [f"c\t{int(not_last)}\t{word}\n" for word, not_last in connectors.items()]
        lines += [f"u\t{int(not plain)}\t{unit}\n" for unit, plain in units]
        lines += [f"b\t0\t{beginning}\n" for beginning in beginnings]
        self._lines = "".join(lines).encode()
        self._words: int | None = None

    def find(self, library: ctypes.CDLL, text: str, low: str) -> Values:
        """What the text holds; `low` is the text in lower case, as long as it."""
        function = _prepare(library)
        words = self._words or self._load(library)
        encoded = encode_text(text)
        lowered = encoded if low is text or low == text else low.encode("utf-32-le", "surrogatepass")
        row_room, anchor_room, place_room = len(text) // 48 + 16, len(text) // 96 + 16, len(text) // 16 + 16
        counts = array("Q", (0, 0, 0))
        while True:
            rows, anchors = array("i", bytes(4 * COLUMNS * row_room)), array("I", bytes(8 * anchor_room))
            places = array("I", bytes(8 * place_room))
            done = function(
                words,
                describe_chars()[1],
                encoded,
                lowered,
                len(text),
                rows.buffer_info()[0],
                row_room,
                anchors.buffer_info()[0],
                anchor_room,
                places.buffer_info()[0],
                place_room,
                counts.buffer_info()[0],
            )
            if done == _UNKNOWN_CHAR:
                describe_chars(text + low)
                continue
            if done < 0:
                raise MemoryError("the native text library ran out of memory")
            row_count, anchor_count, place_count = counts
            if row_count <= row_room and anchor_count <= anchor_room and place_count <= place_room:
                found = rows[: COLUMNS * row_count].tolist(), anchors[: 2 * anchor_count].tolist()
                return Values(*found, places[: 2 * place_count])
            row_room, anchor_room = max(row_room, row_count), max(anchor_room, anchor_count)
            place_room = max(place_room, place_count)

    def _load(self, library: ctypes.CDLL) -> int:
        words: int | None = library.mv_values_new(self._lines)
        if words is None:
            raise MemoryError("the native text library ran out of memory")
        weakref.finalize(self, library.mv_values_free, words)
        self._words = words
        return words


@functools.cache
def _prepare(library: ctypes.CDLL) -> Callable[..., int]:
    """The functions with their types."""
    prepare(library)
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    library.mv_values_new.argtypes = [text]
    library.mv_values_new.restype = pointer
    library.mv_values_free.argtypes = [pointer]
    library.mv_values_free.restype = None
    function = library.mv_values
    function.argtypes = [pointer, pointer, text, text, size, *(pointer, size) * 3, pointer]
    function.restype = ctypes.c_int64
    return function
