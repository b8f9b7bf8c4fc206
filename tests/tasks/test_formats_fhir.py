from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from medvllm.tasks.entities import ENTITY_TYPES, Entity, OntologyLink
from medvllm.tasks.formats import Document, render
from medvllm.tasks.formats.fhir import SYSTEMS, bundle


def resources(*entities: Entity, text: str = "", doc_id: str = "note") -> list[dict[str, Any]]:
    """The resources behind the Patient, of a Bundle that fhir.resources accepts."""
    written = render([Document(doc_id, text, list(entities))], "fhir")
    Bundle.model_validate_json(written)
    entries = json.loads(written)["entry"]
    assert [entry["fullUrl"] for entry in entries] == [f"urn:uuid:{entry['resource']['id']}" for entry in entries]
    assert entries[0]["resource"]["resourceType"] == "Patient"
    for entry in entries[1:]:
        resource = entry["resource"]
        subject = resource.get("subject") or resource["patient"]
        assert subject == {"reference": entries[0]["fullUrl"]}
    return [entry["resource"] for entry in entries[1:]]


def code(concept: dict[str, Any]) -> str:
    return str(concept["coding"][0]["code"])


def condition(**fields: Any) -> Entity:
    return Entity("asthma", "condition", 5, 11, **fields)


def test_a_condition_with_its_codes_and_source() -> None:
    links = [
        OntologyLink("UMLS", "C0004096", "Asthma", 0.9),
        OntologyLink("ICD10CM", "J45.909", "Unspecified asthma", 0.8),
        OntologyLink("UMLS", "C0000000", "a worse candidate", 0.1),
        OntologyLink("My List", "1 a", "x", 0.1),
    ]
    (found,) = resources(condition(confidence=0.9, ontology_links=links))
    assert found["resourceType"] == "Condition"
    assert (code(found["clinicalStatus"]), code(found["verificationStatus"])) == ("active", "confirmed")
    assert [(coding["system"], coding["code"]) for coding in found["code"]["coding"]] == [
        ("http://www.nlm.nih.gov/research/umls", "C0004096"),
        ("http://hl7.org/fhir/sid/icd-10-cm", "J45.909"),
        ("urn:medvllm:vocabulary:MyList", "1 a"),
    ]
    source = {part["url"]: list(part.values())[1] for part in found["extension"][0]["extension"]}
    assert source == {"document": "note", "start": 5, "end": 11, "text": "asthma", "confidence": 0.9}


@pytest.mark.parametrize(
    ("fields", "clinical", "verification"),
    [
        ({"negation": "negated"}, None, "refuted"),
        ({"negation": "possible"}, "active", "provisional"),
        ({"temporality": "historical"}, "inactive", "confirmed"),
        ({"negation": "negated", "temporality": "historical"}, None, "refuted"),
    ],
)
def test_condition_statuses(fields: dict[str, str], clinical: str | None, verification: str) -> None:
    (found,) = resources(condition(**fields))
    assert code(found["verificationStatus"]) == verification
    assert ("clinicalStatus" in found) == (clinical is not None)
    if clinical:
        assert code(found["clinicalStatus"]) == clinical


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("Mother had ", "MTH"),
        ("His father and two sisters had ", "SIS"),
        ("Mother well. Family history: ", "FAMMEMB"),
        ("Maternal grandmother with ", "MGRMTH"),
        ("Paternal half-brother: ", "HBRO"),
        ("| in her paternal aunt", "PAUNT"),
        ("| (mother)", "MTH"),
        ("|, her mother is well", "FAMMEMB"),
    ],
)
def test_a_relatives_condition_is_family_history(text: str, role: str) -> None:
    before, _, after = text.partition("|")
    start = len(before)
    stroke = Entity("stroke", "condition", start, start + 6, experiencer="family")
    (found,) = resources(stroke, text=f"{before}stroke{after}.")
    assert found["resourceType"] == "FamilyMemberHistory"
    assert code(found["relationship"]) == role
    assert found["condition"][0]["code"]["text"] == "stroke"


