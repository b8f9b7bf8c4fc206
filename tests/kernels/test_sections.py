"""Sentences and sections: the native library and its Python twin give the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medvllm_kernels import native, sections_python
from medvllm_kernels.sections import Layout

HEADINGS = {
    "past medical history": "past",
    "pmh": "past",
    "clinical history": "indication",
    "history": "history",
    "course": "course",
    "ct": "imaging",
    "labs": "labs",
    "a/p": "plan",
    "chest x-ray": "imaging",
}
PIECES = [
    *HEADINGS,
    *map(str.upper, HEADINGS),
    *map(str.title, HEADINGS),
    *(":", ": ", " :", "::", "S:", "O: ", "A:\n", "P:\t", "HEENT:", "UNKNOWN HEADING:", "ROOM 12 ", "12:30"),
    *(" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", "\xa0", "\u2003", "\x85", "\x0b", " " * 21, "x" * 55),
    *(
        ".",
        ". ",
        "... ",
        "?",
        "? ",
        "! ",
        "; ",
        ") ",
        '." ',
        ",",
        "-",
        "- ",
        "• ",
        "## ",
        "**",
        "(",
        "(3) ",
        "1. ",
        "2) ",
    ),
    *("Dr. ", "e.g. ", "i.e.", "No. 5", "pt. ", "q.d. ", "0.5 mg", "10. ", "A. ", "I. ", "Fig. 2"),
    *("x" * 55 + "\nMood and affect: ", "x" * 55 + "\n2) ", "x" * 40 + "\nx"),
    *("denies", "denies\n", "and ", "the", "of\n", "fever", "Pneumonia", "chest pain", "and\r\n"),
    *("É", "é", "ß", "İ", "ı", "\u212a", "²", "٣", "Ⅰ", "ǅ", "中", "😀", "\x00", "\ud800", "\x1c"),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.characters()), max_size=30).map("".join)

needs_native = pytest.mark.skipif(native.library() is None, reason="no native library")


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(HEADINGS)


@needs_native
@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_sentences_are_those_of_the_twin(layout: Layout, text: str) -> None:
    assert layout.sentences(text) == sections_python.split_sentences(text)


@needs_native
@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_sections_are_those_of_the_twin(layout: Layout, text: str) -> None:
    assert layout.sections(text) == sections_python.find_sections(HEADINGS, text)


@pytest.mark.parametrize("blanks", range(100))
def test_blanks_after_a_heading_alone_on_its_line(layout: Layout, blanks: int) -> None:
    text = f"fever\nPast Medical History{' ' * blanks}\ngout"
    names = [name for _, _, name in layout.sections(text)]
    assert names == ([None, "past"] if blanks <= 60 - len("Past Medical History") + 20 else [None])
    assert layout.sections(text) == sections_python.find_sections(HEADINGS, text)


def test_more_sentences_than_first_expected(layout: Layout) -> None:
    assert layout.sentences("a\n\n" * 1000) == [(3 * number, 3 * number + 1) for number in range(1000)]


def test_more_sections_than_first_expected(layout: Layout) -> None:
    found = layout.sections("PMH:\n" * 1000)
    assert found == [(5 * number, 5 * number + 5, "past") for number in range(1000)]
