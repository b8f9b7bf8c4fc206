"""Laboratory values and vital signs: the analyte on the left of a number, its unit and flags on the right."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from medvllm.tasks.clinical_units import ANALYTES, CASED, PAIRS, UCUM, VITALS, Analyte
from medvllm.tasks.value_words import BY_LAST_WORD, CONNECT, NAMES, NOT_LAST, PLAIN, UNIT_FORMS

__all__ = ["Measurement", "plain", "read"]

_REACH = 64  # characters read on the left of a number
_NEAR_VITAL = 60  # a one-letter vital sign counts within this distance of another one
_MAX_CONNECTORS = 7
_LOWER = {"<": "<", "≤": "<=", "less": "<", "below": "<", "under": "<"}
_UPPER = {">": ">", "≥": ">=", "greater": ">", "above": ">", "over": ">"}
_COMPARATORS = {**_LOWER, **_UPPER}

# Signs that may stand between a name and its value; a comma or a full stop ends the search.
_SIGNS = " \t\r:=-–—~|*•([<>≤≥→#'\""
_SPACED = dict.fromkeys(map(ord, _SIGNS), " ")

_NOT_BEFORE = ("vitamin", "/", "lost", "lose", "gained", "gain", "losing", "gaining")
_SPECIMENS = (" serum", " plasma", " fasting", " random", " venous", " arterial", " capillary")

_FIGURE = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_NUMBER = re.compile(_FIGURE)
_RANGE = re.compile(rf"({_FIGURE})[-–]({_FIGURE})")
_RATIO = re.compile(r"(\d{1,4}(?:\.\d{1,2})?)/(\d{1,4}(?:\.\d{1,2})?)")
_RATIO_RANGE = re.compile(r"(\d{2,3})[-–]\d{2,3}/(\d{2,3})[-–]\d{2,3}")
_TREND = re.compile(rf"\s{{0,2}}+(?:-{{1,2}}>|→|=>|to)\s{{0,2}}({_FIGURE})(?![\w/])")
_TIME_OR_DOSE = re.compile(
    r"[\s-]{0,2}+(?:mg|mcg|ug|µg|g|gm|grams?|meq|mmol|units?|ml|cc|liters?|tabs?|tablets?|caps?|capsules?|puffs?|"
    r"days?|weeks?|months?|years?|hours?|hrs?(?!\W{0,3}(?:of\s|is\s|was\s)?\d)|minutes?|mins?|times|x|patients?|subjects|y/?o|st|nd|rd|th|gauge|"
    r"french|packs?|drops?|beers?|steps?|blocks?|episodes?|visits?|sessions?|doses?|of)\b(?![/])"
)
_PER = re.compile(r"\s?(?:per|/)\s?(?:day|week|hour|hr|min|month)")
_UNIT = re.compile(
    r"[ \t-]{0,6}+(?P<unit>"
    + "|".join(re.escape(unit).replace("u", "[uµμ]").replace(r"\ ", r"\s") for unit in UNIT_FORMS)
    + r")(?![\w/^])"
)
_MMHG = re.compile(r"\s?mm ?hg\b")
_COUNTED = ("white blood cells", "platelets")  # given in thousands: "150K"
_VALUE_OF_K = re.compile(r"[\s:+-]{0,3}(?:of |was )?\d")  # "WBC 12 K 4.1"
_FLAG = re.compile(
    r"[ \t]{0,4}+(?:[(\[](?P<boxed>hh|ll|h|l|high|low|critical|abnormal)[)\]]|"
    r"(?P<bare>hh|ll|h|l)\b|(?P<star>\*))"
)
_REFERENCE = re.compile(
    rf"[ \t]{{0,4}}+[(\[](?:ref(?:erence)?(?: range)?:? ?|normal:? ?|nl:? ?|range:? ?)?"
    rf"(?P<low>{_FIGURE})\s?(?:-|–|to)\s?(?P<high>{_FIGURE})(?:\s?[a-z/%]{{1,8}})?[)\]]"
)
_SECOND_SCALE = re.compile(r"\s?\(\d{2,3}(?:\.\d)?\s?(?:°\s?)?[cf]\)")
_ROOM_AIR = re.compile(
    r"\s(?:on\s)?(?:(?:ra|room air)\b|\d{1,2}(?:\.\d)?\s?(?:l|liters?|lpm)\b(?:\s(?:nc|o2|nasal cannula))?)"
)
# By the numbers of rows of medvllm_kernels/values.py; the names that it asks about have no analyte here.
_NONE = Analyte("", 0, 0)
_ROW_NAMES = [(*ANALYTES.get(PLAIN.get(name, name), _NONE), PLAIN.get(name, name) in VITALS) for name in NAMES]
_ROW_UNITS = [UCUM[form] for form in UNIT_FORMS]
_SIGN_OF = tuple(_COMPARATORS.values())
_ENDS = ("", ",", ";", ".", "\n")
_OXYGEN = ANALYTES["spo2"]
_PRESSURE = VITALS["bp"]
_HEIGHT = re.compile(r"\s?(?:'|’|ft|feet|foot)\s?(?:(\d{1,2})\s?(?:\"|”|''|in\b|inches\b)?)?")


class Measurement(NamedTuple):
    """A measured value: its span from the name to the unit or flag, whether it is a vital sign, and what was
    read.
    """

    start: int
    end: int
    vital: bool
    attributes: dict[str, Any]


_measurement: Final = tuple.__new__  # of a tuple of all four: half the time of Measurement(...)


class _Name(NamedTuple):
    start: int
    analyte: Analyte
    key: str
    comparator: str | None
    connectors: Sequence[str]


def read(text: str, low: str, start: int, end: int, *, last_vital: int) -> Measurement | None:
    """The measurement whose number is `low[start:end]`, or None.

    `last_vital` is the end of the vital sign found before (or a large negative number): near it a lone letter
    such as P or R is a vital sign too.
    """
    number = low[start:end]
    if len(number) > 24:
        return None
    name = _name(text, low, start, near_vital=start - last_vital <= _NEAR_VITAL)
    if name is None:
        return _nameless(low, start, end)
    if low[end : end + 6].lstrip(" \t")[:1] in _ENDS:  # "Na 137, K 4.1": nothing more to read
        value = _value(low, number, name, end, trend=False)
        bare = value is not None and name.analyte is not _OXYGEN
        return _measured(name, value[0], end) if bare and value else None
    unit = _UNIT.match(low, end)
    if unit is None and name.key in ("height", "ht"):
        return _feet(low, name, start, end)
    if unit is None and (_TIME_OR_DOSE.match(low, end) or _PER.match(low, end)):
        return None
    if (unit is not None and unit["unit"] == "g") or low.startswith("%ile", end):
        return None
    value = _value(low, number, name, end)
    if value is None:
        return None
    number_end = end
    attributes, end = value
    end = _add_unit(text, low, end, attributes, unit if end == number_end else _UNIT.match(low, end))
    end = _add_flag(text, low, end, attributes)
    if name.analyte.name == "oxygen saturation":
        if attributes.get("unit") != "%" and not name.key.startswith(("sp", "sa", "o2 s", "o2s", "oxygen", "pulse")):
            return None
        air = _ROOM_AIR.match(low, end)
        end = air.end() if air else end
    return _measured(name, attributes, end)


def plain(text: str, low: str, row: Sequence[int]) -> Measurement | None:
    """The measurement of a row that is a VALUE of medvllm_kernels/values.py; None where the number can't be one."""
    _, start, end, begin, stop, number, comparator, unit, unit_start, unit_end, flag_start, flag_end = row
    name, lowest, highest, whole, vital = _ROW_NAMES[number]
    digits = low[start:end]
    value: int | float
    if "." in digits:
        value = float(digits)
        if whole:
            return None
    else:
        value = int(digits)
    if not lowest <= value <= highest:
        return None
    attributes: dict[str, Any] = {"analyte": name, "value": value}
    if unit >= 0:
        attributes["unit"] = _one_line(text[unit_start:unit_end])
        attributes["ucum"] = _ROW_UNITS[unit]
    if flag_start >= 0:
        attributes["flag"] = low[flag_start:flag_end].upper()
    if comparator >= 0:
        attributes["comparator"] = _SIGN_OF[comparator]
    return _measurement(Measurement, (begin, stop, vital, attributes))


