"""A tokenizer of the `tokenizers` library as the engine uses it: text to token ids and back, and chat templates.

transformers wraps the same tokenizers in classes whose import takes longer than loading a small model. Where a folder's
files leave those classes nothing to change, `folder_tokenizer` reads them here, and the token ids are the same; where
anything might be changed (a class with rules of its own, flags that rewrite the tokenizer), it leaves them to
transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.models.chat_template import render_chat_template
from medvllm.models.files import ModelFiles

__all__ = ["QWEN2_SPLIT", "FastTokenizer", "folder_tokenizer"]

# How Qwen 2 and 3 split words before merging.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_PLAIN_TOKEN = {"special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
# Model type → classes of its tokenizer that transformers reads tokenizer.json with.
_CLASSES = {
    "llama": ("TokenizersBackend", "PreTrainedTokenizerFast"),
    "gpt2": ("GPT2Tokenizer", "GPT2TokenizerFast"),
    "qwen2": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    "qwen3": ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
}
# Classes that take no more than the vocabulary and the merges from tokenizer.json: what they put around those, as the
# file must have it, and the special tokens of a folder that names none.
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_REBUILT: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "GPT2Tokenizer": (
        {"normalizer": None, "pre_tokenizer": _BYTE_LEVEL | {"use_regex": True}},
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    ),
    "Qwen2Tokenizer": (
        {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
                    _BYTE_LEVEL | {"use_regex": False},
                ],
            },
        },
        dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    ),
}
_PLAIN_BPE = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
# What transformers would merge into the tokenizer: files beside it, and settings where they are not empty.
_MERGED_FILES = ("chat_template.json", "additional_chat_templates")
_MERGED_OLD_FILES = ("special_tokens_map.json", "added_tokens.json")  # not with `added_tokens_decoder` in the settings
_MERGED_SETTINGS = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "auto_map",
    "clean_up_tokenization_spaces",
    "fix_mistral_regex",
    "init_inputs",
    "model_specific_special_tokens",
    "split_special_tokens",
)


class FastTokenizer:
    """Encodes and decodes with the methods of transformers' tokenizers that the engine calls, by the same names.

    Attributes:
        backend_tokenizer: the `tokenizers.Tokenizer`.
        special_tokens: name (`bos_token`, …) → token, for those the model names.
        chat_template: Jinja source; None for a model that was not tuned for chat.
    """

    def __init__(
        self, backend: Any, *, special_tokens: Mapping[str, str] | None = None, chat_template: str | None = None
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        self.backend_tokenizer = backend
        self.special_tokens = dict(special_tokens or {})
        self.chat_template = chat_template

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        token = self.special_tokens.get("eos_token")
        found: int | None = None if token is None else self.backend_tokenizer.token_to_id(token)
        return found

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text, between those that begin and end one unless `add_special_tokens` is False.

        Raises:
            MedvllmError: the text holds half a character (a surrogate), as reading bytes that are no UTF-8 may leave.
        """
        try:
            ids: list[int] = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:
            raise MedvllmError(f"the text can't be encoded: {_surrogates(text)}; give it as UTF-8") from error
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        text: str = self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)
        return text

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, str]],
        *,
        tokenize: bool = False,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
    ) -> str | list[int]:
        """The text of a conversation by `chat_template`, else by the model's own; its token ids with `tokenize`."""
        text = render_chat_template(
            chat_template or self.chat_template or "",
            conversation,
            special_tokens=self.special_tokens,
            add_generation_prompt=add_generation_prompt,
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text


def _surrogates(text: str) -> str:
    place = next((at for at, char in enumerate(text) if "\ud800" <= char <= "\udfff"), None)
    return "it is no text" if place is None else f"character {place} is half a character, {text[place]!a}"


def folder_tokenizer(files: ModelFiles) -> FastTokenizer | None:
    """The tokenizer in a model's folder; None where it takes transformers to read it, or to say what is wrong."""
    settings = files.json("tokenizer_config.json") or {}
    model_type = (files.json("config.json") or {}).get("model_type")
    name = settings.get("tokenizer_class")
    if name not in _CLASSES.get(str(model_type), ()) or _merged(files, settings):
        return None
    parts = files.json("tokenizer.json") or {}
    around, defaults = _REBUILT.get(str(name).removesuffix("Fast"), (None, {}))
    named = {f"{each}_token": settings.get(f"{each}_token", defaults.get(f"{each}_token")) for each in _SPECIAL_NAMES}
    special = {name: token for name, token in named.items() if token is not None}
    templates = _templates(files, settings)
    if templates is None or not _tokens_agree(parts, settings, special) or not _agrees(parts, around):
        return None
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_str(json.dumps(parts))
    except Exception:  # noqa: BLE001
        return None  # the library raises bare Exception; transformers reads the file again and says why
    return FastTokenizer(backend, special_tokens=special, chat_template=templates[0] if templates else None)


def _merged(files: ModelFiles, settings: Mapping[str, Any]) -> bool:
    """Whether there is something beside tokenizer.json that transformers would merge into the tokenizer."""
    known = {f"{name}_token" for name in _SPECIAL_NAMES}
    others = [name for name in settings if name.endswith("_token") and name not in known]
    beside = _MERGED_FILES if "added_tokens_decoder" in settings else (*_MERGED_FILES, *_MERGED_OLD_FILES)
    return any(settings.get(name) for name in (*_MERGED_SETTINGS, *others)) or any(
        (files.folder / name).exists() for name in beside
    )


def _templates(files: ModelFiles, settings: Mapping[str, Any]) -> list[str] | None:
    """The chat template, if there is one; None where there are several to choose from."""
    path = files.folder / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if template is None:
        return []
    return [template] if isinstance(template, str) else None


def _tokens_agree(parts: Mapping[str, Any], settings: Mapping[str, Any], special: Mapping[str, Any]) -> bool:
    """Whether every token that the settings name is an added token of tokenizer.json, with the same flags."""
    entries = parts.get("added_tokens")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "content" in entry for entry in entries):
        return False
    added = {entry["content"]: entry for entry in entries}
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(more, list) or not isinstance(decoder, dict):
        return False
    for token in (*special.values(), *more):
        entry = added.get(token) if isinstance(token, str) else None
        if entry is None or any(entry.get(name) != value for name, value in _PLAIN_TOKEN.items()):
            return False
    return all(
        isinstance(entry, dict) and added.get(entry.get("content")) == {**entry, "id": _number(number)}
        for number, entry in decoder.items()
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _agrees(parts: Mapping[str, Any], around: Mapping[str, Any] | None) -> bool:
    """Whether tokenizer.json has around its vocabulary what the class puts there; None: it puts nothing there."""
    if around is None:
        return True
    model = parts.get("model")
    before = parts.get("pre_tokenizer")
    if isinstance(before, dict) and before.get("type") == "ByteLevel":
        before = {"use_regex": True, **before}  # the library's default
    return (
        isinstance(model, dict)
        and model.get("type") == "BPE"
        and not any(model.get(name) for name in (*_PLAIN_BPE, "ignore_merges"))
        and parts.get("normalizer") == around["normalizer"]
        and before == around["pre_tokenizer"]
        and (parts.get("decoder") or {}).get("type") == "ByteLevel"
    )
