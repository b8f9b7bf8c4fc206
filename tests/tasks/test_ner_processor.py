"""The whole pipeline as a library: what is found, how it is asserted, and which codes it gets."""

from __future__ import annotations

import functools
import itertools
import random
import time
from pathlib import Path

import pytest
from medvllm_kernels import native

from medvllm.errors import MedvllmError
from medvllm.tasks import Entity, NERProcessor


@functools.cache
def _processor(ontology: str = "UMLS", fast: bool = False) -> NERProcessor:
    return NERProcessor(ontology=ontology, fast=fast)


def _find(text: str, ontology: str = "UMLS") -> dict[str, Entity]:
    return {entity.text: entity for entity in _processor(ontology).process(text)}


def _top(entity: Entity) -> str | None:
    links = entity.ontology_links
    return f"{links[0].ontology}:{links[0].code}" if links else None


@pytest.mark.parametrize(
    ("text", "ontology", "code"),
    [
        ("HTN", "UMLS", "UMLS:C0020538"),
        ("pneumonia", "UMLS", "UMLS:C0032285"),
        ("diabetes mellitus", "SNOMED", "SNOMED:73211009"),
        ("hypertension", "ICD10CM", "ICD10CM:I10"),
        ("COPD", "ICD10CM", "ICD10CM:J44.9"),
        ("heart attack", "UMLS", "UMLS:C0027051"),
        ("high blood pressure", "UMLS", "UMLS:C0020538"),
        ("metformin", "UMLS", "MESH:D008687"),
        ("metformin", "MESH", "MESH:D008687"),
    ],
)
def test_codes(text: str, ontology: str, code: str) -> None:
    found = _find(f"Patient with {text}.", ontology)
    assert _top(found[text]) == code


def test_strict_ontology_gives_no_code_of_another() -> None:
    entities = NERProcessor(strict_ontology=True).process("on metformin for HTN")
    assert {entity.text: _top(entity) for entity in entities} == {"metformin": None, "HTN": "UMLS:C0020538"}


def test_no_word_gets_a_code_by_likeness() -> None:
    assert "heart" not in {entity.text for entity in _find("insulin resistance").values() if entity.type == "condition"}
    assert _top(_find("pain in the heart").get("heart", Entity("", "", 0, 0))) != "UMLS:C0027051"
    assert "insulin" not in _find("insulin resistance")


def test_longest_spans_win() -> None:
    assert "diabetes insipidus" in _find("He has diabetes insipidus.")
    found = _find("He had a heat stroke.")
    assert "heat stroke" in found
    assert "stroke" not in found


def test_lay_terms_and_abbreviations_are_all_found() -> None:
    assert set(_find("heart attack, HTN, DM2, high blood pressure")) == {
        "heart attack",
        "HTN",
        "DM2",
        "high blood pressure",
    }


def test_each_mention_is_an_entity() -> None:
    text = "fever fever fever"
    spans = [(entity.start, entity.end) for entity in _processor().process(text)]
    assert spans == [(0, 5), (6, 11), (12, 17)]


def test_an_abbreviation_the_text_defines_is_found_later() -> None:
    text = "chronic myocardial infarction (MI). MI recurred."
    later = [entity for entity in _processor().process(text) if entity.start == text.rindex("MI")]
    assert [entity.type for entity in later] == ["condition"]


def test_two_values_are_two_entities() -> None:
    found = _find("sodium 137 mmol/L and potassium 4.1 mmol/L")
    assert set(found) == {"sodium 137 mmol/L", "potassium 4.1 mmol/L"}
    assert found["sodium 137 mmol/L"].type == "lab_value"
    assert found["sodium 137 mmol/L"].attributes["value"] == 137
    assert _top(found["sodium 137 mmol/L"]) == "MESH:D012964"


@pytest.mark.parametrize(
    ("text", "term", "expected"),
    [
        ("He does not smoke and has hypertension.", "hypertension", ("affirmed", "recent", "patient")),
        ("No change: hypertension persists.", "hypertension", ("affirmed", "recent", "patient")),
        ("Pneumonia was ruled out.", "Pneumonia", ("negated", "recent", "patient")),
        (
            "Denies chest pain, shortness of breath, nausea, vomiting, headache, dizziness.",
            "dizziness",
            ("negated", "recent", "patient"),
        ),
        ("Mother had stroke.", "stroke", ("affirmed", "recent", "family")),
        ("History of pneumonia.", "pneumonia", ("affirmed", "historical", "patient")),
        ("Return if fever develops.", "fever", ("affirmed", "hypothetical", "patient")),
        ("Possible pneumonia.", "pneumonia", ("possible", "recent", "patient")),
    ],
)
def test_assertion(text: str, term: str, expected: tuple[str, str, str]) -> None:
    entity = _find(text)[term]
    assert (entity.negation, entity.temporality, entity.experiencer) == expected


