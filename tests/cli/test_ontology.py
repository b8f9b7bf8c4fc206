"""A user's own vocabulary, from the command line: imported, used before the built-in one, removed."""

from __future__ import annotations

import json
from typing import Any

import pytest

NER = ("inference", "ner", "--text", "A zebra sign and metformin.", "--json-out")
CSV = "term,code,vocabulary,type\nzebra sign,Z1,LOCAL,symptom\nmetformin,M1,LOCAL,medication\n"
ATOM = "C0025598|ENG|P|L1|PF|S1|Y|A1||6809|D008687|MSH|MH|D008687|Metformin|0|N||\n"


def _codes(done: Any) -> dict[str, list[str]]:
    entities = json.loads(done.stdout)["entities"]
    return {e["text"]: [f"{link['ontology']}:{link['code']}" for link in e["ontology_links"]] for e in entities}


def test_a_list_of_terms_is_used_until_it_is_removed(run: Any) -> None:
    (run.work / "terms.csv").write_text(CSV)
    assert "zebra sign" not in _codes(run(*NER))
    done = run("ontology", "import", "--csv", "terms.csv", "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert _codes(run(*NER, "--ontology", "LOCAL")) == {"zebra sign": ["LOCAL:Z1"], "metformin": ["LOCAL:M1"]}
    assert run("ontology", "list").stdout.splitlines()[-2].split() == ["LOCAL", "2", "codes"]
    info = run("ontology", "info").stdout
    assert "mine" in info
    assert "LOCAL  imported by the user" in info
    assert "vocabulary.0" not in info
    assert run("ontology", "remove", "mine").returncode == 0
    assert "zebra sign" not in _codes(run(*NER))


def test_a_list_for_one_run(run: Any) -> None:
    (run.work / "terms.csv").write_text(CSV)
    assert "LOCAL:Z1" in _codes(run(*NER, "--ontology-file", "terms.csv"))["zebra sign"]
    assert "zebra sign" not in _codes(run(*NER))


def test_an_own_umls_gives_drugs_their_cui(run: Any) -> None:
    (run.work / "MRCONSO.RRF").write_text(ATOM)
    assert _codes(run(*NER))["metformin"] == ["MESH:D008687"]
    assert run("ontology", "import", "--rrf", "MRCONSO.RRF", "--name", "umls").returncode == 0
    assert _codes(run(*NER))["metformin"] == ["UMLS:C0025598"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("term,code\nx,1\n", "terms.csv:1:vocabulary: the column is missing"),
        ("term,code,vocabulary\nx,,L\n", "terms.csv:2:code: empty"),
        ("term,code,vocabulary,type\nx,1,L,illness\n", "terms.csv:2:type: unknown type 'illness'"),
        ("term,code,vocabulary\n", "terms.csv holds no term; nothing was imported"),
    ],
)
def test_an_error_in_a_list_names_its_place(run: Any, content: str, message: str) -> None:
    (run.work / "terms.csv").write_text(content)
    done = run("ontology", "import", "--csv", "terms.csv")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_wrong_usage(run: Any) -> None:
    assert run("ontology", "import").returncode == 2
    assert "no.csv: no such file" in run("ontology", "import", "--csv", "no.csv").stderr
    assert "no imported vocabulary is called 'x'; none is imported" in run("ontology", "remove", "x").stderr
    assert "a vocabulary's name is" in run("ontology", "remove", "../x").stderr
