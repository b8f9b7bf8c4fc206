"""The one template: an instruction made from the style and the length asked for, and the user's text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from medvllm.errors import MedvllmError
from medvllm.tasks.generation.options import GenerationOptions
from medvllm.tasks.generation.short_forms import expand_short_forms
from medvllm.tasks.generation.styles import PURPOSES, READABILITY, SPECIALTIES, STRUCTURES, TONES

__all__ = ["Prompt", "build_prompt", "instruction", "messages", "plain_prompt"]


class Prompt(NamedTuple):
    """The token ids of a prompt, how they were made (`chat` template or `plain`), tokens of the text left out, and the
    long forms written out in it, by short form."""

    token_ids: list[int]
    template: str
    truncated_tokens: int
    abbreviations: Mapping[str, str] = MappingProxyType({})


def instruction(options: GenerationOptions) -> str:
    """What the style, the length and the schema ask of the model, in sentences; empty where nothing is asked."""
    style = options.style
    parts: list[str] = []
    if style.purpose:
        parts.append(PURPOSES[style.purpose])
    if style.specialty:
        parts.append(SPECIALTIES[style.specialty])
    if style.readability:
        parts.append(READABILITY[style.readability].instruction)
    if style.tone:
        parts.append(TONES[style.tone])
    if style.structure:
        parts.append(STRUCTURES[style.structure])
    if options.target_words:
        parts.append(f"Write about {options.target_words} words.")
    elif options.target_chars:
        parts.append(f"Write at most {max(1, options.target_chars // 7)} words.")  # 6 letters and a space
    if options.json_schema is not None:
        parts.append("Answer with one JSON value and nothing else.")
    return " ".join(parts)


def messages(text: str, options: GenerationOptions) -> list[dict[str, str]]:
    """The chat for a model that has a chat template: the instruction as the system's turn, the text as the user's."""
    system = instruction(options)
    user = {"role": "user", "content": text}
    return [{"role": "system", "content": system}, user] if system else [user]


def plain_prompt(text: str, options: GenerationOptions) -> str:
    """The prompt for a model without a chat template: the instruction, a blank line, and the text to go on from."""
    system = instruction(options)
    return f"{system}\n\n{text}\n\n" if system else text


def build_prompt(text: str, options: GenerationOptions, tokenizer: Any, *, max_model_len: int) -> Prompt:
    """The prompt in tokens, with room for at least one token of answer.

    With `options.expand_abbreviations` the clinical short forms of the text are written out.

    With `options.truncate` the end of a text that is too long is cut off, so far that the answer has its room too, or
    half of the context where it wants more.

    Raises:
        MedvllmError: the prompt is too long; with `truncate`, the instruction alone is.
    """
    text, expanded = expand_short_forms(text) if options.expand_abbreviations else (text, {})
    token_ids, template = _encode(text, options, tokenizer)
    if len(token_ids) < max_model_len:
        return Prompt(token_ids, template, 0, expanded)
    if not options.truncate:
        raise MedvllmError(
            f"the prompt is {len(token_ids):,} tokens, and the model takes {max_model_len:,}, the answer included; "
            "give a shorter text, a larger --max-model-len, or --truncate"
        )
    text_ids = tokenizer.encode(text, add_special_tokens=False)
    room = max_model_len - min(options.max_new_tokens, max_model_len // 2)
    keep = len(text_ids) - (len(token_ids) - room)
    while keep > 0:
        shorter = tokenizer.decode(text_ids[:keep], skip_special_tokens=False)
        token_ids, template = _encode(shorter.rstrip("\ufffd"), options, tokenizer)
        if len(token_ids) <= room:
            kept = {short: long for short, long in expanded.items() if f"{long} ({short})" in shorter}
            return Prompt(token_ids, template, len(text_ids) - keep, kept)
        keep -= len(token_ids) - room  # cut text may take more tokens than it was cut at
    raise MedvllmError(
        f"--truncate leaves nothing of the text: the instruction takes {len(token_ids):,} of {max_model_len:,} tokens; "
        "give a larger --max-model-len or fewer style options"
    )


def _encode(text: str, options: GenerationOptions, tokenizer: Any) -> tuple[list[int], str]:
    from medvllm.models.tokenizer import apply_chat_template

    if getattr(tokenizer, "chat_template", None):
        return apply_chat_template(tokenizer, messages(text, options)), "chat"
    return list(tokenizer.encode(plain_prompt(text, options))), "plain"
