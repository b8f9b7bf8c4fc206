"""Local files and folders as tables: JSONL, JSON, CSV, Parquet, and what `datasets` saves to disk."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError, first_line
from medvllm_programs.files import shown

__all__ = ["FILE_SUFFIXES", "Table", "choose_split", "dataset_table", "open_local", "read_lines"]

FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
csv.field_size_limit(1 << 30)  # a prompt may be longer than the module's 128 KiB


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Columns of values, read as they are asked for."""

    name: str
    columns: list[str]
    values: Callable[[str], Iterator[Any]]  # of one column, in order
    total: int | None = None  # rows, where that is known without reading them
    revision: str | None = None
    split: str | None = None


def open_local(path: Path, *, split: str | None) -> Table:
    """A file or folder as a table.

    Raises:
        LemError: it can't be read, is broken (with the line), or has no such split.
    """
    if path.is_dir():
        return _open_folder(path, split=split)
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        raise LemError(f"{shown(path)}: a data set's file ends in {', '.join(FILE_SUFFIXES)}")
    if split not in (None, "train"):
        raise LemError(f"{shown(path)}: one file is one split, train, got --split {split}; leave it out")
    try:
        if suffix == ".parquet":
            return _open_parquet(path)
        if suffix == ".txt":
            lines = [text for _, text in read_lines(path)]
            return Table(shown(path), ["text"], lambda _: iter(lines), len(lines), _digest(path))
        rows = _read_csv(path, "\t" if suffix == ".tsv" else ",") if suffix in (".csv", ".tsv") else _read_json(path)
    except OSError as error:
        raise LemError(f"can't read {shown(path)}: {(error.strerror or str(error)).lower()}") from error
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(shown(path), columns, lambda column: (row.get(column) for row in rows), len(rows), _digest(path))


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text) of each line of a text file that is not blank.

    Raises:
        LemError: it can't be read, is no text, or has no line with text.
    """
    name = shown(path)
    if path.is_dir():
        raise LemError(f"{name} is a folder; give a file with one prompt a line")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise LemError(f"there is no file {name}") from error
    except UnicodeDecodeError as error:
        raise LemError(f"{name}: not UTF-8 text at byte {error.start}; expected one prompt a line") from error
    except OSError as error:
        raise LemError(f"can't read {name}: {(error.strerror or str(error)).lower()}") from error
    if "\0" in text:
        raise LemError(f"{name}: not text: a NUL at character {text.index(chr(0))}; expected one prompt a line")
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise LemError(f"{name} holds no prompts; expected one a line")
    return lines


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read_json(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON list, or one a line; a text by itself is a `text`."""
    if path.suffix.lower() == ".json":
        try:
            items = json.loads(path.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise LemError(f"{shown(path)}: not UTF-8 at byte {error.start}") from error
        except (ValueError, RecursionError) as error:
            place = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            raise LemError(f"{shown(path)}{place}: broken JSON: {_json_problem(error)}") from error
        if not isinstance(items, list):
            raise LemError(f"{shown(path)}: expected a list of objects, got {type(items).__name__}")
        numbered = list(enumerate(items, start=1))
    else:
        numbered = []
        for number, line in read_lines(path):
            try:
                numbered.append((number, json.loads(line)))
            except (ValueError, RecursionError) as error:
                problem = _json_problem(error)
                raise LemError(f"{shown(path)}:{number}: broken JSON: {problem}; one object a line") from error
    return [_row(item, shown(path), number) for number, item in numbered]


def _json_problem(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deep" if isinstance(error, RecursionError) else "a number of too many digits"


def _row(item: object, name: str, number: int) -> dict[str, Any]:
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, dict):
        raise LemError(f"{name}: item {number} is {type(item).__name__}; expected an object or a text")
    return item


def _read_csv(path: Path, delimiter: str) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            rows = [{name: value for name, value in row.items() if name is not None} for row in reader]
    except UnicodeDecodeError as error:
        raise LemError(f"{shown(path)}: not UTF-8 at byte {error.start}") from error
    except csv.Error as error:
        raise LemError(f"{shown(path)}:{reader.line_num}: broken CSV: {error}") from error
    if not rows:
        raise LemError(f"{shown(path)} holds no rows; expected a line of column names, then values")
    return rows


def _open_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise LemError(f"{shown(path)}: no Parquet file: {first_line(error)}") from error

    def values(column: str) -> Iterator[Any]:
        try:
            for batch in file.iter_batches(columns=[column]):
                yield from batch.column(0).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            raise LemError(f"{shown(path)}: damaged: {first_line(error)}") from error

    return Table(shown(path), file.schema_arrow.names, values, file.metadata.num_rows, _digest(path))


def _open_folder(path: Path, *, split: str | None) -> Table:
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(path))
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        formats = ", ".join(FILE_SUFFIXES)
        raise LemError(f"{shown(path)} holds no data set: expected {formats}, or what save_to_disk wrote") from error
    except RuntimeError as error:  # a loading script, which is never run
        raise LemError(f"{shown(path)}: can't be read: {first_line(error)}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise LemError(f"{shown(path)}: can't be read: {error.__cause__ or error}") from error
    if isinstance(found, dict):
        name = choose_split(list(found), split, shown(path))
        return dataset_table(shown(path), found[name], split=name, revision=None)
    if split not in (None, str(found.split or "train")):
        raise LemError(f"{shown(path)} holds one split, {found.split or 'train'}, got --split {split}")
    return dataset_table(shown(path), found, split=str(found.split) if found.split else None, revision=None)


def choose_split(there: list[str], wanted: str | None, name: str) -> str:
    """The split that is meant: the one asked for, else train, else the only one.

    Raises:
        LemError: it is not there.
    """
    if wanted is None and len(there) == 1:
        return there[0]
    if (wanted or "train") in there:
        return wanted or "train"
    raise LemError(f"{name} has no split {wanted or 'train'!r}; give --split {' or '.join(sorted(there))}")


def dataset_table(name: str, found: Any, *, split: str | None, revision: str | None) -> Table:
    """A `datasets.Dataset` as a table."""

    def values(column: str) -> Iterator[Any]:
        return (row[column] for row in found.select_columns([column]))

    return Table(name, list(found.column_names), values, len(found), revision, split)
