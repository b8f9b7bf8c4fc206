"""A Llama in plain torch, with the weight names of Hugging Face's `LlamaForCausalLM`: its folder loads anywhere.

Grouped-query attention, rotary positions (Su et al. 2021), RMSNorm (Zhang and Sennrich 2019), SwiGLU (Shazeer 2020).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nemotron.kit.errors import KitError

__all__ = ["Llama", "LlamaConfig", "load_model", "save_model"]


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The model's shape, in Hugging Face's names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise KitError(
                f"model.hidden_size must be a multiple of 2 x num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise KitError(
                f"model.num_attention_heads must be a multiple of num_query_groups, got {self.num_attention_heads} and "
                f"{self.num_key_value_heads}"
            )

    @property
    def head_dim(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · weight, over the last axis, in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Any (..., size)."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).type_as(x)


class Attention(nn.Module):
    """Causal self-attention with fewer key and value heads than query heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        size, head = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(size, config.num_attention_heads * head, bias=False)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * head, bias=False)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * head, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * head, size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, hidden), cos and sin (T, head_dim)."""
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.config.head_dim).transpose(1, 2)  # (B, heads, T, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        grouped = self.config.num_key_value_heads != self.config.num_attention_heads
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).type_as(x)


class MLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Any (..., hidden)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and MLP, each after a norm and added to the stream."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (B, T, hidden)."""
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm; the `model.` of the weight names."""

    def __init__(self, config: LlamaConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    """The language model. `dropout` acts on what attention and MLP add, while training."""

    def __init__(self, config: LlamaConfig, *, dropout: float = 0.0, init_std: float = 0.02) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config, dropout)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._initialize(init_std)

    def _initialize(self, std: float) -> None:
        # What each block adds to the stream starts smaller the more blocks there are (Radford et al. 2019).
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                added = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=std / math.sqrt(2 * self.config.num_hidden_layers) if added else std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T) → logits (B, T, vocab)."""
        cos, sin = _rotary(tokens.shape[1], self.config.head_dim, self.config.rope_theta, tokens.device)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.model.norm(x))

    def loss(self, tokens: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """The sum over positions of mask · -log p(target), in nats; all (B, T)."""
        logits = self(tokens).float()
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return (losses * mask.flatten()).sum()


def _rotary(length: int, size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    frequencies = theta ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies  # (T, size / 2)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def save_model(model: Llama, folder: Path, *, eos_token_ids: list[int], pad_token_id: int) -> None:
    """Writes config.json, generation_config.json and model.safetensors as Hugging Face does; float32 weights."""
    config = model.config
    described = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "head_dim": config.head_dim,
        "bos_token_id": None,
        "eos_token_id": eos_token_ids[0],
        "pad_token_id": pad_token_id,
        **{name: getattr(config, name) for name in config.__slots__},
    }
    generation = {"eos_token_id": eos_token_ids, "pad_token_id": pad_token_id}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    weights = {name: weight.detach().float().contiguous().cpu() for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_model(folder: Path, *, dropout: float = 0.0) -> Llama:
    """The model of a folder that `save_model`, or Hugging Face for a Llama without biases or scaled positions, wrote.

    Raises:
        KitError: the folder holds no such model.
    """
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except (OSError, ValueError) as error:
        raise KitError(f"no model in {folder} ({error}); it needs config.json and model.safetensors") from error
    if described.get("architectures") != ["LlamaForCausalLM"] or described.get("attention_bias"):
        raise KitError(f"{folder} holds {described.get('architectures')}; this recipe trains LlamaForCausalLM only")
    known = {name: described[name] for name in LlamaConfig.__slots__ if name in described}
    model = Llama(LlamaConfig(**known), dropout=dropout)
    if model.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights)
    return model
