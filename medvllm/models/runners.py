"""Whether the engine's own layers run a model, or transformers does."""

from __future__ import annotations

from typing import Any

from medvllm.layers.activation import ACTIVATIONS
from medvllm.layers.rotary_embedding import ROPE_TYPES
from medvllm.models import ARCHITECTURES

__all__ = ["runner_for"]


def runner_for(config: Any) -> tuple[str, str | None]:
    """("medvllm", None) where the engine's own layers run the model, else ("transformers", why)."""
    architecture = config.architectures[0]
    if architecture not in ARCHITECTURES:
        return "transformers", f"the engine has no layers of its own for {architecture}"
    reason = _beyond_our_layers(config)
    return ("transformers", f"{architecture}: {reason}") if reason else ("medvllm", None)


def _beyond_our_layers(config: Any) -> str | None:
    """What in the configuration the engine's layers for its architecture do not do; None when they do it all."""
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [value for value in rope.values() if isinstance(value, dict)] or [rope]:
        kind = part.get("rope_type", "default")
        if kind not in ROPE_TYPES:
            return f"rotary scaling of kind {kind}"
    names = ("hidden_act", "hidden_activation", "activation_function")
    act = next((getattr(config, name) for name in names if getattr(config, name, None)), "silu")
    if act not in ACTIVATIONS:
        return f"the activation {act}"
    for name in ("use_bidirectional_attention", "add_cross_attention"):
        if getattr(config, name, False):
            return f"'{name}'"
    return None