@pytest.mark.parametrize(
    "entity",
    [
        condition(experiencer="family", negation="negated"),
        condition(experiencer="other"),
        condition(temporality="hypothetical"),
        Entity("CT", "test", 0, 2, temporality="hypothetical"),
        Entity("CABG", "procedure", 0, 4, experiencer="family"),
        Entity("sodium", "chemical", 0, 6),
        Entity("lung", "anatomical_structure", 0, 4),
        Entity("today", "temporal", 0, 5),
    ],
)
def test_what_is_not_said_of_the_patient_is_left_out(entity: Entity) -> None:
    assert resources(entity) == []


def test_a_prescription_becomes_a_dosage() -> None:
    attributes = {
        "dose": "500 mg", "quantity": "1 tab", "route": "p.o.", "frequency": "BID", "duration": "for 2 weeks",
        "prn": True, "prn_reason": "pain",
    }  # fmt: skip
    (found,) = resources(Entity("naproxen", "medication", 0, 8, attributes=attributes))
    assert (found["resourceType"], found["status"]) == ("MedicationStatement", "active")
    (dosage,) = found["dosage"]
    assert dosage["text"] == "500 mg 1 tab p.o. BID for 2 weeks as needed for pain"
    ucum = "http://unitsofmeasure.org"
    assert dosage["doseAndRate"] == [{"doseQuantity": {"value": 500, "unit": "mg", "system": ucum, "code": "mg"}}]
    assert dosage["route"] == {"text": "oral"}
    assert dosage["timing"] == {
        "repeat": {
            "boundsDuration": {"value": 2, "unit": "weeks", "system": ucum, "code": "wk"},
            "frequency": 2, "period": 1, "periodUnit": "d",
        },
        "code": {"text": "BID"},
    }  # fmt: skip
    assert dosage["asNeededCodeableConcept"] == {"text": "pain"}


@pytest.mark.parametrize(
    ("dose", "expected"),
    [
        ("5-10 mg", {"doseRange": (5, 10)}),
        ("5-325 mg", None),
        ("875/125 mg", None),
        ("1,000 units", {"doseQuantity": 1000}),
        ("0.5 mL", {"doseQuantity": 0.5}),
        ("18 units/kg/hr", {"rateQuantity": 18}),
        ("two tablets", None),
        ("2 puffs", {"doseQuantity": 2}),
    ],
)
def test_doses_are_never_misread(dose: str, expected: dict[str, Any] | None) -> None:
    (found,) = resources(Entity("drug", "medication", 0, 4, attributes={"dose": dose}))
    amounts = found["dosage"][0].get("doseAndRate")
    if expected is None:
        assert amounts is None
        return
    ((key, value),) = amounts[0].items()
    read = (value["low"]["value"], value["high"]["value"]) if key.endswith("Range") else value["value"]
    assert {key: read} == expected


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, "active"),
        ({"negation": "negated"}, "not-taken"),
        ({"negation": "possible"}, "unknown"),
        ({"temporality": "historical"}, "completed"),
        ({"temporality": "hypothetical"}, "intended"),
    ],
)
def test_medication_statuses(fields: dict[str, Any], status: str) -> None:
    (found,) = resources(Entity("aspirin", "medication", 0, 7, **fields))
    assert found["status"] == status
    assert "dosage" not in found


def test_a_chemical_with_a_dose_is_a_medication() -> None:
    chemical = Entity("potassium chloride", "chemical", 0, 18, attributes={"dose": "20 mEq"})
    assert resources(chemical)[0]["resourceType"] == "MedicationStatement"


