"""How entities are written: table, JSON, JSON lines, CSV, FHIR, HTML and highlighted text.

Each format is one module, imported when it is used: `table`, `json_format`, `csv_format`, `fhir`, `html`,
`terminal`.
"""

from __future__ import annotations

from collections.abc import Sequence

from medvllm.errors import MedvllmError
from medvllm.tasks.formats.document import Document

__all__ = ["FORMATS", "Document", "render"]

FORMATS = ("table", "json", "jsonl", "csv", "fhir", "html")


def render(documents: Sequence[Document], fmt: str, *, width: int | None = None) -> str:
    """The documents in the format `fmt`, one of FORMATS, without a final newline.

    `width` is the terminal's width in columns for the table, None for no limit. Raises MedvllmError for an
    unknown format, and for `json` with a number of documents other than one: its schema has no place for ids.
    """
    if fmt == "table":
        return _tables(documents, width)
    if fmt == "json":
        if len(documents) != 1:
            raise MedvllmError(f"--format json holds one document, got {len(documents)}; use --format jsonl")
        from medvllm.tasks.formats.json_format import to_json

        return to_json(documents[0].entities)
    if fmt == "jsonl":
        from medvllm.tasks.formats.json_format import to_jsonl

        return "\n".join(to_jsonl(document.id, document.entities) for document in documents)
    if fmt == "csv":
        from medvllm.tasks.formats.csv_format import to_csv

        return to_csv(documents).rstrip("\r\n")
    if fmt == "fhir":
        from medvllm.tasks.formats.fhir import to_fhir

        return to_fhir(documents)
    if fmt == "html":
        from medvllm.tasks.formats.html import to_html

        return to_html(documents).rstrip("\n")
    raise MedvllmError(f"unknown format {fmt!r}; expected one of {', '.join(FORMATS)}")


def _tables(documents: Sequence[Document], width: int | None) -> str:
    from medvllm.tasks.formats.plain import one_line
    from medvllm.tasks.formats.table import to_table

    if len(documents) == 1:
        return to_table(documents[0].entities, width=width)
    return "\n\n".join(f"{one_line(document.id)}\n{to_table(document.entities, width=width)}" for document in documents)
