"""Hashed features of tokens for the linear-chain model: the Python twin of the feature code in native/crf.cc.

Every feature is a 64-bit hash of its kind (a number with a name in crf_kinds.py) and its value. Features of one token
alone (its word, shape, beginnings and ends, as seen from itself and from its neighbours) are its profile and are scored
once for each distinct token; the others join two tokens, or a token and a phrase of the table.
"""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from medvllm_kernels import chars
from medvllm_kernels import crf_kinds as kinds
from medvllm_kernels.crf_kinds import PLACE_SHIFT, TYPE_SHIFT
from medvllm_kernels.text import PhraseTable
from medvllm_kernels.tokens import (
    BREAK_BEFORE,
    CLASS_MASK,
    HAS_LOWER,
    HAS_UPPER,
    IGNORED,
    NEWLINE_BEFORE,
    PHRASE_SEED,
    SPACE_BEFORE,
    Tokens,
    ends_run,
    mix,
    starts_run,
    tokenize_python,
)

__all__ = [
    "SLOT_OFFSETS",
    "Document",
    "PhraseClasses",
    "Profile",
    "feature",
    "pair",
    "profile_features",
    "topic_key",
    "word_key",
]

MAX_SEQUENCE: Final = 192  # tokens
MAX_CHUNK: Final = 16  # tokens
TOPIC_BLOCK: Final = 1024  # tokens
TOPIC_WORDS: Final = 2  # words of genetics that make a block one about genetics
MAX_CLASSED: Final = 8  # tokens of a phrase with a class
REACH: Final = 4  # tokens on each side that features look at
EDGE: Final = 1  # stands for the token before the first and after the last

# Where a token's own features count: SLOT_OFFSETS[slot] are the tokens, relative to it, whose scores they are added to.
SLOT_OFFSETS: Final = ((0,), (1,), (-1,), (2,), (-2,), (3, 4), (-3, -4))

_LOAD: Final = 0.8
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_MUL_A: Final = 0x9E3779B97F4A7C15
_MUL_B: Final = 0xBF58476D1CE4E5B9
_MUL_C: Final = 0x94D049BB133111EB
_CHAR_SEED: Final = 0x84222325CBF29CE4


def feature(kind: int, value: int) -> int:
    """The hash of a feature."""
    x = (value ^ ((kind + 1) * _MUL_A & _MASK)) * _MUL_B & _MASK
    x = (x ^ (x >> 32)) * _MUL_C & _MASK
    return x ^ (x >> 29)


def pair(a: int, b: int) -> int:
    """Two values as one."""
    return (((a << 21) & _MASK) | (a >> 43)) ^ b


def _char_step(value: int, code: int) -> int:
    value = (value ^ code) * _MUL_B & _MASK
    return value ^ (value >> 31)


@dataclass(frozen=True, slots=True)
class Profile:
    """What of a token takes part in features, as hashes; `prefixes` and `suffixes` are of shorter length than it."""

    word: int
    shape: int
    prefixes: tuple[int, ...] = ()
    suffixes: tuple[int, ...] = ()
    head3: int = EDGE
    tail3: int = EDGE
    tail4: int = EDGE
    lexical: int = 0  # the class of the word by itself
    letters: bool = False


EDGE_PROFILE: Final = Profile(word=EDGE, shape=EDGE)


@functools.cache
def _entries() -> array[int]:
    return chars.load()


def _entry(char: str) -> int:
    return _entries()[ord(char)] if char < "\U00010000" else chars.OTHER << chars.CLASS_SHIFT


def _fold(token: str) -> list[int]:
    folded: list[int] = []
    for char in token:
        entry = _entry(char)
        if char >= "\U00010000":
            folded.append(ord(char))
        elif entry & chars.DROPPED:
            continue
        elif entry & chars.EXPANDS:
            letters = entry & 0xFFFF
            while letters:
                folded.append(96 + (letters & 31))
                letters >>= 5
        else:
            folded.append((ord(char) + entry) & 0xFFFF)
    return folded


