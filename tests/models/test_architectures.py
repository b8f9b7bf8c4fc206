"""Every architecture with layers of our own gives transformers' logits and greedy tokens, on tiny random models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

PROMPT = [1, 17, 5, 80, 33, 96, 2, 41, 8, 8, 60, 29]
NAMES = (  # noqa: SIM905
    "llama llama-biased llama-linear llama-dynamic llama-yarn llama-llama3 mistral qwen2 qwen2-window qwen3 gemma3 "
    "gemma3-capped gpt2 gpt2-biomedlm biogpt"
).split()


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_greedy_tokens_are_those_of_transformers(
    name: str, tiny: Callable[..., Any], ours: Callable[..., Any], logits_of: Callable[..., torch.Tensor]
) -> None:
    model = tiny(name)
    mine = ours(model.folder)
    expected = model.logits(PROMPT)
    torch.testing.assert_close(logits_of(mine, PROMPT), expected, rtol=1e-4, atol=1e-4)
    ids = list(PROMPT)
    for _ in range(20):
        ids.append(int(logits_of(mine, ids)[-1].argmax()))
    assert ids[len(PROMPT) :] == model.greedy(PROMPT, 20)
