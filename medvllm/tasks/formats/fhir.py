"""A FHIR R4B Bundle (type collection) of what a note says about its patient.

| entity | resource |
|---|---|
| condition, symptom | Condition; of a relative: FamilyMemberHistory |
| medication, and a chemical with a dose | MedicationStatement |
| lab_value, test | Observation |
| procedure | Procedure |
| anatomical_structure, temporal, a chemical without a dose | none |

Negated: Condition refuted, MedicationStatement not-taken, Procedure not-done, Observation cancelled.
Possible: Condition provisional, other statuses unknown. Historical: Condition inactive, MedicationStatement
completed. Hypothetical: a medication is intended, all else is left out, since FHIR has no resource for what
is only imagined. What is said of somebody else, or denied for a relative, is left out too. Identifiers come
from the document's id and the span, so the same note gives the same Bundle. Rules: https://hl7.org/fhir/R4B/.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID, uuid5

from medvllm.tasks.dosing import ROUTES, frequency_timing
from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.document import Document
from medvllm.tasks.formats.plain import one_line

__all__ = ["SYSTEMS", "bundle", "to_fhir"]

Resource = dict[str, Any]

# Vocabulary -> the system's URI (https://terminology.hl7.org/external_terminologies.html; OBO: the ontology's
# URI).
SYSTEMS = {
    "UMLS": "http://www.nlm.nih.gov/research/umls",
    "SNOMED": "http://snomed.info/sct",
    "SNOMEDCT": "http://snomed.info/sct",
    "SNOMEDCT_US": "http://snomed.info/sct",
    "ICD10CM": "http://hl7.org/fhir/sid/icd-10-cm",
    "ICD9CM": "http://hl7.org/fhir/sid/icd-9-cm",
    "RXNORM": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "LOINC": "http://loinc.org",
    "LNC": "http://loinc.org",
    "MESH": "https://id.nlm.nih.gov/mesh",
    "HPO": "http://purl.obolibrary.org/obo/hp.owl",
    "MONDO": "http://purl.obolibrary.org/obo/mondo.owl",
    "DOID": "http://purl.obolibrary.org/obo/doid.owl",
    "CHEBI": "http://purl.obolibrary.org/obo/chebi.owl",
    "UNII": "http://fdasis.nlm.nih.gov",
}
_UCUM = "http://unitsofmeasure.org"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_SPAN = "urn:medvllm:fhir:source-span"
_NAMESPACE = UUID("5b0f7b0e-0e0c-5d1f-8f5e-6f2f6a9b4c11")  # fixed: identifiers stay the same between versions

# LOINC codes that the vital signs profiles prescribe (https://hl7.org/fhir/R4B/observation-vitalsigns.html).
_VITAL_CODES = {
    "heart rate": "8867-4",
    "respiratory rate": "9279-1",
    "temperature": "8310-5",
    "blood pressure": "85354-9",
    "systolic blood pressure": "8480-6",
    "diastolic blood pressure": "8462-4",
    "oxygen saturation": "2708-6",
    "body weight": "29463-7",
    "body height": "8302-2",
    "body mass index": "39156-5",
}
# Relatives -> HL7 v3 RoleCode; with "maternal" or "paternal" the code of that side where there is one.
_RELATIVES = {
    "grandmother": "GRMTH", "grandma": "GRMTH", "grandfather": "GRFTH", "grandpa": "GRFTH", "grandparent": "GRPRN",
    "mother": "MTH", "mom": "MTH", "father": "FTH", "dad": "FTH", "parent": "PRN", "brother": "BRO", "sister": "SIS",
    "sibling": "SIB", "half brother": "HBRO", "half sister": "HSIS", "aunt": "AUNT", "uncle": "UNCLE",
    "cousin": "COUSN", "niece": "NIECE", "nephew": "NEPHEW", "daughter": "DAUC", "son": "SONC",
    "granddaughter": "GRNDDAU", "grandson": "GRNDSON", "stepmother": "STPMTH", "stepfather": "STPFTH",
}  # fmt: skip
_SIDED = frozenset({"GRMTH", "GRFTH", "GRPRN", "AUNT", "UNCLE", "COUSN"})
_RELATIVE = re.compile(
    r"\b(?:(maternal|paternal)\s+)?(" + "|".join(_RELATIVES).replace(" ", r"[\s-]") + r")(?:'s|s)?\b", re.IGNORECASE
)
_BEARER_BEHIND = re.compile(r"\s{0,3}(?:[(:–-]|in\b)\s{0,3}(?:(?:his|her|their|the|a|one|both)\s+)?", re.IGNORECASE)
_FLAGS = {"H": "H", "HIGH": "H", "L": "L", "LOW": "L", "HH": "HH", "LL": "LL", "CRITICAL": "AA",
          "ABNORMAL": "A",
          "*": "A"}  # fmt: skip
_DOSE = re.compile(r"(\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?[-–]\s?(\d[\d,]*(?:\.\d+)?))?[\s-]*(\D.*)")
_DURATION = re.compile(r"(\d+)\D{0,3}?\s?-?(h|d|w|mo)")
_DOSE_UNITS = {
    "mg": "mg", "mcg": "ug", "ug": "ug", "µg": "ug", "μg": "ug", "g": "g", "gm": "g", "gms": "g", "kg": "kg",
    "ng": "ng",
    "meq": "meq", "mmol": "mmol", "ml": "mL", "cc": "mL", "l": "L", "units": "[iU]", "unit": "[iU]",
    "iu": "[iU]",
    "u": "[iU]", "%": "%", "mg/kg": "mg/kg", "mcg/kg/min": "ug/kg/min", "ml/hr": "mL/h", "mg/hr": "mg/h",
    "units/kg/hr": "[iU]/kg/h", "units/hr": "[iU]/h", "mg/m2": "mg/m2", "mg/day": "mg/d",
    "mg/kg/day": "mg/kg/d",
}  # fmt: skip


def to_fhir(documents: Iterable[Document]) -> str:
    """The Bundle as JSON indented by two spaces, without a final newline."""
    return json.dumps(bundle(documents), indent=2, ensure_ascii=False)


def bundle(documents: Iterable[Document]) -> Resource:
    """The Bundle as a dictionary: for each document a placeholder Patient and the resources that refer to
    it.
    """
    entries: list[Resource] = []
    for document in documents:
        patient = _identifier(document.id, "patient")
        entries.append(_entry({"resourceType": "Patient", "id": patient}))
        for entity in document.entities:
            resource = _resource(document, entity, {"reference": f"urn:uuid:{patient}"})
            if resource is not None:
                entries.append(_entry(resource))
    return {"resourceType": "Bundle", "type": "collection", **({"entry": entries} if entries else {})}


def _identifier(*parts: object) -> str:
    name = "\x1f".join(str(part) for part in parts)
    return str(uuid5(_NAMESPACE, name.encode("utf-8", "replace").decode()))


def _entry(resource: Resource) -> Resource:
    return {"fullUrl": f"urn:uuid:{resource['id']}", "resource": resource}


def _resource(document: Document, entity: Entity, patient: Resource) -> Resource | None:
    """The entity's resource, or None where FHIR has none for it."""
    kind = entity.type
    if kind == "chemical" and "dose" in entity.attributes:
        kind = "medication"
    hypothetical = entity.temporality == "hypothetical"
    if entity.experiencer != "patient":
        relative = entity.experiencer == "family" and kind in ("condition", "symptom")
        if not relative or hypothetical or entity.negation == "negated":
            return None
        body = _family_history(document.text, entity, patient)
    elif kind == "medication":
        body = _medication(entity, patient)
    elif hypothetical:
        return None
    elif kind in ("condition", "symptom"):
        body = _condition(entity, patient)
    elif kind in ("lab_value", "test"):
        body = _observation(entity, patient)
    elif kind == "procedure":
        body = _procedure(entity, patient)
    else:
        return None
    identity = {"id": _identifier(document.id, entity.type, entity.start, entity.end)}
    return {
        "resourceType": body.pop("resourceType"),
        **identity,
        "extension": [_source(document, entity)],
        **body,
    }


