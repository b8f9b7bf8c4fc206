"""What there is to do in a run over many notes: which files, and how they are handed out in pieces.

Pieces are small references (files, or byte ranges of JSONL files) made one after another, so memory does not grow with
the input.
"""

from __future__ import annotations

import codecs
import glob
import json
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medvllm.errors import MedvllmError

__all__ = ["NOTE_SUFFIXES", "Piece", "Plan", "is_batch", "plan"]

JSONL_SUFFIXES = (".jsonl", ".ndjson")
NOTE_SUFFIXES = (".txt", ".text", ".md", ".pdf", *JSONL_SUFFIXES)
PIECE_BYTES = 256 * 1024  # some 0.2 s of work: small beside a run, large beside the cost of handing it over
PIECE_NOTES = 256


class Piece(NamedTuple):
    """Some of the work: whole `files`, or `notes` lines of a JSONL file from byte `start` to `end`."""

    files: Sequence[str]
    start: int
    end: int
    first_line: int
    notes: int
    size: int  # bytes of input

    @property
    def is_range(self) -> bool:
        """Whether this is a byte range of one JSONL file."""
        return self.end >= 0


class Plan(NamedTuple):
    """The files of a run, in order, with what tells whether another run has the same input."""

    files: tuple[str, ...]
    input_format: str
    encoding: str | None
    size: int  # bytes
    remarks: tuple[str, ...] = ()  # what a user should know of what was left out, a line each

    def is_jsonl(self, file: str) -> bool:
        """Whether a file holds a note a line."""
        return _is_jsonl(file, self.input_format)

    def fingerprint(self) -> list[object]:
        """A digest of the names, sizes and times of change of all files, and how they are read."""
        import hashlib  # here: a single note is asked for `is_batch` too, and this takes 3 ms

        digest = hashlib.sha256()
        for file in self.files:
            try:
                state = os.stat(file)
                digest.update(repr((file, state.st_size, state.st_mtime_ns)).encode())
            except OSError:
                digest.update(repr((file, None)).encode())
        return [digest.hexdigest(), self.input_format, self.encoding]

    def pieces(self, skip: int = 0) -> Iterator[Piece]:
        """The work without its first `skip` notes."""
        group: list[str] = []
        size = 0
        for file in self.files:
            jsonl = self.is_jsonl(file)
            if group and (jsonl or size >= PIECE_BYTES or len(group) >= PIECE_NOTES):
                yield Piece(tuple(group), 0, -1, 0, len(group), size)
                group, size = [], 0
            if jsonl:
                skip = yield from _ranges(file, skip)
            elif skip:
                skip -= 1
            else:
                group.append(file)
                size += _size(file)
        if group:
            yield Piece(tuple(group), 0, -1, 0, len(group), size)


def _is_jsonl(file: str, input_format: str) -> bool:
    return input_format == "jsonl" or (input_format == "auto" and file.lower().endswith(JSONL_SUFFIXES))


def _size(file: str) -> int:
    """Bytes of a file; 0 of one that is gone, which its reading will report."""
    try:
        return os.path.getsize(file)
    except OSError:
        return 0


def _ranges(file: str, skip: int) -> Generator[Piece, None, int]:
    """Byte ranges of about PIECE_BYTES of a JSONL file, without its first `skip` notes; blank lines are no notes.

    Returns how many notes are still to skip in the next file.
    """
    start = offset = 0
    line_number = first_line = 1
    notes = 0
    with open(file, "rb") as stream:
        for line in stream:
            offset += len(line)
            if line.strip():
                if skip:
                    skip -= 1
                    start, first_line = offset, line_number + 1
                else:
                    notes += 1
            line_number += 1
            if notes and (offset - start >= PIECE_BYTES or notes >= PIECE_NOTES):
                yield Piece((file,), start, offset, first_line, notes, offset - start)
                start, first_line, notes = offset, line_number, 0
    if notes:
        yield Piece((file,), start, offset, first_line, notes, offset - start)
    return skip


def is_batch(inputs: Sequence[str], input_format: str = "auto") -> bool:
    """Whether these inputs are many notes: several, a folder, a glob, or JSONL."""
    if len(inputs) != 1:
        return len(inputs) > 1
    value = inputs[0]
    if input_format == "jsonl" or (input_format == "auto" and value.lower().endswith(JSONL_SUFFIXES)):
        return True
    return os.path.isdir(value) or (glob.has_magic(value) and not os.path.exists(value))


