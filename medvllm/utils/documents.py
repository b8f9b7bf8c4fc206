"""Reading notes: text in the usual encodings, PDF, JSONL; every failure is one line with the remedy."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import NamedTuple

from medvllm.errors import MedvllmError

__all__ = ["Note", "decode", "jsonl_note", "read_note", "text_of"]

# Longest first: the UTF-32 mark begins with the UTF-16 one.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip or Office file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG image",
}


class Note(NamedTuple):
    """A document to process: its id (a path or the id of a JSONL line) and its text."""

    id: str
    text: str


def decode(data: bytes, name: str, encoding: str | None = None) -> str:
    """The text of `data`: by its byte order mark, else as `encoding`, else as UTF-8. Line ends stay as they are.

    Raises:
        MedvllmError: binary data, bytes that are not in that encoding, or no text at all; `name` says of what.
    """
    marked = next((codec for mark, codec in _MARKS if data.startswith(mark)), None)
    try:
        text = data.decode(marked or encoding or "utf-8")
    except LookupError as error:
        raise MedvllmError(
            f"unknown encoding '{encoding}'; give a name such as utf-8, utf-16 or windows-1252"
        ) from error
    except UnicodeDecodeError as error:
        kind = _binary_kind(data)
        if kind:
            raise MedvllmError(f"{name} is {kind}, not text; give a text or PDF file") from error
        used = marked or encoding or "UTF-8"
        raise MedvllmError(
            f"{name} is not valid {used} at byte {error.start}; name its encoding, such as --encoding windows-1252"
        ) from error
    except UnicodeError as error:
        raise MedvllmError(f"{name} can't be read as {encoding}") from error
    if encoding is None and "\x00" in text:
        kind = _binary_kind(data) or "binary"
        raise MedvllmError(
            f"{name} looks like {kind}, not text (zero byte at {text.index(chr(0))}); for UTF-16 add --encoding utf-16"
        )
    if not text.strip():
        raise MedvllmError(f"{name} is empty; give some text")
    return text


def _binary_kind(data: bytes) -> str | None:
    kind = next((kind for magic, kind in _BINARY.items() if data.startswith(magic)), None)
    return kind or ("binary data" if b"\x00" in data[:65536] else None)


def read_note(path: Path, *, input_format: str = "auto", encoding: str | None = None) -> str:
    """The text of a file; `input_format` is `auto` (by extension), `text` or `pdf`.

    Raises:
        MedvllmError: the file is missing, a folder, unreadable, or holds no text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MedvllmError(f"there is no file {path}") from error
    except IsADirectoryError as error:
        raise MedvllmError(f"{path} is a folder; this needs a file") from error
    if input_format == "auto" and path.suffix.lower() == ".pdf":
        input_format = "pdf"
    return text_of(data, str(path), input_format=input_format, encoding=encoding)


def text_of(data: bytes, name: str, *, input_format: str, encoding: str | None = None) -> str:
    """The text of a note's bytes; a PDF by `input_format` `pdf`, and also where `auto` meets one by its first bytes.

    Raises:
        MedvllmError: the bytes hold no text.
    """
    if input_format == "pdf" or (input_format == "auto" and data.startswith(b"%PDF-")):
        return _pdf_text(data, name)
    return decode(data, name, encoding)


def _pdf_text(data: bytes, name: str) -> str:
    import io
    import logging

    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what it can repair is no news to the user
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise MedvllmError(f"{name} is encrypted; remove its password first")
        text = "\n".join(page.extract_text() for page in reader.pages)
    except MedvllmError:
        raise
    except (DependencyError, NotImplementedError) as error:
        raise MedvllmError(f"{name} is encrypted in a way that can't be read; remove its protection first") from error
    except Exception as error:  # on damaged files pypdf raises nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise MedvllmError(f"{name} is not a PDF that can be read ({reason})") from error
    if not text.strip():
        raise MedvllmError(f"{name} holds no text (scanned pages?); run OCR on it first")
    return text


def jsonl_note(line: bytes, name: str, number: int, encoding: str | None = None) -> Note:
    """The note of one line of JSONL, `{"id", "text"}`; without an id it gets the line's number.

    Raises:
        MedvllmError: the line is not such an object; the message names file, line and field.
    """
    where = f"{name}, line {number}"
    try:
        row = json.loads(line.decode(encoding or "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MedvllmError(f"{where}: not valid {encoding or 'UTF-8'} at byte {error.start}") from error
    except LookupError as error:
        raise MedvllmError(f"unknown encoding '{encoding}'; give a name such as utf-8 or windows-1252") from error
    except json.JSONDecodeError as error:
        raise MedvllmError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise MedvllmError(f"{where}: not JSON that can be read ({type(error).__name__})") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise MedvllmError(
            f"{where}: expected an object with a string 'text', got {line[:60].decode(errors='replace').strip()}"
        )
    identifier = row.get("id")
    if identifier is None:
        identifier = number
    if isinstance(identifier, bool) or not isinstance(identifier, str | int | float):
        raise MedvllmError(f"{where}: 'id' must be a string or a number, got {identifier!r:.60}")
    return Note(str(identifier), row["text"])
