from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvllm.tasks import patterns
from medvllm.tasks.dosing import frequency_timing
from medvllm.tasks.entities import Entity, OntologyLink

DRUGS = (
    "metformin|lisinopril|aspirin|furosemide|lasix|vancomycin|oxycodone-acetaminophen|acetaminophen|tylenol|albuterol|"
    "insulin glargine|heparin|morphine|prednisone|atorvastatin|amoxicillin|augmentin|simvastatin"
)
CHEMICALS = "potassium chloride|potassium|sodium|calcium|magnesium"


def labs(text: str) -> list[tuple[str, Any]]:
    """The text and the value (or its bounds, or its two parts) of each laboratory value."""
    found = []
    for entity in patterns.find(text):
        if entity.type == "lab_value":
            read = entity.attributes
            value = read.get("value", (read.get("low"), read.get("high")))
            if "components" in read:
                value = tuple(part["value"] for part in read["components"])
            found.append((entity.text, value))
    return found


def times(text: str) -> list[str]:
    return [entity.text for entity in patterns.find(text) if entity.type == "temporal"]


def drugs(text: str) -> list[Entity]:
    """The names of drugs and salts in the text, as a detector would give them."""
    found = [
        Entity(match[0], kind, *match.span(), ontology_links=[OntologyLink("MESH", "D0", match[0], 1.0)])
        for kind, names in (("medication", DRUGS), ("chemical", CHEMICALS))
        for match in re.finditer(rf"\b(?:{names})\b", text, re.IGNORECASE)
    ]
    return sorted(found, key=lambda entity: entity.start)


def prescriptions(text: str) -> dict[str, dict[str, Any]]:
    return {e.text.lower(): e.attributes for e in patterns.recognize(text, drugs(text)) if e.type != "temporal"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sodium 137 mmol/L and potassium 4.1 mmol/L",
            [("sodium 137 mmol/L", 137), ("potassium 4.1 mmol/L", 4.1)],
        ),
        ("WBC 12.3, Hgb 9.8 (L)", [("WBC 12.3", 12.3), ("Hgb 9.8 (L)", 9.8)]),
        ("Na 137, K 4.1, Cl 101", [("Na 137", 137), ("K 4.1", 4.1), ("Cl 101", 101)]),
        ("HbA1c of 7.2%", [("HbA1c of 7.2%", 7.2)]),
        ("platelets 150,000", [("platelets 150,000", 150000)]),
        ("white blood cell count was 12,300/mm3", [("white blood cell count was 12,300/mm3", 12300)]),
        ("WBC-12.3* Hct-29.4* Plt Ct-150", [("WBC-12.3*", 12.3), ("Hct-29.4*", 29.4), ("Plt Ct-150", 150)]),
        ("Na-137 K-4.1", [("Na-137", 137), ("K-4.1", 4.1)]),
        ("Plt 150K", [("Plt 150K", 150)]),
        ("sodium was low at 128.", [("sodium was low at 128", 128)]),
        ("serum creatinine level of 2.1", [("serum creatinine level of 2.1", 2.1)]),
        ("AST/ALT 45/60; H/H 9.8/29.4", [("AST/ALT 45/60", (45, 60)), ("H/H 9.8/29.4", (9.8, 29.4))]),
        ("T. bili 1.2, alk phos 120, CK-MB 5", [("T. bili 1.2", 1.2), ("alk phos 120", 120), ("CK-MB 5", 5)]),
        ("CA 19-9 35 U/mL, CA-125 of 35", [("CA 19-9 35 U/mL", 35), ("CA-125 of 35", 35)]),
        ("Sodium ..... 137 mmol/L", [("Sodium ..... 137 mmol/L", 137)]),
        ("LABS:\nSodium\t137\tmmol/L", [("Sodium\t137\tmmol/L", 137)]),
        ("HCO3 24, CD4 count 350", [("HCO3 24", 24), ("CD4 count 350", 350)]),
        ("EF 55-60%", [("EF 55-60%", (55, 60))]),
        ("hemoglobin A1c 8.1 %, vitamin B12 300", [("hemoglobin A1c 8.1 %", 8.1), ("vitamin B12 300", 300)]),
    ],
)
def test_laboratory_values(text: str, expected: list[tuple[str, Any]]) -> None:
    assert labs(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "BP 120/80, HR 88, T 98.6 F, RR 16, SpO2 97% on RA",
            [
                ("BP 120/80", (120, 80)),
                ("HR 88", 88),
                ("T 98.6 F", 98.6),
                ("RR 16", 16),
                ("SpO2 97% on RA", 97),
            ],
        ),
        ("bp 120/80 hr 88 t 98.6", [("bp 120/80", (120, 80)), ("hr 88", 88), ("t 98.6", 98.6)]),
        ("T 98.6 P 88 R 16", [("T 98.6", 98.6), ("P 88", 88), ("R 16", 16)]),
        ("Temp 37.2 C, weight 80 kg, BMI 31", [("Temp 37.2 C", 37.2), ("weight 80 kg", 80), ("BMI 31", 31)]),
        ("blood pressure was 145/92 mmHg", [("blood pressure was 145/92 mmHg", (145, 92))]),
        ("97% on room air, 120/80 mmHg", [("97% on room air", 97), ("120/80 mmHg", (120, 80))]),
        ("height 5'10\", pain 7/10", [("height 5'10\"", 70), ("pain 7/10", 7)]),
        ("heart rate of 88 bpm", [("heart rate of 88 bpm", 88)]),
    ],
)
def test_vital_signs(text: str, expected: list[tuple[str, Any]]) -> None:
    assert labs(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "HR 2.3 (95% CI 1.2-4.4), RR 1.5, P<0.001",  # hazard ratio, relative risk, significance
        "potassium 20 mEq PO, magnesium 2 g IV, vitamin K 10 mg",
        "gave 5 mg 2 tabs; PT 3 times a week",
        "T12 fracture, C5-6 disc, 2/6 murmur, strength 5/5, 1/2 tablet",
        "45 year old, 45 y/o, room 312, (n = 35), MRN 1234567",
        "weight loss of 10 lb, lost weight 10 pounds",
        "Sodium was checked. 5 days later he left",
        "sodium, 140 patients",
        "Calcium\n12. Aspirin",
        "BP 80/120, Na 12, pH 2, HR 900",  # not believable
        "O2 2 L",
    ],
)
def test_numbers_that_are_no_values(text: str) -> None:
    assert labs(text) == []


