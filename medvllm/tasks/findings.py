"""Findings of an examination or an imaging report: "perrla", "lungs are clear", "normal bowel sounds".

The words are in data/findings.tsv: whole findings, nouns (what is examined) and states (how it is found). A noun with
the state that follows it, or the state right before it, is one finding; so are states joined to it by commas and "and".
Generic words ("lesion", "mass") are findings only where a note speaks of a patient: denied, complained of, or listed
after another finding.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from medvllm_kernels.text import PhraseTable

from medvllm.errors import MedvllmError

__all__ = ["find_findings"]

_FILE: Final = Path(__file__).parent / "data" / "findings.tsv"
_FINDING, _NOUN, _STATE, _GENERIC, _OBSERVED = 1, 2, 4, 8, 16  # payloads are sums of these
_CLASSES: Final = {
    "finding": _FINDING,
    "noun": _NOUN,
    "state": _STATE,
    "generic": _GENERIC,
    "observed": _FINDING | _OBSERVED,
    "generic observed": _GENERIC | _OBSERVED,
}
_MAX_WORDS: Final = 8
_ADVERBS: Final = (
    "otherwise|grossly|mildly|moderately|severely|markedly|slightly|somewhat|completely|diffusely|bilaterally|very|quite|"
    "well|now|also|still|overall|essentially|entirely|mostly|remarkably|too|not|low|mild to moderately"
)
_LINK: Final = re.compile(
    rf"\s*(?:[:=-]|\b(?:is|are|was|were|remains?|remained|appears?|appeared|seems?|looks?|felt|found to be|noted to be|"
    rf"has been|have been)\b)?(?:\s+to be)?\s*(?:(?:{_ADVERBS})\b\s*)*"
)
_LIST: Final = re.compile(r"(?:\s*,\s*(?:and\s+)?|\s+and\s+|\s+)(?:(?:" + _ADVERBS + r")\s+)*")
_CUE: Final = re.compile(
    r"\b(?:no|denie[sd]|denying|without|any|negative for|positive for|complain(?:s|ed|ing) of|c/o|s/p|status post|"
    r"he|she|his|her|pt)\b[^.;:]*$",
    re.IGNORECASE,
)
_NEAR: Final = 40  # characters
_SPACE: Final = re.compile(r"\s+")


def find_findings(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether it is an observation, not a symptom) of findings, by start; none overlap."""
    flat = _table().find_flat(text).tolist()
    starts, ends, classes = flat[0::3], flat[1::3], flat[2::3]
    count, at, listed_to = len(starts), 0, -_NEAR
    classes.append(0)  # stands after the last
    while at < count:
        last, kind, following = at, classes[at], classes[at + 1]
        found = kind & _FINDING
        if following and (
            (kind & _NOUN and following & _STATE and _joined(_LINK, text, ends[at], starts[at + 1]))
            or (kind & _STATE and following & _NOUN and _joined(_SPACE, text, ends[at], starts[at + 1]))
        ):
            last, found = at + 1, _FINDING
            while classes[last + 1] & _STATE and _joined(_LIST, text, ends[last], starts[last + 1]):
                if len(text[starts[at] : ends[last + 1]].split()) > _MAX_WORDS:
                    break
                last += 1
        elif not found and kind & _GENERIC:
            start = starts[at]
            if (start - listed_to < _NEAR and "." not in text[listed_to:start]) or _is_cued(text, start):
                found = _FINDING
        if found:
            listed_to = ends[last]
            yield starts[at], listed_to, last > at or bool(kind & _OBSERVED)
        at = last + 1


def _is_cued(text: str, start: int) -> bool:
    """Whether words before `start`, in the same clause, say that a patient has or has not what follows."""
    low = max(0, start - _NEAR)
    for mark in ".;:":  # what _CUE does not look across
        low = max(low, text.rfind(mark, low, start) + 1)
    return _CUE.search(text, low, start) is not None


def _joined(pattern: re.Pattern[str], text: str, start: int, end: int) -> bool:
    return end - start < 40 and pattern.fullmatch(text, start, end) is not None


@functools.cache
def _table() -> PhraseTable:
    payloads: dict[str, int] = {}
    for number, line in enumerate(_FILE.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, phrases = line.partition("\t")
        if name not in _CLASSES or not phrases:
            raise MedvllmError(f"{_FILE.name}:{number}: expected one of {', '.join(_CLASSES)}, a tab, and phrases")
        for phrase in phrases.split(";"):
            payloads[phrase.strip()] = payloads.get(phrase.strip(), 0) | _CLASSES[name]
    return PhraseTable.from_phrases(sorted(payloads.items()))
