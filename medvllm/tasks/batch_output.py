"""The output file of a long run: written beside its final name, resumable after any kind of end.

`FILE.part` holds the output so far, `FILE.state` says how much of it is sure: the counts, and the length in bytes
after a sync. A run that finds both for the same input and options cuts the part to that length and goes on after
that note, so nothing is lost or doubled. When all is done the part is renamed to FILE. The part is locked while a
run writes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from medvllm.errors import MedvllmError
from medvllm.utils.files import write_atomically

__all__ = ["ResumableOutput"]

SYNC_EVERY_S = 0.5


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
        self.notes = self.entities = self.failed = 0
        mode = self.path.stat().st_mode & 0o777 if self.path.exists() else 0o666
        self._file = os.fdopen(os.open(self._part, os.O_RDWR | os.O_CREAT, mode), "r+b")
        try:
            self._lock()
            length = 0 if restart else self._resume()
            self._file.truncate(length)
            self._file.seek(length)
            if not length:
                self._file.write(header.encode("utf-8"))
        except BaseException:
            self._file.close()
            raise
        self._synced_at = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(self._file.fileno()).st_ino == self._part.stat().st_ino
        except (BlockingIOError, FileNotFoundError):  # not found: the other run has just renamed it
            ours = False
        if not ours:
            raise MedvllmError(f"another run is writing {self.path}; wait for it, or choose another file")

    def _resume(self) -> int:
        """Reads the state of an earlier run; returns the sure length of its part in bytes."""
        try:
            state = json.loads(self._state.read_bytes())
            counts = int(state["notes"]), int(state["entities"]), int(state["failed"])
            key, length = state["key"], int(state["bytes"])
        except FileNotFoundError:
            return 0  # it ended before its first sync: nothing of it is sure
        except (ValueError, KeyError, TypeError) as error:
            raise MedvllmError(f"{self._state} is broken; start again with --restart") from error
        if key != self._key:
            raise MedvllmError(
                f"{self._part} is of a run with other input or options; finish that one, or start again with --restart"
            )
        if self._part.stat().st_size < length:
            raise MedvllmError(f"{self._part} is shorter than {self._state} says; start again with --restart")
        self.notes, self.entities, self.failed = counts
        return length

    def write(self, output: str, *, notes: int, entities: int, failed: int) -> None:
        """Appends output that stands for so many notes, entities found and notes that could not be read."""
        self._file.write(output.encode("utf-8"))
        self.notes += notes
        self.entities += entities
        self.failed += failed
        if time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Makes what is written so far sure."""
        self._file.flush()
        os.fsync(self._file.fileno())
        counts = {"notes": self.notes, "entities": self.entities, "failed": self.failed}
        state = {"key": self._key, **counts, "bytes": self._file.tell()}
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
