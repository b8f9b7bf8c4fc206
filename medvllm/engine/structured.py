"""Text held to a JSON schema by llguidance: before each token, the tokens that may come."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from typing import Any

import torch
from torch import Tensor

from medvllm.errors import MedvllmError

__all__ = ["Grammar", "GrammarCompiler"]

_BITS = 32  # tokens in a word of the mask


class GrammarCompiler:
    """Makes grammars for one tokenizer; what it needs of the tokenizer is prepared when first used (about a second)."""

    def __init__(self, tokenizer: Any, vocab_size: int, eos_token_ids: frozenset[int]) -> None:
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._eos_token_ids = sorted(eos_token_ids)

    @functools.cached_property
    def _tokens(self) -> Any:
        if importlib.util.find_spec("llguidance") is None:
            raise MedvllmError("json_schema needs llguidance; install it: pip install llguidance")
        import llguidance

        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise MedvllmError(
                "json_schema can't be used with this tokenizer, which is written in Python; use a model with a "
                "tokenizer.json"
            )
        copy = type(backend).from_str(backend.to_str())
        copy.no_padding()
        copy.no_truncation()
        try:
            return llguidance.LLTokenizer(
                copy.to_str(),
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or self._tokenizer.eos_token_id,
            )
        except ValueError as error:
            raise MedvllmError(f"json_schema can't be used with this tokenizer: {error}") from error

    def compile(self, schema: str) -> Grammar:
        """The grammar of a JSON schema.

        Raises:
            MedvllmError: the schema is no JSON, or llguidance can't follow it.
        """
        import llguidance

        try:
            json.loads(schema)
        except ValueError as error:
            raise MedvllmError(f"json_schema must be JSON, got {schema[:80]!r}: {error}") from error
        matcher = llguidance.LLMatcher(self._tokens, llguidance.LLMatcher.grammar_from_json_schema(schema))
        if matcher.is_error():
            raise MedvllmError(f"json_schema can't be used: {matcher.get_error()}")
        return Grammar(matcher, self._vocab_size)


class Grammar:
    """Where one sequence stands in its grammar."""

    def __init__(self, matcher: Any, vocab_size: int) -> None:
        self._matcher = matcher
        self._mask = torch.zeros(-(-vocab_size // _BITS), dtype=torch.int32)
        self._bits = torch.arange(_BITS, dtype=torch.int32)

    def apply(self, row: Tensor) -> None:
        """Rules out, in the logits (vocab,), every token that may not come next."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.numel() * self._mask.element_size())
        allowed = (self._mask.unsqueeze(1) >> self._bits & 1).flatten()[: row.shape[0]]
        row.masked_fill_((allowed == 0).to(row.device), -math.inf)

    def accept(self, token: int) -> None:
        """Moves on past a chosen token."""
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether the text is complete and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def fork(self) -> Grammar:
        """A copy that moves on by itself."""
        return Grammar(self._matcher.deep_copy(), len(self._mask) * _BITS)
