"""The table of entities printed by default."""

from __future__ import annotations

from collections.abc import Sequence

from medvllm.tasks.entities import Entity
from medvllm.tasks.formats.document import assertion_labels
from medvllm.tasks.formats.plain import display_width, one_line, pad, wrap

__all__ = ["NO_ENTITIES", "to_table"]

NO_ENTITIES = "No entities found."
_MIN_TEXT = 8  # columns of the Text column at least
_SPAN = 2  # index of the Span column; its cells keep a space before them only


def to_table(entities: Sequence[Entity], *, width: int | None = None) -> str:
    """The entities as a table, without a final newline; one line when there are none.

    `width` is the terminal's width in columns: the text is wrapped to it as far as it can be. None means no
    limit. The column of links is left out when linking was off for all, that of assertions when every entity
    is a present finding of the patient.
    """
    if not entities:
        return NO_ENTITIES
    header, rows = _cells(entities)
    widths = [max(display_width(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    widths[0] = max(widths[0], _MIN_TEXT)
    # A span fills its column up to the right border, as in the documented output.
    widths[_SPAN] = max(len(header[_SPAN]), max(len(row[_SPAN]) for row in rows) - 1)
    if width is not None:
        spare = width - (sum(widths) + 3 * len(widths) + 1)
        if spare < 0:
            widths[0] = max(_MIN_TEXT, widths[0] + spare)
    lines = [
        _rule(widths, "┏━┳┓"),
        "┃" + "┃".join(f" {pad(cell, w)} " for cell, w in zip(header, widths, strict=True)) + "┃",
        _rule(widths, "┡━╇┩"),
    ]
    for row in rows:
        lines += _row(row, widths)
    lines.append(_rule(widths, "└─┴┘"))
    return "\n".join(lines)


def _cells(entities: Sequence[Entity]) -> tuple[list[str], list[list[str]]]:
    """The header and one row of cells an entity."""
    with_assertion = any(assertion_labels(entity) for entity in entities)
    with_links = any(entity.ontology_links is not None for entity in entities)
    header = ["Text", "Type", "Span"]
    header += ["Assertion"] if with_assertion else []
    header += ["Link (top)"] if with_links else []
    rows = []
    for entity in entities:
        row = [one_line(entity.text), one_line(entity.type).upper(), f"{entity.start}–{entity.end}"]
        if with_assertion:
            row.append(", ".join(assertion_labels(entity)))
        if with_links:
            links = entity.ontology_links
            row.append(one_line(f"{links[0].ontology}:{links[0].code}") if links else "-")
        rows.append(row)
    return header, rows


def _rule(widths: list[int], chars: str) -> str:
    """A horizontal line; `chars` are its left end, line, joint and right end."""
    return chars[0] + chars[2].join(chars[1] * (w + 2) for w in widths) + chars[3]


def _row(row: list[str], widths: list[int]) -> list[str]:
    """The row's lines: the text wrapped to its column, the other cells on the first line."""
    cells = [f" {pad(cell, w)} " for cell, w in zip(row, widths, strict=True)]
    cells[_SPAN] = pad(" " + row[_SPAN], widths[_SPAN] + 2)
    empty = [" " * (w + 2) for w in widths[1:]]
    texts = [row[0]] if display_width(row[0]) <= widths[0] else wrap(row[0], widths[0])
    return [
        "│" + "│".join([f" {pad(text, widths[0])} ", *(empty if number else cells[1:])]) + "│"
        for number, text in enumerate(texts)
    ]
