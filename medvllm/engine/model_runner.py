"""Owner of what lives on the device: the model, the KV cache, the buffers of a step."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvllm.engine.config import EngineConfig
from medvllm.engine.memory import CACHE_SHARES, available_bytes, kv_blocks, require
from medvllm.engine.memory_pool import MemoryPool
from medvllm.engine.precision import choose_precision
from medvllm.engine.step_input import StepInput
from medvllm.errors import MedvllmError
from medvllm.layers.attention import Attention, AttentionSettings
from medvllm.layers.context import Context, reset_context, set_context
from medvllm.layers.layernorm import RMSNorm
from medvllm.layers.linear import Linear
from medvllm.layers.native_decoder import NativeDecoder, native_decoder
from medvllm.layers.packing import Packer, weight_bytes
from medvllm.layers.parallel import smallest_over_ranks
from medvllm.models import model_class
from medvllm.models.checkpoint import required_bytes
from medvllm.models.configuration import load_config
from medvllm.models.loader import load_weights
from medvllm.models.runners import runner_for

__all__ = ["ModelRunner"]

_ROW_TILE = 16  # rows of every product in deterministic mode where the linear kernel is torch's


class ModelRunner:
    """Loads a model on one rank and runs steps of it.

    Attributes:
        config: the model's configuration, of transformers' kind.
        max_model_len: tokens of the longest sequence.
        num_blocks: blocks of the KV cache.
    """

    def __init__(self, options: EngineConfig, files: Any, device: str) -> None:
        self.options, self.device = options, torch.device(device)
        if options.threads is not None:
            torch.set_num_threads(options.threads)  # the native kernels take torch's number
        self.config = load_config(files)
        self.max_model_len = context_length(self.config, options.max_model_len)
        self.runner, self.runner_reason = runner_for(self.config)
        self.precision = choose_precision(options, self.config, device, own_layers=self.runner == "medvllm")
        needed = required_bytes(files, self.precision.held)
        require(needed // options.tensor_parallel_size, available_bytes(device), f"model {files.name}")
        self.model = self._load(files)
        self.attention = AttentionSettings(options.attention_impl, options.flash_attention, options.deterministic)
        self.attention_layers = [module for module in self.model.modules() if isinstance(module, Attention)]
        for layer in self.attention_layers:
            layer.settings = self.attention
        self.weight_bytes = weight_bytes(self.model)
        self.pool = self._attach_pool()
        self._set_row_tile()
        self.compiled = self._compile()
        self.num_blocks, self.kv_cache_bytes = self._allocate_cache()
        self.forward = self._native_forward() or self.model
        self.graphs: Any = None
        if device == "cuda" and not options.enforce_eager:
            from medvllm.engine.cuda_graphs import DecodeGraphs

            self.graphs = DecodeGraphs(self, options.max_num_seqs)

    def _load(self, files: Any) -> nn.Module:
        """The model with its weights, packed for this CPU where native code runs it."""
        dtype = getattr(torch, self.precision.weights)
        if self.runner == "transformers":
            from medvllm.models import transformers_fallback

            transformers_fallback.refuse_options(
                quantization=self.options.quantization,
                compile_mode=self.options.compile_mode,
                tensor_parallel_size=self.options.tensor_parallel_size,
                deterministic=self.options.deterministic,
            )
            model = transformers_fallback.load(self.config, files, dtype=dtype, device=self.device)
            return model.eval()
        with building(dtype, self.device):
            cls = model_class(self.config.architectures[0])
            model = cls.from_config(self.config, max_positions=self.max_model_len)
        packer = None if self.precision.packing is None else Packer(model, self.precision.packing)
        load_weights(model, files, take=None if packer is None else packer.layer)
        if packer is not None:
            packer.rest()
        return model.eval()

    def _attach_pool(self) -> MemoryPool | None:
        """Gives each linear layer and attention its place in the pool, sized for the largest step."""
        options = self.options
        wanted = options.pool_device
        if not options.memory_pooling or self.runner == "transformers":
            return None
        if wanted != "auto" and wanted != self.device.type:
            raise MedvllmError(f"pool_device must be auto or the model's device {self.device.type}, got {wanted}")
        if options.compile_mode is not None:
            return None  # compiled layers plan their own buffers
        pool = MemoryPool(self.device, max_bytes=options.pool_max_bytes)
        width = 4 if self.precision.activations == "float32" else 2
        for name, module in self.model.named_modules():
            if isinstance(module, Linear):
                module.workspace, module.buffer = pool, name.rpartition(".")[2]
                rows = options.max_num_seqs if module.buffer == "lm_head" else options.max_num_batched_tokens
                pool.reserve(module.buffer, rows * module.out_features * width)
        for layer in self.attention_layers:
            pool.reserve("attn", options.max_num_batched_tokens * layer.num_heads * layer.head_dim * width)
        self.attention.workspace = pool
        return pool

    def _set_row_tile(self) -> None:
        """Deterministic mode: torch's products in calls of one size; the native ones never depend on the batch."""
        if not self.options.deterministic or self.precision.packing is not None:
            return
        for module in self.model.modules():
            if isinstance(module, Linear):
                module.row_tile = _ROW_TILE
            elif isinstance(module, RMSNorm):
                module.deterministic = True

    def _compile(self) -> str | None:
        """torch.compile of each layer but its attention: the layers are alike, so one compilation serves all."""
        mode = self.options.compile_mode
        if mode is None:
            return None
        for attention in self.attention_layers:  # not where it is defined: that imports the compiler, in seconds
            attention.forward = torch.compiler.disable(attention.forward)  # type: ignore[method-assign]
        lists = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        for layer in max(lists, key=len, default=()):
            layer.compile(mode=mode, dynamic=True)
        return mode

    def _allocate_cache(self) -> tuple[int, int]:
        """The KV cache of all layers; returns its blocks and bytes."""
        dtype = getattr(torch, self.precision.kv_cache)
        size = self.options.block_size
        per_layer = [2 * size * layer.num_kv_heads * layer.head_dim * dtype.itemsize for layer in self.attention_layers]
        blocks = self.options.num_kv_blocks or kv_blocks(
            block_bytes=sum(per_layer),
            block_size=size,
            max_model_len=self.max_model_len,
            max_num_seqs=self.options.max_num_seqs,
            budget=self.options.kv_cache_bytes,
            limit=self._cache_limit(),
            share=CACHE_SHARES[self.device.type],
        )
        blocks = smallest_over_ranks(blocks)
        for_one = -(-self.max_model_len // size)
        if blocks < for_one:
            raise MedvllmError(
                f"num_kv_blocks must be at least {for_one}, which one sequence of max_model_len={self.max_model_len} "
                f"needs with block_size={size}, got {blocks}; give more, or a smaller max_model_len"
            )
        for layer in self.attention_layers:
            shape = (blocks, size, layer.num_kv_heads, layer.head_dim)
            layer.k_cache, layer.v_cache = (zeros(shape, dtype, self.device) for _ in range(2))
        return blocks, blocks * sum(per_layer)

    def _native_forward(self) -> NativeDecoder | None:
        """All layers in one native call, where attention is the native one and they have the shape for it."""
        if self.precision.packing is None:
            return None
        choice = self.attention.decide(self.device.type, torch.float32)
        return native_decoder(self.model) if choice.kernel == "native-paged" else None

    def _cache_limit(self) -> int | None:
        """Bytes the cache may take."""
        if self.device.type != "cuda":
            return available_bytes("cpu")
        free, total = (int(each) for each in torch.cuda.mem_get_info())
        activations = (
            2 * self.options.max_num_batched_tokens * int(self.config.vocab_size)
        )  # logits and the widest layer
        return max(0, int(free - total * (1 - self.options.gpu_memory_utilization)) - activations)

    @torch.inference_mode()
    def run(self, step: StepInput) -> Tensor:
        """Runs a step; the logits asked for, (rows, vocab) float32."""
        if self.pool is not None:
            self.pool.begin_step()
        if self.graphs is not None and self.graphs.covers(step):
            hidden = self.graphs.run(step)
        else:
            tensors = self.upload(step)
            self.copy_blocks(tensors.copies)
            set_context(tensors.context)
            try:
                hidden = self.forward(tensors.input_ids, tensors.positions)
            finally:
                reset_context()
        if len(step.logits_indices) != len(hidden):  # in order and each once: as many are all of them
            rows = torch.from_numpy(step.logits_indices).to(self.device, torch.int64)
            hidden = hidden.index_select(0, rows)
        return self.logits(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden) → (rows, vocab) float32."""
        return self.model.compute_logits(hidden).float()

    def upload(self, step: StepInput) -> StepTensors:
        """The step's tensors on the device: one transfer to a GPU, then views."""
        if self.device.type != "cuda":
            return StepTensors([torch.from_numpy(each) for each in step.arrays], step)
        packed = torch.from_numpy(step.pack()).pin_memory().to(self.device, non_blocking=True)
        return StepTensors(packed[5:].split([each.size for each in step.arrays]), step)

    def copy_blocks(self, copies: Tensor) -> None:
        """Copies blocks (2, n) of sources and destinations in all layers."""
        if copies.shape[1] == 0:
            return
        source, target = copies.to(torch.int64)
        for layer in self.attention_layers:
            for cache in (layer.k_cache, layer.v_cache):
                cache[target] = cache[source]


class StepTensors:
    """A step on the device."""

    def __init__(self, tensors: Iterable[Tensor], step: StepInput) -> None:
        ids, positions, slots, lengths_q, lengths_k, tables, copies, _ = tensors
        self.input_ids, self.positions = ids.to(torch.int64), positions.to(torch.int64)
        self.copies = copies.view(step.copies.shape)
        seqlens_q, seqlens_k = tuple(step.seqlens_q.tolist()), tuple(step.seqlens_k.tolist())
        longest = max(seqlens_q)
        self.context = Context(
            is_prefill=longest > 1,
            cu_seqlens_q=running_sum(lengths_q, seqlens_q),
            cu_seqlens_k=running_sum(lengths_k, seqlens_k),
            max_seqlen_q=longest,
            max_seqlen_k=max(seqlens_k),
            slot_mapping=slots.to(torch.int64),
            context_lens=lengths_k,
            block_tables=tables.view(step.block_tables.shape),
            seqlens_q=seqlens_q,
            seqlens_k=seqlens_k,
        )


def running_sum(lengths: Tensor, known: tuple[int, ...]) -> Tensor:
    """(n,) lengths → (n + 1,) int32 bounds where they are; `known` are the same on the host."""
    if lengths.device.type == "cpu":
        return torch.tensor([*itertools.accumulate(known, initial=0)], dtype=torch.int32)
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def context_length(config: Any, wanted: int | None) -> int:
    """Tokens of the longest sequence: the model's context, or less if asked for.

    Raises:
        MedvllmError: more was asked for than the model has.
    """
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
    own = next((int(getattr(config, name)) for name in names if getattr(config, name, None)), None)
    if own is None and wanted is None:
        raise MedvllmError("the model's configuration does not say how long its context is; give max_model_len")
    if own is not None and wanted is not None and wanted > own:
        raise MedvllmError(f"max_model_len must be at most the model's context of {own} tokens, got {wanted}")
    return wanted or own or 0


@contextlib.contextmanager
def building(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Modules built inside get parameters of `dtype` on `device`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros that take memory only when written to, on a CPU (calloc's pages)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    raw = torch.from_numpy(np.zeros(int(np.prod(shape)) * dtype.itemsize, np.uint8))
    return raw.view(dtype).view(shape)
