"""Small file operations: atomic writing of JSON and bytes, and the lock between processes on a local disk."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemotron.kit.errors import KitError

__all__ = ["file_lock", "json_bytes", "read_json", "write_bytes_atomically", "write_json_atomically"]


def json_bytes(value: Any) -> bytes:
    """The value as indented UTF-8 JSON with a newline at its end; a float that is no number is an error."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


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
    write_bytes_atomically(path, json_bytes(value))


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Writes to a temporary file beside `path`, syncs it, and renames it over `path`.

    Raises:
        KitError: the folder is missing or can't be written to, or the disk is full.
    """
    try:
        _write_and_rename(path, data)
    except OSError as error:
        raise KitError(f"{path}: {error.strerror}") from error


def _write_and_rename(path: Path, data: bytes) -> None:
    import tempfile  # not at the top: 8 ms of every `--help`

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on `path` (made if it is missing); the system frees it when the process dies.

    Yields:
        True with the lock held; False where `wait` is false and another process holds it.
    """
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
