"""Sections and sentences of notes as they are written."""

from __future__ import annotations

import itertools
import time

import pytest

from medvllm.tasks.sections import find_sections, section_names, split_sentences

NOTE = """Mr. X, 70 y/o.
CHIEF COMPLAINT: cough
History of Present Illness:
Cough for 3 days.
PMH
HTN
Past Surgical History: appendectomy
FAMILY HISTORY
Mother: stroke
social history: smoker
Current Medications:
aspirin 81 mg
Allergies: NKDA
ROS: negative
PHYSICAL EXAM
HEENT: normal
LUNGS: clear
Labs
Na 137
IMPRESSION:
pneumonia
A/P: antibiotics
UNKNOWN HEADING: text
Hospital Course: uneventful
Discharge Instructions:
Return if worse.
"""


def names(text: str) -> list[str | None]:
    return [section.name for section in find_sections(text)]


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def test_a_whole_note() -> None:
    assert names(NOTE) == [
        None,
        "chief_complaint",
        "history_of_present_illness",
        "past_medical_history",
        "past_surgical_history",
        "family_history",
        "social_history",
        "medications",
        "allergies",
        "review_of_systems",
        "physical_exam",
        "labs",
        "impression",
        "assessment_and_plan",
        None,
        "hospital_course",
        "discharge_instructions",
    ]


@pytest.mark.parametrize("text", [NOTE, NOTE.replace("\n", "\r\n"), "x", "PMH:", " \n "])
def test_sections_cover_the_text(text: str) -> None:
    found = find_sections(text)
    assert found[0].start == 0
    assert found[-1].end == len(text)
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert {section.name for section in found} <= {None, *section_names()}


def test_carriage_returns_change_nothing() -> None:
    assert names(NOTE.replace("\n", "\r\n")) == names(NOTE)


def test_empty() -> None:
    assert find_sections("") == []
    assert split_sentences("") == []
    assert split_sentences(" \n\t ") == []


def test_soap_letters() -> None:
    note = "S: cough\nO: T 38\nA: pneumonia\nP: antibiotics"
    assert names(note) == ["history_of_present_illness", "physical_exam", "assessment", "plan"]
    assert names("A: asthma") == [None]


def test_headings_within_a_line() -> None:
    assert names("Seen today. Past Medical History: HTN. Family History: DM.") == [
        None,
        "past_medical_history",
        "family_history",
    ]
    assert names("ROOM 12 CLINICAL HISTORY: fever") == [None, "indication"]


@pytest.mark.parametrize(
    "text",
    ["We discussed the plan: go home.", "He went over his past medical history with us.", "at 10:30 he ate"],
)
def test_prose_is_no_heading(text: str) -> None:
    assert names(text) == [None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seen by Dr. Smith. No fever.", ["Seen by Dr. Smith.", "No fever."]),
        ("Took 1.5 mg q.d. of drug. Fine.", ["Took 1.5 mg q.d. of drug.", "Fine."]),
        ("Lasix p.o. b.i.d. Return soon.", ["Lasix p.o. b.i.d.", "Return soon."]),
        ("1. Pneumonia. Start abx\n2. CHF", ["1. Pneumonia.", "Start abx", "2. CHF"]),
        ("no fever. denies pain.", ["no fever.", "denies pain."]),
        ("- fever\n- cough\n* rash", ["- fever", "- cough", "* rash"]),
        ("Hypertension\nDiabetes\n\tCOPD", ["Hypertension", "Diabetes", "COPD"]),
        ("Lungs clear.\r\n\r\nHeart regular", ["Lungs clear.", "Heart regular"]),
        ("NO EVIDENCE OF PNEUMONIA\r\nOR EFFUSION.", ["NO EVIDENCE OF PNEUMONIA\r\nOR EFFUSION."]),
        ("No chest pain,\nno cough", ["No chest pain,\nno cough"]),
        (
            "The patient is a very nice man who has had a cough for some time,\nthree weeks, and no fever. OK!",
            [
                "The patient is a very nice man who has had a cough for some time,\nthree weeks, and no fever.",
                "OK!",
            ],
        ),
        ("Is it better? Yes.", ["Is it better?", "Yes."]),
        ("?pneumonia", ["?pneumonia"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    "unit",
    ["no ", "a", ".", "?", "\n", "a:", "PMH: ", "S: O: ", "dr. ", ".)", " ", "x,\n", "\r\n", "(", "1. "],
)
def test_time_is_linear(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.process_time()
        find_sections(text)
        split_sentences(text)
        return time.process_time() - start

    seconds(1_000)
    short, long = (min(seconds(size), seconds(size)) for size in (30_000, 240_000))
    assert long < 8 * 4 * max(short, 0.002)  # quadratic time would be 64 times as long
