"""Assertion by the native library and by its Python twin: the same for any text and spans."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medvllm_kernels import native

from medvllm.tasks import assertion
from medvllm.tasks.entities import Entity
from medvllm.tasks.sections import find_sections

PIECES = [
    *("no ", "denies ", "without ", "no evidence of ", "not ", "negative for ", "was ruled out", "is negative"),
    *("possible ", "likely ", "suspected ", "cannot be excluded", "rule out ", "? ", "?", "(-) ", "(+) ", "+ "),
    *("history of ", "status post ", "in 2010 ", "(1998) ", "now ", "if ", "return for ", "in case of ", "none"),
    *("mother ", "his father ", "mother reports ", "father had ", "in his mother", "per wife ", "son: ", "-ve "),
    *("but ", "however ", "with ", "who ", "and ", "although ", "non-", "no history of ", "no change in ", "he "),
    *("fever", "pneumonia ", "chest pain", "cough, ", "edema ", "gout", "withdrawal ", "with\u212a ", "2) ", "1) "),
    *(", ", "; ", ": ", ": no", ". ", " ", "\n", "\r\n", "\n\n", "- ", " – ", "(", ")", "=", "é", "\xa0"),
    *("+", "-", "Should ", "vs ", "free ", "declined ", "unlikely ", "likely. ", "resolved ", "stopped. ", "quit "),
    *("\ud800", "😀", "she ", "resolved", "PMH: ", "FAMILY HISTORY: ", "Allergies:\n", "HPI:\n", "Plan: "),
]
CASES = st.tuples(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=25).map("".join),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 2)), min_size=1, max_size=8),
)


def spans_of(text: str, picks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans of whole words: `picks` names a first word and how many more."""
    words = [match.span() for match in re.finditer(r"\w+", text)]
    return [
        (words[first % len(words)][0], words[min(first % len(words) + more, len(words) - 1)][1])
        for first, more in picks
        if words
    ]


@pytest.mark.skipif(native.library() is None, reason="no native library")
@settings(max_examples=600, deadline=None)
@given(case=CASES)
def test_native_and_python_agree(case: tuple[str, list[tuple[int, int]]]) -> None:
    text, picks = case
    spans = spans_of(text, picks)
    sections = find_sections(text)
    expected = assertion._assess_python(text, spans, sections)
    assert assertion.assess(text, spans, sections=sections) == expected
    entities = [Entity(text[start:end], "condition", start, end) for start, end in spans]
    assertion.assert_entities(text, entities)
    assert [(e.negation, e.temporality, e.experiencer) for e in entities] == [
        (a.negation, a.temporality, a.experiencer) for a in expected
    ]


def test_more_persons_than_first_expected() -> None:
    text = "Mother had gout. " * 50
    spans = [(match.start(), match.end()) for match in re.finditer("gout", text)]
    assert {found.experiencer for found in assertion.assess(text, spans)} == {"family"}
