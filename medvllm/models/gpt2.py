"""GPT-2 (BioMedLM): learned positions, layer norms with biases, one matrix for queries, keys and values."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medvllm.layers.activation import activation
from medvllm.layers.attention import Attention
from medvllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from medvllm.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear

__all__ = ["GPT2LMHeadModel", "LayerNorm", "PositionEmbedding"]


class LayerNorm(nn.LayerNorm):
    """torch's, without gradients."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        self.requires_grad_(False)


class PositionEmbedding(nn.Module):
    """(tokens,) positions → (tokens, hidden); row `offset` of the table is position 0's."""

    def __init__(self, positions: int, hidden_size: int, *, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.weight: Any = nn.Parameter(torch.empty(positions + offset, hidden_size), requires_grad=False)

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions + self.offset, self.weight)


class GPT2Attention(nn.Module):
    """Self-attention of layer number `layer`."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        heads = config.n_head
        self.head_dim = config.n_embd // heads
        self.c_attn = QKVParallelLinear(config.n_embd, self.head_dim, heads, heads, bias=True)
        self.c_proj = RowParallelLinear(config.n_embd, config.n_embd, bias=True)
        scale = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            scale /= layer + 1
        self.attn = Attention(self.c_attn.num_heads, self.head_dim, num_kv_heads=self.c_attn.num_kv_heads, scale=scale)

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = self.c_attn(hidden).chunk(3, dim=-1)
        shape = (-1, self.c_attn.num_heads, self.head_dim)
        return self.c_proj(self.attn(q.view(shape), k.view(shape), v.view(shape)).flatten(1))


class GPT2MLP(nn.Module):
    """proj(act(fc(x)))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.n_inner or 4 * config.n_embd
        self.c_fc = ColumnParallelLinear(config.n_embd, size, bias=True)
        self.c_proj = RowParallelLinear(size, config.n_embd, bias=True)
        self.act = activation(config.activation_function)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class GPT2Block(nn.Module):
    """Attention, then MLP, each on the norm of the residual stream."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.attn(self.ln_1(hidden))
        return hidden + self.mlp(self.ln_2(hidden))


class GPT2Model(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.wte = VocabParallelEmbedding(config.vocab_size, config.n_embd)
        self.wpe = PositionEmbedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.wte(input_ids) + self.wpe(positions)
        for block in self.h:
            hidden = block(hidden)
        return self.ln_f(hidden)


class GPT2LMHeadModel(nn.Module):
    """A GPT-2 language model; attribute names are the checkpoint's, so that weights load by name."""

    packed_modules: ClassVar[dict[str, tuple[str, str | int]]] = {}

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.transformer = GPT2Model(config)
        self.lm_head = ParallelLMHead(config.vocab_size, config.n_embd)
        if config.tie_word_embeddings:
            self.lm_head.tie(self.transformer.wte)

    @classmethod
    def from_config(cls, config: Any, *, max_positions: int) -> GPT2LMHeadModel:
        """The model with unset weights; its table of positions is as long as the checkpoint's."""
        return cls(config)

    @staticmethod
    def map_weight(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        """Checkpoints of the bare model lack a prefix; their matrices are (in, out)."""
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            tensor = tensor.t()
        return name, tensor

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden); sequences are told apart by the step's context."""
        return self.transformer(input_ids, positions)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        return self.lm_head(hidden)