def test_medication_gets_its_dose() -> None:
    drug = _find("metformin 500 mg PO BID")["metformin"]
    assert {key: drug.attributes[key] for key in ("dose", "route", "frequency")} == {
        "dose": "500 mg",
        "route": "PO",
        "frequency": "BID",
    }


def test_confidence_is_no_constant() -> None:
    entities = _processor().process(
        "Patient with HTN and DM. Given cisplatin for oropharyngeal squamous cell carcinoma."
    )
    values = {entity.confidence for entity in entities}
    assert len(values) > 1
    assert all(value is not None and 0 < value < 1 for value in values)


def test_unknown_ontology_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(MedvllmError, match="unknown ontology 'ICD9'; choose one of UMLS, MESH, ICD10CM"):
        NERProcessor(ontology="ICD9")


def test_extraction_and_linking_are_separate() -> None:
    processor = _processor()
    entities = processor.extract_entities("HTN")
    assert entities[0].ontology_links is None
    assert _top(processor.link_entities(entities)[0]) == "UMLS:C0020538"
    assert "HTN" in processor.highlight_entities("HTN", entities, color=False)


def test_offsets_are_characters_of_the_text() -> None:
    text = "🙂 Ménière’s disease\r\n\tand e\u0301 pneumonia"
    entities = _processor().process(text)
    assert "pneumonia" in {entity.text for entity in entities}
    assert all(text[entity.start : entity.end] == entity.text for entity in entities)


SIZE = 5_000_000 if native.library() is not None else 200_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a " * (SIZE // 2), id="words"),
        pytest.param("x" * SIZE, id="one word"),
        pytest.param(random.Random(1).randbytes(SIZE).decode("latin-1"), id="random bytes"),
        pytest.param("\x00\ud800\uffff" * 1000, id="no characters"),
        pytest.param("HTN " * 20_000, id="one finding"),
        pytest.param("", id="nothing"),
    ],
)
def test_hostile_texts_end_soon_and_orderly(text: str) -> None:
    started = time.process_time()
    entities = _processor().process(text)
    assert time.process_time() - started < 30  # measured: at most 3.5 s
    assert all(a.end <= b.start for a, b in itertools.pairwise(entities))


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_notes() -> None:
    def kibibytes() -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))

    processor = NERProcessor()
    at: dict[int, int] = {}
    for number in range(1, 10_001):
        processor.document(
            str(number),
            f"Patient {number} has hypertension and denies chest pain. Metformin {number} mg PO BID since May. Sodium "
            f"{number % 90 + 90} mmol/L. Mother had stroke at {number % 80}. Ward{number} syndrome is unlikely.",
        )
        if number in (1000, 10_000):
            at[number] = kibibytes()
    assert at[10_000] - at[1000] < 12 * 1024, at  # caches fill up to their bounds; the notes together are 2 MB


def test_the_processor_needs_no_torch_or_numpy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from medvllm.tasks import NERProcessor; NERProcessor().process('HTN, sodium 137 mmol/L'); "
        "print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PMH:\nHTN\nasthma\ngout", ["HTN", "asthma", "gout"]),
        ("Meds:\nmetformin\r\naspirin  \nlisinopril", ["metformin", "aspirin", "lisinopril"]),
        ("fever\nHTN\nasthma", ["fever", "HTN", "asthma"]),
        ("She has congestive heart\nfailure and pressure\nulcers.", ["congestive heart\nfailure", "pressure\nulcers"]),
        ("She has acute\nmyocardial infarction.", ["acute\nmyocardial infarction"]),
    ],
)
def test_a_list_with_a_finding_a_line_is_no_one_finding(text: str, expected: list[str]) -> None:
    found = _processor().process(text)
    assert [entity.text for entity in found] == expected
    assert all(entity.ontology_links for entity in found)
