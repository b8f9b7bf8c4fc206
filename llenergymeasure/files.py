"""Files of the user: folders that can be written, and writing without leaving half a file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError

__all__ = ["make_folder", "shown", "write_atomically", "write_json"]


def shown(path: Path) -> str:
    """A path as a message shows it: relative to the working folder where it lies below it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def make_folder(path: Path) -> Path:
    """Makes a folder, with those above it, and checks that files can be made in it.

    Raises:
        LemError: it can't be made or written, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise LemError(f"{shown(path)} can't be a folder: a file is in its place; give another with -o") from error
    except OSError as error:
        raise LemError(f"can't make the folder {shown(path)}: {_reason(error)}; give another with -o") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise LemError(f"can't write into the folder {shown(path)}: permission denied; give another with -o")
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to a temporary file beside `path`, syncs it, and renames it over `path`.

    Raises:
        LemError: the folder is missing or not writable, the disk is full, or `path` is a folder; `path` is as it was.
    """
    path = Path(os.path.realpath(path))  # a link stays a link; its target is replaced
    if path.is_dir():
        raise LemError(f"{shown(path)} is a folder; a file is needed")
    try:
        if path.exists() and not path.is_file():  # a pipe, a terminal, /dev/null: nothing to replace
            path.write_bytes(data)
        else:
            _replace(path, data)
    except FileNotFoundError as error:
        raise LemError(f"there is no folder {shown(path.parent)}; make it first") from error
    except OSError as error:
        raise LemError(f"can't write {shown(path)}: {_reason(error)}") from error


def _replace(path: Path, data: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:200]}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes plain data as indented JSON, atomically; a number that is not finite is refused.

    Raises:
        LemError: as write_atomically.
        ValueError: a number is not finite: JSON has none.
    """
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
