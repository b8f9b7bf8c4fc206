"""Turns a loaded model into what runs fast on this CPU: packed weights, native norms, activations and rotary embedding.

Activations are float32, and so is arithmetic but for int8 and int4 weights, whose products round activations to 8 bits
(medvllm_kernels.cpu_linear). Weights keep their own format, so bfloat16 weights lose nothing.
"""

from __future__ import annotations

import torch
from medvllm_kernels import cpu_linear, engine_native
from torch import nn

from medvllm.layers.activation import ActivationAndMul
from medvllm.layers.embedding import ParallelLMHead, VocabParallelEmbedding
from medvllm.layers.layernorm import RMSNorm
from medvllm.layers.linear import Linear
from medvllm.layers.rotary_embedding import RotaryEmbedding

__all__ = ["native_status", "pack_layer", "pack_model", "weight_bytes"]


def native_status() -> str:
    """What computes linear layers on the CPU, in one line: "native (…)" or "torch (why)"."""
    return engine_native.status()


def pack_layer(module: nn.Module, format: str) -> bool:
    """Packs a linear layer in `format` (fp32, bf16, int8 or int4) and lets go of its weight; whether it did.

    To be called as soon as a layer's weight is loaded, so that no two copies of the model are held. A head waits for
    `pack_model`: it may share its weight with the embedding.
    """
    if not isinstance(module, Linear) or isinstance(module, ParallelLMHead) or module.packed is not None:
        return False
    module.packed = cpu_linear.pack(module.weight.data, format=format)
    module.weight = None
    return True


def pack_model(model: nn.Module, format: str) -> None:
    """Packs every linear layer that is not packed yet and makes all else what the native kernels take.

    A head tied to the embedding is packed once and serves as both. Other parameters become float32.
    """
    for head, embedding in _tied_pairs(model).items():
        head.packed = embedding.packed = cpu_linear.pack(head.weight.data, format=format)
        head.weight = embedding.weight = None
    for module in model.modules():
        pack_layer(module, format)
        if isinstance(module, ParallelLMHead) and module.packed is None:
            module.packed = cpu_linear.pack(module.weight.data, format=format)
            module.weight = None
        if isinstance(module, RMSNorm | ActivationAndMul | RotaryEmbedding):
            module.native = True
    for module in model.modules():
        keep = isinstance(module, VocabParallelEmbedding)
        for name, parameter in module.named_parameters(recurse=False):
            if not keep and parameter.dtype != torch.float32:
                setattr(module, name, nn.Parameter(parameter.data.float(), requires_grad=False))
        if keep:
            module.out_dtype = torch.float32


def _tied_pairs(model: nn.Module) -> dict[ParallelLMHead, VocabParallelEmbedding]:
    """Each head that shares its weight with an embedding → that embedding."""
    embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    return {head: embedding for head in heads for embedding in embeddings if _same(head, embedding)}


def _same(head: ParallelLMHead, embedding: VocabParallelEmbedding) -> bool:
    return head.weight is not None and head.weight is embedding.weight


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all weights as they are held; a shared one counts once."""
    storages: dict[int, int] = {}
    for parameter in model.parameters():
        storages[parameter.data_ptr()] = parameter.numel() * parameter.element_size()
    for module in model.modules():
        packed = getattr(module, "packed", None)
        if packed is not None:
            storages[packed.data.data_ptr()] = packed.nbytes
    return sum(storages.values())
