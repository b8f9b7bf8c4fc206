"""Dose, route, frequency, duration and "as needed" around medications, grouped onto them as attributes.

Only the text around a medication is read, up to the next one, so a note without medications costs nothing.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from medvllm.tasks.dosing_words import BEGINNINGS, FREQUENCIES, NUMBER_WORDS, ROUTES
from medvllm.tasks.entities import Entity

__all__ = ["FREQUENCIES", "ROUTES", "Part", "find_parts", "frequency_timing", "group_medications"]


class Part(NamedTuple):
    """A piece of a prescription: `kind` is dose, quantity, strength, route, frequency, duration or prn."""

    kind: str
    start: int
    end: int


_INTERVAL = re.compile(r"(?:q|every) ?(\d{1,2}) ?(h|hr|hrs|hours?|min|minutes?|d|days?|wk|weeks?|mo|months?)?")
_PERIOD = {"h": "h", "d": "d", "w": "wk", "mo": "mo", "mi": "min"}

_AMOUNT = (
    r"\d{1,3}(?:,\d{3})+(?:\.\d{1,3})?(?:\s?[-–/]\s?\d{1,6}(?:\.\d{1,3})?)?|"
    r"\d{0,6}\.?\d{1,6}(?:\s?(?:[-–/]|to)\s?\d{1,6}(?:\.\d{1,3})?)?"
)
_COUNT_WORD = r"(?:one|two|three|four|half|one[- ]half|a|½)"
_MASS = (
    r"(?:mg|mcg|ug|µg|μg|g|gm|gms|grams?|milligrams?|micrograms?|kg|ng|meq|mmol|units?|iu|u|"
    r"million units|mu|ml|"
    r"milliliters?|cc|l|liters?|%|mg pe)"
)
_RATE = r"(?:/(?:kg|m2|m\^2|m²|min|hr|hour|h|day|d|dose|24h|ml|\d{1,2}\s?ml|actuation|puff|spray)(?![a-z])){1,3}"
_FORM = (
    r"(?:tab|tabs|tablets?|caps?|capsules?|puffs?|sprays?|drops?|gtts?|patch(?:es)?|amps?|ampules?|vials?|nebs?|"
    r"suppositor(?:y|ies)|inhalations?|lozenges?|packets?|teaspoons?|tsp|tablespoons?|tbsp|applications?|doses?|"
    r"pills?|lozenge|injections?|unit dose)"
)
_UNIT_OF_TIME = r"(?:h|hr|hrs|hours?|min|mins|minutes?|d|days?|wk|wks|weeks?|months?)"
_TIMES_A_DAY = r"(?:x|times?)\s?(?:daily|(?:a|per|each|every)\s(?:day|week|month)|weekly|/\s?day)"
_NUMBER_WORD = rf"(?:{'|'.join(NUMBER_WORDS)})"


def _words(forms: dict[str, Any]) -> str:
    """An alternation of the forms, longest first, with full stops allowed in abbreviations and hyphens for spaces."""
    pieces = []
    for form in sorted(forms, key=len, reverse=True):
        if len(form) <= 3 and " " not in form:
            pieces.append(form + r"\b(?!\.\w)|" + r"\.".join(form) + r"\b\.?")
        else:
            pieces.append(form.replace(" ", r"[\s-]") + r"\b")
    return "|".join(pieces)


_OF_BEGINNINGS = {" ": r"[\s-]", "#": r"\d", "|": r"\b"}


def _gate(beginnings: Iterable[str] = BEGINNINGS) -> str:
    """What begins with one of the beginnings, letter by letter: most words fail at one look, before _PART is tried."""
    by_first: dict[str, list[str]] = {}
    for beginning in beginnings:
        if not beginning:  # a shorter one ends here, and the longer ones say no more
            return ""
        by_first.setdefault(beginning[0], []).append(beginning[1:])
    pieces = [_OF_BEGINNINGS.get(first, re.escape(first)) + _gate(rests) for first, rests in by_first.items()]
    return pieces[0] if len(pieces) == 1 else f"(?:{'|'.join(pieces)})"


# Parts that begin with a digit or a full stop.
_NUMBERED = rf"""
      (?>{_AMOUNT})(?:
        (?P<strength>\s?{_MASS}/(?:\d{{0,3}}\s?ml|actuation|puff|spray)\b)
      | (?P<dose>(?:\s{{1,3}}|-)?{_MASS}(?![\w])(?!/\s?d?l\b)(?:{_RATE})?
          (?:\s(?:per|an|a)\s(?:hour|kilogram|minute|kg))?)
      | (?P<quantity>(?:\s\(\w{{1,5}}\))?[\s-]?{_FORM}\b))
    | (?P<frequency>\d{{1,2}}\s?{_TIMES_A_DAY})"""
# Those that begin with ½, × or one of BEGINNINGS; tests/tasks/test_dosing.py tells if one could begin otherwise.
_WORDED = rf"""
      (?P<quantity_>{_COUNT_WORD}(?:\s\(\w{{1,5}}\))?[\s-]?{_FORM}\b)
    | (?P<duration>(?:x\s?|×\s?|for\s(?:the\snext\s|a\stotal\sof\s|another\s)?|times\s)
        (?:\d{{1,3}}(?:\s?[-–]\s?\d{{1,3}})?|{_NUMBER_WORD})(?:\smore|\sadditional)?[\s-]?
        (?:days?|d|wks?|weeks?|months?|mos?|hours?|hrs?|doses?)\b(?:\s(?:course|total))?)
    | (?P<prn>(?:prn\b|p\.r\.n\b\.?)(?:\sfor)?|(?:as|if|when)\sneeded\b(?:\sfor)?)
    | (?P<frequency_>(?:q|every)\s?(?:\d{{1,2}}(?:\s?(?:[-–]|to)\s?\d{{1,2}})?|{_NUMBER_WORD})\s?-?
          {_UNIT_OF_TIME}\b
        |{_NUMBER_WORD}\s?{_TIMES_A_DAY}
        |{_words(FREQUENCIES)}
        |q\.?\s?(?:a\.?m|p\.?m|h\.?s|a\.?c|day|week|month|shift|mon|tue|wed|thu|fri|sat|sun)\b
        |(?:once|x\s?1|stat|hs|biweekly|continuous(?:ly)?|in\sthe\s(?:morning|evening|afternoon)|at\snight|
          (?:with|before|after)\s(?:meals|breakfast|lunch|dinner|food)|q\.?i\.?d|per\sday|
          (?:each|every)\s(?:morning|evening|night|day|week|month|hour|afternoon)|tiw|q\s?ac)\b)
    | (?P<route>{_words(ROUTES)})"""
# The character before comes first, so that the search skips to the next such character in C.
_PART = re.compile(rf"[^\w/](?:(?=[\d.])(?:{_NUMBERED})|(?=[½×]|{_gate()})(?:{_WORDED}))", re.VERBOSE)
_REASON = re.compile(
    r"\s(?!and\b|or\b|with\b|but\b)([a-z][a-z-]+(?:\s(?:and\s|or\s)?(?!q\d|x\d|and\b|or\b)[a-z-]{3,}){0,2})"
)
# Words that end no part and stand before a medication.
_BEFORE_NO_PART = frozenset(("and", "with", "on", "or", "to", "the", "a", "by", "in", "from", "was", "is", "started"))
_CASED_ROUTES = frozenset({"im", "pr", "td", "sc", "gt", "pv"})
# The sign that may end a sentence comes first, for the same reason.
_STOP = re.compile(
    r"[\n;!?.](?:(?<=;)|(?<=[!?])\s|"
    r"(?<=\n)(?:\s*\n|\s*(?:[-*•]|\d{1,2}[.)])\s|(?=[A-Z][A-Za-z ]{2,40}:))|"
    r"(?<=[a-z0-9)]\.)\s+(?=[A-Z][a-z])(?!(?:Take|Give|Apply|Inhale|Inject|Use|One|Two|Please|Sig|Dose)\b))"
)
_REACH = 240  # characters read after a medication
_LEFT_REACH = 64
_CHAIN = 48  # at most between two parts of one prescription
_NOWHERE = 1 << 62
_FIRST = 72  # at most between the medication and its first part
_OF_OTHER = re.compile(r"\s+of\s+(?!the\b|this\b|it\b|action\b)\w")
_BOUNDS = ("medication", "chemical", "lab_value")
_ORDER = (
    "dose", "quantity", "strength", "route", "frequency", "duration", "prn", "prn_reason", "previous_dose",
    "further_doses",
)  # fmt: skip


def find_parts(padded: str, start: int, end: int) -> list[Part]:
    """The parts of prescriptions in `low[start:end]`, in order, where `padded` is " " and `low`, lower-cased text."""
    parts: list[Part] = []
    end += 1
    search = _PART.search
    while (found := search(padded, start, end)) is not None:
        kind = found.lastgroup
        assert kind is not None  # every alternative is named
        begin, start = found.span()  # in `padded` the character before the part has the part's place in `low`
        start -= 1
        parts.append(Part(kind.rstrip("_"), begin, start))
    return parts


class _Beginnings:
    """Where parts may begin: a quick look before find_parts. Without places they may begin everywhere."""

    def __init__(self, places: array[int] | None) -> None:
        """`places` as Values.beginnings of medvllm_kernels/values.py."""
        self._known = places is not None
        self._starts = [] if places is None else places[0::2].tolist()
        self._ends = [] if places is None else places[1::2].tolist()
        self._starts.append(_NOWHERE)

    def within(self, start: int, end: int) -> bool:
        """Whether one may begin in [start, end) of a text that is read up to `end`."""
        starts, ends = self._starts, self._ends
        at = bisect_left(starts, start)
        while starts[at] < end:
            if not ends[at] or ends[at] == end:
                return True
            at += 1
        return not self._known

    def near(self, start: int, end: int) -> bool:
        """Whether one may begin in [start, end), wherever the text that is read ends."""
        starts = self._starts
        return starts[bisect_left(starts, start)] < end or not self._known


def _spelled_parts(text: str, padded: str, start: int, end: int) -> list[Part]:
    """As find_parts, without two-letter routes that are just a word or a name's initials."""
    return [
        part
        for part in find_parts(padded, start, end)
        if part.kind != "route" or _is_route(text[part.start : part.end])
    ]


