"""BERT, RoBERTa and DistilBERT on the CPU: packed linear layers, and sequences side by side without padding.

One row of activations is one token; attention reads each sequence where it lies. A token's result is the same bit by
bit in any batch and with any number of threads, as the kernels' are. The format (fp32, bf16, int8) is that of the
weights in memory; arithmetic is in fp32, but for int8 weights, for whose products activations are rounded to
8 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from medvllm_kernels import cpu_linear
from medvllm_kernels.cpu_attention import MAX_HEAD_DIM, paged_attention
from medvllm_kernels.cpu_elementwise import activate, layer_norm
from torch import nn

__all__ = ["NativeEncoder", "PackedModule", "pack_linears"]

# transformers' names of activations -> the kernels'
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: cpu_linear.PackedLinear
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return cpu_linear.linear(x, self.weight, self.bias, out)


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: _Linear
    out: _Linear
    norm: _Norm
    up: _Linear
    down: _Linear
    last_norm: _Norm


class NativeEncoder:
    """The encoder of a transformers model and its head, made from it once; `is_possible` says for which."""

    def __init__(self, model: Any, *, format: str) -> None:
        """`model` is for token or sequence classification, in fp32; `format` one of fp32, bf16, int8."""
        config, base = model.config, model.base_model
        embeddings = base.embeddings
        distil = config.model_type == "distilbert"
        self._words = embeddings.word_embeddings.weight.detach()
        positions = embeddings.position_embeddings.weight.detach()
        self._first_position = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
        types = getattr(embeddings, "token_type_embeddings", None)
        self._positions = positions if types is None else positions + types.weight.detach()[0]
        self._embedding_norm = _norm(embeddings.LayerNorm)
        self._activation = _ACTIVATIONS[config.activation if distil else config.hidden_act]
        self._heads = config.n_heads if distil else config.num_attention_heads
        layers = base.transformer.layer if distil else base.encoder.layer
        self._layers = [(_distil_layer if distil else _bert_layer)(layer, format) for layer in layers]
        self._head = _head(model)
        self.max_length = int(positions.shape[0]) - self._first_position

    @staticmethod
    def is_possible(model: Any) -> bool:
        """Whether the model is of a kind that this class computes as transformers does."""
        config = model.config
        if config.model_type not in ("bert", "roberta", "xlm-roberta", "camembert", "distilbert"):
            return False
        distil = config.model_type == "distilbert"
        heads = config.n_heads if distil else config.num_attention_heads
        size = config.dim if distil else config.hidden_size
        return (
            (config.activation if distil else config.hidden_act) in _ACTIVATIONS
            and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
            and not getattr(config, "is_decoder", False)
            and not getattr(config, "add_cross_attention", False)
            and size % heads == 0
            and config.num_hidden_layers > 0
            and size // heads <= MAX_HEAD_DIM
            and all(parameter.device.type == "cpu" for parameter in model.parameters())
            and type(model).__module__.startswith("transformers.")
        )

    @torch.inference_mode()
    def __call__(self, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The logits of each sequence of token ids: (tokens, labels), or (labels,) from a head for whole sequences."""
        lengths = [len(sequence) for sequence in sequences]
        ids = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int64)
        position = torch.cat([torch.arange(length) for length in lengths]) + self._first_position
        hidden = self._embedding_norm(self._words[ids].add_(self._positions[position]))
        tokens, heads = hidden.shape[0], self._heads
        head_dim = hidden.shape[1] // heads
        bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        context = torch.tensor(lengths, dtype=torch.int32)
        # Blocks of one key: the keys lie where the projection wrote them, and a table of token numbers finds them.
        table = bounds[:-1, None] + torch.arange(max(lengths), dtype=torch.int32)
        # All layers compute into the same memory.
        qkv = torch.empty(tokens, 3, heads, head_dim)
        keys, values = qkv[:, 1].unsqueeze(1), qkv[:, 2].unsqueeze(1)  # (tokens, 1, heads, head_dim)
        mixed, change = torch.empty(tokens, heads, head_dim), torch.empty_like(hidden)
        inner = torch.empty(tokens, self._layers[0].up.weight.n)
        for layer in self._layers:
            layer.qkv(hidden, qkv.view(tokens, -1))
            paged_attention(qkv[:, 0], keys, values, table, context, bounds, head_dim**-0.5, causal=False, out=mixed)
            hidden = layer.norm(layer.out(mixed.view(tokens, -1), change).add_(hidden))
            acted = _activate(layer.up(hidden, inner), self._activation)
            hidden = layer.last_norm(layer.down(acted, change).add_(hidden))
        if self._head.whole:
            return list(self._head(hidden[bounds[:-1].long()]))
        return list(self._head(hidden).split(lengths))


