"""The tokenizer: byte-level BPE, trained here or given, as a folder that transformers and `medvllm` load."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nemotron.kit.artifacts.files import write_bytes_atomically, write_json_atomically
from nemotron.kit.errors import KitError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["CHAT_TEMPLATE", "END_OF_TEXT", "IM_END", "IM_START", "copy_tokenizer", "load_tokenizer", "train_tokenizer"]

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_FILES = ("tokenizer.json", "tokenizer_config.json")


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocab_size: int, model_max_length: int = 1_000_000) -> None:
    """Trains a byte-level BPE on `texts` and writes tokenizer.json and tokenizer_config.json to `folder`.

    The same texts in the same order give the same bytes.

    Raises:
        KitError: the vocabulary is smaller than the 256 bytes and the special tokens.
    """
    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise KitError(
            f"vocab_size must be at least {smallest} (256 bytes, {len(SPECIAL_TOKENS)} special), got {vocab_size}"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [IM_START, IM_END],
        "clean_up_tokenization_spaces": False,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(folder / _FILES[1], described)
    write_bytes_atomically(folder / _FILES[0], tokenizer.to_str().encode())


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder. Special tokens that appear in a text are encoded as the text they are.

    Raises:
        KitError: there is no tokenizer.json, or it lacks one of the special tokens.
    """
    # Its threads do not survive the forks of a process pool.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    path = folder / _FILES[0]
    if not path.is_file():
        raise KitError(f"no tokenizer in {folder}: {path.name} is missing; leave tokenizer_model out to train one")
    tokenizer = Tokenizer.from_file(str(path))
    missing = [token for token in SPECIAL_TOKENS if tokenizer.token_to_id(token) is None]
    if missing:
        raise KitError(
            f"the tokenizer {path} lacks {', '.join(missing)}; this recipe marks documents and turns with them"
        )
    tokenizer.encode_special_tokens = True
    return tokenizer


def copy_tokenizer(source: Path, target: Path, *, chat: bool = False) -> None:
    """Copies the files of a tokenizer's folder.

    Args:
        source: a folder with tokenizer.json.
        target: made where it is missing.
        chat: for a chat model: with a chat template (the source's own, or ours), and turns end with <|im_end|>. A base
            model has no template, so that a prompt is continued and not answered.
    """
    load_tokenizer(source)
    target.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(target / _FILES[0], (source / _FILES[0]).read_bytes())
    config = source / _FILES[1]
    described = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, **described}
    if chat:
        described = {**described, "eos_token": IM_END, "chat_template": described.get("chat_template", CHAT_TEMPLATE)}
    else:
        described.pop("chat_template", None)
    write_json_atomically(target / _FILES[1], described)
