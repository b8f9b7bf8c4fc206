"""Files of the user: folders that can be written, and writing without leaving half a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError
from medvllm_programs import files
from medvllm_programs.files import shown

__all__ = ["make_folder", "write_atomically", "write_json"]


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
    path = Path(os.path.realpath(path))
    try:
        files.write_atomically(path, data)
    except IsADirectoryError as error:
        raise LemError(f"{shown(path)} is a folder; a file is needed") from error
    except FileNotFoundError as error:
        raise LemError(f"there is no folder {shown(path.parent)}; make it first") from error
    except OSError as error:
        raise LemError(f"can't write {shown(path)}: {_reason(error)}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes plain data as indented JSON, atomically; a number that is not finite is refused.

    Raises:
        LemError: as write_atomically.
        ValueError: a number is not finite: JSON has none.
    """
    write_atomically(path, files.json_bytes(value))


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