def _activate(x: torch.Tensor, kind: str) -> torch.Tensor:
    """The activation of x, which may be written over.

    torch's exact GELU takes 2.2 ms for (2900, 1536) on two AVX2 cores, the kernels', with the C library's error
    function, 66 ms. Both give an element the same bits wherever it stands.
    """
    return torch.ops.aten.gelu_(x) if kind == "gelu" else activate(x, kind)


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert")


@dataclass(frozen=True, slots=True)
class _Head:
    """Linear layers, in fp32 in any format, with activations between; `whole`: of the first token only."""

    layers: list[_Linear]
    activations: list[Any]
    whole: bool

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer, activation in zip(self.layers, self.activations, strict=True):
            hidden = layer(hidden)
            hidden = hidden if activation is None else activation(hidden)
        return hidden


def _head(model: Any) -> _Head:
    def made(layers: Sequence[nn.Linear], activations: list[Any], *, whole: bool) -> _Head:
        return _Head([_packed([layer], "fp32") for layer in layers], activations, whole)

    if type(model).__name__.endswith("ForTokenClassification"):
        return made([model.classifier], [None], whole=False)
    kind = model.config.model_type
    if kind == "bert":
        return made([model.bert.pooler.dense, model.classifier], [torch.tanh, None], whole=True)
    if kind == "distilbert":
        return made([model.pre_classifier, model.classifier], [torch.relu, None], whole=True)
    return made([model.classifier.dense, model.classifier.out_proj], [torch.tanh, None], whole=True)


def _bert_layer(layer: Any, format: str) -> _Layer:
    attention = layer.attention
    own = attention.self
    return _Layer(
        qkv=_packed([own.query, own.key, own.value], format),
        out=_packed([attention.output.dense], format),
        norm=_norm(attention.output.LayerNorm),
        up=_packed([layer.intermediate.dense], format),
        down=_packed([layer.output.dense], format),
        last_norm=_norm(layer.output.LayerNorm),
    )


def _distil_layer(layer: Any, format: str) -> _Layer:
    attention = layer.attention
    return _Layer(
        qkv=_packed([attention.q_lin, attention.k_lin, attention.v_lin], format),
        out=_packed([attention.out_lin], format),
        norm=_norm(layer.sa_layer_norm),
        up=_packed([layer.ffn.lin1], format),
        down=_packed([layer.ffn.lin2], format),
        last_norm=_norm(layer.output_layer_norm),
    )


def _packed(linears: Sequence[nn.Linear], format: str) -> _Linear:
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias for linear in linears]
    bias = (
        torch.cat([one.detach() for one in biases if one is not None]).contiguous() if biases[0] is not None else None
    )
    return _Linear(cpu_linear.pack(weight, format=format), bias)


def _norm(norm: nn.LayerNorm) -> _Norm:
    return _Norm(norm.weight.detach().contiguous(), norm.bias.detach().contiguous(), norm.eps)


class PackedModule(nn.Module):
    """A linear layer of any model with its weight packed."""

    def __init__(self, linear: nn.Linear, format: str) -> None:
        super().__init__()
        self._linear = _packed([linear], format)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in_features) float → (…, out_features)."""
        return self._linear(x)


def pack_linears(model: nn.Module, format: str) -> None:
    """Replaces the linear layers inside a model's base by packed ones; its head stays as it is."""
    base = getattr(model, "base_model", model)
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedModule(child, format))
