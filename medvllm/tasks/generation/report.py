"""`constraints_report` and `factual_report`: what was asked of a text beside what is measured on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from medvllm.tasks.generation.length import count_words
from medvllm.tasks.generation.options import GenerationOptions
from medvllm.tasks.generation.phi import count_phi
from medvllm.tasks.generation.readability import readability_report
from medvllm.tasks.generation.structure import structure_report

if TYPE_CHECKING:
    from medvllm.tasks.ner_processor import NERProcessor

__all__ = ["Ending", "constraints_report", "factual_report"]

WORDS_TOLERANCE = 0.1  # a target of words is met within a tenth: a sentence of 12 words in 120


class Ending(NamedTuple):
    """How a text came to its end.

    `reason` is stop (the model ended it), length (--max-length or the context), target_words, target_chars or
    interrupted; `at` is where a cut was made (sentence, word, character), None where none was.
    """

    reason: str
    at: str | None = None
    words_left_out: int = 0


def constraints_report(source: str, text: str, options: GenerationOptions, ending: Ending) -> dict[str, Any]:
    """What is measured on a finished text, which includes the disclaimer where there is one."""
    disclaimer = options.disclaimer_text
    added = bool(disclaimer) and text.endswith(disclaimer.strip())
    body = text.removesuffix(disclaimer.strip()).rstrip() if added else text
    words = count_words(body)
    return {
        "words": _target(options.target_words, words, _near(words, options.target_words)),
        "characters": _target(
            options.target_chars,
            len(text),
            None if options.target_chars is None else len(text) <= options.target_chars,
        ),
        "readability": readability_report(body, options.style.readability),
        "structure": structure_report(body, options.style.structure),
        "truncation": {
            "truncated": ending.reason in ("length", "interrupted") or ending.at is not None,
            "reason": ending.reason,
            "at": ending.at,
            "words_left_out": ending.words_left_out,
        },
        "disclaimer": {"requested": options.disclaimer, "added": added},
        "hipaa": count_phi(body),
        "abbreviations": _abbreviations(body),
        "input_words": count_words(source),
    }


def factual_report(
    source: str, text: str, processor: NERProcessor | None, *, unavailable: str | None
) -> dict[str, Any]:
    """Drugs and diseases in `text` that `source` does not mention; `checked` is False, with the reason, without NER."""
    if processor is None:
        return {"checked": False, "reason": unavailable}
    from medvllm.tasks.generation.mentions import mention_report

    return {"checked": True, "ontology": processor.ontology, **mention_report(source, text, processor)}


def _target(requested: int | None, achieved: int, met: bool | None) -> dict[str, Any]:
    return {"requested": requested, "achieved": achieved, "met": met}


def _near(words: int, target: int | None) -> bool | None:
    return None if target is None else abs(words - target) <= WORDS_TOLERANCE * target


def _abbreviations(text: str) -> dict[str, list[str]]:
    """Short forms that the text writes out, and capital ones that it uses without."""
    import re

    from medvllm.tasks.abbreviations import find_definitions

    expanded = {text[found.short_start : found.short_end] for found in find_definitions(text)}
    used = set(re.findall(r"(?<![\w-])[A-Z]{2,6}s?(?![\w-])", text))
    return {"expanded": sorted(expanded), "unexpanded": sorted(used - expanded)}
