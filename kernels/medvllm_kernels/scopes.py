"""Which cues of assertion reach which spans of a text, by the native library.

The rules, and the Python twin of what the library does, stand where the cues are defined.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from medvllm_kernels.sections import Layout, describe_chars, prepare_layout
from medvllm_kernels.tokens import encode_text

__all__ = ["CueTable", "SpanError", "pack_kind"]

_UNKNOWN_CHAR: Final = -2
_BAD_SPAN: Final = -3
_MAX_EFFECTS: Final = 4
_STOPS: Final = {"": 0, "all": 1, "np": 2, "neg": 3, "he": 4, "she": 5, "they": 6}
_PERSONS: Final = {"": 0, "family": 1, "other": 2}
_GENDERS: Final = {"": 0, "m": 4, "f": 5}  # the numbers of the stops they agree with

Effects = Sequence[tuple[int, int]]  # (dimension, reach)


class SpanError(ValueError):
    """A span is empty or reaches outside of the text."""


class Reached(NamedTuple):
    """Of each span: polarity + 3 * time + 9 * experiencer, and (start, end) of the cue of each of them, or -1, -1."""

    codes: bytes  # (spans,)
    places: array[int]  # (6 * spans,)


def pack_kind(forward: Effects, backward: Effects, stop: str, person: str, gender: str, pseudo: bool) -> list[int]:
    """A kind of cue as the library reads it."""
    packed = [len(forward), len(backward)]
    for effects in (forward, backward):
        if len(effects) > _MAX_EFFECTS:
            raise ValueError(f"a cue has at most {_MAX_EFFECTS} effects in one direction, got {len(effects)}")
        flat = [number for effect in effects for number in effect]
        packed += flat + [0] * (2 * _MAX_EFFECTS - len(flat))
    return [*packed, _STOPS[stop], _PERSONS[person], _GENDERS[gender], int(pseudo)]


class CueTable:
    """The kinds of cues (see pack_kind), which a cue names by its number."""

    def __init__(self, layout: Layout, kinds: Iterable[list[int]]) -> None:
        self._layout = layout
        self._kinds = array("i", [number for kind in kinds for number in kind])

    def assess(
        self,
        library: ctypes.CDLL,
        text: str,
        *,
        section_starts: array[int],
        section_defaults: bytes,
        cues: array[int],
        spans: array[int],
        meet: Callable[[int, int, int], int],
    ) -> Reached:
        """What the text says of the spans (start, end, start, end, …).

        `section_defaults` holds 1 for a section of the past, plus 2 for one about the family; `cues` triples
        (start, end, kind), of which the first to start counts where two overlap; `meet` judges a person (start,
        end, end of the sentence).
        Raises SpanError.
        """
        count = len(spans) // 2
        codes, places = bytearray(count or 1), array("i", bytes(24 * count or 4))
        layout = self._layout
        encoded = encode_text(text)
        room = 8
        persons = array("I", bytes(12 * room))
        meetings: bytes | None = None
        code_address = ctypes.addressof(ctypes.c_char.from_buffer(codes))
        while True:
            met = _prepare(library)(
                layout.lexicon(library),
                describe_chars()[1],
                encoded,
                len(text),
                section_starts.buffer_info()[0],
                section_defaults,
                len(section_starts),
                self._kinds.buffer_info()[0],
                cues.buffer_info()[0],
                len(cues) // 3,
                spans.buffer_info()[0],
                count,
                meetings,
                persons.buffer_info()[0],
                room,
                code_address,
                places.buffer_info()[0],
            )
            if met == _UNKNOWN_CHAR:
                describe_chars(text)
            elif met == _BAD_SPAN:
                raise SpanError
            elif met < 0:
                raise MemoryError("the native text library ran out of memory")
            elif not met or meetings is not None:
                return Reached(bytes(codes), places)
            elif met > room:
                room = met
                persons = array("I", bytes(12 * room))
            else:
                meetings = bytes([meet(*persons[at : at + 3]) for at in range(0, 3 * met, 3)])


@functools.cache
def _prepare(library: ctypes.CDLL) -> Callable[..., int]:
    """The function with its types."""
    prepare_layout(library)
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    function = library.mv_assess
    function.argtypes = [
        *(pointer, pointer, text, size),
        *(pointer, text, size, pointer),
        *(pointer, size, pointer, size),
        *(text, pointer, size, pointer, pointer),
    ]
    function.restype = ctypes.c_int64
    return function