def attributes(text: str) -> dict[str, Any]:
    (entity,) = patterns.find(text)
    return entity.attributes


def test_value_attributes() -> None:
    assert attributes("Na 128 mmol/L (L) (135-145)") == {
        "analyte": "sodium", "value": 128, "unit": "mmol/L", "ucum": "mmol/L", "flag": "L",
        "reference_low": 135,
        "reference_high": 145,
    }  # fmt: skip
    assert attributes("troponin I <0.01 ng/mL") == {
        "analyte": "troponin", "value": 0.01, "unit": "ng/mL", "ucum": "ng/mL", "comparator": "<",
    }  # fmt: skip
    assert attributes("BNP greater than 5000")["comparator"] == ">"
    assert attributes("Cr 1.2 -> 1.8 -> 2.1") == {
        "analyte": "creatinine",
        "value": 2.1,
        "previous": [1.2, 1.8],
    }
    assert attributes("Hct dropped from 35 to 28")["value"] == 28
    assert attributes("WBC 12.3 x10^9/L")["ucum"] == "10*9/L"
    assert attributes("ferritin 30 µg/L")["ucum"] == "ug/L"


@pytest.mark.parametrize(
    "text",
    [
        "since Monday", "in 1998", "for two weeks", "3 days ago", "POD #2", "hospital day 3", "HD 3",
        "post-op day #1",
        "03/04/2019", "2019-03-04", "2019-03-04T10:22:00Z", "3/4/19", "14-Mar-2019", "March 3, 2019",
        "3 March 2019",
        "May 2018", "in March", "since last Tuesday", "14th of March 2019", "12:30 pm", "yesterday evening",
        "this morning", "last night", "overnight", "a week ago", "a few days ago", "over the past 3 months",
        "x 7 days", "x3 days", "2-3 weeks prior to admission", "since childhood", "next month",
        "day of life 4",
        "until 2010", "in two\nweeks",
    ],
)  # fmt: skip
def test_times(text: str) -> None:
    assert times(text) == [text]
    assert times(f"Seen {text}, then home.") == [text]


