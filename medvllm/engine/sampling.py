"""What a step does with logits: penalties, minimum length, grammar; then next tokens and their log-probabilities."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence as Many
from typing import NamedTuple

import torch
from torch import Tensor

from medvllm.engine.sequence import Sequence
from medvllm.layers.sampler import SamplingRows, greedy, sample
from medvllm.outputs import Logprob
from medvllm.sampling_params import BeamSearchParams, SamplingParams

__all__ = ["PenaltyState", "adjust", "beam_candidates", "choose", "new_generator", "top_logprobs"]


# Temperatures that float32 can divide logits by. The coldest is greedy but for logits that are equal or as good as; the
# hottest makes all tokens equally likely.
_COLDEST, _HOTTEST = 1e-6, 1e30


def new_generator(seed: str, index: int) -> random.Random:
    """The random numbers of completion `index` of a request with this seed; no other request draws from them."""
    return random.Random(f"{seed}/{index}")


class PenaltyState:
    """The tokens a sequence has seen and how often it generated each, kept up to date token by token."""

    def __init__(self, params: SamplingParams, seq: Sequence, vocab_size: int, device: torch.device) -> None:
        self.params = params
        self.seen = torch.empty(0, dtype=torch.int64, device=device)  # tokens in prompt or output, each once
        self._known, self._new = set(seq.token_ids), list(dict.fromkeys(seq.token_ids))
        self.counts = torch.zeros(vocab_size, dtype=torch.float32, device=device)  # in the output
        for token in seq.output_token_ids:
            self.counts[token] += 1

    def add(self, token: int) -> None:
        """Takes note of a generated token."""
        if token not in self._known:
            self._known.add(token)
            self._new.append(token)
        self.counts[token] += 1

    def apply(self, row: Tensor) -> None:
        """Changes the logits (vocab,) in place."""
        params = self.params
        if params.repetition_penalty != 1:
            if self._new:
                self.seen = torch.cat([self.seen, torch.tensor(self._new, device=self.seen.device)])
                self._new.clear()
            known, penalty = row[self.seen], params.repetition_penalty  # a few hundred, of tens of thousands
            row[self.seen] = torch.where(known < 0, known * penalty, known / penalty)
        if params.frequency_penalty:
            row.sub_(self.counts, alpha=params.frequency_penalty)
        if params.presence_penalty:
            row.sub_((self.counts > 0).to(row.dtype), alpha=params.presence_penalty)


def adjust(logits: Tensor, seqs: Many[Sequence]) -> None:
    """Applies each sequence's penalties, minimum length and grammar to its row of (n, vocab), in place."""
    for index, seq in enumerate(seqs):
        params = seq.request.params
        if isinstance(params, BeamSearchParams):
            continue
        if seq.penalties is not None:
            seq.penalties.apply(logits[index])
        if seq.num_output_tokens < params.min_tokens and seq.request.eos_token_ids:
            logits[index, list(seq.request.eos_token_ids)] = -math.inf
        if seq.grammar is not None:
            seq.grammar.apply(logits[index])


def choose(logits: Tensor, seqs: Many[Sequence]) -> list[int]:
    """The next token of each sequence from its adjusted logits (n, vocab)."""
    params = [seq.request.params for seq in seqs]
    drawn = [i for i, each in enumerate(params) if isinstance(each, SamplingParams) and not each.greedy]
    if len(drawn) == len(seqs):
        found: list[int] = sample(logits, _rows(seqs, logits.device)).tolist()
        return found
    tokens = greedy(logits)
    if drawn:
        index = torch.tensor(drawn, device=logits.device)
        tokens[index] = sample(logits[index], _rows([seqs[i] for i in drawn], logits.device))
    found = tokens.tolist()
    return found


def _rows(seqs: Many[Sequence], device: torch.device) -> SamplingRows:
    params = [seq.request.params for seq in seqs]
    generators = [seq.generator for seq in seqs if seq.generator is not None]  # every drawn sequence has one

    def column(values: list[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return SamplingRows(
        temperature=column([min(max(each.temperature, _COLDEST), _HOTTEST) for each in params], torch.float32),
        top_k=column([each.top_k for each in params], torch.int64),
        top_p=column([each.top_p for each in params], torch.float32),
        min_p=column([each.min_p for each in params], torch.float32),
        uniform=column([generator.random() for generator in generators], torch.float64),
    )


def top_logprobs(logits: Tensor, tokens: Many[int], count: int) -> list[dict[int, Logprob]]:
    """For each row of (n, vocab): the chosen token and the `count` likeliest with their log-probabilities."""
    logprobs = logits.log_softmax(-1)
    chosen = logprobs.gather(1, torch.tensor(tokens, device=logits.device).unsqueeze(1))
    ranks = ((logprobs > chosen).sum(-1) + 1).tolist()
    values, ids = logprobs.topk(count, dim=-1)
    result = []
    for token, value, rank, *top in zip(
        tokens, chosen.squeeze(1).tolist(), ranks, ids.tolist(), values.tolist(), strict=True
    ):
        entry = {token: Logprob(value, rank)}
        for place, (other, logprob) in enumerate(zip(*top, strict=True), start=1):
            entry.setdefault(other, Logprob(logprob, place))
        result.append(entry)
    return result


class Candidates(NamedTuple):
    """A beam's best continuations, best first."""

    tokens: list[int]
    logprobs: Tensor  # (k,) float32


def beam_candidates(logits: Tensor, count: int) -> list[Candidates]:
    """For each beam's row of (n, vocab): its `count` likeliest next tokens with their log-probabilities."""
    values, tokens = logits.log_softmax(-1).topk(min(count, logits.shape[1]), dim=-1)
    return [Candidates(*pair) for pair in zip(tokens.tolist(), values.cpu(), strict=True)]