def _source(document: Document, entity: Entity) -> Resource:
    """Where in the document the resource comes from: offsets in characters, the end exclusive."""
    parts: list[Resource] = [
        {"url": "start", "valueInteger": entity.start},
        {"url": "end", "valueInteger": entity.end},
        {"url": "text", "valueString": _text(entity.text)},
    ]
    name = one_line(document.id)
    if name:
        parts.insert(0, {"url": "document", "valueString": name})
    if entity.confidence is not None:
        parts.append({"url": "confidence", "valueDecimal": entity.confidence})
    return {"url": _SPAN, "extension": parts}


def _text(text: str) -> str:
    """A FHIR string: one line, never empty."""
    return one_line(text) or "?"


def _concept(entity: Entity, *, text: str | None = None) -> Resource:
    """The entity's codes, the first of each vocabulary, and its words."""
    codings: dict[str, Resource] = {}
    for link in entity.ontology_links or []:
        vocabulary = re.sub(r"[^A-Za-z0-9_.-]", "", link.ontology) or "unknown"
        system = SYSTEMS.get(vocabulary.upper(), f"urn:medvllm:vocabulary:{vocabulary}")
        codings.setdefault(system, {"system": system, "code": _text(link.code), "display": _text(link.name)})
    concept: Resource = {"coding": list(codings.values())} if codings else {}
    return {**concept, "text": _text(entity.text) if text is None else text}


