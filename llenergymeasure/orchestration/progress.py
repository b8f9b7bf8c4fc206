"""How far a run is, on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

__all__ = ["LiveProgress", "PlainProgress", "Progress", "open_progress"]

PLAIN_EVERY_S = 5.0  # between plain lines, so that a log of hours stays short


class Progress(Protocol):
    """What is told of a run."""

    def stage(self, text: str) -> None:
        """What is being done, when it is no request: loading, baseline, warm-up."""
        ...

    def step(self, text: str) -> None:
        """How far the stage is: takes the place of what was said of it."""
        ...

    def begin(self, label: str, *, total: int, done: int) -> None:
        """Requests are measured from here on; `done` of `total` were before."""
        ...

    def advance(self, requests: int, tokens: int) -> None:
        """Requests have finished."""
        ...


class _Counter:
    """Requests done, and output tokens a second since `begin`."""

    def __init__(self, watts: Callable[[], float | None] | None) -> None:
        self.watts = watts
        self.total = self.done = self.tokens = 0
        self.began_s = time.monotonic()

    def begin(self, total: int, done: int) -> None:
        self.total, self.done, self.tokens, self.began_s = total, done, 0, time.monotonic()

    def rates(self) -> str:
        """`34.1 tok/s, 212 W`; power only where it is known."""
        passed = time.monotonic() - self.began_s
        said = [f"{self.tokens / passed:.1f} tok/s"] if self.tokens and passed > 0 else []
        power = self.watts() if self.watts is not None else None
        return ", ".join([*said, *([f"{power:.0f} W"] if power is not None else [])])


class PlainProgress:
    """Lines such as `12/50 requests, 34.1 tok/s`, at most one in five seconds; of the requests always the last."""

    def __init__(self, *, prefix: str = "", watts: Callable[[], float | None] | None = None) -> None:
        self._prefix, self._counter = prefix, _Counter(watts)
        self._label, self._said_s = "", 0.0

    def stage(self, text: str) -> None:
        """See Progress."""
        self._said_s = time.monotonic()
        self._say(text)

    def step(self, text: str) -> None:
        """See Progress."""
        if time.monotonic() - self._said_s >= PLAIN_EVERY_S:
            self.stage(text)

    def begin(self, label: str, *, total: int, done: int) -> None:
        """See Progress."""
        self._label = label
        self._counter.begin(total, done)
        self._said_s = time.monotonic()
        self._say(f"{label}: {total - done} requests" + (f" left of {total}" if done else ""))

    def advance(self, requests: int, tokens: int) -> None:
        """See Progress."""
        counter = self._counter
        counter.done += requests
        counter.tokens += tokens
        if counter.done == counter.total or time.monotonic() - self._said_s >= PLAIN_EVERY_S:
            self._said_s = time.monotonic()
            rates = counter.rates()
            self._say(f"{self._label}: {counter.done}/{counter.total} requests" + (f", {rates}" if rates else ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.stderr.flush()

    def _say(self, text: str) -> None:
        print(f"{self._prefix}{text}", file=sys.stderr, flush=True)


class LiveProgress:
    """One line of rich's that is drawn over and over: bar, requests, tokens a second, watts."""

    def __init__(self, *, watts: Callable[[], float | None] | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._counter = _Counter(watts)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rates]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task: Any = None
        self._stage: Any = None

    def stage(self, text: str) -> None:
        """See Progress."""
        self._drop()
        self._stage = self._bar.add_task(text, total=None, rates="")

    def step(self, text: str) -> None:
        """See Progress."""
        self._bar.update(self._stage, description=text)

    def begin(self, label: str, *, total: int, done: int) -> None:
        """See Progress."""
        self._drop()
        self._counter.begin(total, done)
        self._task = self._bar.add_task(label, total=total, completed=done, rates="")

    def advance(self, requests: int, tokens: int) -> None:
        """See Progress."""
        self._counter.done += requests
        self._counter.tokens += tokens
        self._bar.update(self._task, advance=requests, rates=self._counter.rates())

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()
        self._bar.stop()

    def _drop(self) -> None:
        if self._stage is not None:
            self._bar.remove_task(self._stage)
            self._stage = None


def open_progress(*, prefix: str = "", watts: Callable[[], float | None] | None = None) -> LiveProgress | PlainProgress:
    """Live on a terminal, plain lines elsewhere and for one process of several, which `prefix` names."""
    if sys.stderr.isatty() and not prefix:
        return LiveProgress(watts=watts)
    return PlainProgress(prefix=prefix, watts=watts)
