"""Values, times and prescriptions with the native library and without: the same for any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from medvllm_kernels import native

from medvllm.tasks import dosing, dosing_words, patterns
from medvllm.tasks.clinical_units import ANALYTES, PAIRS, UCUM
from medvllm.tasks.entities import Entity
from medvllm.tasks.value_words import value_words

needs_native = pytest.mark.skipif(native.library() is None, reason="no native library")
PIECES = [
    *ANALYTES, *PAIRS, *UCUM, "Na", "K", "k", "Mg", "mg", "T", "P", "R", "pt", "PT", "HR", "BP", "pH", "Hgb", "serum ",
    *("of", "was", "is", "the", "less than", "over", "<", ">", "≤", "elevated at", "from", "to", "and", "vitamin"),
    *("137", "4.1", "4.1.2", "12", "7", "98", "97%", "120/80", "3/4", "150,000", "10-14", "2019", "3/4/2019", "by"),
    *("12:30", "8:15 pm", "1,000", "0.5", "5", "30", "1998", "٣", "T4", "q8h", "x3", "1.5-2", "05.03.19", "12345"),
    *("H", "L", "HH", "h", "hl", "(H)", "[low]", "*", "(3.5-5.0)", "(ref 3.5-5)", "->", "→", "=", ":", "on RA"),
    *("day", "days", "week", "weeks", "month", "year-old", "hours", "hrs", "Monday", "yesterday", "last night"),
    *("this morning", "the evening", "March", "march", "May", "may", "in ", "since ", "childhood", "tomorrow", "POD #"),
    *("a few", "two", "several", "an", "once a", "ago", "st", "nd", "pack", "hospital", "HD ", "sept", "day of life"),
    *("µg/ml", "μg/dl", "\u212a", "°c", "kg/m²", "İ", "ß", "é", "\ud800", "😀", "\xa0", "\u2028", "_", "^", "/"),
    *(" ", " ", " ", "  ", "\n", "\t", ", ", ". ", "; ", " - ", "-", "–", "(", ")", ":", "\r\n", "      ", "..", "'"),
    *("2019-03-04", "mm Hg", "December", '"'),
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=16).map("".join)
SPACED = st.lists(st.sampled_from(PIECES), min_size=1, max_size=16).map(" ".join)


def as_tuples(entities: list[Entity]) -> list[tuple[object, ...]]:
    return [(e.start, e.end, e.text, e.type, list(e.attributes.items())) for e in entities]


@needs_native
@settings(max_examples=1500, deadline=None)
@given(text=st.one_of(TEXTS, SPACED))
@example("sodium 137 mmol/L H (135-145), Potassium 4.1 L\nT 37.2 C, WBC-12.3* Hct 29 % SpO2 97% on room air")
def test_values_and_times_are_the_same(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
        expected = as_tuples(patterns.find(text))
    assert as_tuples(patterns.find(text)) == expected


SIG_PIECES = [
    *("10 mg", "81 mg", "PO", "IV", "daily", "BID", "q6h", "PRN", "prn pain", "for 5 days", "two tablets", "then"),
    *(
        "to 20 mg",
        "from",
        ".",
        ";",
        "\n",
        "\n\n",
        "\nof salt",
        "\nOf the",
        "\n- ",
        ",",
        "every other day",
        "with meals",
    ),
    *("of", "x3", "("),
]
SIGS = st.lists(st.sampled_from(SIG_PIECES), max_size=8).map(" ".join)


@settings(max_examples=500, deadline=None)
@given(sigs=st.lists(SIGS, min_size=1, max_size=4))
@example(["10 mg .", "10 mg \nof salt", "10 mg \n"])
def test_a_prescription_read_before_is_read_the_same(sigs: list[str]) -> None:
    def read(text: str) -> list[tuple[object, ...]]:
        drugs = [Entity(m[0], "medication", *m.span()) for m in re.finditer("aspirin|heparin", text)]
        used = dosing.group_medications(text, drugs, low=text.lower())
        return [*as_tuples(drugs), tuple(used)]

    texts = [f"aspirin {sig}" for sig in sigs] + [f"heparin {sig} aspirin {sig}\n" for sig in sigs]
    fresh = []
    for text in texts:
        dosing._known.clear()
        fresh.append(read(text))
    assert [read(text) for text in texts] == fresh
    assert [read(text) for text in texts] == fresh


PART_PIECES = [
    *(beginning.translate({ord("#"): "5", ord("|"): None}) for beginning in dosing_words.BEGINNINGS),
    *dosing_words.ROUTES, *dosing_words.FREQUENCIES, *SIG_PIECES, "x-3 days", "×2 d", "½ tab", ".5 mg", "1,000 units",
    *("5", "mg", "tab", "g", "d", "h", "poor", "imply", "/", "-", "(", "_", "é", "İ", "😀", "\ud800", "\xa0", "٣ mg"),
]  # fmt: skip
PARTS = st.lists(st.sampled_from(PART_PIECES), max_size=12).map(" ".join)


@needs_native
@settings(max_examples=1000, deadline=None)
@given(text=st.one_of(PARTS, TEXTS), window=st.tuples(st.integers(0, 80), st.integers(0, 80)))
@example("a poor man", (1, 4))
@example("q", (0, 1))
def test_every_part_of_a_prescription_begins_where_the_library_says(text: str, window: tuple[int, int]) -> None:
    low, library = patterns.lowered(text), native.library()
    assert library is not None
    places = dosing._Beginnings(value_words().find(library, text, low).beginnings)
    start, end = min(window), min(max(window), len(text))
    parts = dosing.find_parts(" " + low, start, end)
    assert places.within(start, end) or not parts
    assert all(places.near(part.start, part.start + 1) for part in parts)


@needs_native
@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(st.sampled_from([*PART_PIECES, "aspirin", "aspirin", "zinc", "zinc"]), max_size=16))
@example(["aspirin", "5 mg", "zinc", "po", "aspirin", "or"])
def test_prescriptions_are_the_same_without_the_library(pieces: list[str]) -> None:
    text = " ".join(pieces)
    kinds = {"aspirin": "medication", "zinc": "chemical"}

    def read() -> list[tuple[object, ...]]:
        dosing._known.clear()
        drugs = [Entity(m[0], kinds[m[0]], *m.span()) for m in re.finditer("aspirin|zinc", text)]
        return as_tuples(patterns.recognize(text, drugs))

    found = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
        assert read() == found


def test_what_is_kept_of_prescriptions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dosing, "_MAX_KNOWN", 10)
    for amount in range(100):
        text = f"aspirin {amount} mg PO daily;\n"
        drugs = [Entity("aspirin", "medication", 0, 7)]
        dosing.group_medications(text, drugs, low=text)
        assert drugs[0].attributes["dose"] == f"{amount} mg"
    assert 0 < len(dosing._known) <= 10
