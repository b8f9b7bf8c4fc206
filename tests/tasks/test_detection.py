"""Detection with the built-in store and model: known defects of such tools, both modes, limits."""

from __future__ import annotations

import itertools
import time

import pytest
from medvllm_kernels import native

from medvllm.errors import MedvllmError
from medvllm.ontology.store import OntologyStore
from medvllm.tasks.abbreviations import find_definitions, occurrences
from medvllm.tasks.detection import Calibration, Detector, Mention, builtin_model
from medvllm.tasks.entities import ENTITY_TYPES
from medvllm.tasks.findings import find_findings
from medvllm.tasks.term_variants import variants


@pytest.fixture(scope="module")
def store() -> OntologyStore:
    return OntologyStore.open()


@pytest.fixture(scope="module")
def full(store: OntologyStore) -> Detector:
    return Detector(store)


@pytest.fixture(scope="module")
def fast(store: OntologyStore) -> Detector:
    return Detector(store, mode="fast")


def words(detector: Detector, text: str) -> list[str]:
    return [text[mention.start : mention.end] for mention in detector.detect(text)]


def only(detector: Detector, text: str, word: str) -> Mention:
    found = [mention for mention in detector.detect(text) if text[mention.start : mention.end] == word]
    assert found, f"{word!r} not in {words(detector, text)}"
    return found[0]


def test_one_word_three_times_is_three_mentions(full: Detector) -> None:
    assert words(full, "fever fever fever") == ["fever", "fever", "fever"]