@functools.lru_cache(4096)  # units are few, and cutting them up takes longer than this
def _one_line(words: str) -> str:
    return " ".join(words.split())


def _measured(name: _Name, attributes: dict[str, Any], end: int) -> Measurement:
    if name.comparator:
        attributes["comparator"] = name.comparator
    return Measurement(name.start, end, name.key in VITALS or "/" in name.key, attributes)


def _name(text: str, low: str, start: int, *, near_vital: bool) -> _Name | None:
    """The analyte named before the number at `start`, on the same line, with the connectors between."""
    left = max(0, start - _REACH)
    segment = low[left:start]
    if "\n" in segment:
        left += segment.rfind("\n") + 1
        segment = low[left:start]
    segment = segment.rstrip(_SIGNS)
    if segment.endswith(".."):  # a leader: "Sodium ..... 137"
        segment = segment.rstrip(". ")
    connectors: list[str] = []
    while segment:
        word = segment[segment.rfind(" ") + 1 :]
        if not word.isalnum() and word not in BY_LAST_WORD:
            segment = segment.translate(_SPACED)  # the name may be glued to a sign: "(WBC", "CK-MB"
            word = segment[segment.rfind(" ") + 1 :]
        names = BY_LAST_WORD.get(word)
        if names is not None:
            found = _longest_name(text, low, start, segment, left, names, connectors, near_vital)
            if found is not None or word not in CONNECT:
                return found
        if word not in CONNECT or (not connectors and word in NOT_LAST) or len(connectors) == _MAX_CONNECTORS:
            return None
        connectors.append(word)
        segment = segment[: -len(word)].rstrip(_SIGNS)
    return None


