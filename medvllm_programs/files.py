"""Files of the user: their names in messages, writing without leaving half a file, and locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["file_lock", "json_bytes", "shown", "write_atomically"]


def shown(path: Path) -> str:
    """A path as a message shows it: relative to the working folder where it lies below it."""
    path, here = Path(os.path.abspath(path)), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def json_bytes(value: Any) -> bytes:
    """Plain data as indented UTF-8 JSON with a newline at its end.

    Raises:
        ValueError: a number is not finite: JSON has none.
    """
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` to a temporary file beside `path`, syncs it, and renames it over `path`.

    A file keeps its mode, and a link stays one: its target is replaced. A pipe, a terminal and /dev/null, where there
    is nothing to replace, are written to.

    Raises:
        FileNotFoundError, NotADirectoryError: the folder is missing.
        IsADirectoryError: `path` is a folder.
        OSError: the folder is not writable, or the disk is full; `path` is as it was.
    """
    path = Path(os.path.realpath(path))
    mode = path.stat().st_mode if path.exists() else None
    if mode is not None and not stat.S_ISREG(mode):
        path.write_bytes(data)
        return
    # Not tempfile's, whose import takes 8 ms; and a file that is new gets its mode from the system, by the umask.
    temporary = path.with_name(f".{path.name[:50]}.{os.urandom(6).hex()}.tmp")
    try:
        file = open(temporary, "xb")  # noqa: SIM115 (what is made here is removed below)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # the user knows nothing of the temporary name
    try:
        with file:
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
