"""Made-up clinical notes for timing: the same for the same seed, and no data needed.

Five kinds of note (discharge summary, radiology report, SOAP note, medication list, laboratory report) with
varied findings, negations, relatives, doses and values. They stand for the form of notes, not for the accuracy
that a tool reaches on real ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

__all__ = ["notes"]

_CONDITIONS = """
hypertension|type 2 diabetes mellitus|COPD|congestive heart failure|atrial fibrillation|chronic kidney disease
community-acquired pneumonia|deep vein thrombosis|pulmonary embolism|coronary artery disease|GERD|hypothyroidism
rheumatoid arthritis|iron deficiency anemia|acute pancreatitis|cellulitis of the left leg|diverticulitis|gout
urinary tract infection|osteoporosis|migraine|major depressive disorder|obstructive sleep apnea|cirrhosis
breast cancer|prostate cancer|non-small cell lung cancer|Crohn's disease|ulcerative colitis|Parkinson's disease
ischemic stroke|TIA|epilepsy|multiple sclerosis|sepsis|acute kidney injury|hyperkalemia|hyponatremia|asthma
hyperlipidemia|peripheral neuropathy|aortic stenosis|mitral regurgitation|NSTEMI|cholelithiasis|appendicitis
small bowel obstruction|C. difficile colitis|endocarditis|osteomyelitis|psoriasis|Sjögren's syndrome|DKA
"""
_SYMPTOMS = """
chest pain|shortness of breath|nausea|vomiting|diarrhea|abdominal pain|fever|chills|cough|hemoptysis|headache
dizziness|syncope|palpitations|lower extremity edema|orthopnea|night sweats|weight loss|fatigue|dysuria
hematuria|back pain|joint stiffness|rash|pruritus|blurred vision|weakness of the right arm|numbness|melena
constipation|sore throat|wheezing|confusion|dysphagia|epistaxis|insomnia
"""
_DRUGS = """
lisinopril|metformin|atorvastatin|metoprolol succinate|furosemide|amlodipine|warfarin|apixaban|aspirin|clopidogrel
omeprazole|pantoprazole|levothyroxine|prednisone|albuterol|tiotropium|gabapentin|sertraline|citalopram|trazodone
amoxicillin-clavulanate|ceftriaxone|azithromycin|vancomycin|piperacillin-tazobactam|levofloxacin|ciprofloxacin
insulin glargine|hydrochlorothiazide|spironolactone|allopurinol|colchicine|methotrexate|ibuprofen|acetaminophen
oxycodone|morphine|ondansetron|heparin|enoxaparin|digoxin|amiodarone|losartan|carvedilol|levetiracetam|Tylenol
"""
_PROCEDURES = """
chest x-ray|CT of the abdomen and pelvis|echocardiogram|coronary angiography|colonoscopy|upper endoscopy|lumbar puncture
MRI of the brain|laparoscopic cholecystectomy|appendectomy|total knee arthroplasty|coronary artery bypass grafting
hemodialysis|bronchoscopy|thoracentesis|paracentesis|blood transfusion|carotid ultrasound|EKG|biopsy of the liver
"""
_LABS = (
    ("Sodium", 128, 148, "mmol/L", 0), ("Potassium", 29, 58, "mmol/L", 1), ("Creatinine", 6, 42, "mg/dL", 1),
    ("BUN", 8, 80, "mg/dL", 0), ("Glucose", 60, 420, "mg/dL", 0), ("Hemoglobin", 65, 168, "g/dL", 1),
    ("WBC", 21, 240, "K/uL", 1), ("Platelets", 40, 480, "K/uL", 0), ("Troponin I", 1, 90, "ng/mL", 2),
    ("Lactate", 6, 71, "mmol/L", 1), ("ALT", 10, 400, "U/L", 0), ("AST", 10, 400, "U/L", 0), ("INR", 9, 52, "", 1),
    ("Hemoglobin A1c", 51, 132, "%", 1), ("TSH", 2, 98, "mIU/L", 1), ("BNP", 20, 3000, "pg/mL", 0),
    ("Total bilirubin", 2, 91, "mg/dL", 1), ("Albumin", 18, 49, "g/dL", 1), ("CRP", 1, 210, "mg/L", 0),
)  # fmt: skip
_SITES = """
right upper lobe|left lower lobe|right middle lobe|liver|left kidney|spleen|pancreatic head|right hilum
"""
_ROUTES = "PO|IV|SC|by mouth|inhaled"
_FREQUENCIES = "daily|BID|TID|q6h PRN|at bedtime|every other day|twice a day with meals|once weekly"
_PROSE = """
The patient was seen and examined with the team on morning rounds.|Overnight there were no acute events.
Family was updated at the bedside and all of their questions were answered.|He lives alone and walks with a cane.
She works as a teacher and does not smoke.|The plan was discussed with the primary care physician by telephone.
Records from the outside hospital were requested and reviewed.|Diet was advanced as tolerated.
Vital signs were stable and the patient remained afebrile.|Follow-up with the clinic has been arranged.
He was transferred from the outside hospital late in the evening and was admitted to the medicine service.
The risks and benefits were explained to the patient, who understood them and agreed to go ahead.
She has been living with her daughter since last summer and manages her own pills with a weekly organizer.
The on-call consultant was paged and came to see the patient within the hour.|Nothing else changed since yesterday.
He was able to walk the length of the hallway twice with the therapist, and climbed one flight of stairs.
The pharmacy was asked to go over the new schedule with the patient before leaving.|Labs will be repeated tomorrow.
After a long discussion with the patient and the husband, the decision was made to wait and watch closely.
We will obtain the earlier films for comparison and call with the result.|She drove herself to the appointment.
The patient was told to call the office with any questions and to bring the list of pills to the next visit.
He has an appointment in two weeks, and transport was arranged by the social worker.
"""


def _split(block: str) -> list[str]:
    return [item.strip() for line in block.strip().splitlines() for item in line.split("|")]


class _Writer:
    """Draws the parts of notes."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lists = {
            "condition": _split(_CONDITIONS),
            "symptom": _split(_SYMPTOMS),
            "drug": _split(_DRUGS),
            "procedure": _split(_PROCEDURES),
            "prose": _split(_PROSE),
        }

    def some(self, kind: str, count: int) -> list[str]:
        return self._random.sample(self._lists[kind], count)

    def one(self, kind: str) -> str:
        return self._random.choice(self._lists[kind])

    def prose(self, count: int) -> str:
        return " ".join(self.some("prose", count))

    def pick(self, choices: Sequence[str]) -> str:
        return self._random.choice(choices)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def lab(self) -> str:
        name, low, high, unit, decimals = self._random.choice(_LABS)
        value = self.number(low, high) / 10**decimals
        return f"{name} {value:.{decimals}f} {unit}".rstrip()

    def prescription(self) -> str:
        amount = self.pick(("5", "10", "12.5", "20", "40", "81", "100", "250", "500", "1,000"))
        route, frequency = self.pick(_ROUTES.split("|")), self.pick(_FREQUENCIES.split("|"))
        return f"{self.one('drug')} {amount} mg {route} {frequency}"

    def vitals(self) -> str:
        return (
            f"BP {self.number(88, 190)}/{self.number(45, 110)}, HR {self.number(48, 140)}, "
            f"RR {self.number(10, 32)}, T {self.number(358, 396) / 10}, SpO2 {self.number(84, 100)}% on room air"
        )

    def date(self) -> str:
        return f"{self.number(1, 12):02}/{self.number(1, 28):02}/20{self.number(12, 24)}"

    def discharge_summary(self) -> str:
        history = ", ".join(self.some("condition", 5))
        first, second, third = self.some("condition", 3)
        course = " ".join(
            f"{self.pick(('For', 'Regarding the', 'With respect to'))} {problem}, the patient was treated with "
            f"{self.one('drug')} and {self.one('drug')}; {self.one('procedure')} on {self.date()} showed "
            f"{self.pick(('no evidence of', 'possible', 'improvement of the', 'findings consistent with'))} "
            f"{self.one('condition')}. {self.prose(3)}"
            for problem in (first, second, third)
        )
        medications = "\n".join(f"{number}. {self.prescription()}" for number in range(1, self.number(5, 11)))
        denied = ", ".join(self.some("symptom", 4))
        return (
            f"DISCHARGE SUMMARY\nAdmission Date: {self.date()}   Discharge Date: {self.date()}\n\n"
            f"CHIEF COMPLAINT: {self.one('symptom')} and {self.one('symptom')}.\n\n"
            f"HISTORY OF PRESENT ILLNESS:\nThis is a {self.number(19, 94)}-year-old "
            f"{self.pick(('man', 'woman'))} with a history of {history} who presented with {self.number(2, 9)} days of "
            f"{self.one('symptom')}. The patient reports {self.one('symptom')} but denies {denied}. "
            f"{self.prose(4)} On arrival {self.vitals()}.\n\n"
            f"PAST MEDICAL HISTORY:\n{history}. Status post {self.one('procedure')} in 20{self.number(10, 23):02}.\n\n"
            f"FAMILY HISTORY: Mother had {self.one('condition')}. Father died of {self.one('condition')}.\n\n"
            f"HOSPITAL COURSE:\n{course}\n\n"
            f"PERTINENT RESULTS: {self.lab()}, {self.lab()}, {self.lab()}, {self.lab()}.\n\n"
            f"DISCHARGE MEDICATIONS:\n{medications}\n\n"
            f"DISCHARGE DIAGNOSES: {first}; {second}; {third}.\n\nDISPOSITION: {self.prose(3)}\n"
            f"Return to the emergency department if you develop {self.one('symptom')} or {self.one('symptom')}.\n"
        )

    def radiology_report(self) -> str:
        return (
            f"EXAM: {self.one('procedure')}\nINDICATION: {self.one('symptom')}, rule out {self.one('condition')}.\n"
            f"COMPARISON: {self.date()}.\n\nFINDINGS: There is a {self.number(3, 48)} mm nodule in the "
            f"{self.pick(_split(_SITES))}, unchanged from prior. No pleural effusion or pneumothorax is seen. The "
            f"{self.pick(_split(_SITES))} is unremarkable. Mild cardiomegaly. No focal consolidation. {self.prose(3)} "
            f"Degenerative changes of the thoracic spine. There is no lymphadenopathy, and no acute fracture.\n\n"
            f"IMPRESSION:\n1. Findings may represent {self.one('condition')}.\n"
            f"2. No evidence of {self.one('condition')}.\n3. Recommend {self.one('procedure')} in "
            f"{self.number(3, 12)} months.\n"
        )

    def soap_note(self) -> str:
        plan = "\n".join(
            f"# {problem}: {self.pick(('stable', 'worsening', 'improved', 'well controlled'))}. "
            f"{self.pick(('Continue', 'Start', 'Increase', 'Hold'))} {self.prescription()}. "
            f"Check {self.one('procedure')} if {self.one('symptom')} recurs."
            for problem in self.some("condition", 3)
        )
        return (
            f"S: Patient here for follow-up of {self.one('condition')}. Reports {self.one('symptom')} for "
            f"{self.number(2, 12)} weeks. No {self.one('symptom')}, no {self.one('symptom')}. {self.prose(4)}\n"
            f"O: {self.vitals()}. Alert and oriented, in no acute distress. Lungs clear to auscultation bilaterally. "
            f"Heart regular without murmurs. Abdomen soft, nontender. {self.lab()}; {self.lab()}.\n"
            f"{self.prose(2)}\nA/P:\n{plan}\nAllergies: {self.one('drug')} (rash).\n"
        )

    def medication_list(self) -> str:
        lines = "\n".join(f"- {self.prescription()}" for _ in range(self.number(6, 14)))
        return f"MEDICATIONS ON ADMISSION\n{lines}\nALLERGIES: {self.one('drug')}, {self.one('drug')}\n"

    def laboratory_report(self) -> str:
        lines = "\n".join(
            f"{self.lab()}   {self.pick(('H', 'L', '', '', ''))}".rstrip() for _ in range(self.number(10, 20))
        )
        return f"LABORATORY DATA {self.date()} {self.number(0, 23):02}:{self.number(0, 59):02}\n{lines}\n"


def notes(megabytes: float, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """(id, text) of notes until their texts hold `megabytes` (10^6 bytes of UTF-8), at least one."""
    writer = _Writer(seed)
    kinds = (
        writer.discharge_summary,
        writer.radiology_report,
        writer.soap_note,
        writer.medication_list,
        writer.laboratory_report,
    )
    size = number = 0
    while number == 0 or size < megabytes * 1e6:
        text = kinds[number % len(kinds)]()
        yield f"note-{number}", text
        size += len(text.encode())
        number += 1
