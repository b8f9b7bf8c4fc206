"""Reading JSON, and atomic writing of JSON and bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvllm_programs import files
from nemotron.kit.errors import KitError

__all__ = ["parse_json", "read_json", "write_bytes_atomically", "write_json_atomically"]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        KitError: the file holds no JSON object.
    """
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """The object in JSON bytes that came from `where`; KitError where there is none."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise KitError(f"{where} is not JSON ({error}); restore it, or make the artifact again") from error
    if not isinstance(value, dict):
        raise KitError(f"{where} must hold a JSON object, got {type(value).__name__}")
    return value


def write_json_atomically(path: Path, value: Any) -> None:
    """Writes `value` as JSON; a reader sees the old file or the whole new one."""
    write_bytes_atomically(path, files.json_bytes(value))


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes to a temporary file beside `path`, syncs it, and renames it over `path`.

    Raises:
        KitError: the folder is missing or can't be written to, or the disk is full.
    """
    try:
        files.write_atomically(path, data)
    except OSError as error:
        raise KitError(f"{path}: {error.strerror}") from error