@pytest.mark.parametrize(
    "text",
    [
        "45-year-old man", "67 year old", "every 8 hours", "twice a day", "3 times a day", "q 8 hours", "q8h",
        "2015 patients", "1:40 titer", "2 things may be", "10 pack-years", "HD 3 times a week", "nightmare",
        "32/13/2019", "dayton", "forty two",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    assert times(text) == []


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("March 3, 2019", "2019-03-03"),
        ("25/12/2019", "2019-12-25"),
        ("12/25/2019", "2019-12-25"),
        ("03/04/2019", None),  # the 3rd of April or the 4th of March
        ("February 30, 2019", None),
        ("May 2018", "2018-05"),
        ("for two weeks", "P2W"),
        ("90 minutes", "PT90M"),
        ("3 months ago", "P3M"),
        ("a few days ago", None),
    ],
)
def test_times_are_normalised_only_where_they_are_clear(text: str, iso: str | None) -> None:
    assert attributes(text).get("iso") == iso


def test_each_drug_gets_its_own_dose() -> None:
    assert prescriptions("metformin 500 mg PO BID and lisinopril 10 mg daily") == {
        "metformin": {"dose": "500 mg", "route": "PO", "frequency": "BID"},
        "lisinopril": {"dose": "10 mg", "frequency": "daily"},
    }


def test_a_list_of_medications_one_a_line() -> None:
    text = "1. Metformin 500 mg\n   PO BID\n2. Aspirin 81 mg daily\n"
    text += "3. Albuterol 2 puffs INH q4h PRN wheezing\n4. Lasix"
    assert prescriptions(text) == {
        "metformin": {"dose": "500 mg", "route": "PO", "frequency": "BID"},
        "aspirin": {"dose": "81 mg", "frequency": "daily"},
        "albuterol": {
            "dose": "2 puffs", "route": "INH", "frequency": "q4h", "prn": True, "prn_reason": "wheezing",
        },
        "lasix": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40 mg IV furosemide and 10 mg of morphine", [{"dose": "40 mg", "route": "IV"}, {"dose": "10 mg"}]),
        ("metformin and 10 mg lisinopril", [{}, {"dose": "10 mg"}]),
        ("aspirin 81 mg metformin 500 mg", [{"dose": "81 mg"}, {"dose": "500 mg"}]),
        (
            "aspirin 81 mg daily, 40 mg furosemide",
            [{"dose": "81 mg", "frequency": "daily"}, {"dose": "40 mg"}],
        ),
        ("He takes metformin. He got 5 mg of something.", [{}]),
        ("aspirin and metformin with creatinine 1.4 mg/dL", [{}, {}]),
        ("heparin 18 units/kg/hr IV drip", [{"dose": "18 units/kg/hr", "route": "IV drip"}]),
        ("lisinopril was increased from 10 mg to 20 mg", [{"dose": "20 mg", "previous_dose": "10 mg"}]),
        (
            "Metformin 500 mg tablet: 1 tab by mouth twice a day for 30 days",
            [{
                "dose": "500 mg", "quantity": "1 tab", "route": "by mouth", "frequency": "twice a day",
                "duration": "for 30 days",
            }],
        ),
        (
            "oxycodone-acetaminophen 5-325 mg 1-2 tabs q4-6h as needed for pain",
            [{
                "dose": "5-325 mg", "quantity": "1-2 tabs", "frequency": "q4-6h", "prn": True,
                "prn_reason": "pain",
            }],
        ),
        (
            "Augmentin 875/125 mg p.o. b.i.d. x10 days",
            [{"dose": "875/125 mg", "route": "p.o.", "frequency": "b.i.d.", "duration": "x10 days"}],
        ),
        (
            "prednisone 10 mg daily x 5 days, then 5 mg daily",
            [{
                "dose": "10 mg", "frequency": "daily", "duration": "x 5 days",
                "further_doses": [{"dose": "5 mg", "frequency": "daily"}],
            }],
        ),
        (
            "acetaminophen (Tylenol) 650 mg q6h prn",
            [{"dose": "650 mg", "frequency": "q6h", "prn": True}] * 2,
        ),
        (
            "amoxicillin 250 mg/5 mL 10 mL PO TID",
            [{"dose": "10 mL", "strength": "250 mg/5 mL", "route": "PO", "frequency": "TID"}],
        ),
        ("potassium chloride 20 mEq PO daily", [{"dose": "20 mEq", "route": "PO", "frequency": "daily"}]),
        ("METFORMIN 1,000 MG PO BID.", [{"dose": "1,000 MG", "route": "PO", "frequency": "BID"}]),
    ],
)  # fmt: skip
def test_prescriptions(text: str, expected: list[dict[str, Any]]) -> None:
    found = [e for e in patterns.recognize(text, drugs(text)) if e.type in ("medication", "chemical")]
    assert [entity.attributes for entity in found] == expected


