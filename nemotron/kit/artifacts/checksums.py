"""The files of an artifact with their SHA-256, and what differs from them later."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nemotron.kit.artifacts.artifact import METADATA_FILE

__all__ = ["FileSum", "copy_and_sum", "list_files", "seal", "seal_is_whole", "sum_file", "sum_stream"]

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class FileSum:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


def list_files(folder: Path, *, without: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Every file under `folder` but its metadata.json: relative POSIX path and file, in sorted order.

    Links are followed, each folder once; `without` (the registry, where it lies inside) is left out.
    """
    seen: set[str] = set()
    for current, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(current)
        if real in seen or (without is not None and real == os.path.realpath(without)):
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(current, name)
            relative = path.relative_to(folder).as_posix()
            if relative != METADATA_FILE and not _is_temporary(name):
                yield relative, path


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(".tmp")


def sum_file(path: Path) -> FileSum:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        return sum_stream(file)


def sum_stream(file: BinaryIO) -> FileSum:
    """Size and SHA-256 of what is left in an open file."""
    return _pump(file, None)


def copy_and_sum(source: Path, target: BinaryIO) -> FileSum:
    """Copies a file's bytes to an open file, and gives what was copied its checksum."""
    with open(source, "rb") as file:
        return _pump(file, target)


def _pump(source: BinaryIO, target: BinaryIO | None) -> FileSum:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return FileSum(size, digest.hexdigest())


def seal(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata with a checksum over all of it, so that a changed byte there is found, too."""
    body = {key: value for key, value in metadata.items() if key != "sha256"}
    return {**body, "sha256": _digest(body)}


def seal_is_whole(metadata: dict[str, Any]) -> bool:
    """Whether the metadata is what `seal` made."""
    return metadata.get("sha256") == _digest({key: value for key, value in metadata.items() if key != "sha256"})


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
