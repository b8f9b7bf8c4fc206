from __future__ import annotations

import re

from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.terminal import highlight

TEXT = "No fever.\nOn metformin."
FOUND = [Entity("metformin", "medication", 13, 22), Entity("fever", "symptom", 3, 8, negation="negated")]


def test_without_colour_the_labels_tell_the_types() -> None:
    assert highlight(TEXT, FOUND, color=False) == "No [fever](symptom, negated).\nOn [metformin](medication)."


def test_colour_adds_escapes_around_the_same_text_and_resets_them() -> None:
    colored = highlight(TEXT, FOUND, color=True)
    assert re.sub("\x1b\\[[0-9;]*m", "", colored) == highlight(TEXT, FOUND, color=False)
    assert colored.count("\x1b[0m") == 4
    assert ";9m[fever]" in colored  # struck through
    assert ";9m[metformin]" not in colored


def test_control_characters_of_the_note_are_not_passed_on() -> None:
    text = "a\x1b]0;title\x07 b\x9b2J\tc\r\nd\u202e"
    shown = highlight(text, [Entity("b\x9b2J", "test\x1b[1m", 11, 15)], color=False)
    assert all(char == "\n" or char.isprintable() for char in shown)
    assert shown.endswith("c\nd")


def test_overlapping_empty_and_foreign_spans_do_not_break_it() -> None:
    found = [
        Entity("heart failure", "condition", 0, 13),
        Entity("heart", "anatomical_structure", 0, 5),
        Entity("failure x", "condition", 6, 15),
        Entity("", "test", 14, 14),
        Entity("?", "test", 90, 95),
    ]
    assert highlight("heart failure xy", found, color=False) == "[heart failure](condition) xy"
