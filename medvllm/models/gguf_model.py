"""The configuration and the tensors of a GGUF file, in the names and the layout of transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from medvllm.errors import MedvllmError
from medvllm.models.gguf import GGUFFile

__all__ = ["GGUF_ARCHITECTURES", "gguf_config", "gguf_stop_token_ids", "gguf_weights"]

# GGUF's architecture → that of transformers, and its model type.
GGUF_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
}

_SIZES = {
    "max_position_embeddings": "context_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_LAYER_NAMES = _LAYER_NAMES | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_GPT2_LAYER_NAMES = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_IGNORED = {"rope_freqs.weight"}  # its factors are in the configuration
_GEMMA3_PATTERN = 6  # every sixth layer of Gemma 3 attends to everything, the others within the window
_GEMMA3_LOCAL_ROPE_THETA = 10_000.0  # not in the file's metadata; of all sizes of Gemma 3
_GEMMA3_27B_LAYERS = 62


def gguf_config(file: GGUFFile) -> dict[str, Any]:
    """The fields of a transformers configuration, `model_type` and `architectures` among them.

    Raises:
        MedvllmError: an architecture not in GGUF_ARCHITECTURES, mixtures of experts, or metadata that are missing.
    """
    name = file.string("general.architecture")
    if name not in GGUF_ARCHITECTURES:
        raise MedvllmError(f"{file.path}: architecture must be one of {', '.join(GGUF_ARCHITECTURES)}, got {name!r}")
    if file.number(f"{name}.expert_count"):
        raise MedvllmError(f"{file.path} is a mixture of experts, which is not supported as GGUF; use its safetensors")
    architecture, model_type = GGUF_ARCHITECTURES[name]
    embedding = _tensor_shape(file, "token_embd.weight")
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": embedding[0],
        "tie_word_embeddings": "output.weight" not in file,
        "dtype": _dtype(file),
    }
    for field, key in _SIZES.items():
        config[field] = _positive(file, f"{name}.{key}")
    for field in ("bos_token_id", "eos_token_id"):
        config[field] = file.number(f"tokenizer.ggml.{field}")
    config["pad_token_id"] = file.number("tokenizer.ggml.padding_token_id")
    if name == "gpt2":
        return _gpt2_config(file, config)
    config["num_key_value_heads"] = _heads_kv(file, name, config["num_attention_heads"])
    config["head_dim"] = int(
        file.number(f"{name}.attention.key_length") or config["hidden_size"] // config["num_attention_heads"]
    )
    config["rms_norm_eps"] = _single(file.number(f"{name}.attention.layer_norm_rms_epsilon"), 1e-6)
    config["rope_parameters"] = _rope(file, name, config)
    if name == "gemma3":
        return _gemma3_config(file, config)
    if name == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file
    return config


def _gpt2_config(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: config[key] for key in ("architectures", "model_type", "vocab_size", "tie_word_embeddings", "dtype")},
        **{key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "n_positions": _tensor_shape(file, "position_embd.weight")[0],
        "n_embd": config["hidden_size"],
        "n_layer": config["num_hidden_layers"],
        "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"],
        "layer_norm_epsilon": _single(file.number("gpt2.attention.layer_norm_epsilon"), 1e-5),
        "activation_function": "gelu_new",
    }


def _gemma3_config(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any]:
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    local = {"rope_type": "default", "rope_theta": _GEMMA3_LOCAL_ROPE_THETA}
    per_head = config["hidden_size"] // heads if layers == _GEMMA3_27B_LAYERS else config["head_dim"]
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": per_head,
        "sliding_window": _positive(file, "gemma3.attention.sliding_window"),
        "final_logit_softcapping": file.number("gemma3.final_logit_softcapping"),
        "layer_types": [
            "sliding_attention" if (layer + 1) % _GEMMA3_PATTERN else "full_attention" for layer in range(layers)
        ],
        "rope_parameters": {"full_attention": config["rope_parameters"], "sliding_attention": local},
    }


def _rope(file: GGUFFile, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """The rotary parameters: the metadata's linear or YaRN scaling, Llama 3's from its tensor of factors."""
    theta = float(file.number(f"{name}.rope.freq_base") or 10_000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    kind = file.string(f"{name}.rope.scaling.type", "none")
    factor = file.number(f"{name}.rope.scaling.factor") or file.number(f"{name}.rope.scale_linear")
    if "rope_freqs.weight" in file:
        return _llama3_rope(file, theta, config["head_dim"])
    if factor and kind in ("linear", "none"):
        return rope | {"rope_type": "linear", "factor": float(factor)} if factor != 1 else rope
    if kind == "yarn":
        rope |= {"rope_type": "yarn", "factor": _single(factor, 1.0)}
        original = file.number(f"{name}.rope.scaling.original_context_length")
        if original:
            rope["original_max_position_embeddings"] = int(original)
        return rope
    if kind not in ("linear", "none"):
        raise MedvllmError(
            f"{file.path}: rotary scaling must be none, linear or yarn, got {kind!r}; use its safetensors"
        )
    return rope


def _llama3_rope(file: GGUFFile, theta: float, head_dim: int) -> dict[str, Any]:
    """Llama 3.1's scaling from the file's divisors of each frequency; its other numbers are the same in all."""
    divisors = file.read("rope_freqs.weight").float().flatten()
    low, high, original = 1.0, 4.0, 8192
    factor = float(divisors.max())
    if divisors.numel() == head_dim // 2 and math.isfinite(factor) and factor >= 1:
        wavelengths = 2 * math.pi * theta ** (torch.arange(0, head_dim, 2).double() / head_dim)
        smooth = ((original / wavelengths - low) / (high - low)).clamp(0, 1)
        if torch.allclose(1 / ((1 - smooth) / factor + smooth), divisors.double(), rtol=1e-3):
            rope = {"rope_type": "llama3", "rope_theta": theta, "factor": factor}
            scales = {"low_freq_factor": low, "high_freq_factor": high, "original_max_position_embeddings": original}
            return rope | scales
    raise MedvllmError(
        f"{file.path} scales rotary frequencies in a way unlike Llama 3.1's; use the model's safetensors"
    )


def gguf_stop_token_ids(file: GGUFFile) -> list[int]:
    """Ids that end a text or a turn."""
    ids = [file.number(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    if file.metadata.get("general.architecture") == "gemma3":  # the chat ends turns with a token the metadata omit
        tokens = file.strings("tokenizer.ggml.tokens")
        ids += [tokens.index("<end_of_turn>")] if "<end_of_turn>" in tokens[:1024] else []
    return list(dict.fromkeys(int(token) for token in ids if token is not None))


def gguf_weights(file: GGUFFile, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
    """Every tensor under its name in transformers, in the layout of its checkpoints; matrices in `dtype`.

    Llama's query and key rows are put back in the order of halves (llama.cpp stores pairs side by side), Gemma's norms
    lose the 1 that llama.cpp adds, GPT-2's matrices are (in, out).

    Raises:
        MedvllmError: a tensor whose name is not known, or can't be decoded.
    """
    name = file.string("general.architecture")
    heads = _positive(file, f"{name}.attention.head_count")
    for stored in file.names():
        if stored in _IGNORED:
            continue
        target = _checkpoint_name(stored, name)
        if target is None:
            raise MedvllmError(f"{file.path}: there is no place for tensor '{stored}' in the architecture {name}")
        tensor = file.read(stored, dtype if len(file.tensors[stored].shape) > 1 else torch.float32)
        if name == "llama" and ".attn_q." in stored:
            tensor = _halves(tensor, heads)
        elif name == "llama" and ".attn_k." in stored:
            tensor = _halves(tensor, _heads_kv(file, name, heads))
        elif name == "gemma3" and target.endswith("norm.weight"):
            tensor = tensor - 1
        elif name == "gpt2" and target.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            tensor = tensor.t()
        yield target, tensor


def _checkpoint_name(stored: str, architecture: str) -> str | None:
    gpt2 = architecture == "gpt2"
    layer = _LAYER.fullmatch(stored)
    if layer:
        names = _GPT2_LAYER_NAMES if gpt2 else _GEMMA_LAYER_NAMES if architecture == "gemma3" else _LAYER_NAMES
        module = names.get(layer[2])
        return module and f"{'transformer.h' if gpt2 else 'model.layers'}.{layer[1]}.{module}.{layer[3]}"
    stem, _, kind = stored.rpartition(".")
    module = (_GPT2_NAMES if gpt2 else _NAMES).get(stem)
    return module and f"{module}.{kind}"


def _halves(tensor: Tensor, heads: int) -> Tensor:
    """Rows of each head from (pair, side) to (side, pair)."""
    if tensor.shape[0] % (2 * heads):
        raise MedvllmError(f"a projection of {tensor.shape[0]} rows can't be of {heads} heads; get the GGUF file again")
    pairs = tensor.view(heads, tensor.shape[0] // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _dtype(file: GGUFFile) -> str:
    """bfloat16 for quantised files, else what most matrices are stored as."""
    kinds = {tensor.ggml_type for tensor in file.tensors.values() if len(tensor.shape) > 1}
    return {frozenset([0]): "float32", frozenset([1]): "float16"}.get(frozenset(kinds), "bfloat16")


def _single(value: float | int | None, default: float) -> float:
    """A float32 of the metadata as the shortest decimal it stands for: 1e-05, not 9.999999747378752e-06."""
    return default if value is None else float(f"{value:.7g}")


def _heads_kv(file: GGUFFile, name: str, heads: int) -> int:
    value = file.number(f"{name}.attention.head_count_kv")
    return heads if value is None else int(value)


def _positive(file: GGUFFile, key: str) -> int:
    value = file.number(key)
    if value is None or value < 1 or value != int(value):
        raise MedvllmError(f"{file.path}: expected a positive whole number as '{key}', got {value}; get the file again")
    return int(value)


def _tensor_shape(file: GGUFFile, name: str) -> tuple[int, ...]:
    if name not in file:
        raise MedvllmError(f"{file.path} has no tensor '{name}'; it is no language model, or it is damaged")
    return file.tensors[name].shape
