"""Decoding steps as CUDA graphs: one for each of a few batch sizes, replayed with new inputs in the same buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medvllm.engine.step_input import StepInput
from medvllm.layers.context import Context, reset_context, set_context

if TYPE_CHECKING:
    from medvllm.engine.model_runner import ModelRunner

__all__ = ["DecodeGraphs", "bucket_sizes"]


def bucket_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture: 1, 2, 4, 8, then every 16; a batch runs in the next larger one."""
    sizes = [size for size in (1, 2, 4, 8) if size < max_num_seqs]
    return [*sizes, *range(16, max_num_seqs, 16), max_num_seqs]


class DecodeGraphs:
    """Captured when built, largest first, so that the smaller ones fit into the memory of the larger.

    Rows of a bucket that the batch leaves empty have slot -1, which the store leaves out, and one key of block 0, whose
    result nobody reads.
    """

    def __init__(self, runner: ModelRunner, max_num_seqs: int) -> None:
        self.runner, self.sizes = runner, bucket_sizes(max_num_seqs)
        device, blocks = runner.device, -(-runner.max_model_len // runner.options.block_size)
        self.input_ids = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self.positions = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self.slots = torch.full((max_num_seqs,), -1, dtype=torch.int64, device=device)
        self.lengths = torch.ones(max_num_seqs, dtype=torch.int32, device=device)
        self.tables = torch.zeros(max_num_seqs, blocks, dtype=torch.int32, device=device)
        self.bounds = torch.arange(max_num_seqs + 1, dtype=torch.int32, device=device)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._arena: Tensor | None = None
        choice = runner.attention.decide(device.type, getattr(torch, runner.precision.activations))
        if choice.kernel == "triton-paged":  # the others read lengths on the host, or gather all keys
            self._capture_all()

    @property
    def captured(self) -> int:
        """How many graphs there are."""
        return len(self.graphs)

    def covers(self, step: StepInput) -> bool:
        """Whether every sequence of the step decodes one token and a graph is large enough."""
        return (
            bool(self.graphs) and len(step.seqlens_q) <= self.sizes[-1] and len(step.input_ids) == len(step.seqlens_q)
        )

    def run(self, step: StepInput) -> Tensor:
        """(rows of the bucket, hidden); the first rows are the batch's."""
        count = len(step.seqlens_q)
        size = next(size for size in self.sizes if size >= count)
        tensors = self.runner.upload(step)
        context, width = tensors.context, step.block_tables.shape[1]
        self.runner.copy_blocks(tensors.copies)
        self.slots[:size].fill_(-1)
        self.lengths[:size].fill_(1)
        self.input_ids[:count] = tensors.input_ids
        self.positions[:count] = tensors.positions
        self.slots[:count] = context.slot_mapping
        self.lengths[:count] = context.context_lens
        self.tables[:count, :width] = context.block_tables
        graph, hidden = self.graphs[size]
        graph.replay()
        return hidden

    @torch.inference_mode()
    def _capture_all(self) -> None:
        if self.runner.pool is not None:
            self.runner.pool.begin_step()
            self._arena = self.runner.pool.arena  # the graphs write into it, whatever the pool does later
        memory = None
        for size in reversed(self.sizes):
            set_context(self._context(size))
            try:
                self._forward(size)  # compiles kernels and fills caches outside the graph
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=memory):
                    hidden = self._forward(size)
            finally:
                reset_context()
            memory = memory or graph.pool()
            self.graphs[size] = (graph, hidden)
        torch.cuda.synchronize()

    def _forward(self, size: int) -> Tensor:
        return self.runner.model(self.input_ids[:size], self.positions[:size])

    def _context(self, size: int) -> Context:
        longest = self.runner.max_model_len  # how far a kernel splits the keys is fixed at capture
        return Context(
            cu_seqlens_q=self.bounds[: size + 1],
            max_seqlen_q=1,
            max_seqlen_k=longest,
            slot_mapping=self.slots[:size],
            context_lens=self.lengths[:size],
            block_tables=self.tables[:size],
            seqlens_q=(1,) * size,
            seqlens_k=(1,) * size,
        )
