"""Ctrl-C and SIGTERM during training: noted, so that the step ends and a checkpoint is written first."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """`with Interrupts() as asked:` … `if asked.signal:`. A second signal acts at once, as without this."""

    def __init__(self) -> None:
        self.signal = 0  # the number of the signal that came; 0: none
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # only there can a handler be set
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *failure: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def end(self) -> None:
        """What the signal would have done: KeyboardInterrupt, or the exit code 143, also where another rank got it."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signal.SIGTERM)
