"""The journal under every way of being cut off: what was finished stays, what was torn is gone."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from llenergymeasure.errors import LemError
from llenergymeasure.orchestration.journal import Journal
from llenergymeasure.orchestration.measurement import unknown_energy
from llenergymeasure.results.schema import RequestRecord


def record(index: int, batch: int, segment: int = 0) -> RequestRecord:
    return RequestRecord(
        id=f"p{index}",
        index=index,
        input_tokens=3,
        output_tokens=2,
        batch=batch,
        segment=segment,
        started_s=0.5 * index,
        finished_s=0.5 * index + 0.25,
        output="żółć\n",
    )


def write(path: Path) -> None:
    with Journal(path) as journal:
        journal.begin_segment("2026-01-01T00:00:00+00:00")
        for batch in range(3):
            records = [record(2 * batch, batch), record(2 * batch + 1, batch)]
            journal.add_batch(records, prefill_s=0.1, decode_s=0.4)
        energy = unknown_energy("no sensor")
        journal.end_segment(finished_at="2026-01-01T00:00:02+00:00", duration_s=1.75, energy=energy)


def test_a_journal_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.jsonl"
    write(path)
    with Journal(path) as journal:
        assert [request.id for request in journal.requests] == [f"p{index}" for index in range(6)]
        assert journal.requests[3] == record(3, 1)
        assert journal.batches == 3
        (segment,) = journal.segments
        assert (segment.requests, segment.duration_s) == (6, 1.75)
        assert segment.prefill_s == pytest.approx(0.3)
        assert segment.energy is not None
        assert segment.energy.total.value is None
        assert journal.begin_segment("2026-01-01T00:01:00+00:00") == 1


def test_cut_at_any_byte_it_holds_the_whole_lines_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        kept = whole[:size].rfind(b"\n") + 1
        batches = whole[:kept].count(b'"batch", "requests"')
        with Journal(path) as journal:
            assert len(journal.requests) == 2 * batches
            if not journal.segments:
                journal.begin_segment("2026-01-01T00:00:00+00:00")
            journal.add_batch([record(9, batches)], prefill_s=0.0, decode_s=0.0)
        assert path.read_bytes().startswith(whole[:kept])
        with Journal(path) as journal:
            assert journal.requests[-1].id == "p9"


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1][:20] + b"\n", *lines[2:]]))
    with pytest.raises(LemError, match=r"journal\.jsonl:2 is damaged.*--fresh"):
        Journal(path)


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path), pytest.raises(LemError, match="another process is writing"):
        Journal(path)
    with Journal(path):  # free again
        pass


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Journal(path) as journal:
            journal.begin_segment("2026-01-01T00:01:00+00:00")
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))  # a part of a line fits
            with pytest.raises(LemError, match=r"can't write .*journal"):
                journal.add_batch([record(7, 3, 1)], prefill_s=0.0, decode_s=0.0)
            assert len(journal.requests) == 6
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes().startswith(before)
    with Journal(path) as journal:
        assert len(journal.segments) == 2
        journal.add_batch([record(7, 3, 1)], prefill_s=0.0, decode_s=0.0)
