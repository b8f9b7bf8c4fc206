"""Turns a loaded model into what runs fast on this CPU: packed weights, native norms, activations and rotary embedding.

Arithmetic and activations are float32; weights keep their own format, so bfloat16 weights lose nothing.
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

__all__ = ["native_status", "pack_model", "weight_bytes"]


def native_status() -> str:
    """What computes linear layers on the CPU, in one line: "native (…)" or "torch (why)"."""
    return engine_native.status()


def pack_model(model: nn.Module, format: str) -> None:
    """Packs every linear layer in `format` (fp32, bf16, int8 or int4) and lets go of the unpacked weight.

    A head tied to the embedding is packed once and serves as both. Other parameters become float32.
    """
    tied = _tied_pairs(model)
    for module in model.modules():
        if isinstance(module, Linear) and module.packed is None:
            module.packed = cpu_linear.pack(module.weight.data, format=format)
            if module in tied:
                tied[module].packed = module.packed
                tied[module].weight = None
            module.weight = None
            if module.bias is not None:
                module.bias = nn.Parameter(module.bias.data.float(), requires_grad=False)
        elif isinstance(module, RMSNorm | ActivationAndMul | RotaryEmbedding):
            module.native = True
    for module in model.modules():
        keep = isinstance(module, VocabParallelEmbedding)
        for name, parameter in module.named_parameters(recurse=False):
            if not keep and parameter.dtype != torch.float32:
                setattr(module, name, nn.Parameter(parameter.data.float(), requires_grad=False))
        if keep:
            module.out_dtype = torch.float32


def _tied_pairs(model: nn.Module) -> dict[nn.Module, VocabParallelEmbedding]:
    """Each head that shares its weight with an embedding → that embedding."""
    embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    return {head: embedding for head in heads for embedding in embeddings if head.weight is embedding.weight}


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
