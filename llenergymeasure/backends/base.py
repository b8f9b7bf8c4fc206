"""What every inference backend offers: load a model, count tokens, and run requests as they come.

Clock readings are of `time.monotonic()`, in seconds, so that phases can be laid beside power samples.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llenergymeasure.energy.phases import Phase

if TYPE_CHECKING:
    from llenergymeasure.backends.flops import Architecture
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = [
    "Backend",
    "BatchOutcome",
    "ModelInfo",
    "Phase",
    "Request",
    "RequestOutcome",
    "RequestSource",
    "Timeline",
    "merged",
    "peak_rss_mib",
    "request_phases",
]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model as it was loaded."""

    name: str
    folder: Path
    architecture: Architecture
    dtype: str
    device: str  # "cpu", "cuda:0", …
    max_input_tokens: int  # a longer prompt loses its end
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt whose turn has come."""

    prompt: Prompt
    arrived_s: float | None = None  # None where all are there from the start


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """One finished request. Tokens are counted by the attention mask: padding is none of them."""

    prompt: Prompt
    input_tokens: int
    output_tokens: int  # an end-of-sequence token included
    started_s: float  # its arrival where traffic is simulated, else when it was handed to the model
    finished_s: float
    ttft_ms: float | None = None  # only with streaming
    itl_ms: tuple[float, ...] | None = None  # times between its tokens, only with streaming
    text: str | None = None  # only where it is asked for


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Requests that finished together, and what the model did since the last such outcome."""

    requests: tuple[RequestOutcome, ...]
    phases: tuple[Phase, ...]


class RequestSource(Protocol):
    """Where a backend takes its requests from: whole batches, or as many as have arrived."""

    def next_batch(self) -> list[Request] | None:
        """The next batch, waited for where it has not arrived; None when there is no more."""
        ...

    def take(self, limit: int) -> list[Request]:
        """At most `limit` requests that have arrived by now."""
        ...

    def wait(self) -> None:
        """Sleeps until another request is there."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether none is left, arrived or not."""
        ...


class Backend(Protocol):
    """An engine that completes prompts."""

    name: str

    def load(self, config: ExperimentConfig, *, process_index: int, num_processes: int) -> ModelInfo:
        """Loads the model; `process_index` of `num_processes` picks its GPUs.

        Raises:
            LemError: the model or the engine can't be had, or an option is not the engine's.
        """
        ...

    def prepare(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises prompts, outside of the measurement; their input tokens by id.

        Raises:
            LemError: a prompt has no tokens.
        """
        ...

    def run(self, source: RequestSource, *, streaming: bool) -> Iterator[BatchOutcome]:
        """Completes what the source gives, yielding requests as they finish."""
        ...

    def peak_memory(self) -> tuple[float | None, str | None]:
        """Peak memory in MiB since `reset_peak_memory`, or of the process, and which memory it is."""
        ...

    def reset_peak_memory(self) -> None:
        """Starts the peak anew where the device can."""
        ...

    def close(self) -> None:
        """Lets go of the model."""
        ...


@dataclass(slots=True)
class Timeline:
    """When the tokens of one request came."""

    prompt: Prompt
    input_tokens: int
    started_s: float
    token_s: list[float] = field(default_factory=list)

    def outcome(self, *, streaming: bool, output_tokens: int, text: str | None) -> RequestOutcome:
        """The finished request; of times only what was asked for."""
        times = self.token_s
        gaps = tuple((after - before) * 1000 for before, after in itertools.pairwise(times))
        return RequestOutcome(
            prompt=self.prompt,
            input_tokens=self.input_tokens,
            output_tokens=output_tokens,
            started_s=self.started_s,
            finished_s=times[-1] if times else time.monotonic(),
            ttft_ms=(times[0] - self.started_s) * 1000 if streaming and times else None,
            itl_ms=gaps if streaming and times else None,
            text=text,
        )


def merged(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Phases in their order; those of a kind that touch become one, idle stretches stay out."""
    found: list[Phase] = []
    for phase in phases:
        if found and found[-1].kind == phase.kind and found[-1].end_s == phase.start_s:
            found[-1] = replace(found[-1], end_s=phase.end_s)
        else:
            found.append(phase)
    return tuple(found)


def request_phases(spans: Sequence[tuple[float, float, float]]) -> tuple[Phase, ...]:
    """Phases of requests that overlap, each (start, first token, end): prefill while any waits for its first token."""
    edges = sorted({edge for span in spans for edge in span})
    phases = []
    for low, high in itertools.pairwise(edges):
        if any(start <= low and high <= first for start, first, _ in spans):
            phases.append(Phase("prefill", low, high))
        elif any(start <= low and high <= end for start, _, end in spans):
            phases.append(Phase("decode", low, high))
    return merged(phases)


def peak_rss_mib() -> float:
    """The most resident memory this process has had, MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0**2 if sys.platform == "darwin" else 1024.0)
