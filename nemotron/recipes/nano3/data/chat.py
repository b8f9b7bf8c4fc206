"""Conversations as tokens, with a mask of what the model is to learn, packed into samples of one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from nemotron.recipes.nano3.data.tokenizer import END_OF_TEXT, IM_END, IM_START

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["encode_conversation", "pack"]

Encoded = tuple[list[int], list[int]]


def encode_conversation(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> Encoded:
    """Tokens of the chat template and, for each, 1 where an assistant writes it: the answer and the mark that ends it.

    A mark that appears inside a message stays the text it is.
    """
    start, end = tokenizer.token_to_id(IM_START), tokenizer.token_to_id(IM_END)
    newline = tokenizer.encode("\n").ids
    tokens: list[int] = []
    mask: list[int] = []
    for message in messages:
        head = tokenizer.encode(f"{message['role']}\n").ids
        body = tokenizer.encode(message["content"]).ids
        answers = int(message["role"] == "assistant")
        if not answers:  # as the template's text is cut; an answer starts where generation starts
            head, body = tokenizer.encode(f"{message['role']}\n{message['content']}").ids, []
        tokens += [start, *head, *body, end, *newline]
        mask += [0] * (1 + len(head)) + [answers] * (len(body) + 1) + [0] * len(newline)
    return tokens, mask


def pack(
    conversations: Iterable[Encoded], *, length: int, tokenizer: Tokenizer
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Whole conversations one after the other, up to `length` + 1 tokens; the rest of a sample is end-of-text.

    Conversations that are longer than a sample must have been left out before.
    """
    padding = tokenizer.token_to_id(END_OF_TEXT)
    tokens: list[int] = []
    mask: list[int] = []
    for each, each_mask in conversations:
        if len(tokens) + len(each) > length + 1:
            yield _padded(tokens, mask, length + 1, padding)
            tokens, mask = [], []
        tokens, mask = tokens + each, mask + each_mask
    if tokens:
        yield _padded(tokens, mask, length + 1, padding)


def _padded(
    tokens: list[int], mask: list[int], length: int, padding: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rest = length - len(tokens)
    return np.array(tokens + [padding] * rest), np.array(mask + [0] * rest, dtype=np.uint8)
