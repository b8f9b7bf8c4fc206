"""Labelled texts for classification: reading CSV and JSONL."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from medvllm.errors import MedvllmError

__all__ = ["LabelledText", "read_labelled"]

_LONGEST: Final = 10_000_000  # characters of a field in CSV; more is a quote that is left open


class LabelledText(NamedTuple):
    """A text and its labels: one, or where `several` was allowed any number; `where` is its file and line."""

    text: str
    labels: tuple[str, ...]
    several: bool
    where: str


def read_labelled(path: Path, *, text_field: str = "text", label_field: str = "label") -> list[LabelledText]:
    """Reads CSV with a header, or JSONL (by its extension, .jsonl, .ndjson or .json) with an object a line.

    In JSONL a label may be a list: then each text has any number of labels.

    Raises:
        MedvllmError: a row is not as it must be; names the file, the line and the field.
    """
    rows = (
        _jsonl(path) if path.suffix.lower() in (".jsonl", ".ndjson", ".json") else _csv(path, text_field, label_field)
    )
    texts = []
    try:
        for where, row in rows:
            texts.append(_labelled(row, where, text_field, label_field))
    except OSError as error:
        raise MedvllmError(f"can't read the training data {path}: {error.strerror}") from error
    if not texts:
        raise MedvllmError(f"{path} has no row; give fields '{text_field}' and '{label_field}' in each")
    if len({text.several for text in texts}) > 1:
        raise MedvllmError(f"{path}: field '{label_field}' is a list in some lines and one label in others; choose one")
    return texts


def _csv(path: Path, text_field: str, label_field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    first = 1  # line of the row that is being read
    before = csv.field_size_limit(_LONGEST)
    with open(path, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream, strict=True)
        try:
            header = reader.fieldnames or []
            for name in (text_field, label_field):
                if name not in header:
                    raise MedvllmError(f"{path}:1: no column '{name}'; the header is {', '.join(header) or 'empty'}")
            first = reader.line_num + 1
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if row.get(None):
                    raise MedvllmError(f"{where}: more fields than the header's {len(header)}; quote commas in a text")
                first = reader.line_num + 1
                yield where, row
        except csv.Error as error:
            why = str(error)
            if "field limit" in why or "end of data" in why:
                why = f"a field has no end within {_LONGEST:,} characters or the file: a quote is left open"
            raise MedvllmError(f"{path}:{first}: not CSV ({why})") from error
        except UnicodeDecodeError as error:
            raise MedvllmError(f"{path}:{_not_utf8(path)}: not UTF-8 text ({error.reason})") from error
        finally:
            csv.field_size_limit(before)


def _not_utf8(path: Path) -> int:
    """The first line that is no UTF-8; a reader finds out blocks ahead of it."""
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 1


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise MedvllmError(f"{where}: not a line of JSON ({error})") from error
            if not isinstance(row, dict):
                raise MedvllmError(f"{where}: expected an object, got {type(row).__name__}")
            yield where, row


def _labelled(row: dict[str, Any], where: str, text_field: str, label_field: str) -> LabelledText:
    text, label = row.get(text_field), row.get(label_field)
    if not isinstance(text, str) or not text.strip():
        raise MedvllmError(f"{where}: field '{text_field}' must be a text that is not empty, got {text!r}")
    if isinstance(label, list):
        if not all(isinstance(one, str) and one for one in label):
            raise MedvllmError(f"{where}: field '{label_field}' must be a list of names, got {label!r}")
        return LabelledText(text, tuple(dict.fromkeys(label)), True, where)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    if not isinstance(label, str) or not label.strip():
        raise MedvllmError(f"{where}: field '{label_field}' must be a label that is not empty, got {label!r}")
    return LabelledText(text, (label.strip(),), False, where)