def test_other_places_of_the_words_are_found(full: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a text that is not ASCII, whose tokens do not tell whether the words stand elsewhere."""
    text = "Drug-induced nephrotoxicity in rats. Nephrotoxicity was mild. NEPHROTOXICITY: none; no nephrotoxicity"
    found = words(full, text)
    assert sum(word.lower() == "nephrotoxicity" for word in found) >= 3
    assert words(full, text + " é")[: len(found)] == found
    if native.library() is not None:
        monkeypatch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
        assert words(full, text) == found


@pytest.mark.parametrize("mode", ["full", "fast"])
@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("He has diabetes insipidus.", "diabetes insipidus"),
        ("Admitted with heat stroke.", "heat stroke"),
        ("History of chronic obstructive pulmonary disease.", "chronic obstructive pulmonary disease"),
    ],
)
def test_spans_are_not_truncated(store: OntologyStore, mode: str, text: str, whole: str) -> None:
    found = words(Detector(store, mode=mode), text)  # type: ignore[arg-type]
    assert whole in found
    assert not any(word != whole and word in whole for word in found)


@pytest.mark.parametrize("mode", ["full", "fast"])
def test_lay_terms_and_abbreviations_are_found(store: OntologyStore, mode: str) -> None:
    text = "Patient with heart attack, HTN, DM2, high blood pressure."
    found = words(Detector(store, mode=mode), text)  # type: ignore[arg-type]
    assert {"heart attack", "HTN", "DM2", "high blood pressure"} <= set(found)


def test_an_abbreviation_defined_in_the_text_is_found_again(full: Detector) -> None:
    text = "chronic myocardial infarction (MI). MI recurred."
    assert words(full, text)[-2:] == ["MI", "MI"]
    later = full.detect(text)[-1]
    assert later.start == text.rindex("MI")
    assert later.type == "condition"
    assert later.long_form == "myocardial infarction"


def test_an_abbreviation_takes_the_term_of_its_long_form(full: Detector, store: OntologyStore) -> None:
    """CHD is coronary heart disease, unless the text says that it is something else."""
    text = "Congenital heart disease (CHD) is common. Children with CHD are small."
    term = only(full, text, "CHD").term
    assert term is not None
    codes = [link.code for link in store.links(store.term_id(term), ontology="MESH")]
    assert codes[0] == "D006330"


def test_the_short_form_of_a_gene_is_no_condition(full: Detector) -> None:
    """VHL is a disease in most texts; here the text says that it means the gene."""
    disease = "Patients with von Hippel-Lindau disease (VHL) were seen. VHL is inherited."
    gene = "The von Hippel-Lindau tumor suppressor gene (VHL) was cloned. VHL is inherited."
    assert words(full, disease).count("VHL") == 2
    assert "VHL" not in words(full, gene)


def test_types(full: Detector) -> None:
    text = "Asthma with cough, treated with salbutamol; serum potassium rose. Appendectomy in 2010. Pain in the knee."
    types = {text[m.start : m.end]: m.type for m in full.detect(text)}
    assert types["Asthma"] == "condition"
    assert types["cough"] == "symptom"
    assert types["salbutamol"] == "medication"
    assert types["Appendectomy"] == "procedure"
    assert types["knee"] == "anatomical_structure"
    assert set(types.values()) <= set(ENTITY_TYPES)


def test_findings_of_an_examination(full: Detector) -> None:
    text = (
        "HEENT: perrla, eomi. Lungs are clear. Regular rhythm, no rubs or gallops. Abdomen soft, nontender. Hx of chf."
    )
    found = words(full, text)
    for expected in (
        "perrla",
        "eomi",
        "Lungs are clear",
        "Regular rhythm",
        "rubs",
        "gallops",
        "Abdomen soft, nontender",
        "chf",
    ):
        assert expected in found


def test_generic_words_are_findings_only_of_a_patient() -> None:
    def found(text: str) -> list[str]:
        return [text[start:end] for start, end, _ in find_findings(text)]

    assert found("The frequency of lesions was studied.") == []
    assert found("She denies any lesions or masses.") == ["lesions", "masses"]
    assert found("The left ventricular size is moderately dilated.") == ["left ventricular size is moderately dilated"]
    assert found("normal bowel sounds") == ["normal bowel sounds"]


def test_confidences_differ_and_are_probabilities(full: Detector) -> None:
    text = "Naloxone reverses the antihypertensive effect of clonidine. Fatigue, mild hepatitis and rales were seen."
    confidences = [mention.confidence for mention in full.detect(text) if mention.confidence is not None]
    assert len(set(confidences)) >= 3
    assert all(0 < confidence < 1 for confidence in confidences)


def test_types_that_no_corpus_annotates_have_no_confidence(full: Detector) -> None:
    assert only(full, "Appendectomy in 2010.", "Appendectomy").confidence is None


def test_mentions_do_not_overlap_but_nested_ones_may(full: Detector) -> None:
    text = "Acute myocardial infarction with cardiogenic shock; heart transplantation was done."
    plain = full.detect(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(plain))
    nested = full.detect(text, nested=True)
    assert set(plain) <= set(nested)
    inside = {text[mention.start : mention.end] for mention in nested} - {text[m.start : m.end] for m in plain}
    assert "heart" in inside


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "(", "((((", "İİİ fever İ", "a" * 5000, "\ud800 fever", "fever\r\nchills"]
)
def test_odd_texts(full: Detector, fast: Detector, text: str) -> None:
    for detector in (full, fast):
        for mention in detector.detect(text, nested=True):
            assert 0 <= mention.start < mention.end <= len(text)


def test_the_python_path_finds_the_same(store: OntologyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library() is None:
        pytest.skip(f"no native library: {native.status()}")
    text = (
        "Pt with CHF and chronic myocardial infarction (MI), on lisinopril 10 mg; MI recurred. Lungs clear, no rales."
    )
    expected = Detector(store).detect(text, nested=True)
    monkeypatch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
    assert Detector(store).detect(text, nested=True) == expected


@pytest.mark.parametrize("unit", ["a heart failure ", "fever,", "(MI) ", "Abc (def ", "myocardial infarction (MI) "])
def test_time_is_linear(full: Detector, unit: str) -> None:
    if native.library() is None:
        pytest.skip(f"no native library: {native.status()}")

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        started = time.process_time()
        full.detect(text)
        return time.process_time() - started

    short, long = (min(seconds(size), seconds(size)) for size in (25_000, 200_000))
    assert long < 8 * 4 * max(short, 0.005)  # quadratic time would be 64 times as long


def test_an_unknown_mode_names_the_valid_ones(store: OntologyStore) -> None:
    with pytest.raises(MedvllmError, match="full, fast"):
        Detector(store, mode="quick")  # type: ignore[arg-type]


def test_the_model_file_is_small_and_whole() -> None:
    model = builtin_model()
    model.verify()
    assert len(model._data) <= 3_000_000


def test_definitions() -> None:
    def found(text: str) -> list[tuple[str, str]]:
        return [(text[d.short_start : d.short_end], text[d.long_start : d.long_end]) for d in find_definitions(text)]

    assert found("tumor necrosis factor alpha (TNF-alpha)") == [("TNF-alpha", "tumor necrosis factor alpha")]
    assert found("DM (diabetes mellitus)") == [("DM", "diabetes mellitus")]
    assert found("acquired immune deficiency syndrome (AIDS; n = 3)") == [
        ("AIDS", "acquired immune deficiency syndrome")
    ]
    assert found("(MI) and 5 mg (n = 5) and some text (see Figure 1)") == []


def test_occurrences_are_whole_words() -> None:
    assert list(occurrences("MI, AMI, MI2, (MI)", "MI")) == [(0, 2), (15, 17)]


def test_variants() -> None:
    assert "renal tumor" in variants("Renal tumours")
    assert "aspa deficiency" in variants("deficiency of ASPA")
    assert "hypertension" in variants("severe hypertension")
    assert "heart failure" not in variants("congestive heart failure")
    assert list(variants("")) == []


def test_a_calibration_is_a_step_function() -> None:
    probability = Calibration([0, 10], [0.1, 0.5, 0.9])
    assert [probability(score) for score in (-1, 0, 9, 10)] == [0.1, 0.5, 0.5, 0.9]
    with pytest.raises(ValueError, match="3 values"):
        Calibration([0, 10], [0.1])
