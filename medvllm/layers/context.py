"""What a step tells the attention layers: where each sequence's tokens and keys lie."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Context", "get_context", "reset_context", "set_context"]


@dataclass(slots=True)
class Context:
    """The metadata of one step over `seqs` sequences with `tokens` new tokens in all, in vLLM's names.

    A step may mix sequences that decode (one new token) with chunks of prompts. Without a cache (`slot_mapping` None)
    attention runs over the step's own keys alone.
    """

    is_prefill: bool = False  # some sequence has more than one new token
    cu_seqlens_q: Tensor | None = None  # (seqs + 1,) int32: where each sequence's new tokens begin
    cu_seqlens_k: Tensor | None = None  # (seqs + 1,) int32: the same for its keys, cached ones included
    max_seqlen_q: int = 0
    max_seqlen_k: int = 0
    slot_mapping: Tensor | None = None  # (tokens,) int64: block * block_size + offset
    context_lens: Tensor | None = None  # (seqs,) int32: keys of each sequence after this step
    block_tables: Tensor | None = None  # (seqs, blocks) int32, padded with 0
    seqlens_q: tuple[int, ...] = ()  # new tokens of each sequence, on the host
    seqlens_k: tuple[int, ...] = ()  # keys of each sequence, on the host


class _Current(threading.local):
    context = Context()


_current = _Current()


def get_context() -> Context:
    """The context of the step that runs in this thread."""
    return _current.context


def set_context(context: Context) -> None:
    """Makes `context` the one of the step that begins in this thread."""
    _current.context = context


def reset_context() -> None:
    """Forgets the step's tensors."""
    _current.context = Context()