def _shape(token: str, kind: int) -> int:
    """A, a, x for capital, small and other letters, 0 for digits; a run of one kind counts as two of it."""
    value, last, doubled = _CHAR_SEED, 0, False
    for char in token:
        code = ord(char)
        if kind == chars.DIGIT:
            code = 48
        elif kind == chars.LETTER:
            entry = _entry(char)
            code = 65 if entry & chars.UPPER else 97 if entry & chars.LOWER else 120
        if code == last:
            if not doubled:
                value = _char_step(value, 43)
            doubled = True
            continue
        value, last, doubled = _char_step(value, code), code, False
    return value


def make_profile(token: str, token_hash: int, kind: int, classes: PhraseClasses) -> Profile:
    """The profile of a token of class `kind` (chars.LETTER, DIGIT or OTHER)."""
    folded = _fold(token)
    heads, tails = [_CHAR_SEED], [_CHAR_SEED]
    for code in folded[:4]:
        heads.append(_char_step(heads[-1], code))
    for code in folded[:-6:-1]:
        tails.append(_char_step(tails[-1], code))
    letters = kind == chars.LETTER
    longer = len(folded) if letters else 0
    return Profile(
        word=token_hash,
        shape=_shape(token, kind),
        prefixes=tuple(heads[2 : min(5, longer)]),
        suffixes=tuple(tails[2 : min(6, longer)]),
        head3=heads[min(3, len(folded))] if folded else 0,
        tail3=tails[min(3, len(folded))] if folded else 0,
        tail4=tails[min(4, len(folded))] if folded else 0,
        lexical=classes.of(word_key(token_hash)),
        letters=letters,
    )


def profile_features(profile: Profile) -> tuple[list[int], ...]:
    """The features of a token alone, for each of SLOT_OFFSETS."""
    here = [feature(kinds.BIAS, 0), feature(kinds.WORD, profile.word), feature(kinds.SHAPE, profile.shape)]
    here += [feature(kinds.PREFIX + place, value) for place, value in enumerate(profile.prefixes)]
    here += [feature(kinds.SUFFIX + place, value) for place, value in enumerate(profile.suffixes)]
    if profile.lexical:
        here.append(feature(kinds.WORD_CLASS, profile.lexical))
    slots = [here]
    beside = (
        (kinds.BESIDE_WORD, profile.word),
        (kinds.BESIDE_SHAPE, profile.shape),
        (kinds.BESIDE_HEAD3, profile.head3),
        (kinds.BESIDE_TAIL3, profile.tail3),
        (kinds.BESIDE_TAIL4, profile.tail4),
    )
    for side in (0, 1):
        slots.append([feature(kind + side, value) for kind, value in beside])
        if profile.lexical:
            slots[-1].append(feature(kinds.BESIDE_WORD_CLASS + side, profile.lexical))
    for side in (0, 1):
        second = (kinds.SECOND_WORD, profile.word), (kinds.SECOND_TAIL3, profile.tail3)
        slots.append([feature(kind + side, value) for kind, value in second])
    for side in (0, 1):
        slots.append([feature(kinds.AROUND_WORD + side, profile.word)])
    return tuple(slots)


def word_key(token_hash: int) -> int:
    """The key of a word's own class in PhraseClasses: 1 a word of diseases' names, 2 of chemicals', 3 of others."""
    return feature(kinds.WORD_KEY, token_hash)


def topic_key(token_hash: int) -> int:
    """The key in PhraseClasses of words that tell a text about genetics, where diseases are named otherwise."""
    return feature(kinds.TOPIC_KEY, token_hash)


