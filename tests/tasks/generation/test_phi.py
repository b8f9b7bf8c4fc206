"""Identifiers are counted by kind; doses, counts and eponyms are not identifiers."""

from __future__ import annotations

import pytest

from medvllm.tasks.generation.phi import KINDS, count_phi, find_phi


def found(text: str) -> list[tuple[str, str]]:
    return [(match.kind, text[match.start : match.end]) for match in find_phi(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Take 10mg daily",
        "Platelet count 150000, WBC 11200, sodium 138.",
        "BP 120/80, pain 5/10, 1/2 tablet twice a day for 3 days.",
        "Parkinson disease, Graves' disease, Marcus Gunn pupil, James Paget disease and Virginia Apgar score.",
        "High blood pressure was known in 2019. Walk every Monday.",
        "Will Patients May Improve? Mark Each Dose. Grace Period.",
        "INR 2.5-3.5; titrate 100-200-400 mg; NPI not given; ICD-10 I10; 3-0 silk.",
        "Mix 1 in 1000 and infuse 1000 ml over 8 hours at 125 ml/h.",
        "Drive 5 miles. Take 2 Tylenol and 1 Advil. Street drugs are dangerous.",
        "The patient: High risk of falls. Diagnosis: Type 2 diabetes.",
    ],
)
def test_clinical_text_holds_no_identifier(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("name", "John Smith was seen today.", "John Smith"),
        ("name", "Seen by Dr. Mark Rose in clinic.", "Mark Rose"),
        ("name", "Patient: Xiulan Zhu, age 40", "Xiulan Zhu"),
        ("name", "We met Mary-Ann's mother, Maria de la Cruz.", "Maria de la Cruz"),
        ("date", "Admitted on 03/14/2021 with fever.", "03/14/2021"),
        ("date", "Seen March 14, 2021 again.", "March 14, 2021"),
        ("date", "DOB 1960-03-14", "1960-03-14"),
        ("phone", "Call (617) 555-0123 for help.", "(617) 555-0123"),
        ("phone", "Call 617-555-0123.", "617-555-0123"),
        ("phone", "Tel: 020 7946 0958", "020 7946 0958"),
        ("phone", "Reach us at +44 20 7946 0958 today", "+44 20 7946 0958"),
        ("email", "Write to j.smith@hospital.org.", "j.smith@hospital.org"),
        ("ssn", "SSN 123-45-6789", "123-45-6789"),
        ("ssn", "Social security number: 123456789", "123456789"),
        ("mrn", "MRN: 00123456", "00123456"),
        ("mrn", "medical record number A-123-456 was", "A-123-456"),
        ("mrn", "NHS number 943 476 5919", "943 476 5919"),
        ("address", "Lives at 12 Main Street, Springfield, IL 62704.", "12 Main Street, Springfield, IL 62704"),
        ("address", "Send it to P.O. Box 1234", "P.O. Box 1234"),
    ],
)
def test_each_kind_is_found_whole(kind: str, text: str, value: str) -> None:
    assert found(text) == [(kind, value)]


def test_counts_name_every_kind() -> None:
    counts = count_phi("John Smith (MRN 123456) called 617-555-0123 on 03/14/2021 and on 03/15/2021.")
    assert tuple(counts) == KINDS
    assert counts == {"name": 1, "date": 2, "phone": 1, "email": 0, "ssn": 0, "mrn": 1, "address": 0}


def test_invalid_social_security_numbers_are_none() -> None:
    assert count_phi("000-12-3456 666-12-3456 912-12-3456 123-00-4567")["ssn"] == 0


def test_time_is_linear_in_the_text() -> None:
    import time

    hard = "John " * 4000 + "1 Main " * 4000 + "+44 1" * 4000 + "a@" * 4000 + "A." * 4000
    began = time.process_time()
    find_phi(hard)
    assert time.process_time() - began < 5
