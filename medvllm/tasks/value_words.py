"""Words that laboratory values are read by: names by their last word, and words between a name and its number.

They stand apart from `measurements`, whose expressions take 50 ms to compile, because the native library looks for
numbers with them before it is known whether there is a value at all.
"""

from __future__ import annotations

import functools
import re

from medvllm_kernels.values import ASK, ASK_UNIT, CASED, VITAL, ValueWords

from medvllm.tasks.clinical_units import ANALYTES, PAIRS, UCUM, VITALS
from medvllm.tasks.clinical_units import CASED as SPELLINGS
from medvllm.tasks.dosing_words import BEGINNINGS

__all__ = ["BY_LAST_WORD", "CONNECT", "NAMES", "NOT_LAST", "PLAIN", "UNIT_FORMS", "value_words"]

# Words that may stand between a name and its value.
CONNECT = frozenset(re.findall(r"\S+", """
    of was is at to level levels count value values measured noted found be were are elevated low high
    decreased increased dropped rose fell stable around about approximately today now currently
    initially initial from peaked up down in the remained remains approx mildly slightly result results
    on and between with rate a reading read lab admission baseline repeat again only just came back as
    which had been has normal reported recorded his her their score estimated less greater than above
    below under over index ranging ranged by room climbed trended improved worsened"""))  # fmt: skip
NOT_LAST = frozenset(("and", "on", "the", "in", "a", "with", "by", "his", "her", "their"))  # before the number


def _index() -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Names by their last word, longest first, and the spellings that differ from their name in the table."""
    plain: dict[str, str] = {}
    for name in ANALYTES:
        if name[1:2] == " ":
            plain[name[0] + "." + name[1:]] = plain[name[0] + "." + name[2:]] = name
    by_last: dict[str, list[str]] = {}
    for name in [*ANALYTES, *PAIRS, *plain]:
        by_last.setdefault(name[name.rfind(" ") + 1 :], []).append(name)
    return {word: tuple(sorted(names, key=len, reverse=True)) for word, names in by_last.items()}, plain


BY_LAST_WORD, PLAIN = _index()
NAMES = tuple(dict.fromkeys(name for names in BY_LAST_WORD.values() for name in names))
UNIT_FORMS = sorted(UCUM, key=len, reverse=True)
# Whose values `measurements` reads itself: two numbers, feet and inches, a saturation with the air that is breathed.
_NOT_PLAIN = ("blood pressure", "body height", "oxygen saturation")
_UNITS_NOT_PLAIN = ("c", "f", "in", "k", "g")  # also words, or other analytes' units


def _flags(name: str) -> int:
    analyte = ANALYTES.get(PLAIN.get(name, name))
    flags = ASK if analyte is None or analyte.name in _NOT_PLAIN else 0
    flags |= ASK_UNIT if analyte is not None and analyte.name == "temperature" else 0
    flags |= CASED if name in SPELLINGS else 0
    return flags | (VITAL if name in VITALS else 0)


@functools.cache
def value_words() -> ValueWords:
    """The words as the native library reads them; made on the first use."""
    numbers = {name: number for number, name in enumerate(NAMES)}
    return ValueWords(
        names={name: (_flags(name), SPELLINGS.get(name, ())) for name in NAMES},
        by_last_word={word: [numbers[name] for name in names] for word, names in BY_LAST_WORD.items()},
        connectors={word: word in NOT_LAST for word in sorted(CONNECT)},
        units=[(unit, unit not in _UNITS_NOT_PLAIN) for unit in UNIT_FORMS],
        beginnings=BEGINNINGS,
    )
