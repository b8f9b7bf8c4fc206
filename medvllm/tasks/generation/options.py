"""What is asked of one generation: strategy, style, length. Checked once, where it is made; needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.tasks.generation.styles import STYLES

__all__ = ["DISCLAIMER", "STRATEGIES", "GenerationOptions", "Style"]

STRATEGIES = ("greedy", "sampling", "beam")
DISCLAIMER = "Not for clinical use: written by a language model and not reviewed by a clinician."

MAX_NEW_TOKENS = 256  # where neither --max-length nor a target says otherwise
# Tokens for a word, generously: English prose takes 1.3 to 1.5, drug names and lists more. And room to end a sentence.
TOKENS_PER_WORD = 1.8
TOKENS_TO_END_A_SENTENCE = 40
CHARACTERS_PER_TOKEN = 3  # again generously: English prose has 4 to 5

_SAMPLING_DEFAULTS = {"temperature": 0.7, "top_p": 0.9}
# Each parameter with what it is where it is not given, by the strategies that use it.
_SAMPLING_ONLY = ("temperature", "top_p", "top_k", "min_p")
_BEAM_ONLY = {"beam_width": 4, "length_penalty": 1.0}
# Small models go round in circles without a repetition penalty; JSON repeats its marks, so there it is 1.
_NOT_BEAM = {"repetition_penalty": 1.1, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": ()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """For whom and how: each a name known in `styles.STYLES`, or None where nothing is asked."""

    purpose: str | None = None
    readability: str | None = None
    tone: str | None = None
    structure: str | None = None
    specialty: str | None = None

    def __post_init__(self) -> None:
        for name, known in STYLES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                near = difflib.get_close_matches(str(value), known, n=2, cutoff=0.6)
                hint = f"; did you mean {' or '.join(near)}?" if near else ""
                raise MedvllmError(f"{name} must be one of {', '.join(known)}, got '{value}'{hint}")

    def requested(self) -> dict[str, str]:
        """What is asked, by name."""
        return {name: value for name in STYLES if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How one text is generated.

    Of strategy and its parameters None means: not said. `in_force` says what holds then. `max_length` counts new
    tokens. `target_words` asks for a text of about so many words, which ends at a sentence; `target_chars` is the most
    characters of the text, disclaimer included. With `json_schema` (a JSON schema as an object) the text is one JSON
    value of that schema; it gets no disclaimer, which would break it. `expand_abbreviations` writes well-known clinical
    short forms of the prompt out.

    Raises:
        MedvllmError: a value out of its range, an unknown name, or options that exclude each other.
    """

    strategy: str | None = None
    max_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    beam_width: int | None = None
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] | None = None
    n: int = 1
    seed: int | None = None
    style: Style = field(default_factory=Style)
    target_words: int | None = None
    target_chars: int | None = None
    disclaimer: bool = True
    json_schema: Mapping[str, Any] | None = None
    truncate: bool = False
    expand_abbreviations: bool = True

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.strategy is not None and self.strategy not in STRATEGIES:
            raise MedvllmError(f"strategy must be one of {', '.join(STRATEGIES)}, got '{self.strategy}'")
        if self.json_schema is not None and (self.target_words or self.target_chars):
            raise MedvllmError(
                "a text cut to a length is JSON no more; give --json-schema without --target-words and --target-chars"
            )
        if self.in_force["strategy"] == "beam" and self.json_schema is not None:
            raise MedvllmError("beam search does not follow a JSON schema; use --strategy greedy or sampling")
        if self.in_force["strategy"] == "greedy" and self.n > 1:
            raise MedvllmError(f"greedy gives one text, got n = {self.n}; use --strategy sampling or beam for several")
        if self.in_force["strategy"] == "beam" and self.n > self.in_force["beam_width"]:
            raise MedvllmError(
                f"n must be at most the beam width, got n = {self.n} and beam width {self.in_force['beam_width']}"
            )
        room = len(self.disclaimer_text) + 20  # and a few words
        if self.target_chars is not None and self.disclaimer_text and self.target_chars < room:
            raise MedvllmError(
                f"target_chars must be at least {room}, for the disclaimer counts, got {self.target_chars}; "
                "or leave the disclaimer out (--no-disclaimer)"
            )

    def _check_ranges(self) -> None:
        ranges: dict[str, tuple[float, float, str]] = {
            "max_length": (1, float("inf"), "1 or more (new tokens)"),
            "temperature": (0, float("inf"), "0 or more (0 is greedy)"),
            "top_p": (0, 1, "above 0 and at most 1"),
            "top_k": (1, float("inf"), "1 or more (leave it out for all tokens)"),
            "min_p": (0, 1, "from 0 to 1"),
            "beam_width": (1, float("inf"), "1 or more"),
            "length_penalty": (float("-inf"), float("inf"), "a number"),
            "repetition_penalty": (0, float("inf"), "above 0 (1 is none)"),
            "presence_penalty": (-2, 2, "from -2 to 2 (0 is none)"),
            "frequency_penalty": (-2, 2, "from -2 to 2 (0 is none)"),
            "n": (1, float("inf"), "1 or more"),
            "target_words": (1, float("inf"), "1 or more"),
            "target_chars": (1, float("inf"), "1 or more"),
        }
        for name, (low, high, words) in ranges.items():
            value = getattr(self, name)
            if value is None:
                continue
            exclusive = name in ("top_p", "repetition_penalty") and value == 0
            if not low <= value <= high or value != value or value == float("inf") or exclusive:
                raise MedvllmError(f"{name} must be {words}, got {value}")

    @property
    def in_force(self) -> dict[str, Any]:
        """Strategy and the parameters that hold, the rest None; without a strategy the parameters given tell which."""
        strategy = self.strategy or self._implied()
        defaults: dict[str, Any] = dict.fromkeys((*_SAMPLING_ONLY, *_BEAM_ONLY, *_NOT_BEAM))
        defaults["temperature"] = 0.0
        if strategy == "sampling":
            defaults |= _SAMPLING_DEFAULTS
        defaults |= _BEAM_ONLY if strategy == "beam" else _NOT_BEAM
        if self.json_schema is not None:
            defaults["repetition_penalty"] = 1.0
        used = _names_used(strategy)
        given = {name: value for name in used if (value := getattr(self, name)) is not None}
        return {"strategy": strategy, **defaults, **given, "n": self.n, "max_new_tokens": self.max_new_tokens}

    def _implied(self) -> str:
        if self.beam_width is not None or self.length_penalty is not None:
            return "beam"
        given = any(getattr(self, name) is not None for name in _SAMPLING_ONLY)
        return "sampling" if (given and self.temperature != 0) or self.n > 1 else "greedy"

    @property
    def ignored(self) -> tuple[str, ...]:
        """Parameters given that the strategy has no use for, by name."""
        strategy = self.in_force["strategy"]
        unused = [name for name in (*_SAMPLING_ONLY, *_BEAM_ONLY, *_NOT_BEAM) if name not in _names_used(strategy)]
        if self.temperature == 0:  # what greedy and beam search do
            unused = [name for name in unused if name != "temperature"]
        return tuple(name for name in unused if getattr(self, name) is not None)

    @property
    def max_new_tokens(self) -> int:
        """--max-length, else what the targets need, else a default."""
        if self.max_length is not None:
            return self.max_length
        needs = []
        if self.target_words is not None:
            needs.append(int(self.target_words * TOKENS_PER_WORD) + TOKENS_TO_END_A_SENTENCE)
        if self.target_chars is not None:
            needs.append(self.target_chars // CHARACTERS_PER_TOKEN + TOKENS_TO_END_A_SENTENCE)
        return min(needs, default=MAX_NEW_TOKENS)

    @property
    def disclaimer_text(self) -> str:
        """What is put after the text, the blank line before it included; empty where there is none."""
        return f"\n\n{DISCLAIMER}" if self.disclaimer and self.json_schema is None else ""


def _names_used(strategy: str) -> tuple[str, ...]:
    """The parameters that a strategy reads."""
    if strategy == "beam":
        return tuple(_BEAM_ONLY)
    return (*_SAMPLING_ONLY, *_NOT_BEAM) if strategy == "sampling" else tuple(_NOT_BEAM)
