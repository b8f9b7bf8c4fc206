"""Assertion of findings in clinical text: negated, historical, about a relative …

The method is ConText (Harkema et al., J Biomed Inform 2009; NegEx: Chapman et al., 2001): cue phrases with a
direction, whose scopes reach to the end of the clause, the noun phrase or the sentence. Time is linear in the
text and the spans.
"""

from __future__ import annotations

import functools
import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from medvllm_kernels import native

from medvllm.errors import MedvllmError
from medvllm.tasks.assertion_cues import cue_array, cue_kinds, find_cues
from medvllm.tasks.assertion_scopes import PLAIN, Assertion, Sentence, Span, meeting
from medvllm.tasks.sections import Section, find_sections, layout, split_sentences

if TYPE_CHECKING:
    import ctypes

    from medvllm_kernels.scopes import CueTable, Reached

    from medvllm.tasks.entities import Entity

__all__ = ["Assertion", "assert_entities", "assess"]

_DEFAULTS = {
    "past_medical_history": ("historical", "patient"),
    "past_surgical_history": ("historical", "patient"),
    "family_history": ("historical", "family"),
    "discontinued_medications": ("historical", "patient"),
    "allergies": ("historical", "patient"),  # what is listed was reacted to once; it is not taken now
}
_NO_DEFAULT = ("recent", "patient")
# 1 for the past, plus 2 for the family
_DEFAULT_CODES: dict[str | None, int] = {
    name: int(time == "historical") + 2 * int(bearer == "family") for name, (time, bearer) in _DEFAULTS.items()
}
_NEGATIONS = ("affirmed", "negated", "possible")
_TEMPORALITIES = ("recent", "historical", "hypothetical")
_EXPERIENCERS = ("patient", "family", "other")


def assess(text: str, spans: Sequence[Span], *, sections: Sequence[Section] | None = None) -> list[Assertion]:
    """The assertion of each span (start, end) of the text, in the order given.

    `sections` as find_sections gives them; found here when None. Sentences and cues are found once for the text.
    Raises MedvllmError for a span that is empty or reaches outside of the text.
    """
    if not spans:
        return []
    if sections is None:
        sections = find_sections(text)
    library = native.library()
    if library is None or not sections:
        return _assess_python(text, spans, sections)
    reached = _reached(library, text, spans, *_places(sections))
    places = reached.places.tolist()
    return [_assertion(code, places[6 * number : 6 * number + 6]) for number, code in enumerate(reached.codes)]


def _assess_python(text: str, spans: Sequence[Span], sections: Sequence[Section]) -> list[Assertion]:
    """As assess: the twin of native/scopes.cc."""
    _check(text, spans)
    out = [PLAIN] * len(spans)
    order = sorted(range(len(spans)), key=spans.__getitem__)
    cues = find_cues(text)
    at = cue_at = section_at = 0
    for first, last, section_at in _units(text, sections):
        if at == len(order):
            break
        if spans[order[at]][0] >= last:
            continue
        group = at
        while at < len(order) and spans[order[at]][0] < last:
            at += 1
        while cue_at < len(cues) and cues[cue_at].start < first:
            cue_at += 1
        cue_end = cue_at
        while cue_end < len(cues) and cues[cue_end].start < last:
            cue_end += 1
        default = _DEFAULTS.get(sections[section_at].name or "", _NO_DEFAULT)
        if cue_end > cue_at or default is not _NO_DEFAULT:
            Sentence(text, last, cues[cue_at:cue_end], default).assess(spans, order[group:at], out)
        cue_at = cue_end
    return out


def _check(text: str, spans: Iterable[Span]) -> None:
    length = len(text)
    for start, end in spans:
        if not 0 <= start < end <= length:
            raise MedvllmError(
                f"a span must satisfy 0 <= start < end <= {length} (the text's length), got ({start}, {end}); "
                "give offsets in characters, end exclusive"
            )


@functools.cache
def _cue_table() -> CueTable:
    from medvllm_kernels.scopes import CueTable, pack_kind

    return CueTable(layout(), [pack_kind(*kind) for kind in cue_kinds()])


def _reached(
    library: ctypes.CDLL, text: str, spans: Sequence[Span], section_starts: array[int], section_defaults: bytes
) -> Reached:
    """What the cues say of each span, by the native library."""
    from medvllm_kernels.scopes import SpanError

    try:
        return _cue_table().assess(
            library,
            text,
            section_starts=section_starts,
            section_defaults=section_defaults,
            cues=cue_array(text),
            spans=array("q", list(itertools.chain.from_iterable(spans))),
            meet=functools.partial(meeting, text),
        )
    except (SpanError, OverflowError):
        _check(text, spans)
        raise


def _places(sections: Sequence[Section]) -> tuple[array[int], bytes]:
    """Where the sections start, and what holds in each unless the text says otherwise."""
    names = [section.name for section in sections]
    return array("I", [section.start for section in sections]), bytes([_DEFAULT_CODES.get(name, 0) for name in names])


_CODES = tuple(itertools.product(_EXPERIENCERS, _TEMPORALITIES, _NEGATIONS))


def _assertion(code: int, places: list[int]) -> Assertion:
    if not code and places[4] < 0:
        return PLAIN
    experiencer, temporality, negation = _CODES[code]
    cues = [None if places[at] < 0 else (places[at], places[at + 1]) for at in (0, 2, 4)]
    return Assertion(negation, temporality, experiencer, *cues)


def _units(text: str, sections: Sequence[Section]) -> Iterator[tuple[int, int, int]]:
    """(start, end, section number) of each sentence, cut where a section begins within it."""
    number, count = 0, len(sections)
    for start, end in split_sentences(text):
        while number + 1 < count and sections[number + 1].start <= start:
            number += 1
        while number + 1 < count and sections[number + 1].start < end:
            number += 1
            if sections[number].start > start:
                yield start, sections[number].start, number - 1
            start = sections[number].start
        yield start, end, number


def assert_entities(text: str, entities: Sequence[Entity], *, sections: Sequence[Section] | None = None) -> None:
    """Set negation, temporality, experiencer and section of each entity of the text."""
    if not entities:
        return
    spans = [(entity.start, entity.end) for entity in entities]
    library = native.library()
    if library is None or sections is not None or not text:
        if sections is None:
            sections = find_sections(text)
        starts, names = [section.start for section in sections], [section.name for section in sections]
        if library is None or not sections:
            found = _assess_python(text, spans, sections)
            said = [(a.experiencer, a.temporality, a.negation) for a in found]
            cues = [-1 if a.negation_cue is None else a.negation_cue[1] for a in found]
        else:
            said, cues = _said(_reached(library, text, spans, *_places(sections)))
    else:
        starts, names = layout().section_starts(library, text)
        defaults = bytes([_DEFAULT_CODES.get(name, 0) for name in names])
        said, cues = _said(_reached(library, text, spans, array("I", starts), defaults))
    for entity, words, cue_end in zip(entities, said, cues, strict=True):
        entity.experiencer, entity.temporality, entity.negation = words
        if entity.negation == "negated" and entity.type == "test" and "," in text[cue_end : entity.start]:
            entity.negation = "affirmed"  # "no rash, PERRL": behind a comma the examination goes on
        entity.section = names[bisect_right(starts, entity.start) - 1]


def _said(reached: Reached) -> tuple[list[tuple[str, str, str]], list[int]]:
    """Of each span: experiencer, temporality and negation, and where the cue of the negation ends."""
    return [_CODES[code] for code in reached.codes], reached.places[1::6].tolist()
