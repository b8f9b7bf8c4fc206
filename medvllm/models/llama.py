"""Llama and Mistral: grouped-query attention with rotary positions, gated MLP, pre-norm.

Qwen 2 and 3 are the same but for their attention (qwen.py), which a model class names as `attention`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from medvllm.layers.activation import ActivationAndMul
from medvllm.layers.attention import Attention
from medvllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from medvllm.layers.layernorm import RMSNorm
from medvllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from medvllm.layers.rotary_embedding import RotaryEmbedding, get_rope

__all__ = ["LlamaAttention", "LlamaForCausalLM", "window_of"]


def window_of(config: Any, layer: int) -> int | None:
    """The sliding window of layer number `layer`; None where it attends to everything before."""
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    return window if types is None or types[layer] == "sliding_attention" else None


class LlamaAttention(nn.Module):
    """Self-attention of layer number `layer`."""

    def __init__(self, config: Any, rope: RotaryEmbedding, layer: int) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        qkv_bias, o_bias = self.biases(config)
        self.qkv_proj = QKVParallelLinear(config.hidden_size, self.head_dim, heads, kv_heads, bias=qkv_bias)
        self.o_proj = RowParallelLinear(heads * self.head_dim, config.hidden_size, bias=o_bias)
        self.rope = rope
        self.attn = Attention(
            self.qkv_proj.num_heads,
            self.head_dim,
            num_kv_heads=self.qkv_proj.num_kv_heads,
            scale=self.head_dim**-0.5,
            window=window_of(config, layer),
        )

    @staticmethod
    def biases(config: Any) -> tuple[bool, bool]:
        """Whether the query, key and value projections, and the output projection, add a bias."""
        bias = bool(getattr(config, "attention_bias", False))
        return bias, bias

    def normalise(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (tokens, heads, head_dim) as they go into the rotary embedding."""
        return q, k

    def forward(self, positions: Tensor, hidden: Tensor) -> Tensor:
        projection = self.qkv_proj
        q, k, v = projection(hidden).split([projection.q_size, projection.kv_size, projection.kv_size], dim=-1)
        q = q.view(-1, projection.num_heads, self.head_dim)
        k = k.view(-1, projection.num_kv_heads, self.head_dim)
        v = v.view(-1, projection.num_kv_heads, self.head_dim)
        q, k = self.rope(positions, *self.normalise(q, k))
        return self.o_proj(self.attn(q, k, v).flatten(1))


class LlamaMLP(nn.Module):
    """down(act(gate(x)) · up(x))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size, bias = config.intermediate_size, getattr(config, "mlp_bias", False)
        self.gate_up_proj = MergedColumnParallelLinear(config.hidden_size, [size, size], bias=bias)
        self.down_proj = RowParallelLinear(size, config.hidden_size, bias=bias)
        self.act = ActivationAndMul(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_up_proj(x)))


class LlamaDecoderLayer(nn.Module):
    """Attention, then MLP, each on the norm of the residual stream."""

    def __init__(self, config: Any, attention: LlamaAttention) -> None:
        super().__init__()
        self.self_attn = attention
        self.mlp = LlamaMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, positions: Tensor, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(positions, hidden)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class LlamaModel(nn.Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: Any, max_positions: int, attention: type[LlamaAttention]) -> None:
        super().__init__()
        rope = get_rope(config, max_positions=max_positions)
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            LlamaDecoderLayer(config, attention(config, rope, layer)) for layer in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        hidden, residual = self.embed_tokens(input_ids), None
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        return self.norm(hidden, residual)[0]


class LlamaForCausalLM(nn.Module):
    """A Llama language model; attribute names are the checkpoint's, so that weights load by name."""

    attention = LlamaAttention
    packed_modules: ClassVar[dict[str, tuple[str, str | int]]] = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
        "gate_proj": ("gate_up_proj", 0),
        "up_proj": ("gate_up_proj", 1),
    }

    def __init__(self, config: Any, max_positions: int) -> None:
        super().__init__()
        self.model = LlamaModel(config, max_positions, self.attention)
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        if config.tie_word_embeddings:
            self.lm_head.tie(self.model.embed_tokens)

    @classmethod
    def from_config(cls, config: Any, *, max_positions: int) -> LlamaForCausalLM:
        """The model with unset weights, for positions below `max_positions`."""
        return cls(config, max_positions)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden); sequences are told apart by the step's context."""
        return self.model(input_ids, positions)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        return self.lm_head(hidden)
