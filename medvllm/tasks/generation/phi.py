"""Strings that look like protected health information, counted by kind.

The kinds are those of the HIPAA safe-harbour list that have a form of their own. It reports; it changes no text.
Numbers count only where their form or a cue beside them makes them one of a kind: a platelet count is no record number.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["KINDS", "PhiMatch", "count_phi", "find_phi"]

KINDS = ("name", "date", "phone", "email", "ssn", "mrn", "address")


class PhiMatch(NamedTuple):
    """text[start:end] looks like an identifier of `kind`, one of KINDS."""

    start: int
    end: int
    kind: str


_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_SSN_CUE = re.compile(
    r"\b(?:SSN|social security(?: number| no\.?)?)\s*(?:is|:|#)?\s*(?P<value>\d{3}[ -]?\d{2}[ -]?\d{4})(?!\d)", re.I
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:"
    r"(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}"  # North America, with separators
    r"|\+(?!1\b)[2-9]\d{0,2}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # other countries, with their code
    r")(?![\w-]|\.\d)"
)
_PHONE_CUE = re.compile(
    r"\b(?:phone|tel(?:ephone)?|fax|pager|mobile|cell)\b\.?\s*(?:number|no\.?)?\s*(?:is|at|:|#)?\s*"
    r"(?P<value>\+?\d(?:[ .()-]{0,2}\d){6,14})",
    re.I,
)
_MRN = re.compile(
    r"\b(?:MRN|medical record(?: number| no\.?| #)?|record (?:number|no\.?)|(?:patient|hospital|account|chart) "
    r"(?:ID|identifier|number|no\.?)|NHS (?:number|no\.?)|Medicare (?:ID|number|no\.?))\s*(?:is|:|#|=)?\s*"
    r"(?P<value>(?=[A-Z0-9-]*\d)[A-Z0-9][A-Z0-9-]{3,19}|\d{3} \d{3} \d{4})(?![\w-])",
    re.I,
)
_STREET = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Way|Parkway|"
    r"Pkwy|Highway|Hwy|Circle|Cir)"
)
_ADDRESS = re.compile(
    rf"\b\d{{1,5}}[A-Za-z]? (?:(?:[NSEW]|North|South|East|West)\.? )?(?:[A-Z][\w'’-]*|\d{{1,3}}(?:st|nd|rd|th)) "
    rf"(?:[A-Z][\w'’-]* ){{0,3}}{_STREET}\b\.?(?:,? (?:Apt|Apartment|Suite|Ste|Unit|#)\.? ?\w{{1,6}})?"
    rf"(?:,? [A-Z][a-z]+(?: [A-Z][a-z]+)?,? [A-Z]{{2}} \d{{5}}(?:-\d{{4}})?)?"
    r"|\bP\.? ?O\.? Box \d{1,6}\b"
    r"|\b[A-Z][a-z]+(?: [A-Z][a-z]+)?, [A-Z]{2} \d{5}(?:-\d{4})?\b"
)
_WORD = r"[A-Z][a-zà-öø-ÿ]+(?:['’-][A-Z][a-zà-öø-ÿ]+)*"
_SURNAME = rf"(?:(?:de|del|van|von|der|la|Mc|Mac|O['’]) ?){{0,2}}{_WORD}"
_INITIAL = r"(?:[A-Z]\. ?)"
_TITLED = re.compile(
    rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Sir|Dame)\b\.? ?(?P<value>{_INITIAL}{{0,2}}(?:{_WORD} ){{0,2}}{_SURNAME})"
)
_NAME_CUE = re.compile(
    r"(?i:\b(?:patient(?:'s)? name|name|patient|pt|attending|physician|surgeon|provider)\s*[:=]\s*|"
    r"\b(?:my|his|her|the patient's) name is )"
    rf"(?P<value>{_WORD},? (?:{_INITIAL}|{_WORD} )?{_SURNAME})",
)
_PAIR = re.compile(rf"(?<![\w'’-])(?P<first>{_WORD}) (?:{_INITIAL})?(?P<last>{_SURNAME})(?![\w'’-])")
# An eponym names what follows it, or what it was measured on: "James Paget disease", "the Marcus Gunn pupil".
_NAMED_AFTER = re.compile(
    r"(?:['’]s?)? (?:disease|syndrome|sign|test|phenomenon|pupil|procedure|operation|score|scale|criteria|catheter|"
    r"hospital|clinic|university|institute|school|college|center|centre|medical|foundation|tube|reflex|maneuver)\b",
    re.I,
)
# Second words that make the pair a heading or a sentence, not a person.
_NO_SURNAME = re.compile(
    r"(?:Disease|Syndrome|Hospital|Clinic|Cent(?:er|re)|University|Medical|Health|Care|Patients?|Diet|Day|Island|Street|"
    r"Road|Avenue|Has|Is|Was|Had|Will|Can|May|Should|Must|Takes|Took|Needs|The|And|Or|Of|In|On|At|To|For)\Z"
)
_MONTH_AND_DAY = re.compile(
    r"\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.? \d{1,2}\b|\b\d{1,2}(?:st|nd|rd|th)? (?:of )?"
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)|\b\d{1,2}[/.-]\d{1,2}\b",
    re.I,
)
_ISO_MONTH = re.compile(r"\d{4}-\d{2}")


def find_phi(text: str) -> list[PhiMatch]:
    """What looks like an identifier, in order, without overlaps; where two readings overlap the longer stays."""
    found = [PhiMatch(*match.span(), "email") for match in _EMAIL.finditer(text)]
    for kind, patterns in {
        "ssn": (_SSN, _SSN_CUE),
        "mrn": (_MRN,),
        "phone": (_PHONE, _PHONE_CUE),
        "address": (_ADDRESS,),
    }.items():
        for pattern in patterns:
            group = "value" if "value" in pattern.groupindex else 0
            found += [PhiMatch(*match.span(group), kind) for match in pattern.finditer(text)]
    found += [PhiMatch(*span, "date") for span in _dates(text)]
    found += [PhiMatch(*span, "name") for span in _names(text)]
    found.sort(key=lambda match: (match.start - match.end, match.start))
    kept: list[PhiMatch] = []
    for match in found:
        if all(match.end <= other.start or other.end <= match.start for other in kept):
            kept.append(match)
    return sorted(kept)


def count_phi(text: str) -> dict[str, int]:
    """How many strings of each kind the text holds, 0 where none was found."""
    counts = dict.fromkeys(KINDS, 0)
    for match in find_phi(text):
        counts[match.kind] += 1
    return counts


def _dates(text: str) -> list[tuple[int, int]]:
    """Dates more precise than a year, which is all that the safe harbour allows."""
    from medvllm.tasks.patterns import find

    spans = []
    for entity in find(text):
        if entity.type == "temporal":
            iso = str(entity.attributes.get("iso", ""))
            if _ISO_MONTH.match(iso) or (not iso and _MONTH_AND_DAY.search(entity.text)):
                spans.append((entity.start, entity.end))
    return spans


def _names(text: str) -> list[tuple[int, int]]:
    """Names of persons: after a title or a cue, or a known given name with a capitalised word after it."""
    spans = [match.span("value") for pattern in (_TITLED, _NAME_CUE) for match in pattern.finditer(text)]
    given = given_names()
    for match in _PAIR.finditer(text):
        if match["first"] in given and not _NO_SURNAME.match(match["last"]):
            spans.append(match.span())
    return [span for span in spans if not _NAMED_AFTER.match(text, span[1])]


@functools.cache
def given_names() -> frozenset[str]:
    """Common given names that are not also common words; read on the first use."""
    path = Path(__file__).parent.parent / "data" / "given_names.txt"
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())
