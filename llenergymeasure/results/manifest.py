"""The manifest of an experiment's files: a chain of hashes in which a change of one byte shows.

`raw/<id>/manifest.jsonl` has a line for each file when it is written: its path under the results folder, its size and
SHA-256, the hash of the line before, and the line's own hash. `verify` finds files changed, removed or added, and a
manifest that was edited itself. Who can rewrite every file can rewrite the chain too: keep its head elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError
from llenergymeasure.files import write_atomically

__all__ = [
    "FIRST",
    "MANIFEST",
    "VOLATILE",
    "Entry",
    "Problem",
    "append",
    "file_sha256",
    "head",
    "read",
    "unrecorded",
    "verify",
]

MANIFEST = "manifest.jsonl"
FIRST = "0" * 64  # what the first line names as the line before
# Files of an experiment's folder that change while it runs and hold no result.
VOLATILE = (MANIFEST, f"{MANIFEST}.lock", "state.json", ".*.????????")  # the last: a write cut off by SIGKILL


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a file as it was when it was written."""

    number: int
    path: str  # under the results folder
    size: int
    sha256: str
    written_at: str
    previous: str
    line_sha256: str = ""

    def digest(self) -> str:
        """The hash of this line's content."""
        content = asdict(self)
        del content["line_sha256"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding of `verify`."""

    path: str
    what: str


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append(folder: Path, root: Path, files: Iterable[Path]) -> str:
    """Adds files to the manifest in `folder` and returns its head; processes that do so at once take turns.

    Args:
        folder: the experiment's raw folder.
        root: the results folder that paths are relative to.
        files: files in it, already written.

    Raises:
        LemError: the manifest is not one, or can't be written.
    """
    manifest = folder / MANIFEST
    with _locked(folder):
        entries = read(folder)
        for path in files:
            entry = Entry(
                number=len(entries),
                path=path.relative_to(root).as_posix(),
                size=path.stat().st_size,
                sha256=file_sha256(path),
                written_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
                previous=entries[-1].line_sha256 if entries else FIRST,
            )
            entries.append(Entry(**{**asdict(entry), "line_sha256": entry.digest()}))
        write_atomically(manifest, "".join(json.dumps(asdict(each)) + "\n" for each in entries).encode())
    return entries[-1].line_sha256 if entries else FIRST


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from filelock import FileLock

    lock = FileLock(folder / f"{MANIFEST}.lock")
    try:
        lock.acquire()
    except OSError as error:
        raise LemError(f"can't lock the manifest in {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def read(folder: Path) -> list[Entry]:
    """The manifest's lines; none where there is no manifest.

    Raises:
        LemError: a line is not one of a manifest.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return []
    entries = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            fields: dict[str, Any] = json.loads(line)
            entries.append(Entry(**fields))
        except (ValueError, TypeError) as error:
            raise LemError(f"{manifest}, line {number + 1} is not a manifest entry: it was edited or cut") from error
    return entries


def head(folder: Path) -> str:
    """The hash of the manifest's last line: it stands for every file in the chain."""
    entries = read(folder)
    return entries[-1].line_sha256 if entries else FIRST


def unrecorded(folder: Path, root: Path) -> list[Path]:
    """Files in `folder` that its manifest does not have."""
    known = {entry.path for entry in read(folder)}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.relative_to(root).as_posix() not in known
        and not any(fnmatch(path.name, each) for each in VOLATILE)
    ]


def verify(folder: Path, root: Path, others: Iterable[Path] = ()) -> list[Problem]:
    """What does not agree with the manifest in `folder`: an empty list where all does.

    Args:
        folder: the experiment's raw folder; every file in it must be in the manifest.
        root: the results folder.
        others: files outside of `folder` that must be in the manifest if they are there.
    """
    try:
        entries = read(folder)
    except LemError as error:
        return [Problem(f"{folder.name}/{MANIFEST}", str(error))]
    name = (folder / MANIFEST).relative_to(root).as_posix()
    if not entries:
        return [Problem(name, "missing: nothing can be verified")]
    problems, previous = [], FIRST
    for number, entry in enumerate(entries):
        if entry.number != number or entry.previous != previous or entry.digest() != entry.line_sha256:
            return [Problem(name, f"line {number + 1} does not follow from the line before: the manifest was edited")]
        previous = entry.line_sha256
    if (folder / MANIFEST).read_bytes() != "".join(json.dumps(asdict(each)) + "\n" for each in entries).encode():
        problems.append(Problem(name, "is not as it was written: the manifest was edited"))
    latest = {entry.path: entry for entry in entries}
    for path, entry in latest.items():
        problems += _differences(root / path, entry)
    added = unrecorded(folder, root)
    added += [path for path in others if path.is_file() and path.relative_to(root).as_posix() not in latest]
    return problems + [
        Problem(path.relative_to(root).as_posix(), "added: the manifest does not have it") for path in added
    ]


def _differences(path: Path, entry: Entry) -> list[Problem]:
    if not path.is_file():
        return [Problem(entry.path, f"removed: it was written at {entry.written_at}")]
    if path.stat().st_size != entry.size:
        return [Problem(entry.path, f"changed: {path.stat().st_size} bytes, was {entry.size}")]
    if file_sha256(path) != entry.sha256:
        return [Problem(entry.path, "changed: its SHA-256 is another")]
    return []
