"""What holds for a strategy, what is ignored, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from medvllm.errors import MedvllmError
from medvllm.tasks.generation.options import DISCLAIMER, GenerationOptions, Style
from medvllm.tasks.generation.prompt import messages, plain_prompt
from medvllm.tasks.generation.styles import STYLES


@pytest.mark.parametrize(
    ("given", "strategy", "temperature"),
    [
        ({}, "greedy", 0.0),
        ({"temperature": 0.0}, "greedy", 0.0),
        ({"temperature": 0.5}, "sampling", 0.5),
        ({"top_k": 5}, "sampling", 0.7),
        ({"n": 2}, "sampling", 0.7),
        ({"beam_width": 3}, "beam", 0.0),
        ({"strategy": "beam", "temperature": 0.9}, "beam", 0.0),
        ({"strategy": "greedy", "temperature": 0.9}, "greedy", 0.0),
    ],
)
def test_strategy_and_parameters_in_force(given: dict[str, Any], strategy: str, temperature: float) -> None:
    force = GenerationOptions(**given).in_force
    assert force["strategy"] == strategy
    assert force["temperature"] == temperature
    assert (force["beam_width"] is None) == (strategy != "beam")
    assert (force["top_p"] is None) == (strategy != "sampling")


def test_repetition_is_held_down_but_in_json() -> None:
    assert GenerationOptions().in_force["repetition_penalty"] == 1.1
    assert GenerationOptions(json_schema={}).in_force["repetition_penalty"] == 1.0
    assert GenerationOptions(json_schema={}, repetition_penalty=1.2).in_force["repetition_penalty"] == 1.2
    assert GenerationOptions(strategy="beam").in_force["repetition_penalty"] is None


def test_ignored_parameters_are_named() -> None:
    assert GenerationOptions(strategy="greedy", temperature=0.9, top_k=3).ignored == ("temperature", "top_k")
    assert GenerationOptions(strategy="beam", top_p=0.5, repetition_penalty=1.1).ignored == (
        "top_p",
        "repetition_penalty",
    )
    assert GenerationOptions(strategy="sampling", beam_width=3).ignored == ("beam_width",)
    assert GenerationOptions(strategy="beam", temperature=0.0, beam_width=3).ignored == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more (0 is greedy), got -0.1"),
        ({"temperature": float("nan")}, "temperature must be"),
        ({"beam_width": 0}, "beam_width must be 1 or more, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "got 1.1"),
        ({"top_k": 0}, "top_k must be 1 or more"),
        ({"max_length": 0}, "max_length must be 1 or more (new tokens), got 0"),
        ({"repetition_penalty": 0.0}, "above 0"),
        ({"strategy": "greedy", "n": 2}, "greedy gives one text"),
        ({"strategy": "beam", "beam_width": 2, "n": 3}, "at most the beam width"),
        ({"strategy": "best"}, "strategy must be one of greedy, sampling, beam, got 'best'"),
        ({"json_schema": {}, "target_words": 10}, "--json-schema without"),
        ({"json_schema": {}, "strategy": "beam"}, "beam search does not follow"),
        ({"target_chars": 50}, "for the disclaimer counts"),
    ],
)
def test_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(MedvllmError) as error:
        GenerationOptions(**given)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_style_lists_the_known_ones() -> None:
    for name, known in STYLES.items():
        with pytest.raises(MedvllmError) as error:
            Style(**{name: "pirate"})
        assert all(value in str(error.value) for value in known)
    with pytest.raises(MedvllmError, match="did you mean cardiology"):
        Style(specialty="cardiolgy")


def test_every_style_reaches_the_prompt() -> None:
    """Each value gives a prompt of its own, with the user's text unchanged in it."""
    text = "Take 10mg daily. Platelets 150000."
    prompts = {plain_prompt(text, GenerationOptions())}
    assert prompts == {text}
    for name, known in STYLES.items():
        for value in known:
            options = GenerationOptions(style=Style(**{name: value}))
            prompts.add(plain_prompt(text, options))
            system, user = messages(text, options)
            assert (system["role"], user) == ("system", {"role": "user", "content": text})
    assert len(prompts) == 1 + sum(len(known) for known in STYLES.values())
    assert messages(text, GenerationOptions()) == [{"role": "user", "content": text}]
    assert "about 120 words" in plain_prompt(text, GenerationOptions(target_words=120))


def test_budgets_follow_the_targets() -> None:
    assert GenerationOptions(target_words=120).max_new_tokens >= 120 * 1.5
    assert GenerationOptions(target_words=120, max_length=7).max_new_tokens == 7
    assert GenerationOptions(target_words=900, target_chars=300).max_new_tokens < 200


def test_disclaimer() -> None:
    assert GenerationOptions().disclaimer_text == f"\n\n{DISCLAIMER}"
    assert "ot for clinical use" in DISCLAIMER
    assert GenerationOptions(disclaimer=False).disclaimer_text == ""
    assert GenerationOptions(json_schema={"type": "object"}).disclaimer_text == ""
