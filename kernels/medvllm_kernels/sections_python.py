"""Where the sections and the sentences of a clinical note begin and end: the Python twin of native/sections.cc."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["find_sections", "split_sentences"]

Section = tuple[int, int, "str | None"]  # start, end, name


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of ordinary prose: they head a section only in capitals, or on a line of their own.
PROSE = _words(
    """all sh pe fh ap course data results exam history physical discharge plan studies summary problems
    procedure operation findings habits technique comparison allergy medication ct mri cc operations
    objective subjective"""
)
# Alone on a line these are more often data than headings.
NEEDS_COLON = frozenset({"ct", "mri", "ekg", "ecg", "ultrasound", "all", "ap", "pe", "cxr", "chest x-ray"})
SOAP = {
    "S": "history_of_present_illness",
    "O": "physical_exam",
    "A": "assessment",
    "P": "plan",
}
# Parts of an examination or a review of systems: they never end the section they stand in.
SYSTEMS = _words(
    """general constitutional heent head eyes ears nose throat neck mouth lymph lymphatic nodes chest
    breasts breast lungs lung pulmonary respiratory resp pulm heart cardiac cardiovascular cv cvs
    vascular abdomen abd abdominal gi gastrointestinal gu genitourinary gyn pelvic rectal back spine
    musculoskeletal msk ext extremities extremity skin derm integumentary neuro neurologic
    neurological psych psychiatric endocrine endo heme hematologic hematology id infectious renal
    metabolic fen prophylaxis code ophthalmologic mood affect pain"""
)

_SENTENCE_MARKS = (". ", "; ", "! ", "? ", ") ", "\t", "  ")
_LONGEST = 60  # characters of a heading
# A line that may be a heading and nothing else.
_OWN_LINE = re.compile(
    r"^[ \t]*(?:#{1,6} |\*\*)?(?:\d{1,2}[.)][ \t]*)?([A-Za-z][A-Za-z/&,' -]{0,59})(?:\*\*)?[ \t]{0,20}\r?$",
    re.MULTILINE,
)
_BEFORE_COLON = re.compile(r"([A-Za-z][A-Za-z/&,' \t-]*)\Z")
_SOAP_LETTER = re.compile(r"[SOAP](?=:[ \t\r\n])")
_LIST_MARK = re.compile(r"[ \t]*(?:[#*-]{1,6}[ \t]*)?(?:\(?[\dA-Za-z]{1,2}[.)][ \t]*)?\Z")


def find_sections(names: Mapping[str, str], text: str) -> list[Section]:
    """As Layout.sections; `names` maps a heading in lower case to its section."""
    if not text:
        return []
    found = _colon_headings(names, text)
    if "\n" in text or len(text) <= _LONGEST:
        found.update(_line_headings(names, text))
    sections: list[Section] = []
    start, name = 0, None
    for at in sorted(found):
        if at > start:
            sections.append((start, at, name))
        start, name = at, found[at]
    sections.append((start, len(text), name))
    return sections


def _line_headings(names: Mapping[str, str], text: str) -> dict[int, str | None]:
    """Start → name of the headings that stand alone on a line."""
    found: dict[int, str | None] = {}
    for match in _OWN_LINE.finditer(text):
        words = " ".join(match[1].lower().split())
        name = names.get(words)
        if name is not None and words not in NEEDS_COLON and _looks_like_title(match[1]):
            found[match.start(1)] = name
    return found


def _looks_like_title(heading: str) -> bool:
    """Title case or two words: a lone lower-case word on a line may be the end of a sentence."""
    return heading[0].isupper() or " " in heading.strip()


def _colon_headings(names: Mapping[str, str], text: str) -> dict[int, str | None]:
    """Start → name of the headings that a colon follows."""
    found: dict[int, str | None] = {}
    colon = text.find(":")
    after = 0  # the end of the last heading: no candidate reaches back beyond it
    while colon >= 0:
        before = colon - 1 if colon and text[colon - 1] == " " else colon
        if before > 1 and text[before - 1].isalpha() and text[before - 2] not in " \t\r\n:":
            heading = _heading_before(names, text, max(after, before - _LONGEST), before)
            if heading is not None:
                found[heading[0]] = heading[1]
        after = colon + 1
        colon = text.find(":", after)
    soap = [
        (match.start(), match[0])
        for match in _SOAP_LETTER.finditer(text)
        if match.start() == 0 or text[match.start() - 1].isspace()
    ]
    if len({letter for _, letter in soap}) >= 2:
        found.update((at, SOAP[letter]) for at, letter in soap)
    return found


def _heading_before(names: Mapping[str, str], text: str, low: int, high: int) -> tuple[int, str | None] | None:
    """(start, name) of the heading that ends at `high` and starts at or after `low`, or None."""
    window = text[low:high]
    line = max(window.rfind("\n"), window.rfind("\r")) + 1
    first = line
    for mark in _SENTENCE_MARKS:
        at = window.rfind(mark, first)
        if at >= 0:
            first = at + len(mark)
    tail = _BEFORE_COLON.search(window, first)
    if tail is None:
        return None
    surface = tail[1]
    start = low + tail.start(1)
    words = " ".join(surface.lower().split())
    at_line = start == 0 or _begins_line(text, start)
    name = names.get(words)
    if name is not None:
        if not (at_line or surface.isupper() or surface[0].isupper()) or (
            words in PROSE and not at_line and not surface.isupper()
        ):
            return None
        # "the chest x-ray: clear" is prose; a heading begins its line or follows the end of a sentence.
        begins = at_line or surface.isupper() or _ends_sentence(text, start)
        return (start, name) if begins else None
    suffix = _known_suffix(names, surface)
    if suffix is not None:
        return (start + suffix[0], suffix[1])
    if at_line and surface.isupper() and len(surface) > 3 and not SYSTEMS.intersection(words.split()):
        return (start, None)
    return None


def _known_suffix(names: Mapping[str, str], surface: str) -> tuple[int, str] | None:
    """(offset, name) of a known heading in capitals at the end of `surface`: "ROOM 12 CLINICAL HISTORY:"."""
    at = len(surface)
    best: tuple[int, str] | None = None
    for _ in range(5):
        at = surface.rfind(" ", 0, at)
        if at < 0:
            break
        tail = surface[at + 1 :]
        name = names.get(" ".join(tail.lower().split()))
        if name is not None and tail.isupper() and tail.lower() not in PROSE:
            best = (at + 1, name)
    return best


def _begins_line(text: str, start: int) -> bool:
    """Whether only white space and a list mark stand before `start` on its line."""
    low = max(0, start - 12)
    line = max(text.rfind("\n", low, start), text.rfind("\r", low, start))
    if line < 0 and low > 0:
        return False
    return _LIST_MARK.match(text, max(line + 1, low), start) is not None


def _ends_sentence(text: str, start: int) -> bool:
    """Whether the last visible character before `start` ends a sentence."""
    before = text[max(0, start - 8) : start].rstrip()
    return not before or before[-1] in ".;:!?)]"


ABBREVIATIONS = _words(
    """dr mr mrs ms prof st jr sr vs approx dept fig no inc etc pt pts temp resp wt ht ext neg pos hx tx dx
    rx sx fx avg max min vol ref gen sgt lt rev hosp cont e.g i.e cf ca ave mt"""
)
NEVER_LAST = _words("""dr mr mrs ms prof st vs fig e.g i.e approx ref cf mt""")  # a name or number follows
# The look-behind and the possessive quantifiers keep a run of a million stops linear.
_CANDIDATE = re.compile(r"(?<![.!?])[.!?]++[\"')\]]*+(?=\s)|\n|\r(?!\n)")
_BULLET = re.compile(r"[ \t]*(?:[-*+•·#>–—]|\(?\d{1,3}[.)](?!\d)|\(?[A-Za-z][.)])[ \t]|[ \t]*\r?\n|[ \t]*\Z")
_LABEL = re.compile(r"[ \t]*[A-Z][A-Za-z/&' -]{1,40}:")
_FIRST = re.compile(r"\s*(\S?)")
_LAST_WORD = re.compile(r"[A-Za-z]+[ \t\r]*\Z")
# A line that ends in one of these goes on in the next.
OPEN_WORDS = _words(
    """a an the of and or nor with without no not for to in on at by from as is was are were be been has
    have had denies denied denying that which who but his her their your any some new possible
    probable likely acute chronic history status post mild moderate severe left right bilateral
    recent prior previous"""
)
GOING_ON = _words("""and or nor but with without of for in to who which that due secondary""")
_WRAPPED = 55  # characters: a line this long is more likely wrapped than a list item
_SHORT = 40


def split_sentences(text: str) -> list[tuple[int, int]]:
    """As Layout.sentences."""
    sentences: list[tuple[int, int]] = []
    start = line = 0
    for match in _CANDIDATE.finditer(text):
        at, end = match.span()
        if text[at] in "\r\n":
            ends = _line_ends(text, line, at, end)
            line = end
        else:
            ends = _mark_ends(text, start, at, end)
        if ends:
            _add(sentences, text, start, end)
            start = end
    _add(sentences, text, start, len(text))
    return sentences


def _mark_ends(text: str, start: int, at: int, end: int) -> bool:
    """Whether the full stop, question or exclamation mark at `at` ends the sentence begun at `start`."""
    if text[at] == "?":
        return at > start and not text[at - 1].isspace()  # "CXR: ? pneumonia"
    return text[at] != "." or end - at > 1 or _stop_ends(text, start, at, end)


def _add(sentences: list[tuple[int, int]], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    bare = piece.strip()
    if bare:
        first = start + len(piece) - len(piece.lstrip())
        sentences.append((first, first + len(bare)))


def _stop_ends(text: str, start: int, at: int, end: int) -> bool:
    """Whether the full stop at `at` ends the sentence begun at `start`."""
    pieces = text[max(start, at - 12) : at + 1].split()
    word = pieces[-1][:-1].lstrip("([\"'").lower()
    if not word:
        return True
    if word in NEVER_LAST:
        return False
    if word.isdigit() and len(word) <= 2:
        return at - start > 12 or bool(text[start : at - len(word)].strip())  # "1. Pneumonia": a list number
    if len(word) == 1 and word.isalpha():
        return not text[at - 1].isupper() or text[at - 1] == "I"  # an initial
    if word in ABBREVIATIONS or "." in word:
        following = _FIRST.match(text, end)
        return following is None or following[1].isupper() or not following[1]
    return True


def _line_ends(text: str, line: int, at: int, end: int) -> bool:
    """Whether the line break at `at`, of the line begun at `line`, ends a sentence."""
    last = text[max(line, at - 24) : at].rstrip()
    if not last:
        return True
    following = text[end : end + 16].split(None, 1)
    if not _goes_on(last, following, at - line):
        return True
    return _BULLET.match(text, end) is not None or _LABEL.match(text, end) is not None


def _goes_on(last: str, following: list[str], length: int) -> bool:
    """Whether a line of this length (characters), that ends in `last`, reads on in the words `following`."""
    if last[-1] in ",-/(&":
        return True
    word = _LAST_WORD.search(last)
    if word is not None and word[0].strip().lower() in OPEN_WORDS:
        return True
    if following and following[0].lower() in GOING_ON:
        return True
    if following and following[0][0].islower():
        return length >= _SHORT
    return length >= _WRAPPED
