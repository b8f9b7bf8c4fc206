"""Files and folders of the user: where data lives, and writing without leaving half a file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medvllm.errors import MedvllmError

__all__ = ["file_lock", "medvllm_home", "write_atomically"]


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
    path = Path(os.path.realpath(path))  # a link stays a link; its target is replaced
    if not path.parent.is_dir():
        raise MedvllmError(f"there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise MedvllmError(f"{path} is a folder; a file is needed")
    if path.exists() and not path.is_file():  # a pipe, a terminal, /dev/null: nothing to replace
        path.write_bytes(data)
        return
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~_umask()
        os.chmod(name, mode)
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
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` (made if it is missing) against other processes; freed when they die."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
