"""Tokenizers: a folder's own, or one built from a GGUF file's vocabulary; and chat templates."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medvllm.errors import MedvllmError
from medvllm.models.files import ModelFiles
from medvllm.models.gguf import GGUFFile

__all__ = ["apply_chat_template", "load_tokenizer"]

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer_config.json",
)

# How words are split before merging, by `tokenizer.ggml.pre`. Each is published with its model's tokenizer.
_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_TIKTOKEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_SPLIT, _QWEN2_SPLIT = _TIKTOKEN_SPLIT % "{1,3}", _TIKTOKEN_SPLIT % ""
_SPLITS = {
    "default": _GPT2_SPLIT,
    "gpt-2": _GPT2_SPLIT,
    "gpt2": _GPT2_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "smaug-bpe": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "deepseek-r1-qwen": _QWEN2_SPLIT,
}
_DIGITS_ALONE = {"smollm", "starcoder", "refact", "command-r", "codeshell"}  # GPT-2's split after single digits
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "llama-v3"}  # a word in the vocabulary is taken without merging
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def load_tokenizer(files: ModelFiles) -> Any:
    """The model's tokenizer, of transformers' kind.

    Raises:
        MedvllmError: the folder has none, it can't be read, or it needs code of its own that is not trusted.
    """
    if files.is_gguf:
        return gguf_tokenizer(files.gguf)
    if not any((files.folder / name).is_file() for name in _TOKENIZER_FILES):
        raise MedvllmError(
            f"there is no tokenizer in {files.folder}: expected tokenizer.json, tokenizer.model or vocab.json; "
            "get it from where the model comes from"
        )
    settings = files.json("tokenizer_config.json") or {}
    if "auto_map" in settings and not files.trust_remote_code:
        raise MedvllmError(
            f"the tokenizer in {files.folder} runs code of its own ({_first_code(settings['auto_map'])}), which is "
            "refused unless trust_remote_code is set"
        )
    from transformers import AutoTokenizer

    with _told(f"can't read the tokenizer in {files.folder}"):
        return AutoTokenizer.from_pretrained(
            str(files.folder), local_files_only=True, trust_remote_code=files.trust_remote_code
        )


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns whatever a library raises inside into one line that begins with `what`."""
    try:
        yield
    except MedvllmError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exception for what it can't parse
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise MedvllmError(f"{what}: {lines[0]}") from error


def apply_chat_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, str]],
    *,
    template: str | None = None,
    system: str | None = None,
    add_generation_prompt: bool = True,
) -> list[int]:
    """The token ids of a conversation, ending where the model's answer begins.

    Args:
        messages: `{"role": "system" | "user" | "assistant", "content": text}` in order.
        template: a Jinja template to use instead of the tokenizer's.
        system: a system message to put first where the conversation has none; a template that knows no system role gets
            it at the head of the first user message.

    Raises:
        MedvllmError: a malformed message, no template, or one that refuses the conversation.
    """
    conversation = [_checked_message(message) for message in messages]
    if not conversation:
        raise MedvllmError("expected at least one chat message, got none")
    if system and conversation[0]["role"] != "system":
        conversation.insert(0, {"role": "system", "content": system})
    if template is None and not getattr(tokenizer, "chat_template", None):
        raise MedvllmError(
            "this model has no chat template, as models that were not tuned for chat; give it a plain prompt "
            "(generate), or a template of its chat format"
        )
    from jinja2.exceptions import TemplateError

    options = {"chat_template": template, "add_generation_prompt": add_generation_prompt}
    try:
        try:
            text = tokenizer.apply_chat_template(conversation, tokenize=False, **options)
        except TemplateError:
            if conversation[0]["role"] != "system":
                raise
            text = tokenizer.apply_chat_template(_without_system(conversation), tokenize=False, **options)
    except (TemplateError, TypeError, ValueError) as error:
        raise MedvllmError(f"the model's chat template refuses this conversation: {error}") from error
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes special tokens itself


def _checked_message(message: Mapping[str, str]) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise MedvllmError(f'expected a chat message {{"role": …, "content": text}}, got {message!r:.200}')
    return {"role": role, "content": content}


def _without_system(conversation: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system message moved into the first user message, for templates without that role (Mistral, Gemma 2)."""
    system, *rest = conversation
    for index, message in enumerate(rest):
        if message["role"] == "user":
            rest[index] = {"role": "user", "content": f"{system['content']}\n\n{message['content']}"}
            return rest
    return [{"role": "user", "content": system["content"]}, *rest]


def gguf_tokenizer(file: GGUFFile) -> Any:
    """The tokenizer a GGUF file describes: byte-level BPE ("gpt2") or SentencePiece's BPE ("llama").

    Raises:
        MedvllmError: it has none, of another kind, or its parts do not fit together.
    """
    from transformers import PreTrainedTokenizerFast

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
    with _told(f"{file.path}: its vocabulary and merges do not fit together"):
        tokenizer = builders[kind](file, tokens)
    _add_special_tokens(tokenizer, file, tokens)
    _add_bos_and_eos(tokenizer, file, names, kind)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=file.metadata.get("tokenizer.chat_template"),
        model_max_length=file.number(f"{file.string('general.architecture')}.context_length"),
        clean_up_tokenization_spaces=False,
        **names,
    )


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


def _add_special_tokens(tokenizer: Any, file: GGUFFile, tokens: list[str]) -> None:
    """Control tokens are special, user-defined ones are plain; both are found whole in the text."""
    from tokenizers import AddedToken

    kinds = file.metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        return
    if len(kinds) != len(tokens):
        raise MedvllmError(f"{file.path}: expected a type for each of {len(tokens):,} tokens, got {len(kinds):,}")
    control = [tokens[i] for i, kind in enumerate(kinds.tolist()) if kind == _CONTROL]
    plain = [tokens[i] for i, kind in enumerate(kinds.tolist()) if kind == _USER_DEFINED]
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


def _first_code(auto_map: object) -> str:
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    flat = [item for value in values for item in (value if isinstance(value, list) else [value]) if item]
    return str(flat[0]) if flat else "auto_map"
