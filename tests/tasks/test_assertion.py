"""Assertion: what a sentence says of a finding, with the clinical language the cues are meant for."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from medvllm.errors import MedvllmError
from medvllm.tasks.assertion import Assertion, assert_entities, assess
from medvllm.tasks.entities import Entity
from medvllm.tasks.sections import find_sections


def assertion(text: str, finding: str) -> Assertion:
    start = text.index(finding)
    return assess(text, [(start, start + len(finding))])[0]


LONG_LIST = (
    "Denies chest pain, dyspnea, palpitations, orthopnea, paroxysmal nocturnal dyspnea, syncope, headache, blurred "
    "vision, abdominal pain, nausea, vomiting, diarrhea, hematuria, dysuria, rash, joint swelling or dizziness."
)
NEGATED = [
    (LONG_LIST, "chest pain"),
    (LONG_LIST, "dizziness"),
    ("Pneumonia was ruled out.", "Pneumonia"),
    ("Pneumonia, PE, and MI were ruled out.", "Pneumonia"),
    ("CT ruled out PE.", "PE"),
    ("Ruled out for MI.", "MI"),
    ("HIV is negative.", "HIV"),
    ("Effusion is not seen.", "Effusion"),
    ("Pain is denied.", "Pain"),
    ("Fever has resolved.", "Fever"),
    ("Pneumonia is unlikely.", "Pneumonia"),
    ("not pneumonia but empyema", "pneumonia"),
    ("No known drug allergies", "drug allergies"),
    ("No evidence suspicious for malignancy.", "malignancy"),
    ("denied having chest pain", "chest pain"),
    ("Denies that he has had chest pain", "chest pain"),
    ("No chest pain\nor dyspnea", "dyspnea"),
    ("No chest pain,\r\ndyspnea", "dyspnea"),
    ("NO PNEUMOTHORAX OR EFFUSION.", "EFFUSION"),
    ("In general, no change in vision.", "change in vision"),
    ("Cough: no. Fever: yes.", "Cough"),
    ("Complications: None", "Complications"),
    ("Chest pain (-), dyspnea (+)", "Chest pain"),
    ("(-) chest pain (+) dyspnea", "chest pain"),
    ("ROS is -ve for weight loss.", "weight loss"),
    ("non-diabetic", "diabetic"),
    ("No history of diabetes.", "diabetes"),
]
AFFIRMED = [
    ("He does not smoke and has hypertension.", "hypertension"),
    ("No change: hypertension persists.", "hypertension"),
    ("No change in hypertension.", "hypertension"),
    ("No increase in edema.", "edema"),
    ("Walks without difficulty, edema present", "edema"),
    ("not only pneumonia but also empyema", "pneumonia"),
    ("not pneumonia but empyema", "empyema"),
    ("No fever, he has cough.", "cough"),
    ("No fever. Cough.", "Cough"),
    ("No fever\nHypertension", "Hypertension"),
    ("Patient denies fever however reports cough.", "cough"),
    ("Hypertension is not well controlled.", "Hypertension"),
    ("She has nausea, and pneumonia was ruled out.", "nausea"),
    ("(-) chest pain (+) dyspnea", "dyspnea"),
    ("Cough: no. Fever: yes.", "Fever"),
    ("Cough: no, fever: yes", "fever"),
    ("Gram negative bacteremia", "bacteremia"),
    ("COMPLICATIONS: None 1) Colitis 2) Polyp", "Colitis"),
    ("Negative for fever; positive for cough.", "cough"),
    ("The lungs were clear.", "lungs were clear"),
    ("The skin is warm without lesion.", "skin is warm without lesion"),
]
POSSIBLE = [
    ("Rule out pneumonia.", "pneumonia"),
    ("?pneumonia", "pneumonia"),
    ("CXR: ? pneumonia", "pneumonia"),
    ("Pneumonia?", "Pneumonia"),
    ("r/o PE", "PE"),
    ("Cannot exclude infarct.", "infarct"),
    ("Infarct cannot be excluded.", "Infarct"),
    ("PE was not ruled out.", "PE"),
    ("Findings consistent with pneumonia or edema.", "edema"),
    ("Opacity suspicious for malignancy", "malignancy"),
    ("Concern for sepsis.", "sepsis"),
    ("Probable pneumonia.", "pneumonia"),
    ("This may represent metastasis.", "metastasis"),
    ("Appendicitis is suspected.", "Appendicitis"),
    ("Differential includes pneumonia, PE.", "PE"),
    ("No evidence of pneumonia but possible effusion.", "effusion"),
]


@pytest.mark.parametrize(("text", "finding"), NEGATED)
def test_negated(text: str, finding: str) -> None:
    assert assertion(text, finding).negation == "negated"


@pytest.mark.parametrize(("text", "finding"), AFFIRMED)
def test_affirmed(text: str, finding: str) -> None:
    assert assertion(text, finding).negation == "affirmed"


@pytest.mark.parametrize(("text", "finding"), POSSIBLE)
def test_possible(text: str, finding: str) -> None:
    assert assertion(text, finding).negation == "possible"


def test_a_possibility_ends_with_its_noun_phrase() -> None:
    assert assertion("Possible pneumonia, hypertension.", "hypertension").negation == "affirmed"


NOTE = """Past Medical History:
1. Hypertension
2. Diabetes
Family History:
Mother - stroke
Brother: asthma
Social History:
Smoker
"""


@pytest.mark.parametrize(
    ("text", "finding", "expected"),
    [
        ("History of MI.", "MI", "historical"),
        ("h/o CVA", "CVA", "historical"),
        ("hx of gout, asthma and migraine", "migraine", "historical"),
        ("s/p appendectomy", "appendectomy", "historical"),
        ("PMH: HTN, DM, CAD.", "CAD", "historical"),
        ("Past medical history is significant for anxiety.", "anxiety", "historical"),
        ("Appendectomy in 1998.", "Appendectomy", "historical"),
        ("Appendectomy (1998)", "Appendectomy", "historical"),
        ("MI 5 years ago.", "MI", "historical"),
        ("Childhood asthma.", "asthma", "historical"),
        ("Previous stroke.", "stroke", "historical"),
        (NOTE, "Diabetes", "historical"),
        ("History of present illness: fever", "fever", "recent"),
        ("Two-day history of fever.", "fever", "recent"),
        ("75 year old with pneumonia", "pneumonia", "recent"),
        ("History of COPD, presents with cough.", "cough", "recent"),
        ("History of COPD, presents with cough.", "COPD", "historical"),
        ("PMH: HTN. Now presents with fever.", "fever", "recent"),
        ("Systolic pressure in the 90s, hypotension", "hypotension", "recent"),
        (NOTE, "Smoker", "recent"),
        ("Return if fever develops.", "fever", "hypothetical"),
        ("Should he develop chest pain, call 911.", "chest pain", "hypothetical"),
        ("In case of bleeding stop aspirin.", "bleeding", "hypothetical"),
        ("Tylenol prn for pain.", "pain", "hypothetical"),
        ("Tylenol 650 mg PRN headache", "headache", "hypothetical"),
        ("Call also for rash, nausea, vomiting.", "vomiting", "hypothetical"),
        ("She is at risk for falls.", "falls", "hypothetical"),
        ("DVT prophylaxis", "DVT", "hypothetical"),
        ("If pain worsens, he should take ibuprofen for arthritis", "arthritis", "recent"),
    ],
)
def test_temporality(text: str, finding: str, expected: str) -> None:
    assert assertion(text, finding).temporality == expected


@pytest.mark.parametrize(
    ("text", "finding", "expected"),
    [
        ("Mother had stroke.", "stroke", "family"),
        ("MOTHER: DIABETES", "DIABETES", "family"),
        ("Family history of colon cancer.", "colon cancer", "family"),
        ("FH: CAD, DM", "DM", "family"),
        ("Maternal aunt with breast cancer.", "breast cancer", "family"),
        ("Breast cancer in maternal aunt.", "Breast cancer", "family"),
        ("Her sister and mother both have lupus.", "lupus", "family"),
        ("Lupus (sister)", "Lupus", "family"),
        ("Father died of MI, she has no chest pain.", "MI", "family"),
        ("Father died of MI, she has no chest pain.", "chest pain", "patient"),
        ("Father with diabetes and patient has asthma.", "asthma", "patient"),
        ("Mother had stroke, but the patient denies stroke symptoms.", "stroke symptoms", "patient"),
        ("His mother reports that he has fever.", "fever", "patient"),
        ("Lives with his mother and has asthma.", "asthma", "patient"),
        ("Mother had stroke. Has fever.", "fever", "patient"),
        ("His wife has flu.", "flu", "other"),
        ("Donor had hepatitis C.", "hepatitis C", "other"),
        ("Exposed to roommate with flu.", "flu", "other"),
        (NOTE, "stroke", "family"),
        (NOTE, "asthma", "family"),
    ],
)
def test_experiencer(text: str, finding: str, expected: str) -> None:
    assert assertion(text, finding).experiencer == expected


def test_negated_family_history() -> None:
    found = assertion("No family history of colon cancer.", "colon cancer")
    assert (found.negation, found.experiencer) == ("negated", "family")


def test_cues_explain() -> None:
    text = "Mother denies history of stroke."
    found = assertion(text.replace("Mother", "Mother with no"), "stroke")
    assert found.negation_cue is not None
    assert found.temporality_cue is not None
    assert assertion("No fever.", "fever").negation_cue == (0, 2)
    assert assertion("Mother had stroke.", "stroke").experiencer_cue == (0, 6)
    assert assertion("Fever.", "Fever") == Assertion()
    assert assertion("PMH: gout", "gout").temporality == "historical"


def test_order_overlap_and_edges() -> None:
    text = "no fever"
    assert [a.negation for a in assess(text, [(3, 8), (0, 2), (0, 8), (3, 4)])] == [
        "negated",
        "affirmed",
        "affirmed",
        "negated",
    ]
    assert assess(text, []) == []
    assert assess("", []) == []


@pytest.mark.parametrize("span", [(3, 3), (-1, 2), (0, 9), (5, 3), (8, 9)])
def test_bad_spans(span: tuple[int, int]) -> None:
    with pytest.raises(MedvllmError, match="0 <= start < end <= 8"):
        assess("no fever", [span])


def test_sections_given_are_used() -> None:
    text = "Gout."
    assert assess(text, [(0, 4)])[0].temporality == "recent"
    section = find_sections("PMH: gout")[0]._replace(end=5)
    assert assess(text, [(0, 4)], sections=[section])[0].temporality == "historical"


def test_entities_are_labelled() -> None:
    entities = [Entity(w, "condition", NOTE.index(w), NOTE.index(w) + len(w)) for w in ("Diabetes", "stroke", "Smoker")]
    assert_entities(NOTE, entities)
    assert [(e.section, e.temporality, e.experiencer) for e in entities] == [
        ("past_medical_history", "historical", "patient"),
        ("family_history", "historical", "family"),
        ("social_history", "recent", "patient"),
    ]


def test_an_examination_goes_on_behind_a_comma() -> None:
    text = "No rash or edema, PERRL, no CT."
    entities = [
        Entity(word, kind, text.index(word), text.index(word) + len(word))
        for word, kind in (("rash", "symptom"), ("edema", "symptom"), ("PERRL", "test"), ("CT", "test"))
    ]
    assert_entities(text, entities)
    assert [entity.negation for entity in entities] == ["negated", "negated", "affirmed", "negated"]


MAKERS: list[Callable[[int], str]] = [
    lambda n: "no " * (n // 3),
    lambda n: "a" * n,
    lambda n: "fever chills " * (n // 13),
    lambda n: "." * n,
    lambda n: "?" * n,
    lambda n: "PMH: " * (n // 5),
    lambda n: "\n" * n,
    lambda n: "a" + " " * n + "x",
    lambda n: "fever in mother " * (n // 16),
    lambda n: "possible " + "fever " * (n // 6),
    lambda n: "fever " * (n // 6) + "in the past",
    lambda n: "fever was ruled out " * (n // 20),
    lambda n: "1) no " * (n // 6),
    lambda n: "+a -b " * (n // 6),
    lambda n: "Should a vs b. " * (n // 15),
    lambda n: "fever likely, " * (n // 14),
]


@pytest.mark.parametrize("number", range(len(MAKERS)))
def test_time_is_linear(number: int) -> None:
    def seconds(size: int) -> float:
        text = MAKERS[number](size)
        spans = [(at, at + 1) for at in range(0, len(text) - 1, 12)]
        start = time.process_time()
        assess(text, spans)
        return time.process_time() - start

    seconds(1_000)
    short, long = (min(seconds(size), seconds(size)) for size in (20_000, 160_000))
    assert long < 8 * 4 * max(short, 0.003)  # quadratic time would be 64 times as long