def plan(
    inputs: Sequence[str], *, input_format: str = "auto", encoding: str | None = None, leave_out: Path | None = None
) -> Plan:
    """The files that the inputs stand for; folders are searched for notes, sorted by name.

    `leave_out`, the output of the run, is no input of it where a folder or a glob holds it.

    Raises:
        MedvllmError: an input is missing, stands for no file, or is JSON lines that can't be read; or the output
            would replace a note.
    """
    files: list[str] = []
    others: Counter[str] = Counter()  # endings of files in folders that are no notes
    for value in inputs:
        if os.path.isdir(value):
            found = sorted(_notes_in(value, others))
            if not found:
                raise MedvllmError(f"{value} holds no notes; they end in {', '.join(NOTE_SUFFIXES)}")
        elif os.path.exists(value):
            found = [value]
        elif glob.has_magic(value):
            found = sorted(path for path in glob.glob(value, recursive=True) if os.path.isfile(path))
            if not found:
                raise MedvllmError(f"no file matches {value}")
        else:
            raise MedvllmError(f"there is no file {value}")
        if leave_out is not None:
            found = _without_output(found, value, leave_out, input_format)
        files += found
    unique = tuple(dict.fromkeys(files))
    for file in unique:
        if _is_jsonl(file, input_format):
            _check_lines(file, encoding)
    return Plan(unique, input_format, encoding, sum(map(_size, unique)), _left_out(others))


def _notes_in(folder: str, others: Counter[str]) -> Iterator[str]:
    """The notes in a folder and those below it, links followed; the endings of its other files are counted in `others`.

    Hidden files and folders hold no notes. A folder that can't be read is an error, not left out.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()  # a link may lead back to a folder above it
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = os.path.join(place, name)
            if name.startswith(".") or (os.path.exists(path) and not os.path.isfile(path)):
                continue
            if name.lower().endswith(NOTE_SUFFIXES):
                yield path
            else:
                others[os.path.splitext(name)[1] or "no ending"] += 1


def _left_out(others: Counter[str]) -> tuple[str, ...]:
    """What to say of the files in folders that are no notes; work files of a run are not worth a word."""
    for ending in (".part", ".state"):
        del others[ending]
    if not others:
        return ()
    shown = ", ".join(ending for ending, _ in others.most_common(5))
    return (f"{others.total():,} files that do not end in {', '.join(NOTE_SUFFIXES)} are left out ({shown})",)


def _without_output(found: list[str], value: str, output: Path, input_format: str) -> list[str]:
    """The files found for an input without the output and the work files of its run."""
    if output.exists():
        if found == [value] and os.path.samefile(value, output):
            raise MedvllmError(f"{value} is the input and the output; choose another --output")
        if any(os.path.exists(file) and os.path.samefile(file, output) for file in found) and _holds_notes(
            output, input_format
        ):
            raise MedvllmError(f"{output} is one of the notes; choose another --output")
    target = os.path.realpath(output)
    work = {target, target + ".part", target + ".state"}
    return [file for file in found if os.path.realpath(file) not in work]


def _holds_notes(file: Path, input_format: str) -> bool:
    """Whether a file that the output would replace is a note or holds notes, and is no output of an earlier run."""
    name = file.name.lower()
    if not (name.endswith(JSONL_SUFFIXES) or input_format == "jsonl"):
        return name.endswith(NOTE_SUFFIXES)
    with open(file, "rb") as stream:
        try:
            row = json.loads(stream.readline(1 << 20))
        except ValueError:
            return False
    return isinstance(row, dict) and isinstance(row.get("text"), str)


def _check_lines(file: str, encoding: str | None) -> None:
    """Fails for JSON lines that no line can be read of, before any work is done."""
    if os.path.exists(file) and not os.path.isfile(file):
        raise MedvllmError(f"{file} is a pipe or a device, and JSON lines are read twice; pipe them in: --input -")
    try:
        with open(file, "rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise MedvllmError(f"{file} can't be read ({error.strerror}); mend that, or leave the file out") from error
    try:
        wide = encoding is not None and "\n".encode(encoding) != b"\n"
    except LookupError as error:
        raise MedvllmError(f"unknown encoding '{encoding}'; give a name such as utf-8 or windows-1252") from error
    if wide or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise MedvllmError(f"{file}: JSON lines can't be read in UTF-16 or UTF-32; convert them: iconv -t UTF-8")
