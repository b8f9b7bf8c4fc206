"""The configuration of a model that the engine's own layers run, read without transformers.

Only what is said in full and in its present form is read here: sizes as positive numbers, rotary parameters without
scaling, no sliding window that depends on other fields. `plain_config` gives None for anything else, and transformers,
which knows every older form of every field and says what is wrong with it, reads that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from medvllm.models.runners import runner_for

__all__ = ["plain_config"]

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_DECODER = (*_SIZES, "num_key_value_heads", "max_position_embeddings")
_GPT2 = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_GPT2_DEFAULTS = {
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}
_SILU = {"hidden_act": "silu"}
_DTYPES = ("float32", "float16", "bfloat16")
# Model type → its architecture, the fields that must be there as positive whole numbers, and what holds for others.
_KINDS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", _DECODER, _SILU | {"attention_bias": False, "mlp_bias": False}),
    "mistral": ("MistralForCausalLM", _DECODER, _SILU),
    "qwen2": ("Qwen2ForCausalLM", _DECODER, _SILU),
    "qwen3": ("Qwen3ForCausalLM", (*_DECODER, "head_dim"), _SILU | {"attention_bias": False}),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        (*_DECODER, "head_dim", "query_pre_attn_scalar"),
        {"attention_bias": False, "final_logit_softcapping": None, "attn_logit_softcapping": None},
    ),
    "gpt2": ("GPT2LMHeadModel", ("vocab_size", *_GPT2.values()), _GPT2_DEFAULTS),
}


def plain_config(fields: Mapping[str, Any]) -> SimpleNamespace | None:
    """The configuration with `fields` of config.json or of a GGUF file; None where transformers must read them.

    It has their names as attributes, as an object of transformers has.
    """
    kind = fields.get("model_type")
    architecture, sizes, defaults = _KINDS.get(kind if isinstance(kind, str) else "", ("", (), {}))
    given = {name: value for name, value in fields.items() if name != "torch_dtype"}
    config = SimpleNamespace(**{**defaults, **given})
    said = (
        architecture
        and fields.get("architectures") == [architecture]
        and "eos_token_id" in fields
        and not fields.get("auto_map")
        and all(_positive(fields.get(name)) for name in sizes)
        and _has_dtype(config, fields)
        and isinstance(getattr(config, "tie_word_embeddings", None), bool)
        and (_gpt2(config) if kind == "gpt2" else _decoder(config))
        and (kind != "gemma3_text" or _gemma3(config))
    )
    return config if said and runner_for(config)[0] == "medvllm" else None


def _positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _has_dtype(config: SimpleNamespace, fields: Mapping[str, Any]) -> bool:
    """Takes the checkpoint's dtype from where it is said; whether it is one, and said once."""
    found = {fields[name] for name in ("dtype", "torch_dtype") if isinstance(fields.get(name), str)}
    config.dtype = next(iter(found), None)
    return len(found) == 1 and found <= set(_DTYPES)


def _decoder(config: SimpleNamespace) -> bool:
    """Whether attention, norms and rotary embedding are of the plain kind."""
    if config.hidden_size % config.num_attention_heads or config.num_attention_heads % config.num_key_value_heads:
        return False
    norm, activation = getattr(config, "rms_norm_eps", None), getattr(config, "hidden_act", None)
    head_dim = getattr(config, "head_dim", None)
    return (
        (head_dim is None or _positive(head_dim))
        and isinstance(norm, float)
        and (isinstance(activation, str) or config.model_type == "gemma3_text")
        and (config.model_type == "gemma3_text" or (_rope(config) and _window(config)))
    )


def _rope(config: SimpleNamespace) -> bool:
    """Puts an older configuration's base in its present place; whether there is one, and nothing scales it."""
    if getattr(config, "rope_parameters", None) is None and getattr(config, "rope_scaling", None) is None:
        config.rope_parameters = {"rope_theta": getattr(config, "rope_theta", None), "rope_type": "default"}
    return _unscaled(getattr(config, "rope_parameters", None)) and not hasattr(config, "partial_rotary_factor")


def _unscaled(rope: object) -> bool:
    return (
        isinstance(rope, dict)
        and set(rope) == {"rope_theta", "rope_type"}
        and rope["rope_type"] == "default"
        and isinstance(rope["rope_theta"], int | float)
    )


def _window(config: SimpleNamespace) -> bool:
    """Whether every layer has the same window, or none."""
    if config.model_type == "mistral":
        window = getattr(config, "sliding_window", 0)
        return (window is None or _positive(window)) and not hasattr(config, "layer_types")
    kinds = set(getattr(config, "layer_types", None) or ())
    if getattr(config, "use_sliding_window", False) or kinds - {"full_attention"}:
        return False
    if config.model_type.startswith("qwen"):
        config.sliding_window = None
    return getattr(config, "sliding_window", None) is None


def _gemma3(config: SimpleNamespace) -> bool:
    """Whether windows and rotary embeddings are said for each kind of layer."""
    kinds, ropes = getattr(config, "layer_types", None), getattr(config, "rope_parameters", None)
    return (
        isinstance(kinds, list)
        and len(kinds) == config.num_hidden_layers
        and set(kinds) <= {"full_attention", "sliding_attention"}
        and isinstance(ropes, dict)
        and set(ropes) == {"full_attention", "sliding_attention"}
        and all(_unscaled(rope) for rope in ropes.values())
        and isinstance(getattr(config, "hidden_activation", None), str)
        and _positive(getattr(config, "sliding_window", None))
    )


def _gpt2(config: SimpleNamespace) -> bool:
    """Adds the names that other architectures have for GPT-2's sizes; whether the rest is there."""
    for name, own in _GPT2.items():
        setattr(config, name, getattr(config, own))
    return (
        isinstance(getattr(config, "activation_function", None), str)
        and isinstance(getattr(config, "layer_norm_epsilon", None), float)
        and (config.n_inner is None or _positive(config.n_inner))
        and config.hidden_size % config.num_attention_heads == 0
    )
