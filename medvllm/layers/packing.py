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

__all__ = ["Packer", "native_status", "weight_bytes"]


def native_status() -> str:
    """What computes linear layers on the CPU, in one line: "native (…)" or "torch (why)"."""
    return engine_native.status()


class Packer:
    """Packs a model in `format` (fp32, bf16, int8 or int4) while it is loaded, so that no two copies of it are held."""

    def __init__(self, model: nn.Module, format: str) -> None:
        self.model, self.format = model, format
        embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
        heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
        self._tied = [(head, embedding) for head in heads for embedding in embeddings if _same(head, embedding)]

    def layer(self, module: nn.Module) -> bool:
        """Packs a linear layer whose weight is whole and lets go of the weight; whether it did.

        A head tied to the embedding is packed once and serves as both, whichever of the two comes.
        """
        pair = next((pair for pair in self._tied if module in pair), None)
        if pair is None and not isinstance(module, Linear):
            return False
        layers = pair or (module,)
        if layers[0].packed is not None:
            return False
        packed = cpu_linear.pack(layers[0].weight.data, format=self.format)
        for each in layers:
            each.packed, each.weight = packed, None
        return True

    def rest(self) -> None:
        """Packs the layers that are not packed yet and makes all else what the native kernels take: float32."""
        for module in self.model.modules():
            self.layer(module)
            if isinstance(module, RMSNorm | ActivationAndMul | RotaryEmbedding):
                module.native = True
        for module in self.model.modules():
            keep = isinstance(module, VocabParallelEmbedding)
            for name, parameter in module.named_parameters(recurse=False):
                if not keep and parameter.dtype != torch.float32:
                    setattr(module, name, nn.Parameter(parameter.data.float(), requires_grad=False))
            if keep:
                module.out_dtype = torch.float32


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