def _is_route(written: str) -> bool:
    return written.lower().replace(".", "") not in _CASED_ROUTES or written.isupper()


def group_medications(
    text: str, entities: Sequence[Entity], *, low: str, beginnings: array[int] | None = None
) -> list[tuple[int, int]]:
    """Give each medication its dose, route, frequency, duration and prn as attributes.

    `entities` are in order of their start. A chemical counts as a medication when a dose stands directly beside it;
    laboratory values among them only end what is read. `beginnings` tells where parts may begin, see
    medvllm_kernels/values.py. Returns the spans used, in order, so that the caller can drop times that belong to a
    prescription.
    """
    drugs = [entity for entity in entities if entity.type in _BOUNDS]
    padded = " " + low
    places = _Beginnings(beginnings)
    may_begin, may_begin_near = places.within, places.near
    used: list[tuple[int, int]] = []
    free_from = 0
    for index, drug in enumerate(drugs):
        if drug.type == "lab_value":
            free_from = max(free_from, drug.end)
            continue
        chemical = drug.type == "chemical"
        parts: list[Part] = []
        if may_begin(max(free_from, drug.start - _LEFT_REACH), drug.start):
            parts = _left_parts(text, low, padded, drug, free_from)
        if not parts and not may_begin_near(drug.end, drug.end + _FIRST + 1):
            free_from = drug.end
            continue
        if chemical and not _has_dose(parts) and _DOSE_AFTER.match(low, drug.end) is None:
            free_from = drug.end
            continue
        following = drugs[index + 1] if index + 1 < len(drugs) else None
        limit, stopped = _limit(text, drug, following)
        if not parts and stopped and not chemical and not drug.attributes:
            spans = _known_right(text, low, padded, drug, limit)
        else:
            right = _right_parts(text, low, padded, drug, following, limit)
            if chemical and not _beside(drug, parts, right):
                free_from = drug.end
                continue
            _assign(text, drug, parts + right)
            used += [(part.start, part.end) for part in parts]
            spans = [(part.start, part.end) for part in right]
        used += spans
        free_from = max(drug.end, spans[-1][1]) if spans else drug.end
    _share(text, drugs)
    return used


