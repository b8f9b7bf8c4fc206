from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvllm.errors import MedvllmError
from medvllm.tasks.entities import ENTITY_TYPES, Entity, OntologyLink
from medvllm.tasks.formats import FORMATS, Document, render
from medvllm.tasks.formats.json_format import to_json, to_jsonl

words = st.text(st.characters(codec="utf-8"), max_size=20)
scores = st.floats(0, 1) | st.sampled_from([0, 1, -0.0])
links = st.builds(OntologyLink, words, words, words, scores)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | scores | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
entities = st.builds(
    Entity,
    text=words,
    type=st.sampled_from(ENTITY_TYPES),
    start=st.integers(0, 10**9),
    end=st.integers(0, 10**9),
    confidence=st.none() | scores,
    ontology_links=st.none() | st.lists(links, max_size=3),
    negation=st.sampled_from(["affirmed", "negated", "possible"]),
    section=st.none() | words,
    attributes=st.dictionaries(words, values, max_size=3),
)


@given(st.lists(entities, max_size=4))
def test_json_is_what_the_json_module_writes_with_an_indent_of_two(found: list[Entity]) -> None:
    schema = {"entities": [entity.to_dict() for entity in found]}
    assert to_json(found) == json.dumps(schema, indent=2, ensure_ascii=False)


@given(words, st.lists(entities, max_size=4))
def test_jsonl_is_what_the_json_module_writes_on_one_line(doc_id: str, found: list[Entity]) -> None:
    line = to_jsonl(doc_id, found)
    assert line == json.dumps({"id": doc_id, "entities": [e.to_dict() for e in found]}, ensure_ascii=False)
    assert "\n" not in line


def test_the_documented_schema() -> None:
    link = OntologyLink("UMLS", "C0020538", "Hypertension", 0.91)
    entity = json.loads(to_json([Entity("HTN", "condition", 10, 13, 0.92, [link])]))["entities"][0]
    documented = {
        "text": "HTN", "type": "condition", "start": 10, "end": 13, "confidence": 0.92,
        "ontology_links": [{"ontology": "UMLS", "code": "C0020538", "name": "Hypertension", "score": 0.91}],
    }  # fmt: skip
    assert {key: entity[key] for key in documented} == documented


def test_half_characters_are_escaped_so_that_utf8_can_hold_the_output() -> None:
    entity = Entity("a\ud800é", "condition", 0, 3, attributes={"n\udfff": "\ud800"})
    for text in (to_json([entity]), to_jsonl("\ud900", [entity])):
        parsed = json.loads(text.encode("utf-8"))
        assert parsed["entities"][0]["text"] == "a\ud800é"
        assert parsed["entities"][0]["attributes"] == {"n\udfff": "\ud800"}


def test_links_with_equal_fields_but_other_scores_are_not_mixed_up() -> None:
    found = [
        Entity("a", "condition", 0, 1, None, [OntologyLink("UMLS", "C1", "a", score)]) for score in (0.5, 0.25, 0.5)
    ]
    written = json.loads(to_jsonl("x", found))["entities"]
    assert [entity["ontology_links"][0]["score"] for entity in written] == [0.5, 0.25, 0.5]


def test_render_json_wants_one_document_and_jsonl_takes_many() -> None:
    documents = [Document("a", "", []), Document("b", "", [])]
    with pytest.raises(MedvllmError, match="got 2; use --format jsonl"):
        render(documents, "json")
    assert render(documents, "jsonl").splitlines() == [
        '{"id": "a", "entities": []}',
        '{"id": "b", "entities": []}',
    ]


def test_an_unknown_format_lists_the_valid_ones() -> None:
    with pytest.raises(MedvllmError, match="unknown format 'xml'; expected one of " + ", ".join(FORMATS)):
        render([], "xml")
