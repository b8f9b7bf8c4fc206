"""A linear-chain model that marks spans of text, together with the phrases of a table found on the way.

Two label sequences, one for each of KINDS, are scored over the same features (crf_features.py). Labels are O, B, I, E
and S: outside, begin, inside, end and single. Weights are integers (1024 stands for 1.0), so the native code and its
Python twin give the same spans and the same margins, bit for bit. A token's margin for a kind is the score of the best
labelling with the token in a span of that kind less that of the best labelling with it outside.

The file, all little-endian: a header (see _HEADER), then

    slots × uint32      the low half of a feature's hash; hash h is at or after (h >> 32) * capacity >> 32
    slots × uint32      first weight << 4 | number of weights; 0 where the slot is empty
    class slots × uint32  classes of further phrases, see crf_features.PhraseClasses
    weights × int16     weights
    weights × uint8     kind * 5 + label of each weight
    50 × int16          transitions (kind, from, to)
    extra bytes         JSON, compressed: what else the user of the model needs to know
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
import mmap
import os
import struct
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, Final, NamedTuple

from medvllm_kernels import chars, native
from medvllm_kernels.crf_features import SLOT_OFFSETS, Document, PhraseClasses, Profile, profile_features
from medvllm_kernels.text import PhraseTable
from medvllm_kernels.tokens import encode_text, prepare

__all__ = ["KINDS", "LABELS", "SCALE", "Findings", "LinearModel", "LinearModelError", "Tagging", "pack_model", "signed"]

KINDS: Final = ("disease", "chemical")
LABELS: Final = "OBIES"
SCALE: Final = 1024  # the integer weight of 1.0
MAX_WEIGHT: Final = 8191  # keeps the sums over a sequence within 32 bits

_MAGIC: Final = b"MVLINEAR"
_VERSION: Final = 1
# magic, version, fingerprint of the character table, capacity, slots, weights, capacity and slots of the classes,
# bytes of extra, CRC-32 of the body
_HEADER: Final = struct.Struct("<8sIIQQQQQQI12x")
_LOAD: Final = 0.8
_FORBIDDEN: Final = -(1 << 28)
_WIDTH: Final = len(KINDS) * len(LABELS)
_serials = itertools.count(1)


class LinearModelError(ValueError):
    """A model file cannot be used."""


_ARRAYS: Final = ("fingerprints", "cells", "classes", "weights", "labels", "transitions", "chars")


class _View(ctypes.Structure):
    """medvllm::CrfView of native/crf.cc."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_uint64) for name in ("slots", "capacity", "class_slots", "class_capacity", "serial")),
    )


class Findings(NamedTuple):
    """Columns of the rows of a Tagging, with signed margins."""

    starts: list[int]
    ends: list[int]
    kinds: list[int]
    payloads: list[int]
    disease: list[int]
    chemical: list[int]

    def without_kinds(self) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
        """The columns but that of the kinds."""
        return self.starts, self.ends, self.payloads, self.disease, self.chemical


