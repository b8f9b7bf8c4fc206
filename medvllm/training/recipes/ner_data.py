"""Annotated texts for token classification: reading JSONL with character spans, and labels of words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medvllm.errors import MedvllmError

__all__ = ["AnnotatedText", "read_spans", "scheme_labels", "word_labels"]

Span = tuple[int, int, str]


class AnnotatedText(NamedTuple):
    """A text with its spans (start, end, type)."""

    text: str
    spans: tuple[Span, ...]


def read_spans(path: Path, *, types: Mapping[str, str] | None = None) -> list[AnnotatedText]:
    """Reads JSONL of {"text", "entities": [{"start", "end", "type"}]}; also "spans", and "label" for "type".

    With `types`, spans are renamed by it, and those of other types left out.

    Raises:
        MedvllmError: a line is not of that form; names the file, the line and the field.
    """
    texts = []
    try:
        with open(path, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    texts.append(_annotated(_record(line, f"{path}:{number}"), f"{path}:{number}", types))
    except OSError as error:
        raise MedvllmError(f"can't read the training data {path}: {error.strerror}") from error
    if not texts:
        raise MedvllmError(f"{path} has no annotated text; a line is {_FORM}")
    if types is None:
        _check_types({kind for text in texts for _, _, kind in text.spans}, path)
    return texts


_TAG = re.compile(r"[BIES]-.")
_FORM = '{"text": "…", "entities": [{"start": 0, "end": 3, "type": "condition"}]}'


def _check_types(kinds: set[str], path: Path) -> None:
    """Refuses spans that are the words of an entity, each with its tag. One type may well be called B-cell."""
    tagged = sorted(kind for kind in kinds if _TAG.match(kind))
    if tagged and all(kind == "O" or _TAG.match(kind) for kind in kinds) and (len(kinds) > 1 or tagged[0][0] == "I"):
        raise MedvllmError(
            f"the types of the spans in {path} are tags of words ({', '.join(tagged[:3])}); give each entity one span "
            f"with its type alone, '{tagged[0][2:]}'"
        )


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MedvllmError(f"{where}: not UTF-8 text at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise MedvllmError(f"{where}: not JSON ({error}); a line is {_FORM}") from error
    if not isinstance(record, dict):
        raise MedvllmError(f"{where}: expected an object such as {_FORM}, got {type(record).__name__}")
    return record


def _annotated(record: dict[str, Any], where: str, types: Mapping[str, str] | None) -> AnnotatedText:
    text = record.get("text")
    if not isinstance(text, str) or not text:
        raise MedvllmError(f"{where}: field 'text' must be a string that is not empty, got {text!r}")
    field = next((name for name in ("entities", "spans") if name in record), "entities")
    rows = record.get(field)
    if not isinstance(rows, list):
        raise MedvllmError(f"{where}: field '{field}' must be a list of spans, got {rows!r}; [] where there are none")
    spans = [_span(row, text, f"{where}: field '{field}[{at}]") for at, row in enumerate(rows)]
    if types is not None:
        spans = [(start, end, types[kind]) for start, end, kind in spans if kind in types]
    return AnnotatedText(text, tuple(sorted(set(spans))))


def _span(row: Any, text: str, where: str) -> Span:
    if not isinstance(row, dict):
        raise MedvllmError(f"{where}' must be an object with start, end and type, got {row!r}")
    for name in ("start", "end"):
        value = row.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MedvllmError(f"{where}.{name}' must be a number of characters, got {value!r}")
    start, end = row["start"], row["end"]
    if not 0 <= start < end <= len(text):
        raise MedvllmError(f"{where}.end': the span {start}–{end} is not inside its text of {len(text)} characters")
    key = "type" if "type" in row else "label"
    kind = row.get(key)
    if not isinstance(kind, str) or not kind:
        raise MedvllmError(f"{where}.{key}' must be the name of a type, got {kind!r}")
    said = row.get("text")
    if said is not None and said != text[start:end]:
        raise MedvllmError(f"{where}.text' says {said!r}, but {start}–{end} is {text[start:end]!r}")
    return start, end, kind


def scheme_labels(types: Iterable[str], scheme: str) -> list[str]:
    """The labels of a scheme, BIO or BIOES, for these types; O is the first."""
    return ["O", *(f"{tag}-{kind}" for kind in types for tag in scheme if tag != "O")]


def word_labels(
    starts: Sequence[int], ends: Sequence[int], spans: Iterable[Span], *, scheme: str
) -> tuple[list[str], int]:
    """The label of each word [starts[i], ends[i]), and how many spans have none.

    Of overlapping spans the longest counts. A word that a span only cuts is labelled whole.
    """
    labels = ["O"] * len(starts)
    lost = 0
    for start, end, kind in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        inside = [at for at in _between(starts, ends, start, end)]
        if not inside or any(labels[at] != "O" for at in inside):
            lost += 1
            continue
        for at in inside:
            labels[at] = f"I-{kind}"
        labels[inside[0]] = f"B-{kind}"
        if scheme == "BIOES":
            labels[inside[-1]] = f"E-{kind}" if len(inside) > 1 else f"S-{kind}"
    return labels, lost


def _between(starts: Sequence[int], ends: Sequence[int], start: int, end: int) -> range:
    """The words that share a character with [start, end)."""
    from bisect import bisect_left, bisect_right

    return range(bisect_right(ends, start), bisect_left(starts, end))
