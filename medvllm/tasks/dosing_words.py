"""Words of prescriptions: routes and frequencies as written, and what any part of a prescription can begin with.

They stand apart from `dosing`, whose expressions take 30 ms to compile, because the native library looks for the
beginnings before it is known whether there is a prescription at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["BEGINNINGS", "FREQUENCIES", "NUMBER_WORDS", "ROUTES"]

# Routes as written (lower case, no full stops) -> the route.
ROUTES = {
    "po": "oral", "by mouth": "oral", "orally": "oral", "oral": "oral", "per os": "oral", "iv": "intravenous",
    "intravenously": "intravenous", "intravenous": "intravenous", "ivp": "intravenous push",
    "iv push": "intravenous push", "ivpb": "intravenous piggyback", "iv piggyback": "intravenous piggyback",
    "iv drip": "intravenous infusion", "iv infusion": "intravenous infusion",
    "iv gtt": "intravenous infusion",
    "im": "intramuscular", "intramuscularly": "intramuscular", "intramuscular": "intramuscular",
    "sc": "subcutaneous", "sq": "subcutaneous", "subq": "subcutaneous", "sub q": "subcutaneous",
    "subcut": "subcutaneous", "subcutaneously": "subcutaneous", "subcutaneous": "subcutaneous",
    "sl": "sublingual", "sublingually": "sublingual", "sublingual": "sublingual", "pr": "rectal",
    "per rectum": "rectal", "rectally": "rectal", "rectal": "rectal", "inh": "inhalation",
    "inhaled": "inhalation",
    "by inhalation": "inhalation", "via inhaler": "inhalation", "neb": "nebulized", "nebs": "nebulized",
    "nebulized": "nebulized", "via nebulizer": "nebulized", "by nebulizer": "nebulized", "topical": "topical",
    "topically": "topical", "transdermal": "transdermal", "transdermally": "transdermal", "td": "transdermal",
    "intranasal": "nasal", "intranasally": "nasal", "nasal": "nasal", "nasally": "nasal",
    "ophthalmic": "ophthalmic",
    "otic": "otic", "vaginal": "vaginal", "vaginally": "vaginal", "pv": "vaginal", "per vagina": "vaginal",
    "ngt": "nasogastric", "per ngt": "nasogastric", "via ngt": "nasogastric", "per ng": "nasogastric",
    "via ng tube": "nasogastric", "per g tube": "gastrostomy", "via g tube": "gastrostomy",
    "gt": "gastrostomy",
    "via peg": "gastrostomy", "per peg": "gastrostomy", "intrathecal": "intrathecal",
    "intrathecally": "intrathecal", "intradermal": "intradermal", "epidural": "epidural", "buccal": "buccal",
}  # fmt: skip

# Frequencies (lower case, no full stops, single spaces) -> times, period, unit of the period (UCUM time unit).
FREQUENCIES = {
    "bid": (2, 1, "d"), "twice daily": (2, 1, "d"), "twice a day": (2, 1, "d"), "tid": (3, 1, "d"),
    "three times daily": (3, 1, "d"), "three times a day": (3, 1, "d"), "qid": (4, 1, "d"),
    "four times daily": (4, 1, "d"), "four times a day": (4, 1, "d"), "qd": (1, 1, "d"), "qday": (1, 1, "d"),
    "daily": (1, 1, "d"), "once daily": (1, 1, "d"), "once a day": (1, 1, "d"), "every day": (1, 1, "d"),
    "qod": (1, 2, "d"), "every other day": (1, 2, "d"), "weekly": (1, 1, "wk"), "once weekly": (1, 1, "wk"),
    "once a week": (1, 1, "wk"), "every week": (1, 1, "wk"), "twice weekly": (2, 1, "wk"),
    "twice a week": (2, 1, "wk"), "three times weekly": (3, 1, "wk"), "three times a week": (3, 1, "wk"),
    "monthly": (1, 1, "mo"), "once a month": (1, 1, "mo"), "every month": (1, 1, "mo"), "qhs": (1, 1, "d"),
    "qam": (1, 1, "d"), "qpm": (1, 1, "d"), "nightly": (1, 1, "d"), "at bedtime": (1, 1, "d"),
    "every morning": (1, 1, "d"), "every evening": (1, 1, "d"), "every night": (1, 1, "d"),
    "two times a day": (2, 1, "d"), "two times daily": (2, 1, "d"), "each day": (1, 1, "d"),
    "each morning": (1, 1, "d"), "one time a day": (1, 1, "d"), "once nightly": (1, 1, "d"),
}  # fmt: skip
NUMBER_WORDS: Final = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve", "fourteen",
)  # fmt: skip
_COUNTED: Final = (  # what "a" counts
    "tab", "cap", "puff", "spr", "drop", "gtt", "patch", "amp", "vial", "neb", "supp", "inhal", "loz", "pack", "teas",
    "tsp", "tbsp", "appl", "dose", "pill", "inj", "unit",
)  # fmt: skip


def _beginnings() -> Iterator[str]:
    for form in (*ROUTES, *FREQUENCIES):
        if len(form) <= 3 and " " not in form:
            yield form + "|"
            yield form[0] + "."
        else:
            yield form[:5]
    yield from NUMBER_WORDS
    yield from ("times ", "prn", "p.r", "as need", "if need", "when need", "q", "every", "each", "once", "stat", "hs|")
    yield from ("biweekly", "continuous", "at night", "per day", "tiw", "half", "a (")
    for words, letters in {
        "x": "#otfsen", "x ": "#otfsen", "for ": "#otfsena", "in the ": "mea", "with ": "mbldf", "before ": "mbldf",
        "after ": "mbldf",
    }.items():  # fmt: skip
        yield from (words + letter for letter in letters)
    for form in _COUNTED:
        yield f"a{form}"
        yield f"a {form}"


# What can begin a part that begins with a letter; the rest begin with a digit, ".", "½" or "×". It need not be a part;
# what is left out can't be one. A space stands for white space or a hyphen, "#" for a digit, "|" for the word's end.
BEGINNINGS: Final = tuple(dict.fromkeys(_beginnings()))
