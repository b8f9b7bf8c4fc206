"""What a process has finished of one cycle: a file of JSON lines that only grows.

    {"type": "segment", …}   a stretch of measuring begins
    {"type": "batch", …}     requests that finished together, synced to disk before the next batch starts
    {"type": "end", …}       the stretch ended, with its energy

A batch is one line, so it is there as a whole or not at all. A process killed while it writes leaves a torn last line,
which is cut off when the file is opened again: its requests run once more, and no others.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from llenergymeasure.errors import LemError, first_line
from llenergymeasure.files import make_folder
from llenergymeasure.results.schema import Energy, RequestRecord, Segment
from medvllm_programs.files import shown

__all__ = ["Journal"]


class Journal:
    """The journal of one process and cycle, open for appending; one process at a time may hold it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[RequestRecord] = []
        self.segments: list[Segment] = []
        self.batches = 0
        make_folder(path.parent)
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise LemError(f"can't open {shown(path)}: {(error.strerror or str(error)).lower()}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._size = self._read()
        except BlockingIOError as error:
            os.close(self._file)
            raise LemError(f"another process is writing {shown(path)}; wait for it, or start with --fresh") from error
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)  # the lock goes with it

    @property
    def request_ids(self) -> frozenset[str]:
        """The requests that need not run again."""
        return frozenset(request.id for request in self.requests)

    def begin_segment(self, started_at: str) -> int:
        """A stretch of measuring begins; its number."""
        index = len(self.segments)
        self._append({"type": "segment", "segment": index, "started_at": started_at})
        self.segments.append(_begun(index, started_at))
        return index

    def add_batch(self, requests: Sequence[RequestRecord], *, prefill_s: float, decode_s: float) -> None:
        """Requests that finished together; on disk when this returns.

        Raises:
            LemError: the disk is full or gone; the file is as it was.
        """
        plain = [request.model_dump(mode="json", exclude_none=True) for request in requests]
        self._append({"type": "batch", "requests": plain, "prefill_s": prefill_s, "decode_s": decode_s})
        self._take_batch(list(requests), prefill_s, decode_s)

    def end_segment(self, *, finished_at: str, duration_s: float, energy: Energy) -> None:
        """The stretch that was begun last has ended."""
        line = {"type": "end", "finished_at": finished_at, "duration_s": duration_s}
        self._append(line | {"energy": energy.model_dump(mode="json")})
        self._take_end(finished_at, duration_s, energy)

    def _append(self, entry: dict[str, Any]) -> None:
        data = (json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._file, data)
            if written != len(data):  # a disk that has just become full takes what fits
                os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise LemError(f"can't write {shown(self.path)}: {(error.strerror or str(error)).lower()}") from error
        self._size += len(data)

    def _read(self) -> int:
        """Reads what is there, cuts a torn last line off, and returns the size."""
        with open(self.path, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        size = 0
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError, ValidationError) as error:
                if number < len(lines):
                    reason = first_line(error)
                    raise LemError(f"{shown(self.path)}:{number} is damaged ({reason}); start with --fresh") from error
                os.ftruncate(self._file, size)
                break
            size += len(line)
        return size

    def _take(self, entry: dict[str, Any]) -> None:
        kind = entry["type"]
        if kind == "segment":
            self.segments.append(_begun(entry["segment"], entry["started_at"]))
        elif kind == "batch":
            found = [RequestRecord.model_validate(each) for each in entry["requests"]]
            self._take_batch(found, entry["prefill_s"], entry["decode_s"])
        elif kind == "end":
            energy = Energy.model_validate(entry["energy"])
            self._take_end(entry["finished_at"], entry["duration_s"], energy)
        else:
            raise ValueError(f"unknown entry {kind!r}")

    def _take_batch(self, requests: list[RequestRecord], prefill_s: float, decode_s: float) -> None:
        last = self.segments[-1]
        self.requests += requests
        self.batches = max([self.batches, *(request.batch + 1 for request in requests)])
        self.segments[-1] = last.model_copy(
            update={
                "requests": last.requests + len(requests),
                "prefill_s": (last.prefill_s or 0.0) + prefill_s,
                "decode_s": (last.decode_s or 0.0) + decode_s,
            }
        )

    def _take_end(self, finished_at: str, duration_s: float, energy: Energy) -> None:
        ended = {"finished_at": finished_at, "duration_s": duration_s, "energy": energy}
        self.segments[-1] = self.segments[-1].model_copy(update=ended)


def _begun(index: int, started_at: str) -> Segment:
    return Segment(index=index, started_at=started_at, finished_at=None, duration_s=None, requests=0, energy=None)
