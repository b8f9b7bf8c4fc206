"""Choosing tokens from logits (n, vocab) float32: greedy, or by temperature, top-k, top-p and min-p.

A row's choice depends on its own logits, settings and random number only, so it is the same in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from medvllm_kernels import cpu_elementwise, cpu_sampling
from torch import Tensor

__all__ = ["SamplingRows", "greedy", "sample", "sample_reference"]

_NUCLEUS_TRIES = (256, 4096)  # tokens looked at before a whole row is sorted: top-p 0.95 of a text rarely needs more


@dataclass(frozen=True, slots=True)
class SamplingRows:
    """The settings of each row, (n,) each."""

    temperature: Tensor  # float32, above 0
    top_k: Tensor  # int64, 0 for all
    top_p: Tensor  # float32
    min_p: Tensor  # float32
    uniform: Tensor  # float64 in [0, 1): the row's random number


def greedy(logits: Tensor) -> Tensor:
    """(n, vocab) → (n,), the likeliest token of each row."""
    if cpu_sampling.unusable(logits) is None:
        return cpu_elementwise.greedy(logits)
    return logits.argmax(-1)


def sample(logits: Tensor, rows: SamplingRows) -> Tensor:
    """(n, vocab) → (n,): for each row the token at which the distribution left by its settings passes its number."""
    if cpu_sampling.unusable(logits) is None:
        return cpu_sampling.sample(logits, rows.temperature, rows.top_k, rows.top_p, rows.min_p, rows.uniform)
    return sample_reference(logits, rows)


def sample_reference(logits: Tensor, rows: SamplingRows) -> Tensor:
    """The same in torch, on any device."""
    probs = (logits / rows.temperature.unsqueeze(1)).softmax(-1)
    filtered = (rows.top_k > 0) | (rows.top_p < 1) | (rows.min_p > 0)
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    free = (~filtered).nonzero().squeeze(1)
    if len(free):
        tokens[free] = _invert(probs[free], rows.uniform[free])
    cut = filtered.nonzero().squeeze(1)
    if len(cut):
        tokens[cut] = _sample_filtered(probs[cut], _select(rows, cut))
    return tokens


def _select(rows: SamplingRows, index: Tensor) -> SamplingRows:
    return SamplingRows(
        rows.temperature[index], rows.top_k[index], rows.top_p[index], rows.min_p[index], rows.uniform[index]
    )


def _sample_filtered(probs: Tensor, rows: SamplingRows) -> Tensor:
    """Rows with a filter: only as many of the likeliest tokens are sorted as settle the matter for a row."""
    vocab = probs.shape[1]
    tokens = torch.empty(len(probs), dtype=torch.int64, device=probs.device)
    left = torch.arange(len(probs), device=probs.device)
    for count in (*(each for each in _NUCLEUS_TRIES if each < vocab), vocab):
        some, settings = (probs, rows) if len(left) == len(probs) else (probs[left], _select(rows, left))
        top, ids = some.topk(count, dim=-1) if count < vocab else some.sort(dim=-1, descending=True, stable=True)
        kept, settled = _filter(top, settings, complete=count == vocab)
        choice = _invert(kept, settings.uniform).unsqueeze(1)
        tokens[left[settled]] = ids.gather(1, choice).squeeze(1)[settled]
        left = left[~settled]
        if not len(left):
            break
    return tokens


def _filter(top: Tensor, rows: SamplingRows, *, complete: bool) -> tuple[Tensor, Tensor]:
    """Descending probabilities (n, count) with those outside top-k, then top-p, then min-p set to 0.

    Also (n,) bool: whether the tokens that are not in `top` are certainly outside too.
    """
    rank = torch.arange(top.shape[1], device=top.device)
    limit = rows.top_k.where(rows.top_k > 0, torch.iinfo(torch.int64).max).unsqueeze(1)
    kept = top.where(rank < limit, 0.0)
    # Mass of what top-k leaves: the whole row's where the row has no top-k.
    total = kept.sum(-1, keepdim=True).where(rows.top_k.unsqueeze(1) > 0, 1.0)
    before = kept.double().cumsum(-1) - kept
    kept = kept.where((before < rows.top_p.unsqueeze(1) * total) | (rank == 0), 0.0)
    kept = kept.where(kept >= rows.min_p.unsqueeze(1) * kept[:, :1], 0.0)
    if complete:
        return kept, torch.ones(len(top), dtype=torch.bool, device=top.device)
    return kept, (kept[:, -1] == 0) | (limit.squeeze(1) <= top.shape[1])


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The first index at which the running sum of (n, count) weights passes uniform × their sum."""
    running = weights.double().cumsum(-1)
    target = (uniform * running[:, -1]).unsqueeze(1)
    return torch.searchsorted(running, target, right=True).squeeze(1).clamp_(max=weights.shape[1] - 1)