def _comparator(low: str, begin: int, start: int) -> str | None:
    """< or > as a sign or a word between the name and the number."""
    between = low[begin:start].strip(" :=\t")
    if not between:
        return None
    for word, sign in _COMPARATORS.items():
        if word in between:
            return sign
    return None


def _longest_name(
    text: str,
    low: str,
    start: int,
    segment: str,
    left: int,
    names: tuple[str, ...],
    connectors: list[str],
    near_vital: bool,
) -> _Name | None:
    """The longest of `names` that the segment, which begins at `left` in the text, ends with."""
    for key in names:
        at = len(segment) - len(key)
        if at < 0 or not segment.endswith(key):
            continue
        if at == 0:
            if left and text[left - 1].isalnum():
                continue
        elif segment[at - 1].isalnum():
            continue
        begin = left + at
        comparator = _comparator(low, left + len(segment), start)
        if key in PAIRS:
            return _Name(begin, Analyte(key, 0, 1e6), key, comparator, connectors)
        if key in CASED:
            if len(connectors) > 3:
                return None
            spelled = text[begin : begin + len(key)]
            if spelled not in CASED[key] and not (near_vital and key in VITALS):
                return None
        before = " " + segment[max(0, at - 10) : at].rstrip()
        if before.endswith(_NOT_BEFORE) or (key == "mg" and before[-1:].isdigit()):
            return None
        if before.endswith(_SPECIMENS):  # "serum sodium": the specimen is part of the name
            begin = left + segment.rfind(" ", 0, len(segment[:at].rstrip())) + 1
        return _Name(begin, ANALYTES[PLAIN.get(key, key)], PLAIN.get(key, key), comparator, connectors)
    return None


def _figure(number: str) -> int | float:
    plain = number.replace(",", "")
    return float(plain) if "." in plain else int(plain)


def _fits(value: float, analyte: Analyte) -> bool:
    return analyte.low <= value <= analyte.high and not (analyte.whole and isinstance(value, float))


def _value(low: str, number: str, name: _Name, end: int, *, trend: bool = True) -> tuple[dict[str, Any], int] | None:
    """The value's attributes and its end, or None where the number can't be a value of the analyte."""
    analyte = name.analyte
    if number.isdigit() and analyte is not _PRESSURE and name.key not in PAIRS:  # the common case
        plain = int(number)
        if not analyte.low <= plain <= analyte.high:
            return None
        found: dict[str, Any] = {"analyte": analyte.name, "value": plain}
        return found, _follow_trend(low, name, end, found) if trend else end
    ratio = _RATIO.fullmatch(number) or _RATIO_RANGE.fullmatch(number)
    if analyte is _PRESSURE or name.key in PAIRS or (ratio and analyte.name == "pain score"):
        return _two_values(number, ratio, name, end)
    if ratio is not None and name.key.startswith(("gcs", "glasgow", "apgar", "mmse")):
        number = ratio[1]
    span = _RANGE.fullmatch(number)
    if span is not None:
        lowest, highest = _figure(span[1]), _figure(span[2])
        if lowest >= highest or not (_fits(lowest, analyte) and _fits(highest, analyte)):
            return None
        return {"analyte": analyte.name, "low": lowest, "high": highest}, end
    if _NUMBER.fullmatch(number) is None:
        return None
    value = _figure(number)
    if not _fits(value, analyte):
        return None
    attributes: dict[str, Any] = {"analyte": analyte.name, "value": value}
    return attributes, _follow_trend(low, name, end, attributes) if trend else end


