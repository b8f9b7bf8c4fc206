"""How a request's tokens are chosen, in vLLM's names; checked where it is built."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medvllm.errors import MedvllmError

__all__ = ["BeamSearchParams", "SamplingParams"]


def _at_least(name: str, value: float, low: float) -> None:
    if not value >= low:
        raise MedvllmError(f"{name} must be at least {low}, got {value}")


def _between(name: str, value: float, low: float, high: float, *, above: bool = False) -> None:
    """Refuses values outside [low, high], or outside (low, high] when `above`."""
    if not (value > low if above else value >= low) or not value <= high:
        raise MedvllmError(f"{name} must be in {'(' if above else '['}{low}, {high}], got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Sampling of one request; the defaults are vLLM's.

    The order is that of transformers: penalties, minimum length and grammar on the logits, then temperature, top-k,
    top-p and min-p on what the one before left.
    """

    n: int = 1  # completions of the prompt
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # most likely tokens to choose from; 0 is all
    top_p: float = 1.0  # smallest set of tokens with at least this probability
    min_p: float = 0.0  # tokens at least this likely, relative to the likeliest
    repetition_penalty: float = 1.0  # divides positive and multiplies negative logits of tokens seen, prompt included
    presence_penalty: float = 0.0  # taken from the logit of every token generated
    frequency_penalty: float = 0.0  # taken once for each time it was generated
    seed: int | None = None  # of this request alone; None draws from the engine's
    stop: str | Sequence[str] = ()  # texts that end the completion
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16  # new tokens; None is up to the model's context
    min_tokens: int = 0  # new tokens before an end-of-sequence or stop token
    logprobs: int | None = None  # most likely tokens to report at each position, beside the chosen one
    prompt_logprobs: int | None = None  # the same for the prompt's tokens
    skip_special_tokens: bool = True
    json_schema: str | dict[str, Any] | None = None  # the text is JSON valid under this schema

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if "" in stop:
            raise MedvllmError("stop must be texts of at least one character, got an empty one")
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        if isinstance(self.json_schema, dict):
            object.__setattr__(self, "json_schema", json.dumps(self.json_schema))
        self._check()

    def _check(self) -> None:
        _at_least("n", self.n, 1)
        _at_least("temperature", self.temperature, 0)
        if not math.isfinite(self.temperature):
            raise MedvllmError(f"temperature must be finite, got {self.temperature}")
        _at_least("top_k", self.top_k, 0)
        _between("top_p", self.top_p, 0, 1, above=True)
        _between("min_p", self.min_p, 0, 1)
        _between("repetition_penalty", self.repetition_penalty, 0, math.inf, above=True)
        _between("presence_penalty", self.presence_penalty, -2, 2)
        _between("frequency_penalty", self.frequency_penalty, -2, 2)
        _at_least("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None:
            _at_least("max_tokens", self.max_tokens, 1)
            if self.min_tokens > self.max_tokens:
                raise MedvllmError(f"min_tokens must be at most max_tokens={self.max_tokens}, got {self.min_tokens}")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 0)
        if self.n > 1 and self.greedy:
            raise MedvllmError(f"n must be 1 when temperature is 0 (all completions are the same), got {self.n}")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0

    @property
    def penalised(self) -> bool:
        """Whether tokens seen before change the logits."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    def clone(self, **changes: Any) -> SamplingParams:
        """A copy with `changes`, checked again."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearchParams:
    """Beam search as transformers 5 understands it: score = sum of log-probabilities / length ** length_penalty."""

    beam_width: int
    max_tokens: int | None = 16
    n: int = 1  # best beams to return
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False  # True: when beam_width are finished; False: by its heuristic
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        _at_least("beam_width", self.beam_width, 1)
        _between("n", self.n, 1, self.beam_width)
        if self.max_tokens is not None:
            _at_least("max_tokens", self.max_tokens, 1)
        if self.early_stopping not in (True, False, "never"):
            raise MedvllmError(f"early_stopping must be True, False or 'never', got {self.early_stopping!r}")