_FORM_BEGINS = (
    r"(?:tab|cap|puff|spray|drop|gtt|patch|amp|vial|neb|supp|inhal|loz|pack|tea|tsp|tbsp|appl|dose|pill|inj|unit)"
)
# What stands after a name where _beside is true of the parts on its right.
_DOSE_AFTER = re.compile(
    rf".{{0,2}}(?<![\w/])(?:\d|\.\d|½|(?:one|two|three|four|half|a)(?:\s\(|-half|\shalf|[\s-]?{_FORM_BEGINS}))",
    re.DOTALL,
)


def _has_dose(parts: list[Part]) -> bool:
    return any(part.kind in ("dose", "quantity") for part in parts)


def _beside(drug: Entity, left: list[Part], right: list[Part]) -> bool:
    """Whether a dose stands directly before or after the entity."""
    return _has_dose(left) or (bool(right) and right[0].kind in ("dose", "quantity") and right[0].start - drug.end <= 2)


def _adjacent_run(low: str, parts: list[Part], end: int) -> list[Part]:
    """The last parts of the list that stand directly before `end`, with nothing but spaces or "of" between."""
    run: list[Part] = []
    for part in reversed(parts):
        if low[part.end : end].strip() not in ("", "of", "of iv", "dose of", "-"):
            break
        run.insert(0, part)
        end = part.start
    return run


