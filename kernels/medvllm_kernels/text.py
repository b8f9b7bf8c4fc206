"""Phrases in clinical text: a table of phrases on disk or in memory, and the search for them.

The tokens are those of tokens.py, the file is that of phrase_nodes.py. A search walks on from each token by
hashes, until a prefix that would have to be there is not: linear in the text, whatever it holds.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import zlib
from array import array
from collections.abc import Iterable
from typing import Final

from medvllm_kernels import native
from medvllm_kernels.phrase_nodes import (
    HEADER_SIZE,
    MAX_PHRASE_TOKENS,
    Header,
    PhraseTableError,
    capacity_for,
    checked_payload,
    count_phrases,
    is_checkpoint,
    phrase_nodes,
    place_nodes,
    read_header,
    sort_nodes,
)
from medvllm_kernels.phrase_writer import PhraseTableWriter
from medvllm_kernels.tokens import (
    BREAK_BEFORE,
    HAS_LOWER,
    IGNORED,
    PHRASE_SEED,
    TextTooLongError,
    Tokens,
    capitals_in,
    checked,
    encode_text,
    ends_run,
    has_lower,
    mix,
    phrase_hash,
    phrase_tokens,
    prepare,
    starts_run,
    tokenize,
    tokenize_python,
)

__all__ = [
    "CASED",
    "MAX_PHRASE_TOKENS",
    "PhraseTable",
    "PhraseTableError",
    "PhraseTableWriter",
    "TextTooLongError",
    "Tokens",
    "tokenize",
]

CASED: Final = 1 << 31  # a payload's top bit: the surface must be in capitals
_MISS: Final = -1
_KEPT_STEPS: Final = 100_000  # 20 MB at most


class _View(ctypes.Structure):
    """medvllm::TableView of native/text.h."""

    _fields_ = (
        ("hashes", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("slots", ctypes.c_uint64),
        ("capacity", ctypes.c_uint64),
    )


class PhraseTable:
    """Phrases with payloads: find them in a text, or look one up. Safe to use from several threads."""

    def __init__(self, data: bytearray | mmap.mmap, source: str) -> None:
        """Use PhraseTable.open or PhraseTable.from_phrases."""
        header = read_header(data, source)
        self._data = data
        self.nodes = header.nodes
        self.phrases = header.phrases
        self._header = header
        self._source = source
        first_value = HEADER_SIZE + 8 * header.slots
        view = memoryview(data)
        self._hashes = view[HEADER_SIZE:first_value].cast("Q")
        self._values = view[first_value:].cast("I")
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self._view = _View(address + HEADER_SIZE, address + first_value, header.slots, header.capacity)
        self._steps: dict[tuple[int, int], tuple[int, int]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> PhraseTable:
        """Map the file, reading its header only. Raises PhraseTableError, and OSError if it can't be read."""
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < HEADER_SIZE:
                raise PhraseTableError(f"{path} is not a phrase table: {size} bytes, at least {HEADER_SIZE} expected")
            # A private copy-on-write mapping: ctypes takes the address of writable memory only, and nothing
            # writes.
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), str(path))

    @classmethod
    def from_phrases(cls, phrases: Iterable[tuple[str, int]]) -> PhraseTable:
        """A table in memory of (phrase, payload); of a phrase given twice the last payload counts.

        Raises PhraseTableError for a phrase without tokens or with more than MAX_PHRASE_TOKENS, and for a
        payload that is not in 1 … 2**32 - 1.
        """
        given = list(phrases)
        hashes, values, stored = phrase_nodes(
            [phrase for phrase, _ in given], [checked_payload(value) for _, value in given]
        )
        if not all(stored):
            phrase = given[stored.index(0)][0]
            raise PhraseTableError(f"a phrase must have 1 to {MAX_PHRASE_TOKENS} tokens, got {phrase[:60]!r}")
        sort_nodes(hashes, values)
        capacity = capacity_for(len(hashes))
        slot_hashes, slot_values = place_nodes(hashes, values, capacity, 0)
        body = slot_hashes.tobytes() + slot_values.tobytes()
        header = Header(capacity, len(slot_hashes), len(hashes), count_phrases(values), zlib.crc32(body))
        return cls(bytearray(header.pack() + body), "a table in memory")

    def __len__(self) -> int:
        return self.phrases

    def find(self, text: str, *, overlapping: bool = False) -> list[tuple[int, int, int]]:
        """(start, end, payload) of the phrases in `text`: leftmost-longest, or all, ordered by start, then
        end.

        A match neither starts nor ends inside a run of letters and digits, and has no blank line in it. A
        CASED phrase matches where the surface has no lower-case letter, but for a plural s after two capitals
        ("MRIs", not "As").
        """
        flat = self.find_flat(text, overlapping=overlapping)
        return list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True))

    def find_flat(self, text: str, *, overlapping: bool = False) -> array[int]:
        """As `find`, in one array: start, end, payload, start, end, payload, …"""
        library = native.library()
        if library is None:
            return self._find_python(text, overlapping)
        return self._find_native(library, text, overlapping)

    def get(self, phrase: str) -> int | None:
        """The payload of exactly this phrase."""
        library = native.library()
        if library is None:
            return self._get_python(phrase)
        encoded = encode_text(phrase)
        return checked(prepare(library).mv_get(ctypes.byref(self._view), encoded, len(phrase))) or None

    def verify(self) -> None:
        """Read the whole table; raises PhraseTableError where it is not what was written."""
        found = zlib.crc32(memoryview(self._data)[HEADER_SIZE:])
        if found != self._header.slots_crc:
            raise PhraseTableError(
                f"{self._source} is damaged: checksum {self._header.slots_crc:08x} expected, "
                f"{found:08x} found; build it again"
            )

    def _find_native(self, library: ctypes.CDLL, text: str, overlapping: bool) -> array[int]:
        encoded = encode_text(text)
        find = prepare(library).mv_find
        room = len(text) // 16 + 16
        while True:
            flat = array("I", bytes(12 * room))
            address = flat.buffer_info()[0]
            count = checked(find(ctypes.byref(self._view), encoded, len(text), overlapping, address, room))
            if count <= room:
                return flat[: 3 * count]
            room = count

    def _find_python(self, text: str, overlapping: bool) -> array[int]:
        tokens = tokenize_python(text)
        starts, ends, steps = tokens.starts, tokens.ends, self._steps
        flat = array("I")
        following = 0  # the first token that no match has taken
        for at, token_hash in enumerate(tokens.hashes):
            if at < following:
                continue
            step = steps.get((PHRASE_SEED, token_hash)) or self._step(PHRASE_SEED, token_hash)
            if step[1] == _MISS or not starts_run(tokens, at):
                continue
            found = self._walk(text, tokens, at)
            for last, payload in found if overlapping else found[-1:]:
                flat.extend((starts[at], ends[last], payload))
                following = at if overlapping else last + 1
        return flat

    def _walk(self, text: str, tokens: Tokens, first: int) -> list[tuple[int, int]]:
        """(last token, payload) of each phrase that starts at token `first`, shortest first."""
        hashes, flags, steps = tokens.hashes, tokens.flags, self._steps
        found: list[tuple[int, int]] = []
        node, depth = PHRASE_SEED, 0
        for at in range(first, len(hashes)):
            flag = flags[at]
            if flag & BREAK_BEFORE and at > first:
                break
            if flag & IGNORED:
                continue
            node, value = steps.get((node, hashes[at])) or self._step(node, hashes[at])
            depth += 1
            if value == _MISS:
                if is_checkpoint(depth):
                    break
            elif value and ends_run(tokens, at) and (not value & CASED or _is_cased(text, tokens, first, at)):
                found.append((at, value))
            if depth == MAX_PHRASE_TOKENS:
                break
        return found

    def _step(self, node: int, token_hash: int) -> tuple[int, int]:
        """The next node and its value, kept because texts repeat their words."""
        if len(self._steps) >= _KEPT_STEPS:
            self._steps.clear()
        following = mix(node, token_hash)
        step = self._steps[node, token_hash] = following, self._lookup(following)
        return step

    def _lookup(self, node: int) -> int:
        hashes = self._hashes
        slot = ((node >> 32) * self._header.capacity) >> 32
        while slot < len(hashes):
            held = hashes[slot]
            if held == node:
                return self._values[slot]
            if held == 0 or held > node:
                break
            slot += 1
        return _MISS

    def _get_python(self, phrase: str) -> int | None:
        token_hashes = phrase_tokens(phrase)
        if not 1 <= len(token_hashes) <= MAX_PHRASE_TOKENS:
            return None
        value = self._lookup(phrase_hash(token_hashes))
        return value if value > 0 else None


def _is_cased(text: str, tokens: Tokens, first: int, last: int) -> bool:
    """No lower-case letter, but for a plural s after at least two capitals."""
    flags = tokens.flags
    if any(flags[at] & (HAS_LOWER | IGNORED) == HAS_LOWER for at in range(first, last)):
        return False
    if not flags[last] & HAS_LOWER:
        return True
    token = text[tokens.starts[last] : tokens.ends[last]]
    return token[-1] == "s" and not has_lower(token[:-1]) and capitals_in(token) >= 2
