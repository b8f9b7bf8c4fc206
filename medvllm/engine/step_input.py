"""The tensors of one step, built on the host in one pass over its sequences."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvllm.engine.sequence import Sequence

__all__ = ["StepInput", "build_step_input"]

Int32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepInput:
    """What a rank needs to run a step over `seqs` sequences with `tokens` tokens."""

    input_ids: Int32  # (tokens,)
    positions: Int32  # (tokens,)
    slot_mapping: Int32  # (tokens,)
    seqlens_q: Int32  # (seqs,) tokens of each sequence in this step
    seqlens_k: Int32  # (seqs,) keys of each sequence after it
    block_tables: Int32  # (seqs, blocks), padded with 0
    copies: Int32  # (2, n) sources and destinations of blocks to copy first
    logits_indices: Int32  # (rows,) tokens whose logits are wanted

    @property
    def arrays(self) -> tuple[Int32, ...]:
        """Everything, in the order of the fields."""
        return (
            self.input_ids,
            self.positions,
            self.slot_mapping,
            self.seqlens_q,
            self.seqlens_k,
            self.block_tables,
            self.copies,
            self.logits_indices,
        )

    def pack(self) -> Int32:
        """Everything as one array, to be sent to other ranks: the lengths, then the contents."""
        seqs, blocks = self.block_tables.shape
        head = np.array(
            [len(self.input_ids), seqs, blocks, self.copies.shape[1], len(self.logits_indices)], dtype=np.int32
        )
        return np.concatenate([head, *(each.ravel() for each in self.arrays)])

    @classmethod
    def unpack(cls, packed: Int32) -> StepInput:
        """What `pack` made an array of."""
        tokens, seqs, blocks, copies, rows = (int(each) for each in packed[:5])
        sizes = [tokens, tokens, tokens, seqs, seqs, seqs * blocks, 2 * copies, rows]
        parts = np.split(packed[5:], np.cumsum(sizes)[:-1])
        parts[5], parts[6] = parts[5].reshape(seqs, blocks), parts[6].reshape(2, copies)
        return cls(*parts)


def build_step_input(seqs: Many[Sequence], copies: Mapping[int, int], block_size: int) -> StepInput:
    """The step in which each sequence computes its `num_scheduled_tokens` next tokens.

    Wanted are the logits of the last token of each sequence that is then complete, and of all tokens of those whose
    prompt's log-probabilities are asked for.
    """
    if len(seqs) == 1 and seqs[0].num_scheduled_tokens == 1 and not seqs[0].wants_prompt_logprobs:
        return _one_token(seqs[0], copies, block_size)
    counts = np.fromiter((seq.num_scheduled_tokens for seq in seqs), np.int32, len(seqs))
    starts = np.fromiter((seq.num_computed_tokens for seq in seqs), np.int32, len(seqs))
    lengths = starts + counts
    ids: list[int] = []
    for seq, start, end in zip(seqs, starts.tolist(), lengths.tolist(), strict=True):
        ids += seq.token_ids[start:end]
    tables = np.zeros((len(seqs), -(-int(lengths.max()) // block_size)), np.int32)
    for row, seq in zip(tables, seqs, strict=True):
        used = min(len(seq.block_table), len(row))
        row[:used] = seq.block_table[:used]
    ends = np.cumsum(counts, dtype=np.int32)
    owner = np.repeat(np.arange(len(seqs)), counts)
    positions = np.arange(len(ids), dtype=np.int32) - (ends - lengths)[owner]
    slots = tables[owner, positions // block_size] * block_size + positions % block_size
    return StepInput(
        input_ids=np.array(ids, np.int32),
        positions=positions,
        slot_mapping=slots,
        seqlens_q=counts,
        seqlens_k=lengths,
        block_tables=tables,
        copies=np.array([list(copies.values()), list(copies)], np.int32),
        logits_indices=_wanted(seqs, counts, ends),
    )


def _one_token(seq: Sequence, copies: Mapping[int, int], block_size: int) -> StepInput:
    """The same for a sequence that decodes alone, without the calls on arrays that many of them are worth."""
    position = seq.num_computed_tokens
    block, offset = divmod(position, block_size)
    return StepInput(
        input_ids=np.array([seq.token_ids[position]], np.int32),
        positions=np.array([position], np.int32),
        slot_mapping=np.array([seq.block_table[block] * block_size + offset], np.int32),
        seqlens_q=np.ones(1, np.int32),
        seqlens_k=np.array([position + 1], np.int32),
        block_tables=np.array(seq.block_table[: block + 1], np.int32)[None],
        copies=np.array([list(copies.values()), list(copies)], np.int32),
        logits_indices=np.zeros(int(seq.samples), np.int32),
    )


def _wanted(seqs: Many[Sequence], counts: Int32, ends: Int32) -> Int32:
    if not any(seq.wants_prompt_logprobs for seq in seqs):
        return ends[[seq.samples for seq in seqs]] - 1
    rows = [
        np.arange(end - count if seq.wants_prompt_logprobs else end - 1 if seq.samples else end, end, dtype=np.int32)
        for seq, count, end in zip(seqs, counts, ends, strict=True)
    ]
    return np.concatenate(rows)
