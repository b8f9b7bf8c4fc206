"""A store at run time: links, lookup, layers, and what is said when it is missing or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medvllm.errors import MedvllmError
from medvllm.ontology.importer import import_csv, import_rrf
from medvllm.ontology.store import OntologyStore, resolve_vocabulary

_BASE = """term,code,vocabulary,type,name
hypertension,C0020538,UMLS,condition,Hypertension
high blood pressure,C0020538,UMLS,condition,
cold,C0009443,UMLS,condition,Common Cold
cold,D003080,MESH,,Cold Temperature
metformin,D008687,MESH,medication,Metformin
"""


def make(folder: Path, name: str, text: str) -> Path:
    source = folder / f"{name}.csv"
    source.write_text(text, encoding="utf-8")
    import_csv(source, folder / name)
    return folder / name


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make(tmp_path, "base", _BASE)


def test_an_unknown_ontology_lists_the_valid_ones(base: Path) -> None:
    store = OntologyStore.open(base)
    with pytest.raises(MedvllmError, match=r"unknown ontology 'FOO'; choose one of UMLS, MESH, ICD10CM, .*ALL"):
        store.links("hypertension", ontology="FOO")
    assert resolve_vocabulary("snomedct_us") == "SNOMED"
    assert resolve_vocabulary("umls") == "UMLS"


def test_an_unknown_phrase_has_no_links(base: Path) -> None:
    store = OntologyStore.open(base)
    assert store.links("no such phrase") == []
    assert store.get("no such phrase") is None
    assert store.lookup("no such phrase") == []


def test_an_ambiguous_phrase_is_linked_by_type(base: Path) -> None:
    store = OntologyStore.open(base)
    assert {link.code for link in store.links("cold", ontology="ALL")} == {"C0009443", "D003080"}
    assert [link.code for link in store.links("cold", ontology="ALL", type="symptom")] == ["C0009443"]
    senses = store.phrase_senses("cold")
    assert [sense.preferred for sense in senses] == [True, False]


def test_links_are_ordered_and_scored(base: Path) -> None:
    links = OntologyStore.open(base).links("cold", ontology="ALL")
    assert [link.score for link in links] == sorted((link.score for link in links), reverse=True)
    assert all(0 < link.score <= 1 for link in links)
    assert len({link.score for link in links}) == 2, "the second sense is less likely"


def test_strict_umls_leaves_out_other_codes(base: Path) -> None:
    store = OntologyStore.open(base)
    assert [(link.ontology, link.code) for link in store.links("metformin")] == [("MESH", "D008687")]
    assert store.links("metformin", strict=True) == []


def test_a_code_is_looked_up_too(base: Path) -> None:
    store = OntologyStore.open(base)
    for text in ("C0020538", "c0020538", "UMLS:C0020538"):
        (found,) = store.lookup(text)
        assert (found.concept.name, found.kind) == ("Hypertension", "code")
    assert store.lookup("MESH:C0020538") == []


def test_the_users_store_comes_first(base: Path, tmp_path: Path) -> None:
    text = "term,code,vocabulary,type\nhypertension,H1,LOCAL,condition\nspecial hypertension,H2,LOCAL,condition\n"
    store = OntologyStore.open(base, user=[make(tmp_path, "own", text)])
    note = "special hypertension, hypertension and metformin"
    found = [(note[start:end], store.term_type(payload)) for start, end, payload in store.find(note)]
    assert found == [("special hypertension", "condition"), ("hypertension", "condition"), ("metformin", "medication")]
    payload = store.find(note)[1][2]
    assert [link.code for link in store.links(store.term_id(payload), ontology="LOCAL")] == ["H1"]
    links = store.links("hypertension", ontology="ALL")
    assert [(link.ontology, link.code) for link in links] == [("LOCAL", "H1"), ("UMLS", "C0020538")]
    assert [info["path"] for info in store.info()] == [str(base), str(tmp_path / "own")]


def test_the_users_umls_gives_cuis_to_built_in_drugs(base: Path, tmp_path: Path) -> None:
    row = "C0025598|ENG|P|L|PF|S|Y|A||||MSH|MH|D008687|Metformin|0|N|256|\n"
    (tmp_path / "MRCONSO.RRF").write_text(row)
    import_rrf(tmp_path / "MRCONSO.RRF", tmp_path / "umls")
    store = OntologyStore.open(base, user=[tmp_path / "umls"])
    term = store.table.get("metformin")
    assert term is not None
    links = store.links(store.term_id(term), strict=True)
    assert [(link.ontology, link.code, link.name) for link in links] == [("UMLS", "C0025598", "Metformin")]


def test_overlapping_matches_over_layers(base: Path, tmp_path: Path) -> None:
    own = make(tmp_path, "own", "term,code,vocabulary,type\npressure,P,LOCAL,test\n")
    store = OntologyStore.open(base, user=[own])
    text = "high blood pressure"
    assert [(start, end) for start, end, _ in store.find(text)] == [(0, 19)]
    assert [(start, end) for start, end, _ in store.find(text, overlapping=True)] == [(0, 19), (11, 19)]


def test_a_missing_store_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match=r"terms\.bin is missing.*python -m medvllm\.ontology\.build"):
        OntologyStore.open(tmp_path)


@pytest.mark.parametrize("name", ["terms.bin", "lookup.bin", "concepts.sqlite"])
def test_a_damaged_store_is_reported(base: Path, tmp_path: Path, name: str) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    (damaged / name).write_bytes(b"\0" * 5000)
    with pytest.raises(MedvllmError, match=r"is damaged \(.*\); run python -m medvllm\.ontology\.build"):
        OntologyStore.open(damaged).links("hypertension")
