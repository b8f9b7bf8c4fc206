"""What patterns find in a note: laboratory values, vital signs, dates and times, prescriptions.

Everything is read from anchors (a number, a word such as "week", a medication found before) within a bounded
stretch of text, so time grows with the length of the text whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from medvllm_kernels import native
from medvllm_kernels.values import COLUMNS, TIME, VALUE

from medvllm.tasks.entities import Entity
from medvllm.tasks.time_words import ANCHORS

if TYPE_CHECKING:
    import ctypes
    from array import array

__all__ = ["find", "group_medications", "lowered", "merge", "recognize"]

Span = tuple[int, int, str, dict[str, Any]]

# A run of digits with what numbers hold, not inside a word ("T4", "q8h") but for a multiplication
# sign ("x3 days").
_NUMBER = re.compile(r"\d(?<![a-wyz_.0-9]\d)[\d.,/:–-]*")
_NO_NAME = tuple("0123456789,;)")
_DRUGS = ("medication", "chemical")
_TAIL = ".,:/-–"
_YIELDING = frozenset({"chemical", "test", "medication", "anatomical_structure"})


def find(text: str, *, low: str | None = None) -> list[Entity]:
    """The laboratory values, vital signs (type lab_value) and times (temporal) of the text, in order and
    not overlapping.

    `low` is `lowered(text)` where the caller has it already.
    """
    return _read(text, lowered(text) if low is None else low)[0]


def _read(text: str, low: str) -> tuple[list[Entity], array[int] | None]:
    """As find; where parts of prescriptions may begin, which only the native library tells."""
    library = native.library()
    spans, ordered, beginnings = (*_spans(text, low), None) if library is None else _spans_native(library, text, low)
    if not ordered:
        spans = _without_overlaps(spans)
    entities = [
        Entity(text[start:end], kind, start, end, None, None, "affirmed", "recent", "patient", None, attributes)
        for start, end, kind, attributes in spans
    ]
    return entities, beginnings


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """In order of start; of those that overlap the first, of those that start together the longest."""
    spans.sort(key=_by_start)
    kept: list[Span] = []
    last_end = 0
    for span in spans:
        if span[0] >= last_end:
            kept.append(span)
            last_end = span[1]
    return kept


def _by_start(span: Span) -> tuple[int, int]:
    return span[0], -span[1]


def _spans(text: str, low: str) -> tuple[list[Span], bool]:
    """The values and times of the text, whose order decides between equal ones; whether they are in order and none
    overlap, as those from numbers are.
    """
    spans = _from_numbers(text, low) if _NUMBER.search(low) else []
    anchors = [anchor for anchor in ANCHORS if anchor in low]
    if anchors:
        from medvllm.tasks import temporal

        times = temporal.from_words(text, low, anchors=anchors)
        spans += [(start, end, "temporal", attributes) for start, end, attributes in times]
    return spans, not anchors


def _spans_native(library: ctypes.CDLL, text: str, low: str) -> tuple[list[Span], bool, array[int]]:
    """As _spans, asking for the rules only where the library found that they may say something, and the beginnings."""
    from medvllm.tasks.value_words import value_words

    rows, anchors, beginnings = value_words().find(library, text, low)
    spans = _from_rows(text, low, rows) if rows else []
    count = len(spans)
    if anchors:
        from medvllm.tasks import temporal

        for anchor, place in zip(anchors[0::2], anchors[1::2], strict=True):
            time = temporal.at_word(text, low, ANCHORS[anchor], place)
            if time is not None:
                spans.append((time[0], time[1], "temporal", time[2]))
    return spans, len(spans) == count, beginnings


def _from_rows(text: str, low: str, rows: list[int]) -> list[Span]:
    """As _from_numbers, from the numbers that the library found."""
    from medvllm.tasks import measurements, temporal

    spans: list[Span] = []
    last_vital = -1000
    last_end = 0
    plain, read, from_number = measurements.plain, measurements.read, temporal.from_number
    for row in zip(*[iter(rows)] * COLUMNS, strict=True):
        kind, start, end = row[0], row[1], row[2]
        if start < last_end:
            continue
        if kind != TIME:
            value = plain(text, low, row) if kind == VALUE else read(text, low, start, end, last_vital=last_vital)
            if value is not None:
                begin, stop, vital, attributes = value
                if begin >= last_end:
                    spans.append((begin, stop, "lab_value", attributes))
                    last_end = stop
                    if vital:
                        last_vital = stop
                    continue
        time = from_number(text, low, start, end)
        if time is not None and time[0] >= last_end:
            spans.append((time[0], time[1], "temporal", time[2]))
            last_end = time[1]
    return spans


def _from_numbers(text: str, low: str) -> list[Span]:
    """Values and times that hold a number; the modules compile for 50 ms, so they are imported when there is one."""
    from medvllm.tasks import measurements, temporal

    spans: list[Span] = []
    last_vital = -1000
    last_end = 0
    for found in _NUMBER.finditer(low):
        start, end = found.span()
        if start < last_end:
            continue
        number = found[0].rstrip(_TAIL)
        end = start + len(number)
        if _is_plain(low, start, end, number):
            continue
        value = measurements.read(text, low, start, end, last_vital=last_vital)
        if value is not None and value.start >= last_end:
            spans.append((value.start, value.end, "lab_value", value.attributes))
            last_end = value.end
            if value.vital:
                last_vital = value.end
            continue
        time = temporal.from_number(text, low, start, end)
        if time is not None and time.start >= last_end:
            spans.append((time.start, time.end, "temporal", time.attributes))
            last_end = time.end
    return spans


def _is_plain(low: str, start: int, end: int, number: str) -> bool:
    """Whether neither side of a whole number can make it a value or a time; decided on a few characters."""
    before = low[max(0, start - 2) : start].strip()[-1:]
    if before not in _NO_NAME or not number.isdigit():
        return False
    if before.isdigit() and not low[max(0, start - 8) : start].split()[-1].isdigit():
        return False  # a name that ends in a digit: "HCO3 24"
    return not low[end : end + 2].strip(" -\n")[:1].isalpha() and not low.startswith("%", end)


def lowered(text: str) -> str:
    """The text in lower case with every character at its place (a few letters grow when lowered: they are
    left).
    """
    low = text.lower()
    if len(low) == len(text):
        return low
    return "".join([char.lower() if len(char.lower()) == 1 else char for char in text])


def group_medications(text: str, entities: Sequence[Entity], *, low: str | None = None) -> list[tuple[int, int]]:
    """`medvllm.tasks.dosing.group_medications`, imported when there is a medication: its expressions cost 30 ms."""
    if all(entity.type not in ("medication", "chemical") for entity in entities):
        return []
    from medvllm.tasks import dosing

    return dosing.group_medications(text, entities, low=lowered(text) if low is None else low)


def merge(
    entities: Sequence[Entity], patterns: Sequence[Entity], *, used: Iterable[tuple[int, int]] = ()
) -> list[Entity]:
    """The entities and those of patterns together, in order of start.

    Where they overlap, a laboratory value replaces the chemical, test or medication it names ("sodium 137
    mmol/L" for "sodium") and takes over its links; it also replaces anything that lies wholly inside it. A
    time replaces what lies wholly inside it. Otherwise the entity stays and the pattern goes. Times inside
    `used`, the spans of prescriptions, go. `entities` and `patterns` are in order of start; entities may be
    nested in each other.
    """
    if not patterns:
        return list(entities)
    used = sorted(used)
    kept: list[Entity] = []
    dropped: set[int] = set()
    starts, ends = [entity.start for entity in entities], [entity.end for entity in entities]
    count, at, use = len(starts), 0, 0
    for pattern in patterns:
        start, end = pattern.start, pattern.end
        while use < len(used) and used[use][1] <= start:
            use += 1
        if pattern.type == "temporal" and use < len(used) and used[use][0] < end:
            continue
        while at < count and ends[at] <= start:
            at += 1
        if at == count or starts[at] >= end:
            kept.append(pattern)
            continue
        overlapping = []
        for index in range(at, count):
            if starts[index] >= end:
                break
            if ends[index] > start and index not in dropped:
                overlapping.append(index)
        for index in overlapping:
            if not _gives_way(entities[index], pattern):
                break
        else:
            if pattern.type == "lab_value":
                _take_over([entities[index] for index in overlapping], pattern)
            dropped.update(overlapping)
            kept.append(pattern)
    kept += [entity for index, entity in enumerate(entities) if index not in dropped] if dropped else entities
    kept.sort(key=attrgetter("start"))  # what starts together is nested, and in order
    return kept


def _gives_way(entity: Entity, pattern: Entity) -> bool:
    if pattern.start <= entity.start and entity.end <= pattern.end:
        return True
    return pattern.type == "lab_value" and entity.type in _YIELDING and entity.end <= pattern.end


def _take_over(entities: list[Entity], pattern: Entity) -> None:
    """The links and section of the entity that named the measured substance."""
    for entity in entities:
        if pattern.section is None:
            pattern.section = entity.section
        if pattern.term is None:
            pattern.term = entity.term
        if entity.ontology_links and not pattern.ontology_links:
            pattern.ontology_links = entity.ontology_links


def recognize(text: str, entities: Sequence[Entity]) -> list[Entity]:
    """The entities, in order of start, with prescriptions grouped onto medications and patterns merged in."""
    low = lowered(text)
    patterns, beginnings = _read(text, low)
    values = [pattern for pattern in patterns if pattern.type == "lab_value"]
    drugs = [entity for entity in entities if entity.type in _DRUGS]
    if values and drugs:  # a name that belongs to a value ("potassium 4.1") is no medication
        named = {id(entity) for entity in _inside(drugs, values)}
        drugs = [entity for entity in drugs if id(entity) not in named] + values
        drugs.sort(key=attrgetter("start"))
    used: list[tuple[int, int]] = []
    if drugs:
        from medvllm.tasks import dosing

        used = dosing.group_medications(text, drugs, low=low, beginnings=beginnings)
    return merge(entities, patterns, used=used)


def _inside(entities: Sequence[Entity], spans: Sequence[Entity]) -> list[Entity]:
    """The entities that overlap one of the spans; both in order of start."""
    inside, at = [], 0
    for entity in entities:
        while at < len(spans) and spans[at].end <= entity.start:
            at += 1
        if at < len(spans) and spans[at].start < entity.end:
            inside.append(entity)
    return inside
