"""The daemon of `lem schedule`: runs when they are due, until the time is over or a signal asks for the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import FrameType

from llenergymeasure.campaigns.times import Timetable, shown_duration

__all__ = ["Daemon"]

SLICE_S = 20.0  # waits are this long at most, so that a change of the local clock is seen


@dataclass(slots=True)
class Daemon:
    """Repeats a run on a timetable. The first starts at once.

    A signal ends the daemon: at once while it waits, after the run while one goes. A second SIGINT interrupts the run.

    Attributes:
        timetable: when runs are due.
        total_s: no run starts later than this after the start.
        run: runs once; its exit code. Interrupted by KeyboardInterrupt.
        tell: shows a line of progress.
        skip_first: the first run waits for its time.
        monotonic: seconds on a clock that nobody sets.
        local: the local time, naive.
        sleep: waits.
    """

    timetable: Timetable
    total_s: float
    run: Callable[[], int]
    tell: Callable[[str], None]
    skip_first: bool = False
    monotonic: Callable[[], float] = time.monotonic
    local: Callable[[], datetime] = datetime.now
    sleep: Callable[[float], None] = time.sleep
    codes: list[int] = field(default_factory=list)
    signalled: signal.Signals | None = None
    _running: bool = False

    def serve(self) -> signal.Signals | None:
        """Runs until the end; the signal that ended it, if one did. `codes` has each run's exit code."""
        handlers = {each: signal.signal(each, self._on_signal) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            began = self.monotonic()
            if not self.skip_first:
                self._run()
            while self.signalled is None and self._wait(began):
                self._run()
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
        return self.signalled

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        again, self.signalled = self.signalled is not None, signal.Signals(number)
        if not self._running:
            return
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.tell(f"{self.signalled.name}: the present run is finished first, then it ends")

    def _run(self) -> None:
        self.tell(f"run {len(self.codes) + 1}, {self.local():%Y-%m-%d %H:%M:%S}")
        self._running = True
        try:
            self.codes.append(self.run())
        finally:
            self._running = False

    def _wait(self, began_s: float) -> bool:
        """Waits for the next run; False if the end comes before it."""
        told: datetime | None = None
        while True:
            elapsed = self.monotonic() - began_s
            now = self.local()
            wait = self.timetable.wait_s(elapsed_s=elapsed, now=now)
            if elapsed + wait > self.total_s:
                self.tell(f"the next run would be due after the end, {shown_duration(self.total_s)} from the start")
                return False
            due = now + timedelta(seconds=wait)
            if told is None or abs((due - told).total_seconds()) > 2:
                self.tell(f"next run at {due:%a %Y-%m-%d %H:%M:%S}, in {shown_duration(wait)}")
                told = due
            if wait <= SLICE_S:
                return self._sleep(wait)
            if not self._sleep(SLICE_S):
                return False

    def _sleep(self, seconds: float) -> bool:
        until = self.monotonic() + seconds
        while self.signalled is None and (left := until - self.monotonic()) > 0:
            self.sleep(min(left, 0.2))  # a handler does not cut time.sleep short
        return self.signalled is None