class PhraseClasses:
    """Classes of phrases, by their hash, and of words, by word_key and topic_key.

    A phrase is 1 a disease of a disease ontology, 2 another condition or symptom, 3 one that counts in capitals only.
    """

    def __init__(self, slots: Sequence[int], capacity: int) -> None:
        """`slots` hold (low 30 bits of the hash) << 2 | class; hash h is at or after (h >> 32) * capacity >> 32."""
        self.slots = slots
        self.capacity = capacity

    @classmethod
    def build(cls, classes: Iterable[tuple[int, int]]) -> PhraseClasses:
        """From (phrase hash, class)."""
        ordered = sorted(classes)
        capacity = max(1, int(len(ordered) / _LOAD))
        slots = array("I")
        for value, number in ordered:
            slots.extend([0] * (((value >> 32) * capacity >> 32) - len(slots)))
            slots.append((value << 2 & 0xFFFF_FFFC) | number)
        return cls(slots, capacity)

    def of(self, value: int) -> int:
        """The class of the phrase with this hash, 0 where none is known."""
        low = value << 2 & 0xFFFF_FFFC
        for slot in range((value >> 32) * self.capacity >> 32, len(self.slots)):
            held = self.slots[slot]
            if not held:
                return 0
            if held & ~3 == low:
                return held & 3
        return 0


