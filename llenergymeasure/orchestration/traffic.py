"""When requests arrive, and which of them form a batch."""

from __future__ import annotations

import bisect
import random
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from llenergymeasure.backends.base import Request

if TYPE_CHECKING:
    from llenergymeasure.config.models import Batching
    from llenergymeasure.prompts import Prompt

__all__ = ["Requests", "arrival_times", "plan_batches"]


def arrival_times(
    count: int, *, rate: float, mode: Literal["poisson", "constant"], seed: int | None = None
) -> list[float]:
    """Seconds from the start to each of `count` arrivals, `rate` a second on average.

    A Poisson process has independent, exponentially distributed gaps. The first request comes after the first gap.
    """
    draw = random.Random(seed)
    found: list[float] = []
    for _ in range(count):
        gap = draw.expovariate(rate) if mode == "poisson" else 1.0 / rate
        found.append((found[-1] if found else 0.0) + gap)
    return found


def plan_batches(prompts: Sequence[Prompt], *, tokens: Mapping[str, int], batching: Batching) -> list[list[Prompt]]:
    """The batches of prompts that are all there.

    static takes `batch_size` at a time; dynamic also closes a batch before its input tokens, padding included, pass
    `max_tokens_per_batch`. sorted_… puts prompts of like length together, the longest first, so that little is padded
    and a batch that does not fit in memory is the first.
    """
    ordered = list(prompts)
    if batching.strategy.startswith("sorted"):
        ordered.sort(key=lambda prompt: -tokens[prompt.id])
    budget = batching.max_tokens_per_batch if batching.strategy.endswith("dynamic") else None
    batches: list[list[Prompt]] = []
    longest = 0
    for prompt in ordered:
        grown = max(longest, tokens[prompt.id])
        full = not batches or len(batches[-1]) >= batching.batch_size
        if full or (budget is not None and grown * (len(batches[-1]) + 1) > budget):
            batches.append([])
            grown = tokens[prompt.id]
        batches[-1].append(prompt)
        longest = grown
    return batches


class Requests:
    """Prompts as a backend takes them: all there from the start, or arriving over time.

    With arrivals a static batch waits until it is full; a dynamic one takes what has arrived.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        tokens: Mapping[str, int],
        batching: Batching,
        arrivals: Sequence[float] | None = None,
    ) -> None:
        self._tokens, self._batching = tokens, batching
        self._arrivals = list(arrivals) if arrivals is not None else None
        batches = [] if arrivals is not None else plan_batches(prompts, tokens=tokens, batching=batching)
        self._sizes = [len(batch) for batch in batches]
        self._prompts = list(prompts) if arrivals is not None else [each for batch in batches for each in batch]
        self._next = self._batch = 0
        self._start: float | None = None

    @property
    def exhausted(self) -> bool:
        """Whether none is left, arrived or not."""
        return self._next == len(self._prompts)

    def next_batch(self) -> list[Request] | None:
        """The next batch, waited for; None when there is no more."""
        if self.exhausted:
            return None
        if self._arrivals is None:
            self._batch += 1
            return self._pop(self._sizes[self._batch - 1])
        size = min(self._batching.batch_size, len(self._prompts) - self._next)
        self._sleep_until(self._next if self._batching.strategy.endswith("dynamic") else self._next + size - 1)
        there = self._prompts[self._next : min(self._arrived(), self._next + size)]
        first = plan_batches(there, tokens=self._tokens, batching=_in_order(self._batching))[0]
        return self._pop(len(first))

    def take(self, limit: int) -> list[Request]:
        """At most `limit` requests that have arrived by now, in order."""
        return self._pop(min(limit, self._arrived() - self._next))

    def wait(self) -> None:
        """Sleeps until another request is there."""
        if not self.exhausted:
            self._sleep_until(self._next)

    def _clock(self) -> float:
        if self._start is None:  # the traffic begins when its first request is asked for
            self._start = time.monotonic()
        return self._start

    def _arrived(self) -> int:
        """How many have arrived, those taken included."""
        if self._arrivals is None:
            return len(self._prompts)
        start = self._clock()
        return max(bisect.bisect_right(self._arrivals, time.monotonic() - start), self._next)

    def _sleep_until(self, place: int) -> None:
        if self._arrivals is not None:
            due = self._clock() + self._arrivals[place]
            while (left := due - time.monotonic()) > 0:
                time.sleep(left)

    def _pop(self, count: int) -> list[Request]:
        places = range(self._next, self._next + count)
        self._next += count
        if self._arrivals is None:
            return [Request(self._prompts[place]) for place in places]
        return [Request(self._prompts[place], self._clock() + self._arrivals[place]) for place in places]


def _in_order(batching: Batching) -> Batching:
    """The same without sorting: requests that have arrived are not overtaken."""
    return batching.model_copy(update={"strategy": batching.strategy.removeprefix("sorted_")})
