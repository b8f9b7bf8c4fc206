"""Engines that take requests at any time: keep them fed up to a number of sequences, and time each token by its step.

A step that carries prompt tokens belongs to prefill, even when other sequences decode in it; the rest is decode.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llenergymeasure.backends.base import (
    BatchOutcome,
    Phase,
    Request,
    RequestOutcome,
    RequestSource,
    Timeline,
    merged,
)

__all__ = ["Grown", "StepEngine", "run_steps"]


@dataclass(frozen=True, slots=True)
class Grown:
    """What a step added to a request."""

    key: str
    new_tokens: int
    finished: bool
    output_tokens: int
    text: str | None = None


class StepEngine(Protocol):
    """An engine that is stepped by hand."""

    def add(self, key: str, request: Request) -> int:
        """Queues a request; its input tokens."""
        ...

    def step(self) -> Sequence[Grown]:
        """Brings what runs one step further; the requests that got tokens, and those that finished."""
        ...

    def abort(self, keys: Sequence[str]) -> None:
        """Drops requests."""
        ...


def run_steps(
    engine: StepEngine,
    source: RequestSource,
    *,
    limit: int,
    streaming: bool,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[BatchOutcome]:
    """Completes what the source gives with at most `limit` requests in the engine, yielding those that finish.

    Leaving the iterator early drops what runs.
    """
    lines: dict[str, Timeline] = {}
    waiting_for_first: set[str] = set()
    phases: list[Phase] = []
    number = 0
    try:
        while lines or not source.exhausted:
            began = clock()
            for request in source.take(limit - len(lines)):
                key = str(number)
                number += 1
                started = began if request.arrived_s is None else request.arrived_s
                lines[key] = Timeline(request.prompt, engine.add(key, request), started)
                waiting_for_first.add(key)
            if not lines:
                source.wait()
                continue
            prefill = bool(waiting_for_first)
            grown = engine.step()
            ended = clock()
            phases.append(Phase("prefill" if prefill else "decode", _joined(phases, began, ended), ended))
            finished = _take(grown, lines, waiting_for_first, ended, streaming=streaming)
            if finished:
                yield BatchOutcome(tuple(finished), merged(phases))
                phases.clear()
    finally:
        if lines:
            engine.abort(list(lines))


def _joined(phases: Sequence[Phase], began: float, ended: float) -> float:
    """Where a step's phase starts: at the end of the step before, where only bookkeeping lies between."""
    return phases[-1].end_s if phases and began - phases[-1].end_s < 0.1 * (ended - began) else began


def _take(
    grown: Sequence[Grown], lines: dict[str, Timeline], waiting: set[str], ended: float, *, streaming: bool
) -> list[RequestOutcome]:
    """Notes a step's tokens; the requests it finished."""
    finished = []
    for each in grown:
        line = lines[each.key]
        if each.new_tokens:
            waiting.discard(each.key)
            # Tokens of one step (speculation, several scheduler steps) came together.
            line.token_s += [ended] * each.new_tokens
        if each.finished:
            waiting.discard(each.key)
            del lines[each.key]
            if not line.token_s:
                line.token_s.append(ended)
            finished.append(line.outcome(streaming=streaming, output_tokens=each.output_tokens, text=each.text))
    return finished
