"""Progress on stderr: a bar that is redrawn on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

__all__ = ["Progress", "duration"]

_BAR = 24  # characters
_REDRAW_S = 0.1
_LINE_S = 15.0  # between lines of a log


class Progress:
    """`with Progress(total=500) as bar: bar.update(12, loss=0.61)`."""

    def __init__(self, *, total: int, done: int = 0, stream: TextIO | None = None, silent: bool = False) -> None:
        """`done` steps were made before this process."""
        self._total, self._first = total, done
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._silent = silent
        self._started = self._drawn = time.monotonic()
        self._open = False  # whether the terminal's line is begun

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._open:
            print(file=self._stream, flush=True)
            self._open = False

    def update(self, done: int, **values: float | None) -> None:
        """Shows that `done` steps of the total are done, the time left, and the values."""
        now = time.monotonic()
        last = done >= self._total
        if self._silent or (not last and now - self._drawn < (_REDRAW_S if self._terminal else _LINE_S)):
            return
        self._drawn = now
        left = (now - self._started) / (done - self._first) * (self._total - done) if done > self._first else None
        facts = [f"step {done}/{self._total}", f"ETA {duration(left)}"]
        facts += [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
        line = "  ".join(facts)
        if self._terminal:
            filled = _BAR * done // max(self._total, 1)
            print(f"\r\x1b[2K{'█' * filled}{'░' * (_BAR - filled)} {line}", end="", file=self._stream, flush=True)
            self._open = True
        else:
            print(line, file=self._stream, flush=True)

    def note(self, text: str, *, always: bool = False) -> None:
        """A line of its own: an evaluation, a checkpoint; `always`: a warning, without progress too."""
        if self._silent and not always:
            return
        print(f"\r\x1b[2K{text}" if self._open else text, file=self._stream, flush=True)
        self._open = False


def duration(seconds: float | None) -> str:
    """1:02:03, 2:03, or ? where it is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
