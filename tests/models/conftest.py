"""Tiny random models of every architecture, as transformers builds and saves them, and runs of ours beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medvllm.layers.context import Context, reset_context, set_context
from medvllm.models import model_class
from medvllm.models.configuration import load_config
from medvllm.models.files import resolve_model
from medvllm.models.loader import load_weights

SIZES = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
GATED = SIZES | {"intermediate_size": 80, "num_key_value_heads": 2, "max_position_embeddings": 128}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

# Name → (configuration class of transformers, its fields). Odd sizes; head_dim is not hidden_size / heads in some.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GATED | {"tie_word_embeddings": True}),
    "llama-biased": ("LlamaConfig", GATED | {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama-linear": (
        "LlamaConfig",
        GATED | {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    ),
    "llama-dynamic": (
        "LlamaConfig",
        GATED | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ),
    "llama-yarn": (
        "LlamaConfig",
        GATED
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "llama-llama3": (
        "LlamaConfig",
        GATED
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 500.0,
            }
        },
    ),
    "mistral": ("MistralConfig", GATED | {"sliding_window": 7, "head_dim": 10}),
    "qwen2": ("Qwen2Config", GATED | {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2Config", GATED | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3Config", GATED | {"head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        GATED
        | {
            "head_dim": 12,
            "num_hidden_layers": 7,
            "sliding_window": 6,
            "query_pre_attn_scalar": 20,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gemma3-capped": ("Gemma3TextConfig", GATED | {"head_dim": 8, "sliding_window": 6, "final_logit_softcapping": 0.2}),
    "gpt2": ("GPT2Config", {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 128}),
    "gpt2-biomedlm": (
        "GPT2Config",
        {
            "vocab_size": 97,
            "n_embd": 48,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 128,
            "n_inner": 100,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
        },
    ),
    "biogpt": ("BioGptConfig", SIZES | {"intermediate_size": 100, "max_position_embeddings": 128}),
}

# Architectures without layers of our own. Attention through transformers' interface, then models that have their own.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": (
        "OPTConfig",
        SIZES
        | {"ffn_dim": 100, "max_position_embeddings": 128, "word_embed_proj_dim": 32, "do_layer_norm_before": True},
    ),
    "gpt-neox": ("GPTNeoXConfig", GATED),
    "gemma2": ("Gemma2Config", GATED | {"head_dim": 10, "sliding_window": 5, "attn_logit_softcapping": 2.0}),
    "mixtral": ("MixtralConfig", GATED | {"num_local_experts": 4}),
    "granite": ("GraniteConfig", GATED | {"logits_scaling": 3.0, "attention_multiplier": 0.2}),
    "bloom": ("BloomConfig", {"vocab_size": 97, "hidden_size": 48, "n_layer": 2, "n_head": 6}),
    "mamba": ("MambaConfig", {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 8}),
}


@dataclass
class Tiny:
    """A saved model: its folder, and the model transformers saved."""

    folder: Path
    reference: Any

    def logits(self, ids: list[int]) -> torch.Tensor:
        """transformers' logits at every position, (tokens, vocab)."""
        with torch.inference_mode():
            return self.reference(torch.tensor([ids])).logits[0].float()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """The `count` tokens transformers generates greedily after `ids`, end of text or not."""
        self.reference.generation_config.eos_token_id = None
        with torch.inference_mode():
            out = self.reference.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0)
        return [int(token) for token in out[0, len(ids) :]]


def save_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer of the words w0, w1, …"""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w1", eos_token="w2", pad_token="w0", unk_token="w0"
    ).save_pretrained(folder)


def randomise(model: Any) -> None:
    """Weights and biases large enough that a wrong one changes tokens."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.4 if parameter.dim() > 1 else 0.3
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + offset)


@pytest.fixture
def config_of() -> Callable[..., Any]:
    """`config_of(name)` → that configuration of CONFIGS or OTHERS, an object of transformers."""

    def make(name: str, **fields: Any) -> Any:
        import transformers

        config_class, own = (CONFIGS | OTHERS)[name]
        return getattr(transformers, config_class)(**(SPECIAL | own | fields))

    return make


@pytest.fixture
def tiny(tmp_path: Path, config_of: Callable[..., Any]) -> Callable[..., Tiny]:
    """`tiny(name, **fields)` → that model of CONFIGS, saved as safetensors in a folder."""
    import transformers

    def make(name: str, *, max_shard_size: str = "5GB", **fields: Any) -> Tiny:
        config = config_of(name, **fields)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        randomise(model)
        folder = tmp_path / name
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        save_tokenizer(folder, config.vocab_size)
        return Tiny(folder, model.eval())

    return make


def load(folder: Path | str, *, dtype: torch.dtype = torch.float32) -> Any:
    """Our model of a folder or file, with its weights."""
    files = resolve_model(str(folder))
    config = load_config(files)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = model_class(config.architectures[0]).from_config(config, max_positions=128)
    finally:
        torch.set_default_dtype(before)
    load_weights(model, files)
    return model


def forward(model: Any, ids: list[int]) -> torch.Tensor:
    """Our logits at every position, (tokens, vocab), of one sequence without a cache."""
    ends = torch.tensor([0, len(ids)], dtype=torch.int32)
    set_context(
        Context(
            is_prefill=True,
            cu_seqlens_q=ends,
            cu_seqlens_k=ends,
            max_seqlen_q=len(ids),
            max_seqlen_k=len(ids),
            seqlens_q=(len(ids),),
            seqlens_k=(len(ids),),
        )
    )
    try:
        with torch.inference_mode():
            return model.compute_logits(model(torch.tensor(ids), torch.arange(len(ids)))).float()
    finally:
        reset_context()


@pytest.fixture
def ours() -> Callable[..., Any]:
    """`ours(folder)` → our model with its weights."""
    return load


@pytest.fixture
def logits_of() -> Callable[..., torch.Tensor]:
    """`logits_of(model, ids)` → our logits at every position."""
    return forward
