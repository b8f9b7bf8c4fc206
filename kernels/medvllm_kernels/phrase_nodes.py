"""The nodes of a phrase table, how they are placed in its slots, and the header of its file.

A phrase is a sequence of tokens (tokens.py). Each phrase and its prefixes of 1, 2, 3, 4, 6, 8, 12, 16, 24, …
tokens are nodes, known by a 64-bit rolling hash h(k+1) = mix(h(k), token). Two phrases of one hash would be
taken for one another, as a phrase added twice; among ten million phrases the odds of one such pair are about
1 in 50,000.

The file, all little-endian:

    64 bytes              header: see Header
    slots × uint64        hashes, ascending, 0 in an empty slot; h is at or after (h >> 32) * capacity >> 32
    slots × uint32        payloads, 0 for a node that is only a prefix

The same phrases and payloads give the same bytes, whichever path builds the table, in whatever order they are
added.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zlib
from array import array
from typing import Final, NamedTuple

from medvllm_kernels import chars, native
from medvllm_kernels.tokens import PHRASE_SEED, checked, encode_text, mix, phrase_tokens, prepare

__all__ = [
    "HEADER_SIZE",
    "MAX_PHRASE_TOKENS",
    "Header",
    "PhraseTableError",
    "capacity_for",
    "checked_payload",
    "count_phrases",
    "is_checkpoint",
    "phrase_nodes",
    "place_nodes",
    "read_header",
    "sort_nodes",
]

MAX_PHRASE_TOKENS: Final = 128  # bounds the work at each token of a text

_MAGIC: Final = b"MVPHRASE"
_VERSION: Final = 1
# magic, version, fingerprint of the character table, capacity, slots, nodes, phrases, CRC-32 of the slots, of
# the header
_HEADER: Final = struct.Struct("<8sIIQQQQII8x")
HEADER_SIZE: Final = _HEADER.size
_LOAD: Final = 0.75  # nodes for each slot of the capacity
_NODES_PER_PHRASE: Final = 16  # at most: the checkpoints up to MAX_PHRASE_TOKENS, and the phrase


class PhraseTableError(ValueError):
    """A table that can't be read or built: what was expected, what came, the remedy."""


class Header(NamedTuple):
    capacity: int
    slots: int
    nodes: int
    phrases: int
    slots_crc: int

    def pack(self) -> bytes:
        packed = _HEADER.pack(_MAGIC, _VERSION, chars.fingerprint(), *self, 0)
        return packed[:52] + struct.pack("<I", zlib.crc32(packed[:52])) + packed[56:]


def read_header(data: bytearray | mmap.mmap, source: str) -> Header:
    remedy = "build it again with this version"
    raw = bytes(data[:HEADER_SIZE])
    magic, version, fingerprint, capacity, slots, nodes, phrases, slots_crc, header_crc = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise PhraseTableError(
            f"{source} is not a phrase table: it starts with {magic!r}, {_MAGIC!r} expected; {remedy}"
        )
    if version != _VERSION:
        raise PhraseTableError(f"{source} has format version {version}, {_VERSION} expected; {remedy}")
    if header_crc != zlib.crc32(raw[:52]):
        raise PhraseTableError(f"{source} is damaged: the checksum of its header does not agree; {remedy}")
    if fingerprint != chars.fingerprint():
        raise PhraseTableError(f"{source} was built with another character table; {remedy}")
    size = HEADER_SIZE + 12 * slots
    if len(data) != size:
        raise PhraseTableError(f"{source} is damaged: {size} bytes expected, {len(data)} found; {remedy}")
    if sys.byteorder != "little":
        raise PhraseTableError(f"{source} can't be used: phrase tables need a little-endian machine")
    return Header(capacity, slots, nodes, phrases, slots_crc)


def checked_payload(payload: int) -> int:
    if not 0 < payload < 1 << 32:
        raise PhraseTableError(f"a payload must be in 1 … 4294967295, got {payload}")
    return payload


def is_checkpoint(depth: int) -> bool:
    """Whether prefixes of this many tokens are stored: 1, 2, 3, 4, 6, 8, 12, 16, 24, …"""
    while depth > 4 and depth % 2 == 0:
        depth //= 2
    return depth <= 4


def capacity_for(nodes: int) -> int:
    return max(1, int(nodes / _LOAD))


def count_phrases(values: array[int]) -> int:
    return len(values) - values.count(0)


def phrase_nodes(phrases: list[str], payloads: list[int]) -> tuple[array[int], array[int], array[int]]:
    """(hashes, values) of the nodes of the phrases, and for each phrase 1, or 0 where it can't be stored."""
    library = native.library()
    if library is None:
        return _phrase_nodes_python(phrases, payloads)
    lengths, values_in = array("I", map(len, phrases)), array("I", payloads)
    room = sum(min(length, _NODES_PER_PHRASE) for length in lengths)
    hashes, values, stored = (
        array("Q", bytes(8 * room)),
        array("I", bytes(4 * room)),
        array("B", bytes(len(phrases))),
    )
    addresses = [data.buffer_info()[0] for data in (lengths, values_in, hashes, values, stored)]
    nodes = prepare(library).mv_phrase_nodes
    count = checked(nodes(encode_text("".join(phrases)), *addresses[:2], len(phrases), *addresses[2:]))
    return hashes[:count], values[:count], stored


def _phrase_nodes_python(phrases: list[str], payloads: list[int]) -> tuple[array[int], array[int], array[int]]:
    hashes, values, stored = array("Q"), array("I"), array("B")
    for phrase, payload in zip(phrases, payloads, strict=True):
        token_hashes = phrase_tokens(phrase)
        stored.append(1 <= len(token_hashes) <= MAX_PHRASE_TOKENS)
        if not stored[-1]:
            continue
        node = PHRASE_SEED
        for depth, token_hash in enumerate(token_hashes, 1):
            node = mix(node, token_hash)
            if depth == len(token_hashes) or is_checkpoint(depth):
                hashes.append(node)
                values.append(payload if depth == len(token_hashes) else 0)
    return hashes, values, stored


def sort_nodes(hashes: array[int], values: array[int]) -> None:
    """Sort by hash, in place, and keep one node of each: the last value that is not 0."""
    library = native.library()
    if library is None:
        nodes: dict[int, int] = {}
        for node, value in zip(hashes, values, strict=True):
            if value or node not in nodes:
                nodes[node] = value
        ordered = sorted(nodes)
        hashes[:] = array("Q", ordered)
        values[:] = array("I", [nodes[node] for node in ordered])
        return
    count = checked(prepare(library).mv_sort_nodes(hashes.buffer_info()[0], values.buffer_info()[0], len(hashes)))
    del hashes[count:], values[count:]


def place_nodes(
    hashes: array[int], values: array[int], capacity: int, first_slot: int
) -> tuple[array[int], array[int]]:
    """The slots from `first_slot` to the last of these sorted nodes; a table has at least one slot."""
    if not hashes:
        return array("Q", [0] * (first_slot == 0)), array("I", [0] * (first_slot == 0))
    last_home = ((hashes[-1] >> 32) * capacity) >> 32
    room = max(last_home - first_slot, 0) + len(hashes)
    slot_hashes, slot_values = array("Q", bytes(8 * room)), array("I", bytes(4 * room))
    library = native.library()
    if library is None:
        following = first_slot
        for node, value in zip(hashes, values, strict=True):
            slot = max(following, ((node >> 32) * capacity) >> 32)
            following = slot + 1
            slot_hashes[slot - first_slot] = node
            slot_values[slot - first_slot] = value
        count = following - first_slot
    else:
        addresses = [data.buffer_info()[0] for data in (hashes, values, slot_hashes, slot_values)]
        place = prepare(library).mv_place_nodes
        count = checked(place(*addresses[:2], len(hashes), capacity, first_slot, *addresses[2:], room))
    return slot_hashes[:count], slot_values[:count]
