"""Dates, times, durations and relative times in lower-cased text.

Two kinds of anchor keep the pass linear and fast: words that make a time ("yesterday", "week", "since", names
of months), found by plain substring search, and numbers, which the caller has found already. From an anchor
only a bounded stretch of text is read on either side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, NamedTuple

from medvllm.tasks.time_words import ANCHORS, MONTHS, UNITS

__all__ = ["Match", "at_word", "from_number", "from_words"]


class Match(NamedTuple):
    """A span with what was read from it."""

    start: int
    end: int
    attributes: dict[str, Any]


_NUMBER_WORDS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_DURATIONS = {
    "s": "PT{}S", "mi": "PT{}M", "h": "PT{}H", "d": "P{}D", "w": "P{}W", "mo": "P{}M", "y": "P{}Y",
}  # fmt: skip
_REACH = 40  # characters read on the left of an anchor

_MONTH = "(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"
_EVENT = r"(?:admission|presentation|arrival|discharge|surgery|operation|procedure|onset|delivery)"
_UNIT_WORD = r"(?P<unit>seconds?|minutes?|mins?|hours?|hrs?|days?|weeks?|wks?|months?|mos?|years?|yrs?)\b"

_SUFFIX = re.compile(
    rf"\s(?:ago|earlier|later|previously|back|from now|post[- ]?op(?:eratively)?|prior(?: to {_EVENT})?|"
    rf"(?:before|after) {_EVENT})\b"
)
_DURATION_PREFIX = re.compile(
    r"(?<![^\s(,;:])(?:(?:since|for|over|within|during|in|after|until)\s(?:the\s)?|x\s?|×\s?|the\s)?"
    r"(?:(?:past|last|next|previous|preceding|first)\s)?"
    r"(?:(?:about|approximately|at least|nearly|almost|another)\s)?\Z"
)
_DATE_PREFIX = re.compile(r"(?<!\w)(?:(?:since|until|in|by|early|late|mid)[\s-](?:early\s|late\s|mid-?\s?)?)\Z")
_NOT_TIME = re.compile(r"(?:every|each|per|other|times|once|twice|\bq|age|aged?|/)[\s-]{0,2}\Z")
_AGE = re.compile(r"[\s-]?(?:old\b|of age\b|-?pack)")
_COUNT = re.compile(
    r"(?<![\w-])(?P<count>one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|many|"
    r"(?:a\s)?(?:few|couple(?:\sof)?)|an?|past|last|this|next|previous)(?:\smore|\sadditional|\sfull)?[\s-]\Z"
)
_COUNT_ENDS = (  # the last letters of what _COUNT finds
    "a", "ne", "wo", "ee", "ur", "ve", "ix", "en", "ht", "al", "ll", "ny", "ew", "le", "of", "an", "st", "is", "xt",
    "us", "re",
)  # fmt: skip
_UNIT = re.compile(_UNIT_WORD)
_DAY_NUMBER = re.compile(r"day\s?(?:of\slife\s?)?#?\s?(?:\d{1,3}|one|two|three|four|five|six|seven)\b(?![./%]\d)")
_DAY_KIND = re.compile(r"(?<!\w)(?:post[\s-]?op(?:erative)?|hospital|hosp|icu|postpartum|treatment|cycle\s\d)\s\Z")
_NAMED_DAY = re.compile(r"(?<!\w)(?:(?:(?:last|this|next)\s)?(?:mon|tues|wednes|thurs|fri|satur|sun)|yester|to)\Z")
_PART_OF_DAY = re.compile(r"\s(?:morning|afternoon|evening|night)\b")
_SINCE = re.compile(r"since\s(?:early\s)?(?:childhood|birth|infancy|adolescence|admission|discharge|surgery)\b")
_IN_MONTH = re.compile(r"(?<!\w)(?:since|in|until|by|last|this|next|early|late|mid|during)[\s-]\Z")

_ISO_DATE = re.compile(r"((?:19|20)\d\d)[-/](\d{1,2})[-/](\d{1,2})")
_SHORT_DATE = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2((?:19|20)?\d\d)")
_MONTH_YEAR = re.compile(r"(\d{1,2})[/-]((?:19|20)\d\d)")
_MONTH_DAY = re.compile(r"(?:1[0-2]|0?[1-9])/(?:3[01]|[12]\d|0?[1-9])")
_ON = re.compile(r"(?<!\w)(?:on|from|since|until|till|dated|by|of)\s\Z")
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?")
_AM_PM = re.compile(r"\s?[ap]\.?m\b\.?")
_T_CLOCK = re.compile(r"[t ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d{1,6})?)?(?:z|[+-]\d\d:?\d\d)?\b")
_YEAR = re.compile(r"(?:19|20)\d\d")
_MONTH_AFTER = re.compile(rf"(?:st|nd|rd|th)?[\s-](?:of\s)?{_MONTH}\.?(?:,?[\s-](?P<year>(?:19|20)\d\d))?\b(?!/)")
_MONTH_BEFORE = re.compile(rf"(?<!\w){_MONTH}\.?,?(?:[\s-]|\sof\s)\Z")
_YEAR_AFTER = re.compile(r"(?:st|nd|rd|th)?(?:,\s?|[\s-])((?:19|20)\d\d)\b(?!/)")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
_TIME_UNIT = re.compile(r"(?:\s|-|\+\s)?" + _UNIT_WORD)
_NUMBERED_DAY = re.compile(r"(?<!\w)(?P<kind>pod|dol|hd)\s?#?\s?\Z")

_PLAIN_NUMBER = re.compile(r"\d{1,4}(?:\.\d{1,2})?")
_LETTERS = re.compile("[a-z]+")


def from_words(text: str, low: str, *, anchors: Sequence[str] = ANCHORS) -> Iterator[Match]:
    """Times anchored on a word, in no order; `low` is `text` in lower case, of the same length.

    `anchors` are those of ANCHORS that the caller found in the text.
    """
    for anchor in anchors:
        at = low.find(anchor)
        while at >= 0:
            match = at_word(text, low, anchor, at)
            if match is not None:
                yield match
            at = low.find(anchor, at + len(anchor))


def from_number(text: str, low: str, start: int, end: int) -> Match | None:
    """The date, clock time, year, duration or numbered day whose number is `low[start:end]`."""
    number = low[start:end]
    if number.isdigit():
        if len(number) > 4:
            return None
        follows = low[end : end + 2].strip(" -\n+")[:1].isalpha()
        precedes = low[max(0, start - 2) : start].strip()[-1:]
        if not follows and not (precedes.isalpha() or precedes in ("#", ".", ",", "-")):
            return None
        match = _month_name(text, low, start, end) or _quantity(low, start, end)
        if match is None and len(number) == 4 and _YEAR.fullmatch(number):
            prefix = _DATE_PREFIX.search(low, max(0, start - _REACH), start)
            match = Match(prefix.start(), end, {"iso": number}) if prefix else None
        return match
    if len(number) > 12:
        return None
    return _date(low, start, end) or _clock(low, start, end) or _quantity(low, start, end)


def at_word(text: str, low: str, anchor: str, at: int) -> Match | None:
    """The time that the anchor at this place of `low` belongs to, or None."""
    left = max(0, at - _REACH)
    before = low[at - 1] if at else " "
    if anchor in UNITS:
        if not before.isalpha():
            return _at_unit(low, at)
        return _named_day(low, at) if anchor == "day" else None
    after = at + len(anchor)
    if after < len(low) and low[after].isalnum():
        return None
    if anchor == "since":
        event = None if before.isalnum() else _SINCE.match(low, at)
        return Match(at, event.end(), {}) if event else None
    if anchor == "tomorrow":
        return None if before.isalnum() else Match(at, after, {})
    if anchor == "night":
        words: tuple[str, ...] = ("last ", "to", "over")
    elif anchor in MONTHS:
        return _named_month(text, low, at, after)
    else:
        words = ("this ",)
    for word in words:
        begin = at - len(word)
        if low.startswith(word, max(0, begin)) and (begin <= left or not low[begin - 1].isalnum()) and begin >= 0:
            return Match(begin, after, {})
    return None


def _named_month(text: str, low: str, at: int, after: int) -> Match | None:
    """ "in March", "since January"; a month with a number beside it is read from the number."""
    prefix = _IN_MONTH.search(low, max(0, at - _REACH), at)
    if prefix is None or (low[at : at + 2] == "ma" and not text[at].isupper()):
        return None
    nearby = low[after : after + 3].strip(" ,.")
    return None if nearby[:1].isdigit() else Match(prefix.start(), after, {})


def _named_day(low: str, at: int) -> Match | None:
    """Weekdays, yesterday and today, the anchor being their "day"."""
    found = _NAMED_DAY.search(low, max(0, at - _REACH), at)
    end = at + 3
    if low.startswith("s", end):
        end += 1
    if found is None or (end < len(low) and low[end].isalnum()):
        return None
    start = found.start()
    prefix = _DATE_PREFIX.search(low, max(0, start - _REACH), start)
    part = _PART_OF_DAY.match(low, end)
    return Match(prefix.start() if prefix else start, part.end() if part else end, {})


def _at_unit(low: str, at: int) -> Match | None:
    """ "two weeks ago", "the last month", "hospital day 3": a unit without digits before it."""
    left = max(0, at - _REACH)
    day = _DAY_NUMBER.match(low, at)
    if day is not None:
        kind = _DAY_KIND.search(low, left, at)
        return Match(kind.start() if kind else at, day.end(), {})
    unit = _UNIT.match(low, at)
    counted = unit is not None and low[max(0, at - 3) : at - 1].endswith(_COUNT_ENDS)
    count = _COUNT.search(low, left, at) if counted else None
    if unit is None or count is None or _AGE.match(low, unit.end()):
        return None
    word = count["count"]
    suffix = _SUFFIX.match(low, unit.end())
    if word in ("a", "an") and suffix is None:  # "twice a day"
        return None
    attributes = {} if word not in _NUMBER_WORDS else _iso(str(_NUMBER_WORDS[word]), unit["unit"])
    return _extend(low, count.start(), suffix.end() if suffix else unit.end(), attributes)


def _extend(low: str, start: int, end: int, attributes: dict[str, Any]) -> Match | None:
    """The duration with its preposition, or None where it tells how often."""
    left = max(0, start - _REACH)
    if _NOT_TIME.search(low, left, start):
        return None
    prefix = _DURATION_PREFIX.search(low, left, start)
    return Match(prefix.start() if prefix else start, end, attributes)


def _iso(count: str, unit: str) -> dict[str, Any]:
    key = unit[:2] if unit[0] == "m" else unit[0]
    return {"iso": _DURATIONS[key].format(count)}


def _quantity(low: str, start: int, end: int) -> Match | None:
    """ "3 days ago", "for 10-14 days", "POD #2"."""
    unit = _TIME_UNIT.match(low, end)
    if unit is None:
        kind = _NUMBERED_DAY.search(low, max(0, start - 12), start)
        if kind is None or low.startswith((" times", " x", "/"), end) or not low[start:end].isdigit():
            return None
        return Match(kind.start(), end, {}) if int(low[start:end]) < 1000 else None
    number = low[start:end]
    if _AGE.match(low, unit.end()) or low.startswith("/", unit.end()) or "/" in number or ":" in number:
        return None
    suffix = _SUFFIX.match(low, unit.end())
    attributes = _iso(number, unit["unit"]) if _PLAIN_NUMBER.fullmatch(number) else {}
    return _extend(low, start, suffix.end() if suffix else unit.end(), attributes)


def _iso_date(year: int, month: int, day: int) -> dict[str, Any]:
    try:
        return {"iso": date(year, month, day).isoformat()}
    except ValueError:
        return {}


def _month_name(text: str, low: str, start: int, end: int) -> Match | None:
    """ "3 March 2019", "March 3, 2019", "Mar 3", "March 2019"."""
    number = low[start:end]
    after = _MONTH_AFTER.match(low, end) if len(number) <= 2 else None
    if after is not None and _is_month(text, low, after.start("month"), bool(after["year"])):
        month = MONTHS.index(next(name for name in MONTHS if name.startswith(after["month"]))) + 1
        iso = _iso_date(int(after["year"]), month, int(number)) if after["year"] else {}
        return Match(start, after.end(), iso)
    before = _MONTH_BEFORE.search(low, max(0, start - 14), start)
    if before is None:
        return None
    month = MONTHS.index(next(name for name in MONTHS if name.startswith(before["month"]))) + 1
    year = _YEAR_AFTER.match(low, end) if len(number) <= 2 else None
    if not _is_month(text, low, before.start("month"), bool(year) or len(number) == 4):
        return None
    begin = before.start("month")
    prefix = _DATE_PREFIX.search(low, max(0, begin - _REACH), begin)
    begin = prefix.start() if prefix else begin
    if len(number) == 4:
        return Match(begin, end, {"iso": f"{number}-{month:02}"}) if _YEAR.fullmatch(number) else None
    if len(number) > 2 or not 1 <= int(number) <= 31:
        return None
    if year is not None:
        return Match(begin, year.end(), _iso_date(int(year[1]), month, int(number)))
    ordinal = _ORDINAL.match(low, end)
    return Match(begin, ordinal.end() if ordinal else end, {})


def _is_month(text: str, low: str, at: int, with_year: bool) -> bool:
    """Whether the word at `at` is a month's name: "may", "mar", "dec" and the like need a capital or a
    year.
    """
    word = _LETTERS.match(low, at)
    name = word[0] if word else ""
    if not (name in MONTHS or name in ("sept",) or len(name) == 3):
        return False
    return with_year or text[at].isupper()


def _date(low: str, start: int, end: int) -> Match | None:
    """Numeric dates: 2019-03-04, 3/4/2019, 04.03.19, 3/2019, and 3/4 after "on"."""
    number = low[start:end]
    iso = _ISO_DATE.fullmatch(number)
    if iso is not None:
        attributes = _iso_date(int(iso[1]), int(iso[2]), int(iso[3]))
        clock = _T_CLOCK.match(low, end)
        return Match(start, clock.end() if clock else end, attributes) if attributes else None
    short = _SHORT_DATE.fullmatch(number)
    if short is not None:
        first, second, year = int(short[1]), int(short[3]), short[4]
        if not (0 < first <= 31 and 0 < second <= 31 and min(first, second) <= 12):
            return None
        if short[2] == "." and len(year) == 2 and first > 31:
            return None
        attributes = {}
        if len(year) == 4 and (first > 12 or second > 12 or first == second):  # else day and month are ambiguous
            attributes = _iso_date(int(year), min(first, second), max(first, second))
            if first > 12:
                attributes = _iso_date(int(year), second, first)
        return Match(start, end, attributes)
    month_year = _MONTH_YEAR.fullmatch(number)
    if month_year is not None and 1 <= int(month_year[1]) <= 12:
        prefix = _DATE_PREFIX.search(low, max(0, start - _REACH), start)
        iso_month = {"iso": f"{month_year[2]}-{int(month_year[1]):02}"}
        return Match(prefix.start() if prefix else start, end, iso_month)
    if _MONTH_DAY.fullmatch(number) and _ON.search(low, max(0, start - 8), start):
        return Match(start, end, {})
    return None


def _clock(low: str, start: int, end: int) -> Match | None:
    """12:30, 8:15 pm; a bare one-digit hour may be a titre or a ratio and needs "at" or am/pm."""
    if _CLOCK.fullmatch(low, start, end) is None:
        return None
    half = _AM_PM.match(low, end)
    if half is None and low[start + 1] == ":" and not low.endswith("at ", 0, start):
        return None
    return Match(start, half.end() if half else end, {})