def _coded(system: str, code: str) -> Resource:
    return {"coding": [{"system": f"{_HL7}/{system}", "code": code}]}


def _condition(entity: Entity, patient: Resource) -> Resource:
    verification = {"negated": "refuted", "possible": "provisional"}.get(entity.negation, "confirmed")
    body: Resource = {"resourceType": "Condition"}
    if verification != "refuted":
        clinical = "inactive" if entity.temporality == "historical" else "active"
        body["clinicalStatus"] = _coded("condition-clinical", clinical)
    body["verificationStatus"] = _coded("condition-ver-status", verification)
    return {**body, "code": _concept(entity), "subject": patient}


def _family_history(text: str, entity: Entity, patient: Resource) -> Resource:
    before = re.split(r"[.;\n]", text[max(0, entity.start - 120) : entity.start])[-1]
    named = list(_RELATIVE.finditer(before))
    behind = _BEARER_BEHIND.match(text, entity.end)
    relative = named[-1] if named else _RELATIVE.match(text, behind.end()) if behind else None
    role = "FAMMEMB" if relative is None else _role(*relative.groups())
    condition: Resource = {"code": _concept(entity)}
    if entity.negation == "possible":
        condition["note"] = [{"text": "possible"}]
    return {
        "resourceType": "FamilyMemberHistory",
        "status": "partial",
        "patient": patient,
        "relationship": _coded("v3-RoleCode", role),
        "condition": [condition],
    }


def _role(side: str | None, relative: str) -> str:
    role = _RELATIVES[re.sub(r"[\s-]", " ", relative.lower())]
    return side[0].upper() + role if side and role in _SIDED else role


def _procedure(entity: Entity, patient: Resource) -> Resource:
    status = {"negated": "not-done", "possible": "unknown"}.get(entity.negation, "completed")
    return {"resourceType": "Procedure", "status": status, "code": _concept(entity), "subject": patient}


def _observation(entity: Entity, patient: Resource) -> Resource:
    """A measured value, or a test named without one."""
    attributes = entity.attributes
    analyte = attributes.get("analyte")
    code = _concept(entity, text=analyte)
    status = "cancelled" if entity.negation == "negated" else "unknown"
    body: Resource = {"resourceType": "Observation", "status": status}
    if entity.type == "lab_value":
        loinc = _loinc(analyte)
        body["category"] = [_coded("observation-category", "vital-signs" if loinc else "laboratory")]
        if loinc:
            code = {**code, "coding": [*loinc, *code.get("coding", [])]}
    body |= {"code": code, "subject": patient}
    if "components" in attributes:
        unit = {key: attributes[key] for key in ("unit", "ucum") if key in attributes}
        body["component"] = [_component(part | unit) for part in attributes["components"]]
    else:
        value = _value(attributes)
        absent = "not-performed" if status == "cancelled" else "unknown"
        body |= value or {"dataAbsentReason": _coded("data-absent-reason", absent)}
    if attributes.get("flag") in _FLAGS:
        body["interpretation"] = [_coded("v3-ObservationInterpretation", _FLAGS[attributes["flag"]])]
    if "reference_low" in attributes:
        low, high = attributes["reference_low"], attributes["reference_high"]
        body["referenceRange"] = [{"low": _quantity(low, attributes), "high": _quantity(high, attributes)}]
    return body


def _loinc(analyte: object) -> list[Resource]:
    """The code of a vital sign; empty for other analytes."""
    code = _VITAL_CODES.get(analyte) if isinstance(analyte, str) else None
    return [{"system": SYSTEMS["LOINC"], "code": code}] if code else []


def _component(attributes: Resource) -> Resource:
    analyte = attributes["analyte"]
    coding = _loinc(analyte)
    code: Resource = {"coding": coding} if coding else {}
    return {"code": {**code, "text": analyte}, **_value(attributes)}