def _left_parts(text: str, low: str, padded: str, drug: Entity, free_from: int) -> list[Part]:
    """Parts directly before the name: "40 mg of furosemide", "IV vancomycin"."""
    end = drug.start
    begin = max(free_from, end - _LEFT_REACH)
    begin = max(begin, low.rfind("\n", begin, end) + 1)
    while begin < end and begin and low[begin - 1].isalnum() and low[begin].isalnum():
        begin += 1  # not into the middle of a word
    before = low[begin:end].split()
    if not before or before[-1] in _BEFORE_NO_PART or before[-1][-1] in ",;:(":
        return []
    found = _spelled_parts(text, padded, begin, end)
    return [part for part in _adjacent_run(low, found, end) if part.kind != "duration"] if found else []


def _limit(text: str, drug: Entity, following: Entity | None) -> tuple[int, bool]:
    """Where what belongs to the drug must end: at the next one, or with the sentence, in which case it's True."""
    end = min(len(text), drug.end + _REACH)
    if following is not None and following.start < end:
        end = following.start
    if end <= drug.end:
        return drug.end, False
    # A full stop right after the name is part of it.
    stop = _STOP.search(text, drug.end + 1 if text[drug.end] == "." else drug.end, end)
    if stop is None:
        return end, False
    at = stop.start()
    return (at if text[at] == "." else at + 1), True


_MAX_KNOWN = 10_000
_LONGEST_KNOWN = 80  # characters
# text after a medication → spans of its parts from the end of the name on, attributes
_known: dict[str, tuple[tuple[tuple[int, int], ...], dict[str, Any]]] = {}


def _known_right(text: str, low: str, padded: str, drug: Entity, limit: int) -> list[tuple[int, int]]:
    """The spans of _right_parts, after _assign, of a drug without parts before it, up to a stop.

    What was read from a short text is kept, for prescriptions repeat: unless it was, or might be, read beyond the stop.
    """
    end = drug.end
    key = text[end - 1 : limit]
    known = _known.get(key)
    goes_on = key[-1] == "\n" and text[limit : limit + 1] in _GO_ON
    if known is not None and not goes_on:
        drug.attributes.update(known[1])
        return [(end + first, end + last) for first, last in known[0]]
    right = _right_parts(text, low, padded, drug, None, limit)
    _assign(text, drug, right)
    plain = "prn" not in drug.attributes and "further_doses" not in drug.attributes
    if plain and len(key) <= _LONGEST_KNOWN and not goes_on:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[key] = tuple((part.start - end, part.end - end) for part in right), dict(drug.attributes)
    return [(part.start, part.end) for part in right]


_GO_ON = frozenset("oO \t\r\n\f\v")  # what `_OF_OTHER` could go on with after a line break


