"""Progress on stderr: a bar that is redrawn on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from medvllm.training.progress import duration

__all__ = ["Progress"]

_BAR = 24  # characters
_REDRAW_S = 0.1


class Progress:
    """`with Progress("pretrain", total=500) as bar: bar.update(12, loss=3.21, rate=4100)`."""

    def __init__(
        self,
        title: str,
        *,
        total: int,
        done: int = 0,
        every: int = 10,
        stream: TextIO | None = None,
        silent: bool = False,
    ) -> None:
        """`done` steps were made before this process; in a log one of `every` steps is a line."""
        self._title, self._total, self._first, self._every = title, total, done, every
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._silent = silent
        self._started = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._terminal and not self._silent:
            print(file=self._stream)

    def update(self, done: int, **values: float | None) -> None:
        """Shows that `done` of the total are done, the time left, and the values."""
        if self._silent:
            return
        now = time.monotonic()
        last = done >= self._total
        if self._terminal and (last or now - self._drawn >= _REDRAW_S):
            filled = _BAR * done // max(self._total, 1)
            print(
                f"\r\x1b[2K{'█' * filled}{'░' * (_BAR - filled)} {self._line(done, now, values)}",
                end="",
                file=self._stream,
            )
            self._stream.flush()
            self._drawn = now
        elif not self._terminal and (last or done % self._every == 0):
            print(self._line(done, now, values), file=self._stream, flush=True)

    def _line(self, done: int, now: float, values: dict[str, float | None]) -> str:
        made = done - self._first
        left = (now - self._started) / made * (self._total - done) if made else None
        facts = [f"{self._title} {done}/{self._total}", f"ETA {duration(left)}"]
        facts += [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
        return "  ".join(facts)
