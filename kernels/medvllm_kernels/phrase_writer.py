"""Building a phrase table of any size on disk."""

from __future__ import annotations

import contextlib
import mmap
import os
import zlib
from array import array
from bisect import bisect_left
from types import TracebackType
from typing import BinaryIO, Final, cast

from medvllm_kernels.phrase_nodes import (
    HEADER_SIZE,
    Header,
    capacity_for,
    checked_payload,
    count_phrases,
    phrase_nodes,
    place_nodes,
    sort_nodes,
)

__all__ = ["PhraseTableWriter"]

_FLUSH_PHRASES: Final = 4096
_RUN_NODES: Final = 1 << 21  # nodes sorted at a time: about 100 MB in all


class PhraseTableWriter:
    """Writes a table file in bounded memory, whatever the number of phrases.

    Nodes are sorted in runs of two million, spooled beside the file, and merged by ranges of the hash. The
    file appears at `close`, complete; leaving a `with` block by an exception leaves none. Of a phrase added
    twice the last payload counts. Phrases without tokens or with more than MAX_PHRASE_TOKENS are left out and
    counted in `skipped`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._folder = os.path.dirname(self._path) or "."
        self._spool = _temporary_file(self._folder)
        self._runs: list[tuple[int, int]] = []  # (offset in the spool, nodes)
        self._phrases: list[str] = []
        self._payloads: list[int] = []
        self._hashes, self._values = array("Q"), array("I")
        self.skipped = 0

    def add(self, phrase: str, payload: int) -> None:
        """Raises PhraseTableError for a payload that is not in 1 … 2**32 - 1."""
        self._payloads.append(checked_payload(payload))
        self._phrases.append(phrase)
        if len(self._phrases) == _FLUSH_PHRASES:
            self._flush()

    def close(self) -> None:
        """Write the file. A second call does nothing."""
        if self._spool.closed:
            return
        self._flush()
        self._end_run()
        with self._spool as spool, _temporary_file(self._folder) as merged:
            sizes, phrases = self._merge(spool, merged)
            self._write(merged, sizes, phrases)

    def __enter__(self) -> PhraseTableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._spool.close()

    def _flush(self) -> None:
        hashes, values, stored = phrase_nodes(self._phrases, self._payloads)
        self.skipped += len(stored) - sum(stored)
        self._hashes += hashes
        self._values += values
        self._phrases, self._payloads = [], []
        if len(self._hashes) >= _RUN_NODES:
            self._end_run()

    def _end_run(self) -> None:
        sort_nodes(self._hashes, self._values)
        self._runs.append((self._spool.tell(), len(self._hashes)))
        self._spool.write(self._hashes)
        self._spool.write(self._values)
        self._hashes, self._values = array("Q"), array("I")

    def _merge(self, spool: BinaryIO, merged: BinaryIO) -> tuple[list[int], int]:
        """Join the runs, range by range of the hashes: the number of nodes in each range, and of phrases."""
        spool.flush()
        sizes, phrases = [], 0
        total = sum(count for _, count in self._runs)
        ranges = max(1, total // _RUN_NODES)
        if not total:
            return [], 0
        with mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            for number in range(ranges):
                first, last = ((1 << 64) * edge // ranges for edge in (number, number + 1))
                hashes, values = array("Q"), array("I")
                for offset, count in self._runs:
                    with view[offset : offset + 8 * count].cast("Q") as run:
                        begin, end = bisect_left(run, first), bisect_left(run, last)
                    hashes.frombytes(view[offset + 8 * begin : offset + 8 * end])
                    values_at = offset + 8 * count
                    values.frombytes(view[values_at + 4 * begin : values_at + 4 * end])
                sort_nodes(hashes, values)
                merged.write(hashes)
                merged.write(values)
                sizes.append(len(hashes))
                phrases += count_phrases(values)
        return sizes, phrases

    def _write(self, merged: BinaryIO, sizes: list[int], phrases: int) -> None:
        import tempfile

        merged.seek(0)
        capacity = capacity_for(sum(sizes))
        handle, partial = tempfile.mkstemp(dir=self._folder, prefix=os.path.basename(self._path), suffix=".part")
        try:
            with os.fdopen(handle, "w+b") as file, _temporary_file(self._folder) as payloads:
                file.write(bytes(HEADER_SIZE))
                slots = 0
                for size in sizes or [0]:
                    hashes, values = array("Q", merged.read(8 * size)), array("I", merged.read(4 * size))
                    slot_hashes, slot_values = place_nodes(hashes, values, capacity, slots)
                    file.write(slot_hashes)
                    payloads.write(slot_values)
                    slots += len(slot_hashes)
                payloads.seek(0)
                while block := payloads.read(1 << 20):
                    file.write(block)
                file.seek(HEADER_SIZE)
                checksum = 0
                while block := file.read(1 << 20):
                    checksum = zlib.crc32(block, checksum)
                file.seek(0)
                file.write(Header(capacity, slots, sum(sizes), phrases, checksum).pack())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.replace(partial, self._path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def _temporary_file(folder: str) -> BinaryIO:
    import tempfile  # slow to import, and a reader of tables imports this module

    return cast(BinaryIO, tempfile.TemporaryFile(dir=folder))
