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
    low = lowered(text) if low is None else low
    library = native.library()
    spans = _spans(text, low) if library is None else _spans_native(library, text, low)
    spans.sort(key=lambda span: (span[0], -span[1]))
    entities: list[Entity] = []
    last_end = 0
    for start, end, kind, attributes in spans:
        if start < last_end:
            continue
        entities.append(
            Entity(text[start:end], kind, start, end, None, None, "affirmed", "recent", "patient", None, attributes)
        )
        last_end = end
    return entities


def _spans(text: str, low: str) -> list[Span]:
    """The values and times of the text, which may overlap; its order decides between equal ones."""
    spans = _from_numbers(text, low) if _NUMBER.search(low) else []
    anchors = [anchor for anchor in ANCHORS if anchor in low]
    if anchors:
        from medvllm.tasks import temporal

        times = temporal.from_words(text, low, anchors=anchors)
        spans += [(start, end, "temporal", attributes) for start, end, attributes in times]
    return spans


def _spans_native(library: ctypes.CDLL, text: str, low: str) -> list[Span]:
    """As _spans, asking for the rules only where the library found that they may say something."""
    from medvllm.tasks.value_words import value_words

    rows, anchors = value_words().find(library, text, low)
    spans = _from_rows(text, low, rows) if rows else []
    if anchors:
        from medvllm.tasks import temporal

        for anchor, place in zip(anchors[0::2], anchors[1::2], strict=True):
            time = temporal.at_word(text, low, ANCHORS[anchor], place)
            if time is not None:
                spans.append((time.start, time.end, "temporal", time.attributes))
    return spans


def _from_rows(text: str, low: str, rows: list[int]) -> list[Span]:
    """As _from_numbers, from the numbers that the library found."""
    from medvllm.tasks import measurements, temporal

    spans: list[Span] = []
    last_vital = -1000
    last_end = 0
    for row in zip(*[iter(rows)] * COLUMNS, strict=True):
        kind, start, end = row[:3]
        if start < last_end:
            continue
        if kind != TIME:
            if kind == VALUE:
                value = measurements.plain(text, low, row)
            else:
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
        if all(_gives_way(entities[index], pattern) for index in overlapping):
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
    if pattern.type != "lab_value":
        return
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
    patterns = find(text, low=low)
    values = [pattern for pattern in patterns if pattern.type == "lab_value"]
    drugs = [entity for entity in entities if entity.type in _DRUGS]
    if values and drugs:  # a name that belongs to a value ("potassium 4.1") is no medication
        named = {id(entity) for entity in _inside(drugs, values)}
        drugs = [entity for entity in drugs if id(entity) not in named] + values
        drugs.sort(key=attrgetter("start"))
    used = group_medications(text, drugs, low=low) if drugs else []
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
