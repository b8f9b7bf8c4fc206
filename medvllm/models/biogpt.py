"""BioGPT: learned positions that begin at row 2, scaled embedding, layer norms with biases."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from medvllm.layers.activation import activation
from medvllm.layers.attention import Attention
from medvllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from medvllm.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from medvllm.models.gpt2 import LayerNorm, PositionEmbedding

__all__ = ["BioGptForCausalLM"]

_EPS = 1e-5  # the reference uses torch's default whatever `layer_norm_eps` says
_POSITION_OFFSET = 2


class BioGptAttention(nn.Module):
    """Self-attention of one layer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.head_dim = config.hidden_size // heads
        self.qkv_proj = QKVParallelLinear(config.hidden_size, self.head_dim, heads, heads, bias=True)
        self.out_proj = RowParallelLinear(config.hidden_size, config.hidden_size, bias=True)
        self.attn = Attention(
            self.qkv_proj.num_heads,
            self.head_dim,
            num_kv_heads=self.qkv_proj.num_kv_heads,
            scale=self.head_dim**-0.5,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        q, k, v = self.qkv_proj(hidden).chunk(3, dim=-1)
        shape = (-1, self.qkv_proj.num_heads, self.head_dim)
        return self.out_proj(self.attn(q.view(shape), k.view(shape), v.view(shape)).flatten(1))


class BioGptDecoderLayer(nn.Module):
    """Attention, then MLP, each on the norm of the residual stream."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.self_attn = BioGptAttention(config)
        self.self_attn_layer_norm = LayerNorm(config.hidden_size, _EPS)
        self.fc1 = ColumnParallelLinear(config.hidden_size, config.intermediate_size, bias=True)
        self.fc2 = RowParallelLinear(config.intermediate_size, config.hidden_size, bias=True)
        self.final_layer_norm = LayerNorm(config.hidden_size, _EPS)
        self.act = activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden))
        return hidden + self.fc2(self.act(self.fc1(self.final_layer_norm(hidden))))


class BioGptModel(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.embed_scale = config.hidden_size**0.5 if config.scale_embedding else 1.0
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.embed_positions = PositionEmbedding(
            config.max_position_embeddings, config.hidden_size, offset=_POSITION_OFFSET
        )
        self.layers = nn.ModuleList(BioGptDecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.layer_norm = LayerNorm(config.hidden_size, _EPS)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.embed_tokens(input_ids) * self.embed_scale + self.embed_positions(positions)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.layer_norm(hidden)


class BioGptForCausalLM(nn.Module):
    """A BioGPT language model; attribute names are the checkpoint's but for the head, `output_projection` there."""

    packed_modules: ClassVar[dict[str, tuple[str, str | int]]] = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
    }

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.biogpt = BioGptModel(config)
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        if config.tie_word_embeddings:
            self.lm_head.tie(self.biogpt.embed_tokens)

    @classmethod
    def from_config(cls, config: Any, *, max_positions: int) -> BioGptForCausalLM:
        """The model with unset weights; its table of positions is as long as the checkpoint's."""
        return cls(config)

    @staticmethod
    def map_weight(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        """The head's name, and the prefix that checkpoints of the bare model lack."""
        if name.startswith("output_projection."):
            return f"lm_head.{name.removeprefix('output_projection.')}", tensor
        return (name if name.startswith("biogpt.") else f"biogpt.{name}"), tensor

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden); sequences are told apart by the step's context."""
        return self.biogpt(input_ids, positions)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        return self.lm_head(hidden)
