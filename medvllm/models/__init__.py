"""The architectures the engine runs with its own layers: the name in config.json → "module:Class", imported when used.

A model class has
- `from_config(config, *, max_positions)`: its modules with unset weights, in torch's default dtype and device;
- `forward(input_ids (tokens,), positions (tokens,)) -> hidden (tokens, hidden)`;
- `compute_logits(hidden (n, hidden)) -> (n, vocab)`;
- `packed_modules`: part of a checkpoint's parameter name → (the fused layer's name, its shard), for loading;
- optionally `map_weight(name, tensor) -> (name, tensor) | None`, where a checkpoint's layout differs (None: not used).
"""

from __future__ import annotations

import importlib
from typing import Any

from medvllm.errors import MedvllmError

__all__ = ["ARCHITECTURES", "model_class"]

ARCHITECTURES = {
    "LlamaForCausalLM": "medvllm.models.llama:LlamaForCausalLM",
    "MistralForCausalLM": "medvllm.models.llama:LlamaForCausalLM",
    "Qwen2ForCausalLM": "medvllm.models.qwen:Qwen2ForCausalLM",
    "Qwen3ForCausalLM": "medvllm.models.qwen:Qwen3ForCausalLM",
    "Gemma3ForCausalLM": "medvllm.models.gemma3:Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration": "medvllm.models.gemma3:Gemma3ForCausalLM",
    "GPT2LMHeadModel": "medvllm.models.gpt2:GPT2LMHeadModel",
    "BioGptForCausalLM": "medvllm.models.biogpt:BioGptForCausalLM",
}


def model_class(architecture: str) -> Any:
    """The class that runs `architecture`.

    Raises:
        MedvllmError: no such architecture; the message lists those there are.
    """
    if architecture not in ARCHITECTURES:
        raise MedvllmError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    module, name = ARCHITECTURES[architecture].split(":")
    return getattr(importlib.import_module(module), name)