@dataclass(frozen=True, slots=True)
class Tagging:
    """What was found in a text.

    `rows` holds six numbers for each finding, phrases first, each ordered by start, longest first: start, end, 0 for a
    phrase of the table or 1 + index in KINDS for a span of the model, the phrase's payload (of a span 1 where its first
    token also stands at a place at which no span begins, else 0), and the least margin of its tokens for each of KINDS
    (as unsigned 32-bit numbers; `signed` undoes that).
    """

    rows: array[int]
    starts: array[int]  # (tokens,) where tokens start
    margins: array[int]  # (tokens, KINDS)

    def findings(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """The rows one by one, with signed margins."""
        columns = [self.rows[at::6] for at in range(6)]
        for start, end, kind, payload, disease, chemical in zip(*columns, strict=True):
            yield start, end, kind, payload, signed(disease), signed(chemical)

    def phrases(self) -> Findings:
        """The rows of phrases."""
        return self._columns(slice(None, 6 * self._phrase_count()))

    def spans(self) -> Findings:
        """The rows of spans."""
        return self._columns(slice(6 * self._phrase_count(), None))

    def _phrase_count(self) -> int:
        return self.rows[2::6].count(0)

    def _columns(self, part: slice) -> Findings:
        rows = self.rows[part]
        signed_rows = array("i", rows.tobytes())
        columns = (*(rows[at::6] for at in range(4)), signed_rows[4::6], signed_rows[5::6])
        return Findings(*[column.tolist() for column in columns])

    def margin(self, start: int, end: int) -> tuple[int, int] | None:
        """The least margin of the tokens that start in [start, end), for each of KINDS; None where none does."""
        first, last = bisect_left(self.starts, start), bisect_left(self.starts, end)
        if first == last:
            return None
        return min(self.margins[2 * first : 2 * last : 2]), min(self.margins[2 * first + 1 : 2 * last : 2])


class LinearModel:
    """A model file, mapped. Safe to use from several threads on the native path."""

    def __init__(self, data: bytearray | mmap.mmap, source: str) -> None:
        """Use LinearModel.open or LinearModel.from_bytes."""
        if len(data) < _HEADER.size:
            raise LinearModelError(f"{source} is not a linear model: {len(data)} bytes; train or install it again")
        header = _HEADER.unpack(bytes(data[: _HEADER.size]))
        magic, version, fingerprint, self._capacity, self._slots, weights, class_capacity, classes, extra, checksum = (
            header
        )
        self._checksum = checksum
        if magic != _MAGIC or version != _VERSION:
            raise LinearModelError(f"{source} is not a linear model of version {_VERSION}; train or install it again")
        if fingerprint != chars.fingerprint():
            raise LinearModelError(f"{source} was trained with another character table; train it again")
        sizes = (4 * self._slots, 4 * self._slots, 4 * classes, 2 * weights, weights + weights % 2, 2 * 50, extra)
        starts = list(itertools.accumulate(sizes, initial=_HEADER.size))
        if len(data) != starts[-1]:
            raise LinearModelError(
                f"{source} is damaged: {starts[-1]} bytes expected, {len(data)} found; install it again"
            )
        if sys.byteorder != "little":
            raise LinearModelError(f"{source} can't be used: linear models need a little-endian machine")
        self._data, self._source = data, source
        view = memoryview(data)
        parts = [view[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        self._fingerprints, self._cells = parts[0].cast("I"), parts[1].cast("I")
        self._classes = PhraseClasses(parts[2].cast("I"), class_capacity)
        self._weights, self._labels, self._transitions = parts[3].cast("h"), parts[4], parts[5].cast("h")
        self._extra = parts[6]
        self._chars = chars.load()
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        self._view = _View(
            *(address + start for start in starts[:6]),
            self._chars.buffer_info()[0],
            self._slots,
            self._capacity,
            classes,
            class_capacity,
            next(_serials),
        )
        self._steps = [self._step_scores(kind) for kind in range(len(KINDS))]
        self._profiles: dict[str, Profile] = {}
        self._profile_scores: dict[Profile, tuple[list[int], ...]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> LinearModel:
        """Map the file. Raises LinearModelError, and OSError where it can't be read."""
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < _HEADER.size:
                raise LinearModelError(f"{path} is not a linear model; train or install it again")
            # A private copy-on-write mapping: ctypes takes the address of writable memory only, and nothing writes.
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), str(path))

    @classmethod
    def from_bytes(cls, data: bytes) -> LinearModel:
        """A model in memory, as made by pack_model."""
        return cls(bytearray(data), "a model in memory")

    def extra(self) -> dict[str, Any]:
        """The JSON object that was packed with the weights."""
        loaded: dict[str, Any] = json.loads(zlib.decompress(self._extra))
        return loaded

    def verify(self) -> None:
        """Read the whole file; raises LinearModelError where it is not what was written."""
        found = zlib.crc32(memoryview(self._data)[_HEADER.size :])
        if found != self._checksum:
            raise LinearModelError(
                f"{self._source} is damaged: checksum {self._checksum:08x} expected, {found:08x} found"
            )

    def tag(self, text: str, table: PhraseTable, definitions: Sequence[tuple[int, int, int, int]] = ()) -> Tagging:
        """The spans of the model and the phrases for detection (type code above 0) of the table.

        `definitions` are the abbreviations that the text defines: start and end of the short form, then of the long.
        """
        library = native.library()
        if library is None:
            return _PythonTagger(self, text, table, definitions).run()
        return self._tag_native(library, text, table, definitions)

    def _tag_native(
        self, library: ctypes.CDLL, text: str, table: PhraseTable, definitions: Sequence[tuple[int, int, int, int]]
    ) -> Tagging:
        encoded = encode_text(text)
        counts = (ctypes.c_uint64 * 2)()
        functions = _prepare(library)
        given = array("I", itertools.chain.from_iterable(definitions))
        address = given.buffer_info()[0]
        views = ctypes.byref(self._view), ctypes.byref(table._view)
        result = functions.mv_crf_run(*views, encoded, len(text), address, len(definitions), counts)
        if not result:
            raise MemoryError("the native text library ran out of memory")
        try:
            rows = array("I", bytes(24 * counts[0]))
            starts, margins = array("I", bytes(4 * counts[1])), array("i", bytes(8 * counts[1]))
            functions.mv_crf_rows(result, rows.buffer_info()[0])
            functions.mv_crf_tokens(result, starts.buffer_info()[0], margins.buffer_info()[0])
        finally:
            functions.mv_crf_free(result)
        return Tagging(rows, starts, margins)

    def add_scores(self, feature: int, scores: list[int]) -> None:
        """Add the weights of a feature to (KINDS × LABELS) scores."""
        low = feature & 0xFFFF_FFFF
        for slot in range(((feature >> 32) * self._capacity) >> 32, self._slots):
            cell = self._cells[slot]
            if not cell:
                return
            if self._fingerprints[slot] == low:
                for at in range(cell >> 4, (cell >> 4) + (cell & 15)):
                    scores[self._labels[at]] += self._weights[at]
                return

    def profile_scores(self, profile: Profile) -> tuple[list[int], ...]:
        """The scores of a token alone, for each slot of SLOT_OFFSETS; kept between texts."""
        known = self._profile_scores.get(profile)
        if known is None:
            if len(self._profile_scores) >= 50_000:
                self._profile_scores.clear()
            known = tuple([0] * _WIDTH for _ in SLOT_OFFSETS)
            for features, scores in zip(profile_features(profile), known, strict=True):
                for value in features:
                    self.add_scores(value, scores)
            self._profile_scores[profile] = known
        return known

    def _step_scores(self, kind: int) -> list[list[int]]:
        """(from, to) scores; a span that was begun must go on, and only then."""
        size = len(LABELS)
        first = kind * size * size
        return [
            [
                self._transitions[first + a * size + b] if (a in (1, 2)) == (b in (2, 3)) else _FORBIDDEN
                for b in range(size)
            ]
            for a in range(size)
        ]


def signed(value: int) -> int:
    """A margin of a row as the signed number it is."""
    return value - (1 << 32) if value >> 31 else value


@functools.cache
def _prepare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Give the functions of native/crf.cc their types, once."""
    prepare(library)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.mv_crf_run.argtypes = [pointer, pointer, ctypes.c_char_p, size, pointer, size, pointer]
    library.mv_crf_run.restype = pointer
    library.mv_crf_rows.argtypes = [pointer, pointer]
    library.mv_crf_rows.restype = None
    library.mv_crf_tokens.argtypes = [pointer, pointer, pointer]
    library.mv_crf_tokens.restype = None
    library.mv_crf_free.argtypes = [pointer]
    library.mv_crf_free.restype = None
    return library


class _PythonTagger:
    """The twin of medvllm::Tagger."""

    def __init__(
        self, model: LinearModel, text: str, table: PhraseTable, definitions: Sequence[tuple[int, int, int, int]]
    ) -> None:
        self._model = model
        self._document = Document(text, table, model._profiles, definitions, model._classes)

    def run(self) -> Tagging:
        document = self._document
        tokens = document.tokens
        margins = array("i", bytes(8 * len(tokens)))
        findings: list[tuple[int, int, int, int]] = []  # first and last token, row kind, payload
        findings += [(first, last, 0, payload) for first, last, payload in document.detected]
        scores = [self._model.profile_scores(profile) for profile in document.profiles]
        for first, last in document.sequences():
            emissions = [self._emission(at, first, last, scores) for at in range(first, last)]
            for kind in range(len(KINDS)):
                spans = self._decode(first, emissions, kind, margins)
                findings += [(a, b, 1 + kind, 0) for a, b in spans]
        rows = array("I")
        begun = {a for a, _, kind, _ in findings if kind}
        elsewhere = {value for at, value in enumerate(tokens.hashes) if at not in begun}
        findings = [
            (a, b, kind, payload if not kind else int(tokens.hashes[a] in elsewhere))
            for a, b, kind, payload in findings
        ]
        placed = [
            (kind > 0, tokens.starts[a], -tokens.ends[b], kind, payload, a, b) for a, b, kind, payload in findings
        ]
        for _, start, end, kind, payload, a, b in sorted(placed):
            rows.extend((start, -end, kind, payload))
            for model in range(len(KINDS)):
                rows.append(min(margins[2 * a + model : 2 * b + 2 : 2]) & 0xFFFF_FFFF)
        return Tagging(rows, tokens.starts, margins)

    def _emission(self, at: int, first: int, last: int, scores: list[tuple[list[int], ...]]) -> list[int]:
        total = [0] * _WIDTH
        for slot, offsets in enumerate(SLOT_OFFSETS):
            for offset in offsets:
                if 0 <= at - offset < len(scores):
                    total = list(map(add, total, scores[at - offset][slot]))
        for value in self._document.pair_features(at, first, last):
            self._model.add_scores(value, total)
        return total

    def _decode(self, first: int, emissions: list[list[int]], kind: int, margins: array[int]) -> list[tuple[int, int]]:
        """Spans as (first, last) token; writes the margins of the sequence's tokens."""
        size, steps = len(LABELS), self._model._steps[kind]
        own = [scores[kind * size : (kind + 1) * size] for scores in emissions]
        into = list(zip(*steps, strict=True))  # (to, from)
        forward = [[max((_FORBIDDEN if b in (2, 3) else 0) + own[0][b], _FORBIDDEN) for b in range(size)]]
        for scores in own[1:]:
            last = forward[-1]
            forward.append([max(max(map(add, last, into[b])) + scores[b], _FORBIDDEN) for b in range(size)])
        backward = [[_FORBIDDEN if a in (1, 2) else 0 for a in range(size)]]
        for scores in own[:0:-1]:
            ahead = list(map(add, scores, backward[-1]))
            backward.append([max(max(map(add, steps[a], ahead)), _FORBIDDEN) for a in range(size)])
        backward.reverse()
        for at, (ahead, behind) in enumerate(zip(forward, backward, strict=True)):
            through = list(map(add, ahead, behind))
            margins[2 * (first + at) + kind] = max(through[1:]) - through[0]
        return self._spans(first, forward, steps)

    def _spans(self, first: int, forward: list[list[int]], steps: list[list[int]]) -> list[tuple[int, int]]:
        label = max((0, 3, 4), key=forward[-1].__getitem__)  # of equal labels the first
        spans: list[tuple[int, int]] = []
        end = 0
        for at in range(len(forward) - 1, -1, -1):
            if label in (3, 4):
                end = at
            if label in (1, 4):
                spans.append((first + at, first + end))
            if at:
                options = [forward[at - 1][a] + steps[a][label] for a in range(len(LABELS))]
                label = options.index(max(options))
        return spans


def pack_model(
    features: Mapping[int, Mapping[int, float]],
    transitions: Sequence[Sequence[Sequence[float]]],
    classes: PhraseClasses,
    extra: Mapping[str, Any],
) -> bytes:
    """The model file's bytes.

    `features` maps a feature's hash to {kind * 5 + label: weight}; `transitions` is (kind, from, to). Weights are
    rounded to 1/SCALE and limited to ± MAX_WEIGHT / SCALE. The same arguments give the same bytes.
    """
    quantised = {
        value: {label: q for label, w in sorted(row.items()) if (q := _quantise(w))} for value, row in features.items()
    }
    kept = sorted((value, row) for value, row in quantised.items() if row)
    capacity = max(1, int(len(kept) / _LOAD))
    fingerprints, cells = array("I"), array("I")
    weights, labels = array("h"), bytearray()
    first_weights: dict[tuple[tuple[int, int], ...], int] = {}
    for value, row in kept:
        slot = max(len(cells), ((value >> 32) * capacity) >> 32)
        empty = bytes(4 * (slot - len(cells)))
        fingerprints.frombytes(empty)
        cells.frombytes(empty)
        first = first_weights.setdefault(tuple(row.items()), len(weights))  # many features share one small row
        if first == len(weights):
            weights.extend(row.values())
            labels += bytes(row)
        fingerprints.append(value & 0xFFFF_FFFF)
        cells.append(first << 4 | len(row))
    labels += bytes(len(labels) % 2)
    steps = array("h", [_quantise(w) for kind in transitions for row in kind for w in row])
    packed = zlib.compress(json.dumps(extra, sort_keys=True, separators=(",", ":")).encode(), 9)
    held = array("I", classes.slots)
    body = b"".join(map(bytes, (fingerprints, cells, held, weights, labels, steps, packed)))
    sizes = (capacity, len(cells), len(weights), classes.capacity, len(held), len(packed))
    return _HEADER.pack(_MAGIC, _VERSION, chars.fingerprint(), *sizes, zlib.crc32(body)) + body


def _quantise(weight: float) -> int:
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, round(weight * SCALE)))
