from __future__ import annotations

import csv
import io
import json

from medvllm.tasks.entities import Entity, OntologyLink
from medvllm.tasks.formats import Document, render
from medvllm.tasks.formats.csv_format import COLUMNS, csv_header, csv_rows, to_csv


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_one_row_an_entity_with_the_best_link_and_json_attributes() -> None:
    links = [
        OntologyLink("MESH", "D008687", "Metformin", 0.97),
        OntologyLink("CHEBI", "CHEBI:6801", "metformin", 0.9),
    ]
    entity = Entity(
        "metformin",
        "medication",
        4,
        13,
        0.93,
        links,
        "negated",
        "historical",
        "patient",
        "Plan",
        {"dose": "5 mg"},
    )
    (row,) = read(to_csv([Document("n1", "", [entity])]))
    assert tuple(row) == COLUMNS
    assert json.loads(row.pop("attributes")) == {"dose": "5 mg"}
    assert list(row.values()) == [
        "n1", "metformin", "medication", "4", "13", "0.93", "MESH", "D008687", "Metformin", "0.97", "negated",
        "historical", "patient", "Plan",
    ]  # fmt: skip


def test_what_is_missing_is_an_empty_cell_not_zero() -> None:
    (row,) = read(to_csv([Document("n1", "", [Entity("x", "test", 0, 1)])]))
    assert {row[key] for key in ("confidence", "ontology", "code", "name", "score", "section", "attributes")} == {""}


def test_rfc_4180_line_ends_and_quoting() -> None:
    text = csv_header() + csv_rows("a", [Entity('chest,\n"pain"', "symptom", 0, 13)])
    assert text.endswith("\r\n")
    assert '"chest,\n""pain"""' in text
    assert read(text)[0]["text"] == 'chest,\n"pain"'
    assert csv_rows("a", []) == ""


def test_cells_that_would_be_formulas_get_an_apostrophe() -> None:
    for start in ("=", "+", "-", "@", "\t", "\r"):
        entity = Entity(start + "cmd|' /C calc'!A0", "condition", 0, 9, None, [OntologyLink("U", "=1", "@x", 1)])
        (row,) = read(csv_header() + csv_rows(start + "id", [entity]))
        for key in ("id", "text"):
            assert row[key].startswith("'" + start)
        assert (row["code"], row["name"]) == ("'=1", "'@x")


def test_nul_and_half_characters_can_be_written() -> None:
    text = csv_rows("a", [Entity("x\0y\ud800", "condition", 0, 4)])
    text.encode("utf-8")
    assert "\0" not in text


def test_render_joins_documents_under_one_header() -> None:
    documents = [Document(name, "", [Entity("x", "test", 0, 1)]) for name in ("a", "b")]
    assert [row["id"] for row in read(render(documents, "csv"))] == ["a", "b"]
