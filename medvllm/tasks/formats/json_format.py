"""JSON of entities: `{"entities": [...]}`, indented or one compact line a document.

The lines are put together from encoded pieces, because `json.dumps` of a dictionary an entity costs more than
finding the entity; the pieces of ontology links, which repeat from note to note, are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from json.encoder import encode_basestring
from math import isfinite
from typing import Any

from medvllm.tasks.entities import Entity, OntologyLink

__all__ = ["to_json", "to_jsonl"]

_MAX_CACHED = 65_536  # pieces kept; some 10 MB
_SURROGATE = re.compile("[\ud800-\udfff]")
_compact = json.JSONEncoder(ensure_ascii=False, separators=(", ", ": ")).encode
_link_cache: dict[tuple[str, str, str, float], str] = {}
_word_cache: dict[str, str] = {}
_assertion_cache: dict[tuple[str, str, str, str | None], str] = {}


def to_json(entities: Sequence[Entity]) -> str:
    """The entities as JSON indented by two spaces, without a final newline."""
    if not entities:
        return '{\n  "entities": []\n}'
    body = ",\n".join(_indented(entity) for entity in entities)
    return _escape_surrogates('{\n  "entities": [\n' + body + "\n  ]\n}")


def to_jsonl(doc_id: str, entities: Sequence[Entity]) -> str:
    """`{"id": …, "entities": […]}` on one line, without a final newline."""
    body = ", ".join([_line(entity) for entity in entities])
    return _escape_surrogates(f'{{"id": {encode_basestring(doc_id)}, "entities": [{body}]}}')


def _escape_surrogates(text: str) -> str:
    """Half characters as `\\udXXX` escapes: UTF-8 cannot hold them as they are."""
    if text.isascii():
        return text
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _word(text: str) -> str:
    """A JSON string of a value from a small set (a type, an assertion, a section)."""
    encoded = _word_cache.get(text)
    if encoded is None:
        if len(_word_cache) >= _MAX_CACHED:
            _word_cache.clear()
        encoded = _word_cache[text] = encode_basestring(text)
    return encoded


def _link(link: OntologyLink) -> str:
    """The link as a compact JSON object."""
    key = (link.ontology, link.code, link.name, link.score)
    encoded = _link_cache.get(key)
    if encoded is None:
        if len(_link_cache) >= _MAX_CACHED:
            _link_cache.clear()
        encoded = _link_cache[key] = _compact(link.to_dict())
    return encoded


def _value(value: Any) -> str:
    """A value inside `attributes` as compact JSON."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    if kind is dict:
        return _attributes(value)
    return _compact(value)  # a number that JSON lacks, a list, true


def _attributes(attributes: dict[str, Any]) -> str:
    """A dictionary whose keys are from a small set."""
    return "{" + ", ".join([f"{_word(key)}: {_value(value)}" for key, value in attributes.items()]) + "}"


def _line(entity: Entity) -> str:
    """The entity as a compact JSON object, the same as `json.dumps(entity.to_dict(), ensure_ascii=False)`."""
    confidence = "" if entity.confidence is None else f', "confidence": {entity.confidence!r}'
    links = entity.ontology_links
    if links is None:
        linked = ""
    elif len(links) == 1:
        linked = f', "ontology_links": [{_link(links[0])}]'
    else:
        linked = f', "ontology_links": [{", ".join([_link(link) for link in links])}]'
    key = entity.negation, entity.temporality, entity.experiencer, entity.section
    assertion = _assertion_cache.get(key) or _assertion(key)
    attributes = f', "attributes": {_attributes(entity.attributes)}' if entity.attributes else ""
    return (
        f'{{"text": {encode_basestring(entity.text)}, "type": {_word(entity.type)}, "start": {entity.start}, '
        f'"end": {entity.end}{confidence}{linked}, {assertion}{attributes}}}'
    )


def _assertion(key: tuple[str, str, str, str | None]) -> str:
    """The pieces of negation, temporality, experiencer and section; kept, for there are few."""
    if len(_assertion_cache) >= _MAX_CACHED:
        _assertion_cache.clear()
    names = ("negation", "temporality", "experiencer", "section")
    pieces = [f'"{name}": {_word(value)}' for name, value in zip(names, key, strict=True) if value is not None]
    _assertion_cache[key] = encoded = ", ".join(pieces)
    return encoded


def _indented(entity: Entity) -> str:
    """The entity indented by four spaces, the same as `json.dumps(..., indent=2)` puts it inside the list."""
    pieces = []
    for key, value in entity.to_dict().items():
        if key == "ontology_links":
            encoded = _indented_links(value)
        elif key == "attributes":
            encoded = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n      ")
        elif isinstance(value, str):
            encoded = encode_basestring(value)
        else:
            encoded = repr(value)
        pieces.append(f'      "{key}": {encoded}')
    return "    {\n" + ",\n".join(pieces) + "\n    }"


def _indented_links(links: list[dict[str, Any]]) -> str:
    if not links:
        return "[]"
    pad = " " * 10
    objects = [
        "        {\n" + ",\n".join(f'{pad}"{key}": {_compact(value)}' for key, value in link.items()) + "\n        }"
        for link in links
    ]
    return "[\n" + ",\n".join(objects) + "\n      ]"
