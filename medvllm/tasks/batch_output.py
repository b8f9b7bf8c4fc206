"""The output file of a long run: written beside its final name, resumable after any kind of end.

`FILE.part` holds the output so far, `FILE.state` says how much of it is sure: the number of notes, and the length in
bytes after a sync. A run that finds both for the same input and options cuts the part to that length and goes on
after that note, so nothing is lost or doubled. When all is done the part is renamed to FILE.
"""

from __future__ import annotations

import contextlib
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

    Raises:
        MedvllmError: another run's unfinished output is in the way; `restart` throws it away.
    """

    def __init__(self, path: Path, key: object, *, restart: bool = False) -> None:
        self.path = path
        self._part = path.with_name(path.name + ".part")
        self._state = path.with_name(path.name + ".state")
        self._key = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        self.notes = 0
        self.entities = 0
        length = 0
        if self._part.exists() and not restart:
            length = self._resume()
        self._file = open(self._part, "r+b" if length else "wb")  # noqa: SIM115 (open until finish or suspend)
        self._file.truncate(length)
        self._file.seek(length)
        self._synced_at = time.monotonic()

    def _resume(self) -> int:
        """Reads the state of an earlier run; returns the sure length of its part in bytes."""
        try:
            state = json.loads(self._state.read_bytes())
            key, notes, entities, length = state["key"], state["notes"], state["entities"], state["bytes"]
        except FileNotFoundError:
            return 0  # it ended before its first sync: nothing of it is sure
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise MedvllmError(f"{self._state} is broken; start again with --restart") from error
        if key != self._key:
            raise MedvllmError(
                f"{self._part} is of a run with other input or options; finish that one, or start again with --restart"
            )
        self.notes, self.entities = notes, entities
        return int(length)

    def write(self, output: str, *, notes: int = 0, entities: int = 0) -> None:
        """Appends output that stands for so many notes and entities."""
        self._file.write(output.encode("utf-8"))
        self.notes += notes
        self.entities += entities
        if time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self.sync()

    def sync(self) -> None:
        """Makes what is written so far sure."""
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {"key": self._key, "notes": self.notes, "entities": self.entities, "bytes": self._file.tell()}
        write_atomically(self._state, json.dumps(state).encode())
        self._synced_at = time.monotonic()

    def finish(self) -> None:
        """All is written: gives the file its name."""
        self.sync()
        self._file.close()
        os.replace(self._part, self.path)
        self._state.unlink()

    def suspend(self) -> None:
        """Ends before all is done, keeping what is sure; on a full disk that is the last sync. After `finish`: nothing."""
        if self._file.closed:
            return
        with contextlib.suppress(OSError):
            self.sync()
        with contextlib.suppress(OSError):
            self._file.close()
