"""Tokenizers: a folder's own, or one built from a GGUF file's vocabulary; and chat templates.

There are two of each model: `load_tokenizer` gives transformers' object, for programs that want its whole interface,
and `load_text_tokenizer` what the engine encodes and decodes with, which does without transformers where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.models.fast_tokenizer import FastTokenizer, folder_tokenizer
from medvllm.models.files import ModelFiles
from medvllm.models.gguf import GGUFFile
from medvllm.models.gguf_tokenizer import read_gguf_tokenizer, told

__all__ = ["apply_chat_template", "gguf_tokenizer", "load_text_tokenizer", "load_tokenizer"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's tokenizer, of transformers' kind.

    Raises:
        MedvllmError: there is none, it can't be read, needs code of its own that is not trusted, or the configuration
            that it is read with is at fault.
    """
    return _told_of_config(_transformers_tokenizer, files)


def load_text_tokenizer(files: ModelFiles) -> Any:
    """What encodes, decodes and applies chat templates for the engine, with the methods of FastTokenizer.

    Its token ids are those of `load_tokenizer`, which it is where a FastTokenizer can't stand for it.

    Raises:
        MedvllmError: as `load_tokenizer` does.
    """
    return _told_of_config(_text_tokenizer, files)


def _told_of_config(load: Callable[[ModelFiles], Any], files: ModelFiles) -> Any:
    try:
        return load(files)
    except MedvllmError:
        from medvllm.models.configuration import load_config  # imports torch, which tokenizers need not

        load_config(files)  # transformers reads it too; if that is what is wrong, this says so
        raise


def _transformers_tokenizer(files: ModelFiles) -> Any:
    if files.is_gguf:
        return gguf_tokenizer(files.gguf)
    _check_folder(files)
    from transformers import AutoTokenizer

    with told(f"can't read the tokenizer in {files.folder}"):
        return AutoTokenizer.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=files.trust_remote_code
        )


def _text_tokenizer(files: ModelFiles) -> Any:
    if files.is_gguf:
        read = read_gguf_tokenizer(files.gguf)
        return FastTokenizer(read.backend, special_tokens=read.special_tokens, chat_template=read.chat_template)
    _check_folder(files)
    return folder_tokenizer(files) or _transformers_tokenizer(files)


def gguf_tokenizer(file: GGUFFile) -> Any:
    """The tokenizer a GGUF file describes, of transformers' kind.

    Raises:
        MedvllmError: it has none, of another kind, or its parts do not fit together.
    """
    from transformers import PreTrainedTokenizerFast

    read = read_gguf_tokenizer(file)
    return PreTrainedTokenizerFast(
        tokenizer_object=read.backend,
        chat_template=read.chat_template,
        model_max_length=read.model_max_length,
        clean_up_tokenization_spaces=False,
        **read.special_tokens,
    )


def _check_folder(files: ModelFiles) -> None:
    """Refuses a folder without a tokenizer, or with one that runs code nobody trusts."""
    if not any((files.folder / name).is_file() for name in _TOKENIZER_FILES):
        raise MedvllmError(
            f"there is no tokenizer in {files.folder}: expected tokenizer.json, tokenizer.model or vocab.json; "
            "get it from where the model comes from"
        )
    settings = files.json("tokenizer_config.json") or {}
    if "auto_map" in settings and not files.trust_remote_code:
        raise MedvllmError(
            f"the tokenizer in {files.folder} runs code of its own ({_first_code(settings['auto_map'])}), which is "
            "refused unless trust_remote_code is set"
        )


def _first_code(auto_map: object) -> str:
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value]) if item]
    return str(flat[0]) if flat else "auto_map"


def apply_chat_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    template: str | None = None,
    system: str | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The token ids of a conversation, ending where the model's answer begins.

    Args:
        messages: `{"role": "system" | "user" | "assistant", "content": text}` in order.
        template: a Jinja template to use instead of the tokenizer's.
        system: a system message to put first where the conversation has none; a template that knows no system role gets
            it at the head of the first user message.

    Raises:
        MedvllmError: a malformed message, no template, or one that refuses the conversation.
    """
    conversation = [_checked_message(message) for message in messages]
    if not conversation:
        raise MedvllmError("expected at least one chat message, got none")
    if system and conversation[0]["role"] != "system":
        conversation.insert(0, {"role": "system", "content": system})
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise MedvllmError(
            "this model has no chat template, as models that were not tuned for chat; give it a plain prompt "
            "(generate), or a template of its chat format"
        )
    from jinja2.exceptions import TemplateError

    options = {"chat_template": template, "add_generation_prompt": add_generation_prompt}
    try:
        try:
            text = tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        except TemplateError:
            if conversation[0]["role"] != "system":
                raise
            text = tokenizer.apply_chat_template(_without_system(conversation), tokenize=False, **options)
    except (TemplateError, TypeError, ValueError) as error:
        raise MedvllmError(f"the model's chat template refuses this conversation: {error}") from error
    return list(tokenizer.encode(text, add_special_tokens=False))  # the template writes special tokens itself


def _checked_message(message: Mapping[str, str]) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise MedvllmError(f'expected a chat message {{"role": …, "content": text}}, got {message!r:.200}')
    return {"role": role, "content": content}


def _without_system(conversation: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system message moved into the first user message, for templates without that role (Mistral, Gemma 2)."""
    system, *rest = conversation
    for index, message in enumerate(rest):
        if message["role"] == "user":
            rest[index] = {"role": "user", "content": f"{system['content']}\n\n{message['content']}"}
            return rest
    return [{"role": "user", "content": system["content"]}, *rest]
