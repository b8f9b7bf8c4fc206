"""CSV of entities (RFC 4180): a row an entity with its best link, the attributes as JSON in the last column.

A cell of text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a carriage
return) gets an apostrophe in front; the span tells what stands in the note.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence

from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.document import Document

__all__ = ["COLUMNS", "csv_header", "csv_rows", "to_csv"]

COLUMNS = (
    "id", "text", "type", "start", "end", "confidence", "ontology", "code", "name", "score", "negation",
    "temporality", "experiencer", "section", "attributes",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_header() -> str:
    """The header row with its line end."""
    return ",".join(COLUMNS) + "\r\n"


def csv_rows(doc_id: str, entities: Sequence[Entity]) -> str:
    """The rows of one document, each with its line end; empty without entities."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows(_row(doc_id, entity) for entity in entities)
    # Half characters can't be encoded, and a NUL ends the text for many readers.
    return out.getvalue().encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def to_csv(documents: Iterable[Document]) -> str:
    """The header and the rows of all documents."""
    return csv_header() + "".join(csv_rows(document.id, document.entities) for document in documents)


def _safe(text: str) -> str:
    return "'" + text if text.startswith(_FORMULA) else text


def _row(doc_id: str, entity: Entity) -> list[object]:
    link = entity.ontology_links[0] if entity.ontology_links else None
    return [
        _safe(doc_id),
        _safe(entity.text),
        entity.type,
        entity.start,
        entity.end,
        entity.confidence,
        *((_safe(link.ontology), _safe(link.code), _safe(link.name), link.score) if link else (None,) * 4),
        entity.negation,
        entity.temporality,
        entity.experiencer,
        None if entity.section is None else _safe(entity.section),
        json.dumps(entity.attributes, ensure_ascii=False) if entity.attributes else None,
    ]