def test_durations_of_prescriptions_are_no_times_of_their_own() -> None:
    text = "vancomycin 1 g q12h x 14 days, seen 3 days ago"
    assert [e.text for e in patterns.recognize(text, drugs(text))] == ["vancomycin", "3 days ago"]


@pytest.mark.parametrize(
    ("frequency", "timing"),
    [("BID", (2, 1, "d")), ("q.i.d.", (4, 1, "d")), ("q6h", (1, 6, "h")), ("every 8 hours", (1, 8, "h")),
     ("every other day", (1, 2, "d")), ("q2 weeks", (1, 2, "wk")), ("Daily", (1, 1, "d")), ("q4-6h", None),
     ("with meals", None)],
)  # fmt: skip
def test_frequency_timing(frequency: str, timing: tuple[int, int, str] | None) -> None:
    assert frequency_timing(frequency) == timing


def test_a_value_replaces_the_name_it_measures_and_takes_its_links() -> None:
    text = "sodium 137 mmol/L on sodium"
    found = patterns.recognize(text, drugs(text))
    assert [(e.text, e.type) for e in found] == [("sodium 137 mmol/L", "lab_value"), ("sodium", "chemical")]
    assert found[0].ontology_links == [OntologyLink("MESH", "D0", "sodium", 1.0)]


def test_merge_keeps_longer_entities_and_order() -> None:
    text = "24 hour urine collection; 3 days ago; serum sodium 137"
    longer = Entity("24 hour urine collection", "test", 0, 24)
    inside = Entity("days", "condition", 28, 32)
    partial = Entity("serum", "anatomical_structure", 38, 43)
    found = patterns.merge([longer, inside, partial], patterns.find(text))
    assert [(e.text, e.type) for e in found] == [
        ("24 hour urine collection", "test"),
        ("3 days ago", "temporal"),
        ("serum sodium 137", "lab_value"),
    ]


def test_offsets_point_at_the_text_when_lower_case_grows() -> None:
    text = "İİİ Sodium 137 mmol/L seen in March 2019"
    for entity in patterns.find(text):
        assert text[entity.start : entity.end] == entity.text
    assert len(patterns.find(text)) == 2


PIECES = st.sampled_from(
    re.findall(
        r"[^ ]+",
        "Na K BP HR 137 4.1 120/80 % mg mmol/L PO BID daily x 7 days ago since March 2019 3/4/19 12:30 pm "
        "POD # 2 from to -> aspirin metformin ( ) , . ; \n - < week two the for of İ",
    )
)


@given(st.lists(PIECES, max_size=40).map(" ".join) | st.text(max_size=60))
def test_on_any_text_entities_are_in_order_apart_and_where_they_say(text: str) -> None:
    found = patterns.recognize(text, drugs(text))
    at = 0
    for entity in found:
        assert at <= entity.start < entity.end <= len(text)
        assert text[entity.start : entity.end] == entity.text
        at = entity.end


@pytest.mark.parametrize(
    "unit",
    ["a ", "1 ", "x", "1", "10 mg ", "1/", "1,", "day ", "Na 137 ", "of 1 ", "1 -> ", "(1", "aspirin 1 mg "],
)
def test_time_grows_no_faster_than_the_text(unit: str) -> None:
    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        found = [Entity(m[0], "medication", *m.span()) for m in re.finditer("aspirin", text)]
        start = time.process_time()
        patterns.recognize(text, found)
        return time.process_time() - start

    seconds(1000)
    short = min(seconds(20_000) for _ in range(3))
    assert seconds(160_000) < max(8 * short * 4, 0.2)
