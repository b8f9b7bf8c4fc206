"""Parts of prescriptions: the quick look at what one may begin with loses none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvllm.tasks import dosing

WORDED = re.compile(dosing._WORDED, re.VERBOSE)
WITHOUT_GATE = re.compile(dosing._PART.pattern.replace(dosing._gate(), ""), re.VERBOSE)
AFTER = st.sampled_from(["", " ", ", then", " for pain", "; ", ". "])
LONGEST = 14  # characters, more than any beginning has
OF_CATEGORY = {op.CATEGORY_DIGIT: "5", op.CATEGORY_SPACE: " ", op.CATEGORY_WORD: "w"}


def beginnings(parsed: Iterable[Any], before: set[str]) -> set[str]:
    """What text that matches can begin with, after `before`: all branches, one digit, white space or letter each."""
    for kind, value in parsed:
        if kind is op.LITERAL:
            before = extended(before, {chr(value)})
        elif kind is op.IN:
            before = extended(before, {chr(of) if way is op.LITERAL else OF_CATEGORY[of] for way, of in value})
        elif kind is op.BRANCH:
            before = set().union(*(beginnings(branch, before) for branch in value[1]))
        elif kind is op.SUBPATTERN:
            before = beginnings(value[3], before)
        elif kind is op.MAX_REPEAT:
            least, most, inner = value
            once = before
            for _ in range(least):
                once = beginnings(inner, once)
            before = once if least == most else once | beginnings(inner, once)
        else:
            assert kind in (op.AT, op.ASSERT, op.ASSERT_NOT)
    return before


def extended(before: set[str], chars: set[str]) -> set[str]:
    return {text + char if len(text) < LONGEST else text for text in before for char in chars}


def test_the_gate_lets_everything_in_that_the_expression_can_begin_with() -> None:
    gate = re.compile(f"[½×]|{dosing._gate()}")
    texts = beginnings(_parser.parse(dosing._WORDED, re.VERBOSE), {""})
    assert len(texts) > 1000
    assert [text for text in texts if not gate.match(text)] == []


@settings(max_examples=300, deadline=None)
@given(written=st.from_regex(WORDED, fullmatch=True), after=AFTER)
def test_whatever_the_expression_matches_passes_the_gate_before_it(written: str, after: str) -> None:
    text = f" {written}{after}"
    found = dosing.find_parts(text, 0, len(text) - 1)
    assert [part.start for part in found][:1] == [0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dosing, "_PART", WITHOUT_GATE)
        assert dosing.find_parts(text, 0, len(text) - 1) == found