class Document:
    """One text: its tokens, the phrases of the table in it, and the features of each token."""

    def __init__(
        self,
        text: str,
        table: PhraseTable,
        profiles: dict[str, Profile],
        definitions: Sequence[tuple[int, int, int, int]],
        classes: PhraseClasses,
    ) -> None:
        """`profiles` keeps the profiles of tokens between texts; for `definitions` see LinearModel.tag."""
        self.text = text
        self.tokens: Tokens = tokenize_python(text)
        self.detected = self._typed(table)
        self._near = self._layer_codes(self.detected, kinds.PAYLOAD_TYPE_SHIFT)
        self._far = self._layer_codes(self._classed(classes), 0)
        self.profiles = [self._profile(at, profiles, classes) for at in range(len(self.tokens))]
        hashes = self.tokens.hashes
        self._topic_words = [
            sum(classes.of(topic_key(value)) > 0 for value in hashes[first : first + TOPIC_BLOCK])
            for first in range(0, len(hashes), TOPIC_BLOCK)
        ]
        self._short_forms: dict[int, int] = {}
        for definition in definitions:
            self._add_definition(*definition)

    def _add_definition(self, short_start: int, short_end: int, long_start: int, long_end: int) -> None:
        """Keep the types of the phrases that the long form ends in; short forms of more than one token are left out."""
        starts = self.tokens.starts
        at, after = bisect_left(starts, short_start), bisect_left(starts, long_end)
        if at == len(starts) or starts[at] != short_start or self.tokens.ends[at] != short_end or after == 0:
            return
        near, far = self._near[after - 1] >> TYPE_SHIFT, self._far[after - 1] >> TYPE_SHIFT
        self._short_forms.setdefault(self.tokens.hashes[at], near * 16 + far + 1)

    def _profile(self, at: int, known: dict[str, Profile], classes: PhraseClasses) -> Profile:
        tokens = self.tokens
        token = self.text[tokens.starts[at] : tokens.ends[at]]
        profile = known.get(token)
        if profile is None:
            if len(known) >= 50_000:
                known.clear()
            profile = known[token] = make_profile(token, tokens.hashes[at], tokens.flags[at] & CLASS_MASK, classes)
        return profile

    def _typed(self, table: PhraseTable) -> list[tuple[int, int, int]]:
        """(first token, last token, payload) of the phrases for detection."""
        first = {start: at for at, start in enumerate(self.tokens.starts)}
        last = {end: at for at, end in enumerate(self.tokens.ends)}
        return [
            (first[start], last[end], payload)
            for start, end, payload in table.find(self.text)
            if payload >> kinds.PAYLOAD_TYPE_SHIFT & kinds.TYPE_MASK
        ]

    def _classed(self, classes: PhraseClasses) -> list[tuple[int, int, int]]:
        """(first token, last token, class) of the leftmost-longest phrases that have a class."""
        found: list[tuple[int, int, int]] = []
        at = 0
        while at < len(self.tokens):
            match = self._longest_classed(at, classes)
            if match is not None:
                found.append(match)
                at = match[1]
            at += 1
        return found

    def _longest_classed(self, first: int, classes: PhraseClasses) -> tuple[int, int, int] | None:
        tokens = self.tokens
        if tokens.flags[first] & CLASS_MASK == chars.OTHER or not starts_run(tokens, first):
            return None
        best = None
        node, depth, lower = PHRASE_SEED, 0, 0
        for at in range(first, len(tokens)):
            flags = tokens.flags[at]
            if depth == MAX_CLASSED or (at > first and flags & BREAK_BEFORE):
                break
            if flags & IGNORED:
                continue
            node, depth, lower = mix(node, tokens.hashes[at]), depth + 1, lower | flags & HAS_LOWER
            held = classes.of(node)
            if held and not (held == 3 and lower) and ends_run(tokens, at):
                best = first, at, held
        return best

    def _layer_codes(self, matches: list[tuple[int, int, int]], shift: int) -> list[int]:
        """The code of the phrase on each token (see crf_kinds.py); `shift` is where a payload has its type."""
        codes = [0] * len(self.tokens)
        for first, last, payload in matches:
            size = min(last - first + 1, kinds.MAX_COUNTED)
            number = 1 + (payload >> shift & kinds.TYPE_MASK)
            for at in range(first, last + 1):
                inner = kinds.BEGIN if at == first else kinds.END if at == last else kinds.INSIDE
                place = kinds.SINGLE if size == 1 else inner
                codes[at] = number << TYPE_SHIFT | place << PLACE_SHIFT | size
        return codes

    def sequences(self) -> Iterator[tuple[int, int]]:
        """(first, last) of the token ranges that are labelled apart: sentences, list items, at most MAX_SEQUENCE."""
        first = 0
        for at in range(1, len(self.tokens) + 1):
            if at < len(self.tokens) and at - first < MAX_SEQUENCE and not self._cuts_before(at):
                continue
            yield first, at
            first = at

    def _cuts_before(self, at: int) -> bool:
        flags = self.tokens.flags[at]
        if flags & BREAK_BEFORE:
            return True
        if not flags & SPACE_BEFORE:
            return False
        kind = flags & CLASS_MASK
        capital = bool(_entry(self.text[self.tokens.starts[at]]) & chars.UPPER)
        opens = kind == chars.DIGIT or (kind == chars.LETTER and capital)
        if flags & NEWLINE_BEFORE:
            return opens or kind == chars.OTHER
        return opens and self.text[self.tokens.ends[at - 1] - 1] in ".?!"

    def _glued(self, at: int) -> bool:
        return 0 < at < len(self.tokens) and self.tokens.ends[at - 1] == self.tokens.starts[at]

    def pair_features(self, at: int, first: int, last: int) -> list[int]:
        """The features of token `at` that need more than one token; (first, last) is the sequence it stands in."""
        count, near, far = len(self.tokens), self._near, self._far
        here = self.profiles[at]
        before = self.profiles[at - 1] if at > 0 else EDGE_PROFILE
        after = self.profiles[at + 1] if at + 1 < count else EDGE_PROFILE
        glued, glues = self._glued(at), self._glued(at + 1)
        out = [feature(kinds.GLUED_SHAPE, pair(here.shape, 2 * glued + glues))]
        if glued:
            out.append(feature(kinds.GLUED_BEFORE, pair(before.word, here.shape)))
        if glues:
            out.append(feature(kinds.GLUED_AFTER, pair(after.word, here.shape)))
        near_place, near_type = near[at] >> PLACE_SHIFT, near[at] >> TYPE_SHIFT
        far_place, far_type = far[at] >> PLACE_SHIFT, far[at] >> TYPE_SHIFT
        if near[at]:
            out += [feature(kinds.NEAR, near[at]), feature(kinds.NEAR_PLACE, near_place)]
            out.append(feature(kinds.NEAR_TYPE_WORD, pair(here.word, near_type)))
        if far[at]:
            out += [feature(kinds.FAR, far[at]), feature(kinds.FAR_PLACE, far_place)]
            out.append(feature(kinds.FAR_TYPE_TAIL4, pair(here.tail4, far_type)))
        out.append(feature(kinds.NEAR_FAR, pair(near_place, far_place)))
        for place, other in enumerate((at - 2, at - 1, at + 1, at + 2)):
            if 0 <= other < count:
                if near[other]:
                    out.append(feature(kinds.NEAR_PLACE_AT + place, near[other] >> PLACE_SHIFT))
                if far[other]:
                    out.append(feature(kinds.FAR_PLACE_AT + place, far[other] >> PLACE_SHIFT))
        if self._short_forms and self.tokens.flags[at] & HAS_UPPER:
            code = self._short_forms.get(self.tokens.hashes[at], 0)
            if code:
                out += [feature(kinds.SHORT_FORM, code), feature(kinds.SHORT_FORM_NEAR, pair(code, near_type))]
        if self._topic_words[at // TOPIC_BLOCK] >= TOPIC_WORDS:
            out += [
                feature(kinds.TOPIC_WORD, here.word),
                feature(kinds.TOPIC_NEAR, near_place),
                feature(kinds.TOPIC_FAR, far_place),
                feature(kinds.TOPIC_NEAR_FAR, pair(near_type, far_type)),
                feature(kinds.TOPIC_WORD_BEFORE, before.word),
                feature(kinds.TOPIC_WORD_AFTER, after.word),
                feature(kinds.TOPIC_TAIL4, here.tail4),
                feature(kinds.TOPIC_SHAPE, here.shape),
            ]
        if glued or glues:
            out += self._chunk_features(at, first, last)
        out += [
            feature(kinds.WORDS_BEFORE_HERE, pair(before.word, here.word)),
            feature(kinds.WORDS_HERE_AFTER, pair(here.word, after.word)),
            feature(kinds.WORDS_AROUND, pair(before.word, after.word)),
            feature(kinds.NEAR_BEFORE_HERE, pair(near[at - 1] >> PLACE_SHIFT if at > 0 else EDGE, near_place)),
            feature(kinds.NEAR_HERE_AFTER, pair(near_place, near[at + 1] >> PLACE_SHIFT if at + 1 < count else EDGE)),
        ]
        if here.letters:
            out += [
                feature(kinds.TAILS_OF_THREE, pair(pair(before.tail3, here.tail3), after.tail3)),
                feature(kinds.TAILS_BEFORE_HERE, pair(before.tail3, here.tail4)),
                feature(kinds.TAILS_HERE_AFTER, pair(here.tail4, after.tail3)),
            ]
        return out

    def _chunk_features(self, at: int, first: int, last: int) -> list[int]:
        """Of the run of tokens without white space around `at`, as far as it is in its block of MAX_CHUNK tokens."""
        low = max(at // MAX_CHUNK * MAX_CHUNK, first - REACH, 0)
        high = min(at // MAX_CHUNK * MAX_CHUNK + MAX_CHUNK, last + REACH, len(self.tokens))
        start = stop = at
        while start > low and self._glued(start):
            start -= 1
        while stop + 1 < high and self._glued(stop + 1):
            stop += 1
        shape = EDGE
        for place in range(start, stop + 1):
            shape = _char_step(pair(shape, self.profiles[place].shape), 0)
        here = self.profiles[at].shape
        return [
            feature(kinds.CHUNK_SHAPE, shape),
            feature(kinds.CHUNK_LAST_WORD, pair(self.profiles[stop].word, here)),
            feature(kinds.CHUNK_FIRST_WORD, pair(self.profiles[start].word, here)),
            feature(kinds.CHUNK_LAST_TAIL4, pair(self.profiles[stop].tail4, min(at - start, 3))),
        ]

    def features(self, at: int, first: int, last: int) -> list[int]:
        """All features of token `at`, for training; (first, last) is the sequence it stands in."""
        out = self.pair_features(at, first, last)
        for slot, offsets in enumerate(SLOT_OFFSETS):
            for offset in offsets:
                if 0 <= at - offset < len(self.tokens):
                    out += _profile_features(self.profiles[at - offset])[slot]
        return out


@functools.lru_cache(maxsize=100_000)
def _profile_features(profile: Profile) -> tuple[list[int], ...]:
    return profile_features(profile)