def _value(attributes: Resource) -> Resource:
    """The value[x] element; empty without a value."""
    if "low" in attributes:
        low, high = _quantity(attributes["low"], attributes), _quantity(attributes["high"], attributes)
        return {"valueRange": {"low": low, "high": high}}
    value = attributes.get("value")
    if value is None:
        return {}
    if not isinstance(value, int | float):
        return {"valueString": _text(str(value))}
    quantity = _quantity(value, attributes)
    if "comparator" in attributes:
        quantity = {"value": value, "comparator": attributes["comparator"], **quantity}
    return {"valueQuantity": quantity}


def _quantity(value: float, attributes: Resource) -> Resource:
    quantity: Resource = {"value": value}
    if "unit" in attributes:
        quantity["unit"] = _text(attributes["unit"])
    if "ucum" in attributes:
        quantity |= {"system": _UCUM, "code": attributes["ucum"]}
    return quantity


def _medication(entity: Entity, patient: Resource) -> Resource:
    if entity.negation == "negated":
        status = "not-taken"
    elif entity.temporality == "hypothetical":
        status = "intended"
    elif entity.negation == "possible":
        status = "unknown"
    else:
        status = "completed" if entity.temporality == "historical" else "active"
    body: Resource = {
        "resourceType": "MedicationStatement",
        "status": status,
        "medicationCodeableConcept": _concept(entity),
        "subject": patient,
    }
    doses = [entity.attributes, *entity.attributes.get("further_doses", [])]
    dosages = [dosage for dosage in (_dosage(dose) for dose in doses) if dosage]
    if dosages:
        body["dosage"] = dosages
    return body


def _dosage(attributes: Resource) -> Resource:
    """One dosage instruction from a medication's attributes; empty when nothing is known."""
    keys = ("strength", "dose", "quantity", "route", "frequency", "duration")
    words = [str(attributes[key]) for key in keys if key in attributes]
    if attributes.get("prn"):
        words.append(f"as needed for {attributes['prn_reason']}" if "prn_reason" in attributes else "as needed")
    if not words:
        return {}
    dosage: Resource = {"text": _text(" ".join(words))}
    timing = _timing(attributes)
    if timing:
        dosage["timing"] = timing
    if "prn_reason" in attributes:
        dosage["asNeededCodeableConcept"] = {"text": _text(attributes["prn_reason"])}
    elif attributes.get("prn"):
        dosage["asNeededBoolean"] = True
    if "route" in attributes:
        route = attributes["route"]
        dosage["route"] = {"text": ROUTES.get(route.lower().replace(".", "").replace("-", " "), _text(route))}
    amount = _dose_quantity(attributes.get("dose", ""))
    if amount:
        dosage["doseAndRate"] = [amount]
    return dosage


def _timing(attributes: Resource) -> Resource:
    repeat: Resource = {}
    bounds = _DURATION.search(attributes.get("duration", "").lower())
    if bounds is not None:
        code = {"w": "wk"}.get(bounds[2], bounds[2])
        unit = {"h": "hours", "d": "days", "wk": "weeks", "mo": "months"}[code]
        repeat["boundsDuration"] = {"value": int(bounds[1]), "unit": unit, "system": _UCUM, "code": code}
    frequency = attributes.get("frequency")
    known = frequency_timing(frequency) if frequency else None
    if known is not None:
        repeat |= {"frequency": known[0], "period": known[1], "periodUnit": known[2]}
    timing: Resource = {"repeat": repeat} if repeat else {}
    return {**timing, "code": {"text": _text(frequency)}} if frequency else timing


def _dose_quantity(dose: str) -> Resource:
    """The dose as a quantity, range or rate; empty where it is several strengths ("5-325 mg") or has no
    figure.
    """
    found = _DOSE.fullmatch(dose)
    if found is None:
        return {}
    low, high = (float(part.replace(",", "")) if part else None for part in found.groups()[:2])
    unit = found[3].strip()
    if low is None or unit.startswith("/") or (high is not None and not low < high <= 4 * low):
        return {}
    code = _DOSE_UNITS.get(unit.lower())
    extra = {"unit": _text(unit), **({"system": _UCUM, "code": code} if code else {})}
    kind = "rate" if unit.lower().endswith(("/min", "/hr", "/h", "/hour")) else "dose"
    if high is not None:
        return {
            f"{kind}Range": {
                "low": {"value": _number(low), **extra},
                "high": {"value": _number(high), **extra},
            }
        }
    return {f"{kind}Quantity": {"value": _number(low), **extra}}


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() else value