def _follow_trend(low: str, name: _Name, end: int, attributes: dict[str, Any]) -> int:
    """ "35 -> 28" and "from 35 to 28": the last value counts, the ones before are kept as `previous`."""
    previous = []
    for _ in range(6):
        later = _TREND.match(low, end)
        if later is None or (" to" in later[0] and "from" not in name.connectors):
            break
        value = _figure(later[1])
        if not _fits(value, name.analyte):
            break
        previous.append(attributes["value"])
        attributes["value"] = value
        end = later.end()
    if previous:
        attributes["previous"] = previous
    return end


def _two_values(number: str, ratio: re.Match[str] | None, name: _Name, end: int) -> tuple[dict[str, Any], int] | None:
    if ratio is None:
        return None
    first, second = _figure(ratio[1]), _figure(ratio[2])
    if name.analyte.name == "pain score":
        return ({"analyte": "pain score", "value": first}, end) if first <= second == 10 else None
    names = PAIRS.get(name.key, ("systolic blood pressure", "diastolic blood pressure"))
    if name.analyte is _PRESSURE and not (50 <= first <= 320 and 10 <= second <= 220 and first > second):
        return None
    components = [{"analyte": names[0], "value": first}, {"analyte": names[1], "value": second}]
    return {"analyte": "/".join(names) if name.key in PAIRS else _PRESSURE.name, "value": number,
            "components": components}, end  # fmt: skip


def _add_unit(text: str, low: str, end: int, attributes: dict[str, Any], unit: re.Match[str] | None) -> int:
    if unit is None:
        return end
    written = " ".join(text[unit.start("unit") : unit.end("unit")].split())
    if written.lower() in ("c", "f") and attributes["analyte"] != "temperature":
        return end
    if written == "in" and attributes["analyte"] != "body height":
        return end
    if written in ("K", "k") and (attributes["analyte"] not in _COUNTED or _VALUE_OF_K.match(low, unit.end())):
        return end
    attributes["unit"] = written
    attributes["ucum"] = UCUM[" ".join(unit["unit"].replace("µ", "u").replace("μ", "u").split())]
    if attributes["analyte"] == "temperature":
        other = _SECOND_SCALE.match(low, unit.end())
        return other.end() if other else unit.end()
    return unit.end()


def _add_flag(text: str, low: str, end: int, attributes: dict[str, Any]) -> int:
    for _ in range(2):
        flag = _FLAG.match(low, end)
        if flag is not None and not (flag["bare"] and not text[flag.start("bare")].isupper()):
            attributes["flag"] = (flag["boxed"] or flag["bare"] or flag["star"]).upper()
            end = flag.end()
        reference = _REFERENCE.match(low, end)
        if reference is None:
            break
        attributes["reference_low"] = _figure(reference["low"])
        attributes["reference_high"] = _figure(reference["high"])
        end = reference.end()
    return end


def _nameless(low: str, start: int, end: int) -> Measurement | None:
    """ "97% on RA" and "120/80 mmHg": values that name themselves."""
    number = low[start:end]
    if low.startswith("%", end) and number.isdigit() and 50 <= int(number) <= 100:
        air = _ROOM_AIR.match(low, end + 1)
        if air is not None:
            found = {"analyte": _OXYGEN.name, "value": int(number), "unit": "%", "ucum": "%"}
            return Measurement(start, air.end(), True, found)
    if "/" in number:
        unit = _MMHG.match(low, end)
        ratio = _RATIO.fullmatch(number)
        name = _Name(start, _PRESSURE, "bp", None, ())
        value = _two_values(number, ratio, name, end) if unit and ratio else None
        if value is not None and unit is not None:
            value[0].update(unit="mmHg", ucum="mm[Hg]")
            return Measurement(start, unit.end(), True, value[0])
    return None


def _feet(low: str, name: _Name, start: int, end: int) -> Measurement | None:
    """A height in feet and inches, given in inches."""
    feet = _HEIGHT.match(low, end)
    if feet is None or not low[start:end].isdigit() or not 2 <= int(low[start:end]) <= 8:
        return None
    inches = int(low[start:end]) * 12 + int(feet[1] or 0)
    return Measurement(name.start, feet.end(), True, {
        "analyte": name.analyte.name, "value": inches, "unit": "in", "ucum": "[in_i]"})  # fmt: skip
