"""What the engine returns, in vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CompletionOutput", "GenerationInterrupted", "Logprob", "RequestMetrics", "RequestOutput"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log-probability under the model (before temperature and penalties) and its rank, 1 the likeliest."""

    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion of a prompt."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None  # of the tokens chosen; for beams the penalised score. None when not asked for
    logprobs: list[dict[int, Logprob]] | None  # by position: token id → log-probability
    finish_reason: str | None = None  # stop, length or abort; None while it runs
    stop_reason: int | str | None = None  # the stop token or text that ended it; None for end-of-sequence


@dataclass(frozen=True, slots=True)
class RequestMetrics:
    """Times of one request, in seconds; None where it has not come so far."""

    ttft_s: float | None  # from arrival to the first token
    latency_s: float | None  # from arrival to the last


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A prompt with its completions so far."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    metrics: RequestMetrics
    num_cached_tokens: int = 0  # prompt tokens taken from the prefix cache
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None  # None for the first token, which has none


class GenerationInterrupted(KeyboardInterrupt):
    """Ctrl-C during generation; `outputs` holds what every request has so far, in the order of the prompts."""

    def __init__(self, outputs: list[RequestOutput]) -> None:
        super().__init__("generation was interrupted")
        self.outputs = outputs
