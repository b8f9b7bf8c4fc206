"""From settings to a model, and from a model to the folder that is published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from nemotron.recipes.nano3.data.tokenizer import END_OF_TEXT, IM_END, copy_tokenizer, load_tokenizer
from nemotron.recipes.nano3.model.llama import Llama, LlamaConfig, save_model
from nemotron.recipes.nano3.model.settings import ModelSettings

__all__ = ["data_fingerprint", "export_model", "fingerprint", "llama_config"]


def llama_config(settings: ModelSettings, *, vocab_size: int) -> LlamaConfig:
    """The shape in Hugging Face's names."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.ffn_hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_attention_heads,
        num_key_value_heads=settings.num_query_groups,
        max_position_embeddings=settings.seq_length,
        rope_theta=settings.rotary_base,
        rms_norm_eps=settings.norm_epsilon,
        tie_word_embeddings=settings.share_embeddings_and_output_weights,
    )


def fingerprint(*values: Any) -> str:
    """16 hex digits of dataclasses and JSON values."""
    plain = [
        dataclasses.asdict(each) if dataclasses.is_dataclass(each) and not isinstance(each, type) else each
        for each in values
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode()).hexdigest()[:16]


def data_fingerprint(folder: Path) -> str:
    """The same for the same plan of data prep, wherever its folder lies; of the blend where there is no plan."""
    plan = folder / "plan.json"
    return hashlib.sha256((plan if plan.is_file() else folder / "blend.json").read_bytes()).hexdigest()[:16]


def export_model(model: Llama, tokenizer_dir: Path, folder: Path, *, chat: bool) -> Path:
    """Writes the model and its tokenizer to `folder`, whole or not at all; an older one there is replaced.

    A chat model's tokenizer has a chat template, and the end of a turn ends its text.
    """
    partial = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    copy_tokenizer(tokenizer_dir, partial, chat=chat)
    tokenizer = load_tokenizer(partial)
    ends = [tokenizer.token_to_id(mark) for mark in ((IM_END, END_OF_TEXT) if chat else (END_OF_TEXT,))]
    save_model(model, partial, eos_token_ids=ends, pad_token_id=ends[-1])
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder
