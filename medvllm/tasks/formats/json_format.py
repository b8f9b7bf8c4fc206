"""JSON of entities: `{"entities": [...]}`, indented or one compact line a document.

The lines are put together from encoded pieces, because `json.dumps` of a dictionary an entity costs more than
finding the entity; an ontology link, which repeats from note to note, keeps its piece.
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
_key_cache: dict[str, str] = {}
_number_cache: dict[float, str] = {}  # of floats only, but for the two zeros
_Setting = tuple[str, str, str, str, str | None]  # type, assertion, section
_setting_cache: dict[_Setting, tuple[str, str]] = {}


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
    try:
        text.encode()  # a quarter of the time of the search
    except UnicodeEncodeError:
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return text


def _link(link: OntologyLink) -> str:
    """The link as a compact JSON object, kept with it."""
    return link.keep(_compact(link.to_dict()))


def _value(value: Any) -> str:
    """A value inside `attributes` as compact JSON."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int or (kind is float and isfinite(value)):
        return _number(value)
    if kind is dict:
        return _attributes(value)
    return _compact(value)  # a number that JSON lacks, a list, true


def _number(value: float) -> str:
    """The number as Python writes it; kept where it is a fraction, for finding its digits takes a microsecond."""
    if type(value) is not float or not value:
        return repr(value)
    known = _number_cache.get(value)
    if known is None:
        if len(_number_cache) >= _MAX_CACHED:
            _number_cache.clear()
        known = _number_cache[value] = repr(value)
    return known


def _attributes(attributes: dict[str, Any]) -> str:
    """A dictionary whose keys are from a small set."""
    known = _key_cache.get
    pieces = []
    for key, value in attributes.items():
        begin = known(key) or _key(key)
        pieces.append(begin + (encode_basestring(value) if type(value) is str else _value(value)))
    return "{" + ", ".join(pieces) + "}"


def _key(key: str) -> str:
    """A key with its colon."""
    if len(_key_cache) >= _MAX_CACHED:
        _key_cache.clear()
    _key_cache[key] = encoded = f"{encode_basestring(key)}: "
    return encoded


def _line(entity: Entity) -> str:
    """The entity as a compact JSON object, the same as `json.dumps(entity.to_dict(), ensure_ascii=False)`."""
    key = (entity.type, entity.negation, entity.temporality, entity.experiencer, entity.section)
    kind, assertion = _setting_cache.get(key) or _setting(key)
    confidence = "" if entity.confidence is None else f', "confidence": {_number(entity.confidence)}'
    links = entity.ontology_links
    if links is None:
        linked = ""
    elif len(links) == 1:
        linked = f', "ontology_links": [{links[0].encoded or _link(links[0])}]'
    else:
        linked = f', "ontology_links": [{", ".join([link.encoded or _link(link) for link in links])}]'
    attributes = entity.attributes
    ending = f', "attributes": {_attributes(attributes)}}}' if attributes else "}"
    return (
        f'{{"text": {encode_basestring(entity.text)}{kind}{entity.start}, '
        f'"end": {entity.end}{confidence}{linked}{assertion}{ending}'
    )


def _setting(key: _Setting) -> tuple[str, str]:
    """The pieces of the type and of what is said of an entity; kept, for there are few."""
    if len(_setting_cache) >= _MAX_CACHED:
        _setting_cache.clear()
    names = ("negation", "temporality", "experiencer", "section")
    said = [
        f', "{name}": {encode_basestring(value)}'
        for name, value in zip(names, key[1:], strict=True)
        if value is not None
    ]
    pieces = f', "type": {encode_basestring(key[0])}, "start": ', "".join(said)
    _setting_cache[key] = pieces
    return pieces


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
