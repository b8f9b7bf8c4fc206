"""Whole notes of ten kinds: what a clinician would check in each."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import pytest

from medvllm.tasks import Entity, NERProcessor
from medvllm.tasks.cleanup import is_note

_FOLDER = Path(__file__).parent / "notes"


@functools.cache
def _processor() -> NERProcessor:
    return NERProcessor()


@functools.cache
def _text(name: str) -> str:
    raw = (_FOLDER / f"{name}.txt").read_bytes()
    return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8")


@functools.cache
def _entities(name: str) -> tuple[Entity, ...]:
    return tuple(_processor().process(_text(name)))


def _top(entity: Entity) -> str | None:
    links = entity.ontology_links
    return f"{links[0].ontology}:{links[0].code}" if links else None


# note, text, type, what is not affirmed, recent and of the patient, best code (None: any)
_FACTS: list[tuple[str, str, str, set[str], str | None]] = [
    ("discharge_summary", "T2DM", "condition", set(), "UMLS:C0011860"),
    ("discharge_summary", "HTN", "condition", {"historical"}, "UMLS:C0020538"),
    ("discharge_summary", "palpitations", "symptom", {"negated"}, "UMLS:C0030252"),
    ("discharge_summary", "hepatosplenomegaly", "symptom", {"negated"}, None),
    ("discharge_summary", "pleural effusions", "condition", set(), "UMLS:C0032227"),
    ("discharge_summary", "breast cancer", "condition", {"family", "historical"}, "UMLS:C0006142"),
    ("discharge_summary", "Metformin", "medication", set(), "MESH:D008687"),
    ("discharge_summary", "Warfarin", "medication", set(), "MESH:D014859"),
    ("discharge_summary", "chest pain", "symptom", {"hypothetical"}, "UMLS:C0008031"),
    ("discharge_summary", "PE", "condition", {"negated"}, "UMLS:C0034065"),
    ("discharge_summary", "CXR", "test", set(), "MESH:D013902"),
    ("radiology", "ovarian cancer", "condition", {"historical"}, None),
    ("radiology", "pneumothorax", "condition", {"negated"}, None),
    ("radiology", "pulmonary embolism", "condition", {"negated"}, "UMLS:C0034065"),
    ("radiology", "Cholelithiasis", "condition", set(), "UMLS:C0008350"),
    ("radiology", "acute cholecystitis", "condition", {"negated"}, None),
    ("radiology", "AAA", "condition", {"negated"}, "UMLS:C0162871"),
    ("radiology", "compression fracture", "condition", {"historical"}, None),
    ("radiology", "metastasis", "condition", {"possible"}, None),
    ("radiology", "ascites", "symptom", {"possible"}, None),
    ("soap", "photophobia", "symptom", set(), None),
    ("soap", "fever", "symptom", {"negated"}, "UMLS:C0015967"),
    ("soap", "strep throat", "condition", {"family"}, None),
    ("soap", "PCOS", "condition", {"historical"}, "UMLS:C0032460"),
    ("soap", "colon CA", "condition", {"family", "historical"}, None),
    ("soap", "NAD", "test", set(), None),
    ("soap", "LAD", "symptom", {"negated"}, "UMLS:C0497156"),
    ("soap", "topiramate", "medication", set(), "MESH:D000077236"),
    ("soap", "suicidal ideation", "symptom", {"hypothetical"}, None),
    ("medication_list", "metformin", "medication", set(), "MESH:D008687"),
    ("medication_list", "Synthroid", "medication", set(), "MESH:D013974"),
    ("medication_list", "Eliquis", "medication", set(), "MESH:C522181"),
    ("medication_list", "Senna", "medication", set(), "MESH:D012676"),
    ("medication_list", "oxycodone-acetaminophen", "medication", set(), None),
    ("medication_list", "fish oil", "medication", set(), None),
    ("medication_list", "anaphylaxis", "condition", {"historical"}, "UMLS:C0002792"),
    ("lab_report", "COMPLETE BLOOD COUNT", "test", set(), "MESH:D001772"),
    ("lab_report", "LIVER PANEL", "test", set(), "MESH:D008111"),
    ("lab_report", "HIV", "condition", {"negated"}, "UMLS:C0019693"),
    ("lab_report", "COVID-19", "condition", {"negated"}, None),
    ("lab_report", "Hyponatremia", "condition", set(), "UMLS:C0020625"),
    ("lab_report", "hemolysis", "condition", {"negated"}, None),
    ("all_capitals", "CORONARY ARTERY DISEASE", "condition", set(), "UMLS:C1956346"),
    ("all_capitals", "SYNCOPE", "symptom", {"negated"}, "UMLS:C0039070"),
    ("all_capitals", "SEIZURES", "condition", {"negated", "historical"}, None),
    ("all_capitals", "ST DEPRESSION", "symptom", set(), "UMLS:C0520887"),
    ("all_capitals", "MYOCARDIAL INFARCTION", "condition", {"possible"}, "UMLS:C0027051"),
    ("all_capitals", "PLAVIX", "medication", set(), "MESH:D000077144"),
    ("all_capitals", "SMOKES", "condition", set(), None),
    ("crlf_tabs", "iron deficiency anemia", "condition", set(), "UMLS:C0162316"),
    ("crlf_tabs", "colitis", "condition", {"negated"}, None),
    ("crlf_tabs", "adenoma", "condition", {"possible"}, None),
    ("crlf_tabs", "HTN", "condition", {"historical"}, "UMLS:C0020538"),
    ("crlf_tabs", "ferrous sulfate", "medication", set(), None),
    ("utf16", "Sjögren's syndrome", "condition", set(), "UMLS:C0086981"),
    ("utf16", "Ménière’s disease", "condition", {"historical"}, "UMLS:C0025281"),
    ("utf16", "psoriasis", "condition", {"negated", "historical"}, None),
    ("utf16", "lupus", "condition", {"family"}, "UMLS:C0024141"),
    ("utf16", "interstitial lung disease", "condition", {"possible"}, None),
    ("utf16", "diarrhoea", "symptom", {"negated"}, "UMLS:C0013369"),
    ("utf16", "Methotrexate", "medication", set(), "MESH:D008727"),
    ("emergency", "belly pain", "symptom", set(), "UMLS:C0000737"),
    ("emergency", "RLQ abd pain", "symptom", set(), "UMLS:C0000737"),
    ("emergency", "the flu", "condition", {"other"}, None),
    ("emergency", "high cholesterol", "condition", {"negated"}, "UMLS:C0020443"),
    ("emergency", "Tetanus UTD", "medication", {"historical"}, None),
    ("emergency", "heart attack", "condition", {"family", "historical"}, "UMLS:C0027051"),
    ("emergency", "skull fx", "condition", {"negated"}, None),
    ("emergency", "ICH", "condition", {"negated"}, "UMLS:C0151699"),
    ("emergency", "PE", "condition", {"possible"}, "UMLS:C0034065"),
    ("emergency", "concussion", "condition", {"possible"}, None),
    ("nursing_or_psych", "schizoaffective disorder", "condition", set(), None),
    ("nursing_or_psych", "visual hallucinations", "symptom", {"negated"}, None),
    ("nursing_or_psych", "suicide attempt", "symptom", {"historical"}, None),
    ("nursing_or_psych", "HCV", "condition", {"historical"}, "UMLS:C0019196"),
    ("nursing_or_psych", "dementia", "condition", {"negated", "family", "historical"}, None),
    ("nursing_or_psych", "alcohol use disorder", "condition", set(), None),
    ("nursing_or_psych", "delirium", "condition", {"possible"}, None),
    ("nursing_or_psych", "pressure\nulcers", "condition", {"negated"}, None),
    ("nursing_or_psych", "olanzapine", "medication", set(), "MESH:D000077152"),
]
_USUAL = {"affirmed", "recent", "patient"}


@pytest.mark.parametrize(("note", "text", "kind", "marks", "code"), _FACTS, ids=lambda value: str(value))
def test_fact(note: str, text: str, kind: str, marks: set[str], code: str | None) -> None:
    found = [entity for entity in _entities(note) if entity.text == text]
    assert found, f"'{text}' is not found"
    seen = [
        (entity.type, {entity.negation, entity.temporality, entity.experiencer} - _USUAL, _top(entity))
        for entity in found
    ]
    assert any(got[0] == kind and got[1] == marks and (code is None or got[2] == code) for got in seen), f"found {seen}"


@pytest.mark.parametrize("note", sorted(path.stem for path in _FOLDER.glob("*.txt")))
def test_offsets_and_order(note: str) -> None:
    text, entities = _text(note), _entities(note)
    assert len(entities) > 20
    for entity in entities:
        assert text[entity.start : entity.end] == entity.text
        assert entity.text == entity.text.strip()
    for first, second in itertools.pairwise(entities):
        assert first.end <= second.start


@pytest.mark.parametrize(
    ("note", "word"),
    [
        ("discharge_summary", "DISCHARGE"),
        ("discharge_summary", "ALLERGIES"),
        ("discharge_summary", "PHYSICAL EXAM"),
        ("discharge_summary", "Vitals"),
        ("soap", "Allergies"),
        ("medication_list", "ALLERGIES"),
        ("medication_list", "MEDICATION RECONCILIATION"),
        ("all_capitals", "ALLERGIES"),
        ("all_capitals", "PHYSICAL EXAMINATION"),
        ("all_capitals", "VITAL SIGNS"),
        ("all_capitals", "ALL"),
        ("emergency", "VS"),
        ("crlf_tabs", "non-bleeding"),
    ],
)
def test_headings_and_plain_words_are_no_entities(note: str, word: str) -> None:
    assert word not in {entity.text for entity in _entities(note)}


def test_no_abbreviation_is_resolved_to_a_rare_disease() -> None:
    names = {
        link.name.lower()
        for path in _FOLDER.glob("*.txt")
        for entity in _entities(path.stem)
        for link in (entity.ontology_links or [])[:1]
    }
    assert not any("ichthyosis" in name or "leukemia" in name or "hypertrichosis" in name for name in names)


@pytest.mark.parametrize(
    ("note", "drug", "attributes"),
    [
        ("discharge_summary", "Metformin", {"dose": "500 mg", "route": "PO", "frequency": "BID"}),
        ("medication_list", "metformin", {"dose": "500 mg", "route": "PO", "frequency": "BID"}),
        ("medication_list", "HCTZ", {"dose": "25 mg", "route": "PO", "frequency": "qAM"}),
        ("medication_list", "Senna", {"dose": "8.6 mg", "frequency": "qhs"}),
        ("all_capitals", "ATENOLOL", {"dose": "50 MG", "frequency": "TWICE A DAY"}),
    ],
)
def test_prescription(note: str, drug: str, attributes: dict[str, str]) -> None:
    entity = next(entity for entity in _entities(note) if entity.text == drug)
    assert attributes.items() <= entity.attributes.items()


@pytest.mark.parametrize(
    ("note", "analyte", "value", "flag"),
    [
        ("lab_report", "hemoglobin", 8.9, "L"),
        ("lab_report", "potassium", 5.6, "H"),
        ("lab_report", "TSH", 6.8, None),
        ("emergency", "heart rate", 118, None),
        ("utf16", "C-reactive protein", 32, None),
    ],
)
def test_value(note: str, analyte: str, value: float, flag: str | None) -> None:
    entity = next(entity for entity in _entities(note) if entity.attributes.get("analyte") == analyte)
    assert entity.type == "lab_value"
    assert (entity.attributes["value"], entity.attributes.get("flag")) == (value, flag)


def test_vital_signs_after_a_family_history_are_the_patients() -> None:
    rate = next(entity for entity in _entities("emergency") if entity.attributes.get("analyte") == "heart rate")
    assert (rate.experiencer, rate.section) == ("patient", "physical_exam")


def test_a_paper_is_no_note() -> None:
    paper = (
        "Lithium carbonate toxicity in a newborn infant. A newborn with massive tricuspid regurgitation, atrial "
        "flutter and a high serum lithium level is described. Sixty-three percent of these infants had tricuspid valve "
        "involvement, and 5 mg per kg of the drug may be a factor. The children were followed for years."
    )
    assert not is_note(paper)
    assert is_note("Pt denies chest pain. " + paper)
    assert all(is_note(_text(path.stem)) for path in _FOLDER.glob("*.txt"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pt takes Synthroid 88 mcg daily.", ["Synthroid"]),
        ("CT neg for ICH or skull fx.", ["ICH", "skull fx"]),
        ("1. CHEST PAIN: likely ACS.", ["CHEST PAIN"]),  # a problem, not the heading of a section
        ("Pt reports nausea and vomiting.", ["nausea", "vomiting"]),
        ("Skin: ecchymosis", ["ecchymosis"]),
        ("EKG: sinus rhythm", ["EKG", "sinus rhythm"]),
        ("ALL: relapsed after chemotherapy", ["chemotherapy"]),
    ],
)
def test_short_lines(text: str, expected: list[str]) -> None:
    found = [entity.text for entity in _processor().process(text) if entity.type != "anatomical_structure"]
    assert [word for word in expected if word in found] == expected