def test_a_laboratory_value_with_unit_comparator_flag_and_reference_range() -> None:
    attributes = {
        "analyte": "sodium", "value": 128, "unit": "mmol/L", "ucum": "mmol/L", "flag": "L", "comparator": "<",
        "reference_low": 135, "reference_high": 145,
    }  # fmt: skip
    (found,) = resources(Entity("Na <128 mmol/L", "lab_value", 0, 14, attributes=attributes))
    assert (found["resourceType"], code(found["category"][0])) == ("Observation", "laboratory")
    assert found["code"] == {"text": "sodium"}
    unit = {"unit": "mmol/L", "system": "http://unitsofmeasure.org", "code": "mmol/L"}
    assert found["valueQuantity"] == {"value": 128, "comparator": "<", **unit}
    assert code(found["interpretation"][0]) == "L"
    assert found["referenceRange"] == [{"low": {"value": 135, **unit}, "high": {"value": 145, **unit}}]


def test_vital_signs_carry_the_codes_of_their_profile() -> None:
    parts = [
        {"analyte": "systolic blood pressure", "value": 120},
        {"analyte": "diastolic blood pressure", "value": 80},
    ]
    attributes = {
        "analyte": "blood pressure",
        "value": "120/80",
        "unit": "mmHg",
        "ucum": "mm[Hg]",
        "components": parts,
    }
    (found,) = resources(Entity("BP 120/80 mmHg", "lab_value", 0, 14, attributes=attributes))
    assert code(found["category"][0]) == "vital-signs"
    assert code(found["code"]) == "85354-9"
    assert [(code(part["code"]), part["valueQuantity"]["value"]) for part in found["component"]] == [
        ("8480-6", 120),
        ("8462-4", 80),
    ]
    assert {part["valueQuantity"]["code"] for part in found["component"]} == {"mm[Hg]"}


def test_a_range_of_values_and_a_test_without_a_value() -> None:
    attributes = {"analyte": "ejection fraction", "low": 55, "high": 60, "unit": "%", "ucum": "%"}
    ranged, named, denied = resources(
        Entity("EF 55-60%", "lab_value", 0, 9, attributes=attributes),
        Entity("MRI", "test", 10, 13),
        Entity("CT", "test", 14, 16, negation="negated"),
    )
    assert (ranged["valueRange"]["low"]["value"], ranged["valueRange"]["high"]["value"]) == (55, 60)
    assert (named["status"], code(named["dataAbsentReason"])) == ("unknown", "unknown")
    assert (denied["status"], code(denied["dataAbsentReason"])) == ("cancelled", "not-performed")


@pytest.mark.parametrize(
    ("negation", "status"), [("affirmed", "completed"), ("negated", "not-done"), ("possible", "unknown")]
)
def test_procedure_statuses(negation: str, status: str) -> None:
    (found,) = resources(Entity("CABG", "procedure", 0, 4, negation=negation))
    assert (found["resourceType"], found["status"]) == ("Procedure", status)


def test_every_combination_of_type_and_assertion_validates() -> None:
    found = [
        Entity("x", kind, at, at + 1, None, [], negation, temporality, experiencer)
        for at, kind in enumerate(ENTITY_TYPES)
        for negation in ("affirmed", "negated", "possible")
        for temporality in ("recent", "historical", "hypothetical")
        for experiencer in ("patient", "family", "other")
    ]
    assert len(resources(*found)) > 0


def test_odd_characters_stay_valid() -> None:
    link = OntologyLink("UMLS", "a\n\tb", " \x1b", 0.5)
    entity = Entity("a\x00\n\x1b b\ud800", "condition", 0, 7, None, [link])
    (found,) = resources(entity, Entity("\t", "symptom", 8, 9), doc_id="\n\x00")[:1]
    assert found["code"]["text"] == "a b\ufffd"
    assert code(found["code"]) == "a b"


def test_the_same_note_gives_the_same_bundle_and_other_documents_other_ids() -> None:
    document = Document("a", "asthma", [condition()])
    assert bundle([document]) == bundle([document])
    both = bundle([document, document._replace(id="b")])
    assert len({entry["fullUrl"] for entry in both["entry"]}) == 4
    assert bundle([]) == {"resourceType": "Bundle", "type": "collection"}


def test_systems_are_absolute_uris() -> None:
    assert all(uri.startswith(("http://", "https://")) for uri in SYSTEMS.values())
