"""The output file of a long run: written beside its final name, resumable after any kind of end.

`FILE.part` holds the output so far, `FILE.state` says how much of it is sure: the counts, and the length in bytes of
what they count. A run that finds both for the same input and options cuts the part to that length and goes on after
that note, so nothing is lost or doubled, also where Ctrl-C came in the middle of a write. When all is done the part is
renamed to FILE. The part is locked while a run writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from medvllm.errors import MedvllmError
from medvllm.utils.files import write_atomically

__all__ = ["ResumableOutput"]

SYNC_EVERY_S = 0.5


class _Done(NamedTuple):
    """What is written whole: the counts, and the bytes that hold it."""

    notes: int
    entities: int
    failed: int
    bytes: int


class ResumableOutput:
    """The output of one run; `key` (JSON values) is what must be equal for a run to go on where another ended.

    `header` begins the file. `notes`, `entities` and `failed` count what is written, earlier runs included.

    Raises:
        MedvllmError: the path can't be written to, another run is writing it, or another run's unfinished output is
            in the way; `restart` throws that away.
    """

    def __init__(self, path: Path, key: object, *, header: str = "", restart: bool = False) -> None:
        self.path = Path(os.path.realpath(path))
        if self.path.is_dir():
            raise MedvllmError(f"{path} is a folder; --output needs a file")
        if not self.path.parent.is_dir():
            raise MedvllmError(f"there is no folder {self.path.parent}; make it first")
        self._part = self.path.with_name(self.path.name + ".part")
        self._state = self.path.with_name(self.path.name + ".state")
        self._key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self._done = _Done(0, 0, 0, 0)
        begun = self._part.exists()
        mode = self.path.stat().st_mode & 0o777 if self.path.exists() else 0o666
        self._file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, mode), "r+b")
        try:
            self._lock()
            if begun and not restart:
                self._done = self._resume()
            self._file.truncate(self._done.bytes)
            self._file.seek(self._done.bytes)
            if not self._done.bytes:
                self._done = _Done(0, 0, 0, self._file.write(header.encode("utf-8")))
        except BaseException:
            self._file.close()
            raise
        self._synced_at = time.monotonic()

    @property
    def notes(self) -> int:
        """Notes that are written."""
        return self._done.notes

    @property
    def entities(self) -> int:
        """Entities found in them."""
        return self._done.entities

    @property
    def failed(self) -> int:
        """Notes of them that could not be read."""
        return self._done.failed

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(self._file.fileno()).st_ino == self._part.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # not found: the other run has just renamed it
            ours = False
        if not ours:
            raise MedvllmError(f"another run is writing {self.path}; wait for it, or choose another file")

    def _resume(self) -> _Done:
        """Reads the state of an earlier run: what of its part is sure."""
        try:
            state = json.loads(self._state.read_bytes())
            done = _Done(*(int(state[name]) for name in _Done._fields))
            key = state["key"]
        except FileNotFoundError:
            return _Done(0, 0, 0, 0)  # it ended before its first sync: nothing of it is sure
        except (ValueError, KeyError, TypeError) as error:
            raise MedvllmError(f"{self._state} is broken; start again with --restart") from error
        if key != self._key:
            raise MedvllmError(
                f"{self._part} is of a run with other input or options; finish that one, or start again with --restart"
            )
        if self._part.stat().st_size < done.bytes:
            raise MedvllmError(f"{self._part} is shorter than {self._state} says; start again with --restart")
        return done

    def write(self, output: str, *, notes: int, entities: int, failed: int) -> None:
        """Appends output that stands for so many notes, entities found and notes that could not be read."""
        size = self._file.write(output.encode("utf-8"))
        done = self._done
        # One assignment: Ctrl-C in the middle of the write leaves it as it was, and what was half written is cut off.
        self._done = _Done(done.notes + notes, done.entities + entities, done.failed + failed, done.bytes + size)
        if time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Makes what is written so far sure."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"key": self._key, **self._done._asdict()}
        write_atomically(self._state, json.dumps(state).encode())
        self._synced_at = time.monotonic()

    def finish(self) -> None:
        """All is written: gives the file its name."""
        self.sync()
        os.replace(self._part, self.path)
        self._state.unlink()
        self._file.close()

    def suspend(self) -> None:
        """Ends before all is done, keeping what is sure: on a full disk the last sync. After `finish`: nothing."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            self.sync()
        with contextlib.suppress(OSError):
            self._file.close()
