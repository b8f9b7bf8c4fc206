"""Gemma 3, its text part (also MedGemma's): norms before and after each block, local and global attention in turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medvllm.layers.activation import ActivationAndMul
from medvllm.layers.attention import Attention
from medvllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from medvllm.layers.layernorm import RMSNorm
from medvllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from medvllm.layers.rotary_embedding import RotaryEmbedding, get_rope
from medvllm.models.llama import LlamaForCausalLM, window_of

__all__ = ["Gemma3ForCausalLM"]


def norm(size: int, config: Any) -> RMSNorm:
    """Gemma's norm, whose weight is an offset from 1."""
    return RMSNorm(size, config.rms_norm_eps, unit_offset=True)


class Gemma3Attention(nn.Module):
    """Attention with normalised queries and keys, over a window or over everything, as the layer's type says."""

    def __init__(self, config: Any, rope: RotaryEmbedding, layer: int) -> None:
        super().__init__()
        heads, self.head_dim, bias = config.num_attention_heads, config.head_dim, config.attention_bias
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size, self.head_dim, heads, config.num_key_value_heads, bias=bias
        )
        self.o_proj = RowParallelLinear(heads * self.head_dim, config.hidden_size, bias=bias)
        self.q_norm, self.k_norm = norm(self.head_dim, config), norm(self.head_dim, config)
        self.rope = rope
        self.attn = Attention(
            self.qkv_proj.num_heads,
            self.head_dim,
            num_kv_heads=self.qkv_proj.num_kv_heads,
            scale=config.query_pre_attn_scalar**-0.5,
            window=window_of(config, layer),
        )

    def forward(self, positions: Tensor, hidden: Tensor) -> Tensor:
        projection = self.qkv_proj
        q, k, v = projection(hidden).split([projection.q_size, projection.kv_size, projection.kv_size], dim=-1)
        q = self.q_norm.normalise(q.view(-1, projection.num_heads, self.head_dim))
        k = self.k_norm.normalise(k.view(-1, projection.num_kv_heads, self.head_dim))
        q, k = self.rope(positions, q, k)
        return self.o_proj(self.attn(q, k, v.view(-1, projection.num_kv_heads, self.head_dim)).flatten(1))


class Gemma3MLP(nn.Module):
    """down(act(gate(x)) · up(x))."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        size = config.intermediate_size
        self.gate_up_proj = MergedColumnParallelLinear(config.hidden_size, [size, size])
        self.down_proj = RowParallelLinear(size, config.hidden_size)
        self.act = ActivationAndMul(config.hidden_activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act(self.gate_up_proj(x)))


class Gemma3DecoderLayer(nn.Module):
    """Attention, then MLP; each block's output is normalised before it joins the residual stream."""

    def __init__(self, config: Any, rope: RotaryEmbedding, layer: int) -> None:
        super().__init__()
        self.self_attn = Gemma3Attention(config, rope, layer)
        self.mlp = Gemma3MLP(config)
        self.input_layernorm = norm(config.hidden_size, config)
        self.post_attention_layernorm = norm(config.hidden_size, config)
        self.pre_feedforward_layernorm = norm(config.hidden_size, config)
        self.post_feedforward_layernorm = norm(config.hidden_size, config)

    def forward(self, positions: Tensor, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.post_attention_layernorm.normalise(self.self_attn(positions, hidden))
        hidden, residual = self.pre_feedforward_layernorm(hidden, residual)
        return self.post_feedforward_layernorm.normalise(self.mlp(hidden)), residual


class Gemma3Model(nn.Module):
    """Scaled embedding, layers and the last norm."""

    def __init__(self, config: Any, max_positions: int) -> None:
        super().__init__()
        types = list(config.layer_types)
        ropes = {kind: get_rope(config, max_positions=max_positions, layer_type=kind) for kind in dict.fromkeys(types)}
        self.embed_tokens = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        # The reference rounds the scale to the weights' dtype: 25.25 for √640 in bfloat16.
        self.embed_scale = torch.tensor(config.hidden_size**0.5, dtype=self.embed_tokens.weight.dtype).item()
        self.layers = nn.ModuleList(Gemma3DecoderLayer(config, ropes[kind], layer) for layer, kind in enumerate(types))
        self.norm = norm(config.hidden_size, config)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        hidden, residual = self.embed_tokens(input_ids) * self.embed_scale, None
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        return self.norm(hidden, residual)[0]


class Gemma3ForCausalLM(nn.Module):
    """A Gemma 3 language model; of a model that sees images too, the text part."""

    packed_modules = LlamaForCausalLM.packed_modules

    def __init__(self, config: Any, max_positions: int) -> None:
        super().__init__()
        self.model = Gemma3Model(config, max_positions)
        self.softcap: float | None = config.final_logit_softcapping
        self.lm_head = ParallelLMHead(config.vocab_size, config.hidden_size)
        if config.tie_word_embeddings:
            self.lm_head.tie(self.model.embed_tokens)

    @classmethod
    def from_config(cls, config: Any, *, max_positions: int) -> Gemma3ForCausalLM:
        """The model with unset weights, for positions below `max_positions`."""
        return cls(config, max_positions)

    @staticmethod
    def map_weight(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
        """Names of a checkpoint with a vision part, of which the language model alone is taken."""
        if "vision_tower." in name or "multi_modal_projector." in name:
            return None
        for prefix, ours in (
            ("model.language_model.", "model."),
            ("language_model.model.", "model."),
            ("language_model.lm_head.", "lm_head."),
        ):
            if name.startswith(prefix):
                return ours + name.removeprefix(prefix), tensor
        return name, tensor

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden); sequences are told apart by the step's context."""
        return self.model(input_ids, positions)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) → (n, vocab)."""
        logits = self.lm_head(hidden)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap
