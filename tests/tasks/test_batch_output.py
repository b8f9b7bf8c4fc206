"""A run that Ctrl-C ends in the middle of a write goes on without a line lost, doubled or cut."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

from medvllm.tasks.batch_output import ResumableOutput

LINE = 60_000  # characters: far more than the file's buffer


def _line(number: int) -> str:
    return f"{number:07d}".ljust(LINE, "x") + "\n"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def test_interrupted_in_a_write(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGALRM, _interrupt)
    try:
        for trial in range(30):
            _one_run(tmp_path / f"{trial}.txt", after_s=0.002 + 0.0005 * trial)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _one_run(path: Path, *, after_s: float) -> None:
    first = ResumableOutput(path, "key")
    signal.setitimer(signal.ITIMER_REAL, after_s)
    try:
        for number in range(100_000):
            first.write(_line(number), notes=1, entities=0, failed=0)
    except KeyboardInterrupt:
        first.suspend()
    second = ResumableOutput(path, "key")
    end = second.notes + 2
    for number in range(second.notes, end):
        second.write(_line(number), notes=1, entities=0, failed=0)
    second.finish()
    assert path.read_text() == "".join(_line(number) for number in range(end))
    path.unlink()


def test_what_was_synced_is_gone_on_with_and_a_state_alone_is_not(tmp_path: Path) -> None:
    path = tmp_path / "o.txt"
    first = ResumableOutput(path, "key")
    first.write("a\n", notes=1, entities=0, failed=0)
    first.suspend()
    second = ResumableOutput(path, "key")
    assert second.notes == 1
    second.suspend()
    (tmp_path / "o.txt.part").rename(path)  # as if killed between giving the file its name and removing the state
    third = ResumableOutput(path, "key")
    assert third.notes == 0
    third.write("b\n", notes=1, entities=0, failed=0)
    third.finish()
    assert path.read_text() == "b\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.txt"]
