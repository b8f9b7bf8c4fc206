"""Prompts as token ids: counted before padding, cut to the limit, the same for every backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llenergymeasure.errors import LemError, first_line

if TYPE_CHECKING:
    from llenergymeasure.backends.flops import Architecture
    from llenergymeasure.config import ExperimentConfig
    from llenergymeasure.prompts import Prompt

__all__ = ["TokenisedPrompts", "check_options", "input_limit", "load_tokenizer"]


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder; none of its own code runs.

    Raises:
        LemError: there is none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LemError(f"can't load the tokenizer in {folder}: {first_line(error)}") from error


class TokenisedPrompts:
    """Token ids by prompt id."""

    def __init__(self, tokenizer: Any, *, limit: int) -> None:
        self._tokenizer, self._limit = tokenizer, limit
        self._ids: dict[str, list[int]] = {}

    def add(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Tokenises those that are new; the tokens of each.

        Raises:
            LemError: one has no tokens.
        """
        for prompt in prompts:
            if prompt.id in self._ids:
                continue
            # The whole text is tokenised and its end cut: the tokenizer's own truncation warns and varies by class.
            ids = list(self._tokenizer(prompt.text)["input_ids"])[: self._limit]
            if not ids:  # the message is kept in state.json, where no text of prompts belongs
                raise LemError(f"prompt {prompt.index + 1} has no tokens; remove it")
            self._ids[prompt.id] = ids
        return {prompt.id: len(self._ids[prompt.id]) for prompt in prompts}

    def __getitem__(self, prompt: Prompt) -> list[int]:
        return self._ids[prompt.id]


def input_limit(config: ExperimentConfig, architecture: Architecture) -> tuple[int, tuple[str, ...]]:
    """Input tokens that leave room for the output in the model's context, and a warning where that is fewer.

    Raises:
        LemError: the output alone does not fit.
    """
    context = architecture.context
    if context is None or config.max_input_tokens + config.max_output_tokens <= context:
        return config.max_input_tokens, ()
    room = context - config.max_output_tokens
    if room < 1:
        raise LemError(
            f"max_output_tokens {config.max_output_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens; lower it"
        )
    return room, (f"prompts are cut to {room} tokens, for the model's context holds {context} with the output",)


def check_options(backend: str, given: dict[str, Any] | None, known: Sequence[str]) -> dict[str, Any]:
    """The options of a backend's section.

    Raises:
        LemError: one is unknown; names the known.
    """
    options = dict(given or {})
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise LemError(f"{backend} has no option {unknown[0]!r}; the options are {', '.join(sorted(known))}")
    return options
