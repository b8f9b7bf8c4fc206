"""Files and folders of the user: where data lives, and writing without leaving half a file."""

from __future__ import annotations

import os
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm_programs import files

__all__ = ["medvllm_home", "write_atomically"]


def medvllm_home() -> Path:
    """The user's data folder: $MEDVLLM_HOME, else `medvllm` under the XDG data folder.

    Raises:
        MedvllmError: there is no home folder.
    """
    given = os.environ.get("MEDVLLM_HOME")
    data = os.environ.get("XDG_DATA_HOME")
    try:
        if given:
            return Path(given).expanduser()
        return (Path(data) if data else Path.home() / ".local" / "share") / "medvllm"
    except RuntimeError as error:  # a user without a home, as in some containers
        raise MedvllmError("this user has no home folder; set MEDVLLM_HOME to a folder for its data") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to a temporary file beside `path`, syncs it, and renames it over `path`.

    Raises:
        MedvllmError: the folder is missing, or `path` is one.
        OSError: the folder is not writable, or the disk is full; `path` is as it was.
    """
    try:
        files.write_atomically(path, data)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MedvllmError(f"there is no folder {Path(os.path.realpath(path)).parent}; make it first") from error
    except IsADirectoryError as error:
        raise MedvllmError(f"{os.path.realpath(path)} is a folder; a file is needed") from error
