"""A sequence of tokens that the engine extends, and the request it belongs to."""

from __future__ import annotations

import itertools
import random
from array import array
from dataclasses import dataclass, field
from typing import Any

from medvllm.outputs import Logprob
from medvllm.sampling_params import BeamSearchParams

__all__ = ["Request", "Sequence"]

_ids = itertools.count()


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens, the blocks that hold their keys and values, and the state that choosing the next token needs.

    Tokens up to `num_computed_tokens` have their keys in the cache. When that is all but the last, the sequence
    decodes; anything more is prompt, or a recomputation after preemption.
    """

    request: Request
    token_ids: list[int]
    num_prompt_tokens: int
    index: int = 0  # among its request's completions
    seq_id: int = field(default_factory=lambda: next(_ids))
    block_table: array[int] = field(default_factory=lambda: array("i"))
    block_hashes: list[bytes] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_scheduled_tokens: int = 0
    generator: random.Random | None = None
    penalties: Any = None  # tokens seen, by medvllm.engine.sampling
    grammar: Any = None  # the state of its JSON schema
    detokenizer: Any = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cumulative_logprob: float = 0.0
    candidates: Any = None  # a beam's best continuations, until all beams of the request have theirs
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose keys are not in the cache; 0 for a beam that waits for the others."""
        return 0 if self.candidates is not None else len(self.token_ids) - self.num_computed_tokens

    @property
    def output_token_ids(self) -> list[int]:
        """The tokens generated."""
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def samples(self) -> bool:
        """Whether the step being scheduled computes the last token, so that a next one can be chosen."""
        return self.num_computed_tokens + self.num_scheduled_tokens == len(self.token_ids)

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether its prompt's logits are still to be looked at."""
        return self.request.prompt_logprobs is not None and len(self.token_ids) == self.num_prompt_tokens

    def fork(self, index: int) -> Sequence:
        """A sequence with the same tokens; its blocks are shared by the block manager."""
        return Sequence(self.request, self.token_ids.copy(), self.num_prompt_tokens, index)


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, how it is to be completed, and its sequences: one, `n` samples of it, or the beams of a search."""

    request_id: int
    prompt: str | None
    prompt_token_ids: list[int]
    params: Any  # SamplingParams or BeamSearchParams
    max_tokens: int  # new tokens, the context's end considered
    eos_token_ids: frozenset[int]  # tokens that end a completion, the request's own included
    arrival_s: float
    sequences: list[Sequence] = field(default_factory=list)
    beam_search: Any = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int = 0
    first_token_s: float | None = None
    finished_s: float | None = None
    followed: bool = False  # somebody reads its text as it grows

    @property
    def width(self) -> int:
        """Sequences it may have at once."""
        return int(self.params.beam_width if isinstance(self.params, BeamSearchParams) else self.params.n)

    @property
    def finished(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.finished_s is not None
