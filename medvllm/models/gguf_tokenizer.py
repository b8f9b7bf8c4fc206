"""The tokenizer that a GGUF file describes: byte-level BPE ("gpt2") or SentencePiece's BPE ("llama")."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from medvllm.errors import MedvllmError
from medvllm.models.fast_tokenizer import QWEN2_SPLIT
from medvllm.models.gguf import GGUFFile

__all__ = ["GGUFTokenizer", "read_gguf_tokenizer", "told"]

# How words are split before merging, by `tokenizer.ggml.pre`. Each is published with its model's tokenizer.
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)  # up to three digits at once, not one
_SPLITS = {
    "default": _GPT2_SPLIT,
    "gpt-2": _GPT2_SPLIT,
    "gpt2": _GPT2_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "smaug-bpe": _LLAMA3_SPLIT,
    "qwen2": QWEN2_SPLIT,
    "deepseek-r1-qwen": QWEN2_SPLIT,
}
_DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell"}  # GPT-2's split after single digits
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3"}  # a word in the vocabulary is taken without merging
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


class GGUFTokenizer(NamedTuple):
    """What a file says about its tokenizer."""

    backend: Any  # a tokenizers.Tokenizer
    special_tokens: dict[str, str]  # name (`bos_token`, …) → token
    chat_template: str | None
    model_max_length: float | None


def read_gguf_tokenizer(file: GGUFFile) -> GGUFTokenizer:
    """The tokenizer a GGUF file describes.

    Raises:
        MedvllmError: it has none, of another kind, or its parts do not fit together.
    """
    kind = file.string("tokenizer.ggml.model", "none")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise MedvllmError(f"{file.path}: the tokenizer must be one of {', '.join(builders)}, got {kind!r}")
    tokens = file.strings("tokenizer.ggml.tokens")
    names = {}
    for name, key in {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}.items():
        token = file.number(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            if not 0 <= token < len(tokens):
                raise MedvllmError(f"{file.path}: the {name} token is {token}, and the vocabulary has {len(tokens):,}")
            names[f"{name}_token"] = tokens[int(token)]
    with told(f"{file.path}: its vocabulary and merges do not fit together"):
        backend = builders[kind](file, tokens)
    _add_special_tokens(backend, file, tokens, list(names.values()))
    _add_bos_and_eos(backend, file, names, kind)
    template = file.metadata.get("tokenizer.chat_template")
    return GGUFTokenizer(
        backend,
        names,
        template if isinstance(template, str) else None,
        file.number(f"{file.string('general.architecture')}.context_length"),
    )


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turns whatever a library raises inside into one line that begins with `what`."""
    try:
        yield
    except MedvllmError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for what it can't parse
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MedvllmError(f"{what}: {lines[0]}") from error


def _byte_level(file: GGUFFile, tokens: list[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = file.string("tokenizer.ggml.pre", "default")
    if pre not in _SPLITS and pre not in _DIGITS_ALONE:
        warnings.warn(
            f"{file.path}: words are split in a way called '{pre}', which is not known; GPT-2's is used, and tokens "
            "may differ",
            RuntimeWarning,
            stacklevel=2,
        )
    merges = [tuple(merge.split(" ", 1)) for merge in file.strings("tokenizer.ggml.merges")]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE_WORDS_FIRST))
    steps = [pre_tokenizers.Digits(individual_digits=True)] if pre in _DIGITS_ALONE else []
    steps += [
        pre_tokenizers.Split(Regex(_SPLITS.get(pre, _GPT2_SPLIT)), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(file: GGUFFile, tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    prefix = bool(file.metadata.get("tokenizer.ggml.add_space_prefix", True))
    scores = file.metadata.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise MedvllmError(f"{file.path}: expected a score for each of {len(tokens):,} tokens; get the file again")
    vocab = {token: number for number, token in enumerate(tokens)}
    unknown = file.number("tokenizer.ggml.unknown_token_id")
    model = models.BPE(
        vocab=vocab,
        merges=_merges_of(tokens, vocab, scores),
        unk_token=None if unknown is None else tokens[int(unknown)],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace]) if prefix else replace
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges_of(tokens: list[str], vocab: dict[str, int], scores: Any) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, the best-scored first: SentencePiece's order of merging."""
    ranks = scores.tolist()
    merges: list[tuple[str, str]] = []
    for number in sorted(range(len(tokens)), key=lambda number: -ranks[number]):
        token = tokens[number]
        cuts = [cut for cut in range(1, len(token)) if token[:cut] in vocab and token[cut:] in vocab]
        pairs = [(token[:cut], token[cut:]) for cut in cuts]
        merges += pairs if len(pairs) < 2 else sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def _add_special_tokens(tokenizer: Any, file: GGUFFile, tokens: list[str], named: list[str]) -> None:
    """Control tokens are special, user-defined ones are plain; both are found whole in the text, and so are `named`."""
    from tokenizers import AddedToken

    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if kinds is not None and len(kinds) != len(tokens):
        raise MedvllmError(f"{file.path}: expected a type for each of {len(tokens):,} tokens, got {len(kinds):,}")
    types = [] if kinds is None else kinds.tolist()
    control = [tokens[i] for i, kind in enumerate(types) if kind == _CONTROL]
    plain = [tokens[i] for i, kind in enumerate(types) if kind == _USER_DEFINED]
    control += [token for token in dict.fromkeys(named) if token not in control and token not in plain]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in plain])


def _add_bos_and_eos(tokenizer: Any, file: GGUFFile, names: dict[str, str], kind: str) -> None:
    from tokenizers import processors

    add_bos = file.metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")
    add_eos = file.metadata.get("tokenizer.ggml.add_eos_token", False)
    before = [names["bos_token"]] if add_bos and "bos_token" in names else []
    after = [names["eos_token"]] if add_eos and "eos_token" in names else []
    special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys(before + after)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", *after, *before, "$B", *after], special_tokens=special
    )
