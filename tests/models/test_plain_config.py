"""Configurations read without transformers: the values transformers gives, or left to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from medvllm.models.plain_config import plain_config

# What our layers, the loader and the engine read.
READ = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "rope_parameters",
    "sliding_window",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "n_embd",
    "n_head",
    "n_layer",
    "n_inner",
    "n_positions",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "eos_token_id",
)
PLAIN = ("llama", "llama-biased", "mistral", "qwen2", "qwen3", "gemma3-capped", "gpt2", "gpt2-biomedlm")
LEFT = ("llama-linear", "llama-dynamic", "llama-yarn", "llama-llama3", "qwen2-window", "gemma3", "biogpt")


Saved = Callable[[str], dict[str, Any]]


@pytest.fixture
def saved(tmp_path: Path, config_of: Callable[..., Any]) -> Saved:
    """`saved(name)` → what transformers writes into config.json."""

    def save(name: str) -> dict[str, Any]:
        config = config_of(name, dtype="bfloat16")
        config.architectures = [transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__]
        config.save_pretrained(tmp_path)
        return dict(json.loads((tmp_path / "config.json").read_text()))

    return save


@pytest.mark.parametrize("name", LEFT)
def test_scalings_and_windows_by_layer_are_left_to_transformers(name: str, saved: Saved) -> None:
    assert plain_config(saved(name)) is None


@pytest.mark.parametrize("name", PLAIN)
def test_values_are_those_of_transformers(name: str, saved: Saved, tmp_path: Path) -> None:
    mine = plain_config(saved(name))
    assert mine is not None
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    for field in READ:
        assert getattr(mine, field, None) == getattr(theirs, field, None), field
    assert getattr(mine, "head_dim", None) in (None, getattr(theirs, "head_dim", None))  # None: hidden_size / heads
    assert mine.architectures == theirs.architectures
    assert mine.dtype == str(theirs.dtype).removeprefix("torch.") == "bfloat16"
    kinds = set(getattr(mine, "layer_types", None) or ["full_attention"])
    assert kinds == set(getattr(theirs, "layer_types", None) or ["full_attention"])


def test_older_names_of_the_rotary_base_and_the_dtype(saved: Saved) -> None:
    fields = saved("llama")
    fields["rope_theta"] = fields.pop("rope_parameters")["rope_theta"]
    fields["torch_dtype"] = fields.pop("dtype")
    mine = plain_config(fields | {"rope_scaling": None})
    theirs = transformers.LlamaConfig.from_dict(dict(fields))
    assert mine is not None
    assert mine.rope_parameters == theirs.rope_parameters
    assert mine.dtype == "bfloat16"


CHANGES: list[Callable[[dict[str, Any]], object]] = [
    lambda v: v.pop("vocab_size"),
    lambda v: v.update(hidden_size="48"),
    lambda v: v.update(hidden_size=True),
    lambda v: v.update(num_hidden_layers=0),
    lambda v: v.update(num_attention_heads=5),
    lambda v: v.update(num_key_value_heads=4),
    lambda v: v.pop("eos_token_id"),
    lambda v: v.pop("dtype"),
    lambda v: v.update(torch_dtype="float32"),
    lambda v: v.update(architectures=["LlamaModel"]),
    lambda v: v.update(architectures=None),
    lambda v: v.update(model_type=["llama"]),
    lambda v: v.update(auto_map={"AutoConfig": "evil.Config"}),
    lambda v: v.update(rope_parameters={"rope_theta": "1e4", "rope_type": "default"}),
    lambda v: v.update(rope_scaling={"type": "linear", "factor": 2.0}, rope_parameters=None),
    lambda v: v.update(hidden_act="mystery"),
    lambda v: v.update(use_bidirectional_attention=True),
    lambda v: v.update(tie_word_embeddings=None),
    lambda v: v.update(rms_norm_eps="small"),
    lambda v: v.update(head_dim=-4),
]


@pytest.mark.parametrize("change", CHANGES, ids=[str(number) for number in range(len(CHANGES))])
def test_anything_out_of_the_ordinary_is_left_to_transformers(
    change: Callable[[dict[str, Any]], object], saved: Saved
) -> None:
    fields = saved("llama-biased")
    assert plain_config(fields) is not None
    change(fields)
    assert plain_config(fields) is None
