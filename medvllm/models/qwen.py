"""Qwen 2 (biases on queries, keys and values) and Qwen 3 (a norm on each head's query and key)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from medvllm.layers.layernorm import RMSNorm
from medvllm.layers.rotary_embedding import RotaryEmbedding
from medvllm.models.llama import LlamaAttention, LlamaForCausalLM

__all__ = ["Qwen2ForCausalLM", "Qwen3ForCausalLM"]


class Qwen2Attention(LlamaAttention):
    """Llama's, with biases on all projections but the output's."""

    @staticmethod
    def biases(config: Any) -> tuple[bool, bool]:
        return True, False


class Qwen3Attention(LlamaAttention):
    """Llama's, with queries and keys normalised over each head."""

    def __init__(self, config: Any, rope: RotaryEmbedding, layer: int) -> None:
        super().__init__(config, rope, layer)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def normalise(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.q_norm.normalise(q), self.k_norm.normalise(k)


class Qwen2ForCausalLM(LlamaForCausalLM):
    """A Qwen 2 or 2.5 language model."""

    attention = Qwen2Attention


class Qwen3ForCausalLM(LlamaForCausalLM):
    """A dense Qwen 3 language model."""

    attention = Qwen3Attention
