"""The vocabulary at both ends of a model: token embedding and language-model head, split by tokens over the ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from medvllm_kernels import cpu_linear
from torch import Tensor, nn

from medvllm.layers.linear import Linear, copy, part_of_rank
from medvllm.layers.parallel import all_reduce, gather_last_dim, tp_rank, tp_size

__all__ = ["ParallelLMHead", "VocabParallelEmbedding"]


def rows_per_rank(vocab_size: int) -> int:
    """Rows each rank holds; the last rank's are padded."""
    return -(-vocab_size // tp_size())


def load_rows(parameter: Any, loaded: Tensor) -> None:
    """Copies this rank's rows of a (vocab, hidden) or (vocab,) tensor and clears the padding."""
    part = part_of_rank(loaded, parameter.shape[0], tp_rank())
    copy(parameter.data[: part.shape[0]], part)
    parameter.data[part.shape[0] :].zero_()


class VocabParallelEmbedding(nn.Module):
    """(tokens,) → (tokens, hidden)."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.vocab_size, rows = vocab_size, rows_per_rank(vocab_size)
        self.weight: Any = nn.Parameter(torch.empty(rows, hidden_size), requires_grad=False)
        self.weight.weight_loader = load_rows
        self.rows = rows
        self.packed: Any = None  # a tied head's packed weight, instead of `weight`
        self.out_dtype: Any = None  # of the activations, where it is not the weight's

    def forward(self, input_ids: Tensor) -> Tensor:
        if tp_size() == 1:
            return self.lookup(input_ids)
        local = input_ids - tp_rank() * self.rows
        mine = (local >= 0) & (local < self.rows)
        return all_reduce(self.lookup(local.where(mine, 0)) * mine.unsqueeze(1))

    def lookup(self, rows: Tensor) -> Tensor:
        """This rank's `rows` of the table."""
        if self.packed is not None:
            return cpu_linear.embedding(rows, self.packed)
        found = F.embedding(rows, self.weight)
        return found if self.out_dtype is None else found.to(self.out_dtype)


class ParallelLMHead(Linear):
    """(n, hidden) → (n, vocab) logits on every rank."""

    def __init__(self, vocab_size: int, hidden_size: int, *, bias: bool = False) -> None:
        super().__init__(hidden_size, rows_per_rank(vocab_size), bias=bias)
        self.vocab_size = vocab_size

    def load_weight(self, parameter: Any, loaded: Tensor) -> None:
        load_rows(parameter, loaded)

    load_bias = load_weight

    def tie(self, embedding: VocabParallelEmbedding) -> None:
        """Shares the embedding's weight."""
        self.weight = embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return gather_last_dim(self.matmul(x))[:, : self.vocab_size]
