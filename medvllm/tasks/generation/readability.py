"""How hard an English text is to read: six published formulas over counts of sentences, words, letters, syllables.

Syllables come from syllapy, a dictionary with a rule for words it does not hold; nothing is fetched. textstat, the
better known library, downloads a dictionary the first time it counts.

Flesch 1948 (reading ease), Kincaid 1975 (grade), Gunning 1952 (fog), McLaughlin 1969 (SMOG), Smith and Senter 1967
(ARI), Coleman and Liau 1975.
"""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any

from medvllm.tasks.generation.styles import READABILITY

__all__ = ["readability_report", "scores", "unavailable"]

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_MARKS = re.compile(r"^[ \t]*(?:[-*•#>]+|\d{1,3}[.)])[ \t]+|[*_`#]{1,3}", re.M)  # of lists, headings, emphasis


def unavailable() -> str | None:
    """Why readability can't be measured here; None when it can."""
    if importlib.util.find_spec("syllapy") is None:
        return "syllapy is not installed; install it: pip install syllapy"
    return None


def scores(text: str) -> dict[str, float] | None:
    """The scores of a text, rounded to a tenth; None for one without a word.

    Reading ease falls as a text gets harder (60–70: plain English); the others are US school grades.
    """
    import syllapy

    from medvllm.tasks.sections import split_sentences

    text = _MARKS.sub("", text)
    words = _WORD.findall(text)
    if not words:
        return None
    sentences = max(1, sum(1 for start, end in split_sentences(text) if _WORD.search(text, start, end)))
    syllables = [max(1, syllapy.count(word)) for word in words]
    letters = sum(len(re.sub(r"[^\w]", "", word)) for word in words)
    hard = sum(1 for count in syllables if count >= 3)
    per_sentence, per_word = len(words) / sentences, sum(syllables) / len(words)
    values = {
        "flesch_reading_ease": 206.835 - 1.015 * per_sentence - 84.6 * per_word,
        "flesch_kincaid_grade": 0.39 * per_sentence + 11.8 * per_word - 15.59,
        "gunning_fog": 0.4 * (per_sentence + 100 * hard / len(words)),
        "smog_index": 3.1291 + 1.043 * math.sqrt(30 * hard / sentences),
        "automated_readability_index": 4.71 * letters / len(words) + 0.5 * per_sentence - 21.43,
        "coleman_liau_index": 5.88 * letters / len(words) - 29.6 * sentences / len(words) - 15.8,
    }
    return {name: round(value, 1) for name, value in values.items()}


def readability_report(text: str, requested: str | None) -> dict[str, Any]:
    """The scores beside the audience asked for: `met` is None where none was asked for or nothing could be measured."""
    audience = READABILITY[requested] if requested else None
    reason = unavailable()
    measured = None if reason else scores(text)
    grade = measured["flesch_kincaid_grade"] if measured else None
    met = None
    if audience is not None and grade is not None:
        low, high = audience.min_grade, audience.max_grade
        met = (low is None or grade >= low) and (high is None or grade <= high)
    return {
        "requested": requested,
        "requested_grade": {"min": audience.min_grade, "max": audience.max_grade} if audience else None,
        "met": met,
        **(measured or {}),
        **({"unavailable": reason} if reason else {}),
    }