def _right_parts(text: str, low: str, padded: str, drug: Entity, following: Entity | None, limit: int) -> list[Part]:
    """The parts after the name that belong to it, up to the next medication or the end of the sentence."""
    if limit <= drug.end:
        return []
    parts = _spelled_parts(text, padded, drug.end, limit)
    if not parts:
        return parts
    if following is not None and limit == following.start:
        run = _adjacent_run(low, parts, limit)
        if run:
            before = parts[parts.index(run[0]) - 1].end if run[0] is not parts[0] else drug.end
            if low[before : run[0].start].strip(" \t)") and any(p.kind in ("dose", "quantity", "route") for p in run):
                parts = parts[: len(parts) - len(run)]
    kept: list[Part] = []
    at = drug.end
    for part in parts:
        if part.start - at > (_CHAIN if kept else _FIRST):
            break
        if part.kind in ("dose", "quantity") and _OF_OTHER.match(low, part.end):
            break
        if not kept and part.kind in ("frequency", "duration") and part.start - drug.end > 40:
            break
        kept.append(part)
        at = part.end
    return kept


def _assign(text: str, drug: Entity, parts: list[Part]) -> None:
    """Write the parts as attributes; what comes a second time makes a further dose."""
    attributes = drug.attributes
    if not parts and not attributes:
        return
    current = attributes
    for part in parts:
        written = " ".join(text[part.start : part.end].split())
        if part.kind == "prn":
            current["prn"] = True
            reason = _reason(text, part)
            if reason:
                current["prn_reason"] = reason
            continue
        key = part.kind
        if key == "dose" and "dose" in current and _changed(text, drug, part):
            current["previous_dose"] = current["dose"]
        elif key == "dose" and "dose" in current and "frequency" in current:
            current = {}
            attributes.setdefault("further_doses", []).append(current)
        elif key in current:
            if key == "frequency" and written.lower() not in current[key].lower():
                current[key] += f" {written}"
            continue
        current[key] = written
    for group in [attributes, *attributes.get("further_doses", [])]:
        if "dose" not in group and "quantity" in group:
            group["dose"] = group.pop("quantity")
    for key in _ORDER:
        if key in attributes:
            attributes[key] = attributes.pop(key)


def _changed(text: str, drug: Entity, part: Part) -> bool:
    """Whether the dose is the new one of "from 10 mg to 20 mg"."""
    before = text[max(drug.end, part.start - 32) : part.start].lower()
    return before.rstrip().endswith(("to", "->", "→")) and (
        "from" in text[drug.end : part.start].lower() or not before.rstrip().endswith("to")
    )


def _reason(text: str, part: Part) -> str | None:
    """What a drug is taken for: "as needed for pain", "PRN wheezing"."""
    found = _REASON.match(text, part.end)
    if found is None or (found[1].split()[0].lower() in _NOT_A_REASON):
        return None
    return " ".join(found[1].split())


_NOT_A_REASON = frozenset((
    "she", "he", "they", "the", "his", "her", "was", "were", "is", "are", "has", "had", "will", "which", "for",
    "then", "also", "to", "at", "in", "on", "by", "as", "per", "may", "can", "not", "no", "given", "started",
    "patient", "daily", "dispense", "refill", "refills", "take", "continue",
))  # fmt: skip


def _share(text: str, drugs: list[Entity]) -> None:
    """The attributes of the last of several joined names for all of them: "acetaminophen (Tylenol) 650 mg"."""
    for first, second in zip(reversed(drugs[:-1]), reversed(drugs[1:]), strict=True):
        if first.attributes or not second.attributes or second.start - first.end > 3:
            continue
        gap = text[first.end : second.start].strip()
        if gap in ("(", "/", "-") and second.type == "medication":
            first.attributes.update(second.attributes)


def frequency_timing(frequency: str) -> tuple[int, int, str] | None:
    """Times, period and unit of the period of a frequency as written ("q6h" → 1, 6, "h"); None when not known."""
    plain = " ".join(frequency.lower().replace(".", "").split())
    known = FREQUENCIES.get(plain)
    if known is not None:
        return known
    interval = _INTERVAL.fullmatch(plain)
    if interval is None:
        return None
    unit = interval[2] or "h"
    return 1, int(interval[1]), _PERIOD[unit[:2] if unit[0] == "m" else unit[0]]
