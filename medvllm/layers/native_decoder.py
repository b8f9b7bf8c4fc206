"""All layers of a packed model in one native call, where they have Llama's shape.

One call a step instead of some ten per layer. A model must have `model.layers` of pre-norm blocks with `self_attn`
(qkv_proj, o_proj, rope, attn, and q_norm and k_norm or neither) and a gated `mlp` without biases, then `model.norm`.
"""

from __future__ import annotations

from typing import Any

import torch
from medvllm_kernels.cpu_decoder import DecoderConfig, DecoderLayer, DecoderStep
from torch import Tensor, nn

from medvllm.layers.activation import ActivationAndMul
from medvllm.layers.context import get_context
from medvllm.layers.linear import MergedColumnParallelLinear, QKVParallelLinear
from medvllm.layers.parallel import tp_size

__all__ = ["NativeDecoder", "native_decoder"]


class NativeDecoder:
    """Stands in for a model's `forward`; reads the step's context as the attention layers do."""

    def __init__(self, body: Any) -> None:
        self.embed, self.scale = body.embed_tokens, getattr(body, "embed_scale", None)
        layers = list(body.layers)
        self.step = DecoderStep(
            decoder_config(layers[0]), [decoder_layer(each) for each in layers], body.norm.weight.data
        )

    def __call__(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """(tokens,) ids and positions → (tokens, hidden) after the last norm."""
        context, hidden = get_context(), self.embed(input_ids)
        if self.scale is not None:
            hidden = hidden * self.scale
        return self.step(
            hidden, positions, context.slot_mapping, context.block_tables, context.context_lens, context.cu_seqlens_q
        )


def native_decoder(model: nn.Module) -> NativeDecoder | None:
    """The native form of a packed model with its cache in place; None where its layers are of another shape."""
    body: Any = getattr(model, "model", None)
    layers = list(getattr(body, "layers", ()))
    if not layers or tp_size() > 1 or not all(map(_fits, layers)):
        return None
    decoder = NativeDecoder(body)
    return decoder if decoder.step.fused else None


def _fits(layer: Any) -> bool:
    attention: Any = getattr(layer, "self_attn", None)
    mlp: Any = getattr(layer, "mlp", None)
    return (
        isinstance(getattr(attention, "qkv_proj", None), QKVParallelLinear)
        and isinstance(getattr(mlp, "gate_up_proj", None), MergedColumnParallelLinear)
        and isinstance(getattr(mlp, "act", None), ActivationAndMul)
        and mlp.gate_up_proj.bias is None
        and mlp.down_proj.bias is None
        and attention.qkv_proj.packed is not None
    )


def decoder_config(layer: Any) -> DecoderConfig:
    """The sizes of a layer, which are those of all."""
    attention, mlp = layer.self_attn, layer.mlp
    return DecoderConfig(
        hidden_size=attention.qkv_proj.in_features,
        intermediate_size=mlp.down_proj.in_features,
        num_heads=attention.attn.num_heads,
        num_kv_heads=attention.attn.num_kv_heads,
        head_dim=attention.attn.head_dim,
        eps=layer.input_layernorm.eps,
        scale=attention.attn.scale,
        activation=mlp.act.kernel,
        norm_offset=float(layer.input_layernorm.unit_offset),
        softcap=attention.attn.softcap,
    )


def decoder_layer(layer: Any) -> DecoderLayer:
    """A layer's packed weights, norms and cache. In Gemma's names the MLP has norms on both sides, else one before."""
    attention, mlp = layer.self_attn, layer.mlp
    before, after = (getattr(layer, f"{place}_feedforward_layernorm", None) for place in ("pre", "post"))
    return DecoderLayer(
        qkv=attention.qkv_proj.packed,
        o=attention.o_proj.packed,
        gate_up=mlp.gate_up_proj.packed,
        down=mlp.down_proj.packed,
        input_norm=_weight(layer.input_layernorm),
        mlp_input_norm=_weight(layer.post_attention_layernorm if before is None else before),
        attention_output_norm=None if before is None else _weight(layer.post_attention_layernorm),
        mlp_output_norm=None if after is None else _weight(after),
        q_norm=_weight(getattr(attention, "q_norm", None)),
        k_norm=_weight(getattr(attention, "k_norm", None)),
        k_cache=attention.attn.k_cache,
        v_cache=attention.attn.v_cache,
        cos_sin=attention.rope.cos_sin,
        qkv_bias=_data(attention.qkv_proj.bias),
        o_bias=_data(attention.o_proj.bias),
        window=attention.attn.window,
    )


def _weight(norm: Any) -> Any:
    return None if norm is None else norm.weight.data


def _data(parameter: Any) -> torch.Tensor | None:
    return None if parameter is None else parameter.data
