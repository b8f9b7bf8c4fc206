"""Beam search over one request, with the meaning transformers 5 gives to scores, finished beams and stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from typing import NamedTuple

import numpy as np

from medvllm.engine.sampling import Candidates
from medvllm.sampling_params import BeamSearchParams

__all__ = ["BeamSearch", "Continuation", "FinishedBeam"]


class Continuation(NamedTuple):
    """A beam of the next step: beam `parent` with `token` after it."""

    parent: int
    token: int
    score: np.float32  # sum of log-probabilities


class FinishedBeam(NamedTuple):
    """A completion and its score, the length penalty applied."""

    score: float
    token_ids: list[int]
    by_length: bool  # it ended because no more tokens were allowed


class BeamSearch:
    """The scores of the running beams, and the best finished ones.

    Every step takes each beam's best continuations and keeps `beam_width` running beams. A continuation that ends
    (end of sequence, or the last token allowed) enters the finished ones only from among the best `beam_width`. Scores
    are float32, as transformers adds them up.
    """

    def __init__(self, params: BeamSearchParams, *, eos_token_ids: frozenset[int], max_tokens: int) -> None:
        self.params, self.eos_token_ids, self.max_tokens = params, eos_token_ids, max_tokens
        self.width = params.beam_width
        self.scores = [np.float32(0)]
        self.finished: list[FinishedBeam] = []  # best first
        self.done = False

    @property
    def num_candidates(self) -> int:
        """Continuations to look at: enough that `beam_width` run on even if every end token is among them."""
        return max(2, 1 + len(self.eos_token_ids)) * self.width

    def advance(self, beams: Many[list[int]], candidates: Many[Candidates]) -> list[Continuation]:
        """The next running beams from the output tokens of the present ones and their candidates; none when done."""
        best = self._best(candidates)
        length = len(beams[0]) + 1
        last = length >= self.max_tokens
        running: list[Continuation] = []
        ended: list[FinishedBeam] = []
        for place, each in enumerate(best):
            if last or each.token in self.eos_token_ids:
                if place < self.width:
                    tokens = [*beams[each.parent], each.token]
                    ended.append(
                        FinishedBeam(self._penalised(each.score, length), tokens, each.token not in self.eos_token_ids)
                    )
            elif len(running) < self.width:
                running.append(each)
        if not (self.params.early_stopping is True and len(self.finished) == self.width):
            self.finished = sorted(self.finished + ended, key=lambda beam: -beam.score)[: self.width]
        self.scores = [each.score for each in running]
        self.done = last or not running or self._settled(length)
        return [] if self.done else running

    def _best(self, candidates: Many[Candidates]) -> list[Continuation]:
        """The best continuations over all beams, best first; ties to the earlier beam, as in a flat top-k."""
        everything = [
            Continuation(parent, token, np.float32(self.scores[parent] + logprob))
            for parent, each in enumerate(candidates)
            for token, logprob in zip(each.tokens, each.logprobs.numpy(), strict=True)
        ]
        everything.sort(key=lambda each: -each.score)
        return everything[: self.num_candidates]

    def _penalised(self, score: np.float32, length: int) -> float:
        return float(score / np.float32(length**self.params.length_penalty))

    def _settled(self, length: int) -> bool:
        """Whether no running beam can, or by the heuristic will, come among the finished ones any more."""
        if len(self.finished) < self.width:
            return False
        if self.params.early_stopping is True:
            return True
        penalty = self.params.length_penalty
        reach = self.max_tokens if self.params.early_stopping == "never" and penalty > 0 else length
        best = max(self.scores, default=np.float32(-math.inf))
        return bool(best / np.float32(reach**penalty) <= np.float32(self.finished[-1].score))
