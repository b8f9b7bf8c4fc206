"""Requests before the measurement, until their latencies have settled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llenergymeasure.orchestration.traffic import Requests
from llenergymeasure.results.schema import Warmup

if TYPE_CHECKING:
    from llenergymeasure.backends.base import Backend
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.orchestration.progress import Progress
    from llenergymeasure.prompts import Prompt

__all__ = ["coefficient_of_variation", "warm_up"]


def warm_up(backend: Backend, config: ExperimentConfig, prompts: Sequence[Prompt], progress: Progress) -> Warmup | None:
    """Runs the first batch again and again until the last `window` times vary by at most `cv_threshold`.

    The time of a batch is taken per token it generated, for sampled completions differ in length. With streaming,
    `streaming_warmup_requests` follow, streamed. None of it is in the results. None where no warm-up was asked for.
    `progress` hears how many batches, and streamed requests, have run.
    """
    asked = config.warmup
    progress.stage("warming up")
    tokens = backend.prepare(prompts)
    began = time.monotonic()
    batch = list(prompts[: config.batching.batch_size])
    rates: list[float] = []
    done = 0
    while len(rates) < asked.max and not (len(rates) >= asked.min and _settled(rates, config)):
        if asked.timeout is not None and rates and time.monotonic() - began >= asked.timeout:
            break
        rates.append(_seconds_per_token(backend, config, batch, tokens))
        done += len(batch)
        progress.step(_count(len(rates), config))
    if config.streaming and config.streaming_warmup_requests:
        some = [prompts[i % len(prompts)] for i in range(config.streaming_warmup_requests)]
        for start in range(0, len(some), config.batching.batch_size):
            part = some[start : start + config.batching.batch_size]
            _seconds_per_token(backend, config, part, tokens, streaming=True)
            progress.step(f"warming up: {start + len(part)}/{len(some)} streamed requests")
        done += len(some)
    if not done:
        return None
    return Warmup(
        requests=done,
        settled=_settled(rates, config),
        cv=coefficient_of_variation(rates[-asked.window :]),
        duration_s=time.monotonic() - began,
    )


def coefficient_of_variation(values: Sequence[float]) -> float | None:
    """Standard deviation over mean; None of fewer than two values."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / statistics.fmean(values)


def _count(batches: int, config: ExperimentConfig) -> str:
    """`warming up: 2/5`, batches; past the fewest that can do, why there are more and what ends them."""
    asked = config.warmup
    fewest = min(max(asked.min, asked.window), asked.max)
    if batches <= fewest:
        return f"warming up: {batches}/{fewest}"
    return f"warming up: {batches}, at most {asked.max}; the times still vary"


def _settled(rates: Sequence[float], config: ExperimentConfig) -> bool:
    asked = config.warmup
    if len(rates) < asked.window:
        return False
    cv = coefficient_of_variation(rates[-asked.window :])
    return cv is not None and cv <= asked.cv_threshold


def _seconds_per_token(
    backend: Backend,
    config: ExperimentConfig,
    batch: Sequence[Prompt],
    tokens: dict[str, int],
    *,
    streaming: bool = False,
) -> float:
    began = time.monotonic()
    source = Requests(batch, tokens=tokens, batching=config.batching)
    generated = sum(
        request.output_tokens for outcome in backend.run(source, streaming=streaming) for request in outcome.requests
    )
    return (time.monotonic() - began) / max(generated, 1)
