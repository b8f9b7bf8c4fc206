"""The prompts of benchmark_engine.py: real English text of this machine's Python, cut into pieces of known lengths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

__all__ = ["lengths", "real_text", "texts"]


def real_text() -> str:
    """Python's own help topics, which every installation has: some 600 kB of prose and code."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def lengths(requests: int) -> list[int]:
    """Prompt lengths from 20 to 400 tokens, evenly spread and mixed; 6,705 tokens in all for 32 requests."""
    even = [round(20 + 380 * place / max(1, requests - 1)) for place in range(requests)]
    if requests == 32:
        for place in range(1, 1 + sum(even) - 6705):
            even[place] -= 1
    return [even[(7 * place) % requests] if requests % 7 else even[place] for place in range(requests)]


def texts(tokenizer: Any, sizes: Sequence[int], *, skip: int = 0) -> list[list[int]]:
    """Consecutive pieces of the text of so many tokens each, after `skip` pieces of 500 characters for each token."""
    text = real_text()
    starts = itertools.accumulate([8 * size for size in sizes], initial=500 * skip)  # 8 characters hold a token or two
    found = []
    for start, size in zip(starts, sizes, strict=False):
        ids = list(tokenizer(text[start % (len(text) // 2) :][: 16 * size], add_special_tokens=False)["input_ids"])
        if len(ids) < size:
            raise ValueError(f"16 characters a token are too few for this tokenizer: {len(ids)} of {size} tokens")
        found.append(ids[:size])
    return found
