"""Abbreviations that a text defines itself: "myocardial infarction (MI)" and "MI (myocardial infarction)".

The rule is that of Schwartz and Hearst (A simple algorithm for identifying abbreviation definitions in biomedical
text, 2003): read from the right, the letters and digits of the short form occur in this order in the long form, and
the first one starts a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Definition", "find_definitions", "occurrences"]

_WINDOW = 300  # characters before the bracket in which the long form may begin
_IN_BRACKETS = re.compile(r"[(\[]\s?([^\W_][\w/+\-.']{1,9})(?:\s?[)\]]|[;,:=]\s)")
_BEFORE_BRACKETS = re.compile(r"(?:^|(?<=\W))([A-Z][A-Za-z0-9/\-]{1,9}) \Z")
_LONG_IN_BRACKETS = re.compile(r"\(((?:[\w'-]{1,40},? ){1,9}[\w'-]{1,40})\)")
_BRACKET = re.compile(r"[(\[]")
_CLAUSE_END = re.compile(r"[.;:!?]\s|\n\s*\n")


class Definition(NamedTuple):
    """Spans of a short form and of the long form it stands for."""

    short_start: int
    short_end: int
    long_start: int
    long_end: int


def find_definitions(text: str) -> list[Definition]:
    """Every definition in the text, in order. Linear in the length of the text."""
    found = []
    for bracket in _BRACKET.finditer(text):
        at = bracket.start()
        definition = _short_in_brackets(text, at) or _long_in_brackets(text, at)
        if definition is not None:
            found.append(definition)
    return found


def occurrences(text: str, phrase: str) -> Iterator[tuple[int, int]]:
    """Spans of the phrase that neither begin nor end inside a word; case matters."""
    start = text.find(phrase)
    while start >= 0:
        end = start + len(phrase)
        if not (start and text[start - 1].isalnum()) and not (end < len(text) and text[end].isalnum()):
            yield start, end
        start = text.find(phrase, end)


def _short_in_brackets(text: str, at: int) -> Definition | None:
    found = _IN_BRACKETS.match(text, at)
    if found is None or not _is_short_form(found.group(1)):
        return None
    end = at
    while end and text[end - 1].isspace():
        end -= 1
    short = found.group(1)
    start = _long_form_start(text, short, _earliest(text, end, short), end)
    if start is None or not _is_long_form(text[start:end], short):
        return None
    return Definition(found.start(1), found.end(1), start, end)


def _long_in_brackets(text: str, at: int) -> Definition | None:
    before = _BEFORE_BRACKETS.search(text, max(0, at - 12), at)
    inside = _LONG_IN_BRACKETS.match(text, at) if before is not None and _is_short_form(before.group(1)) else None
    if before is None or inside is None:
        return None
    short, long = before.group(1), inside.group(1)
    start = _long_form_start(text, short, inside.start(1), inside.end(1))
    if start != inside.start(1) or len(long.split()) > len(short) + 5 or not _is_long_form(long, short):
        return None
    return Definition(before.start(1), before.end(1), start, inside.end(1))


def _is_short_form(short: str) -> bool:
    """A capital, and no lower-case word with one ("Figure"): two capitals, or one beside a digit or in 2-3 letters."""
    capitals = sum(map(str.isupper, short))
    return capitals > 1 or (capitals == 1 and (len(short) <= 3 or any(map(str.isdigit, short))))


def _earliest(text: str, end: int, short: str) -> int:
    """Where the long form may begin: min(n + 5, 2 n) words back for n characters, and in the same sentence."""
    start = max(0, end - _WINDOW)
    clause = text[start:end]
    for clause_end in _CLAUSE_END.finditer(clause):
        start = end - len(clause) + clause_end.end()
    most = min(len(short) + 5, 2 * len(short))
    parts = text[start:end].rsplit(None, most)
    if len(parts) <= most:
        return start
    start += len(parts[0])
    while text[start].isspace():
        start += 1
    return start


def _long_form_start(text: str, short: str, earliest: int, end: int) -> int | None:
    at = end
    for place in range(len(short) - 1, -1, -1):
        char = short[place].lower()
        if not char.isalnum():
            continue
        at -= 1
        while at >= earliest and (
            text[at].lower() != char or (place == 0 and at > earliest and text[at - 1].isalnum())
        ):
            at -= 1
        if at < earliest:
            return None
    return at


def _is_long_form(long: str, short: str) -> bool:
    return (
        len(long) > len(short)
        and "(" not in long
        and short not in long.split()
        and sum(map(str.isalpha, long)) >= len(short)
    )
