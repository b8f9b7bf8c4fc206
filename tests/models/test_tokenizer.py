"""Tokenizers from GGUF files and folders, and chat templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from medvllm.errors import MedvllmError
from medvllm.models.fast_tokenizer import FastTokenizer
from medvllm.models.files import resolve_model
from medvllm.models.gguf import GGUFFile
from medvllm.models.tokenizer import apply_chat_template, gguf_tokenizer, load_text_tokenizer, load_tokenizer

TEXTS = [
    "Patient with HTN (160/95 mmHg), takes lisinopril 10mg daily; don't stop it.",
    "  two leading spaces,\n\nblank line,\ttab and trailing  ",
    "naïve café Ménière 37.5 °C 漢字 🙂",
    "Platelets 150000, WBC          14.2\n  3.6 x10^9/L",
    "",
]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT


def byte_level(pre: str) -> Tokenizer:
    """A byte-level BPE trained on TEXTS, as the model's own tokenizer.json would be."""
    tokenizer = Tokenizer(models.BPE())
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, own]) if pre == "smollm" else own
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def write(path: Path, kind: str, tokens: list[str], **fields: Any) -> GGUFFile:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    for name, value in fields.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tensor("unused", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)


def write_byte_level(path: Path, own: Tokenizer, pre: str, **fields: Any) -> GGUFFile:
    model = json.loads(own.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [3 if token.startswith("<|") else 1 for token in tokens]
    merges = [" ".join(pair) for pair in model["merges"]]
    own_fields = {"tokenizer_pre": pre, "token_merges": merges, "bos_token_id": 1, "eos_token_id": 2}
    return write(path, "gpt2", tokens, **({"token_types": types} | own_fields | fields))


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_byte_level_tokens_are_those_of_the_tokenizer_it_was_made_from(pre: str, tmp_path: Path) -> None:
    own = byte_level(pre)
    mine = gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", own, pre))
    for text in TEXTS:
        assert mine(text).input_ids == own.encode(text).ids
        assert mine.decode(mine(text).input_ids) == text
    assert mine("<|im_start|>user").input_ids[0] == 1
    assert (mine.bos_token, mine.eos_token, mine.model_max_length) == ("<|im_start|>", "<|im_end|>", 512)


def test_bos_and_eos_are_added_where_the_file_says_so(tmp_path: Path) -> None:
    own = byte_level("gpt-2")
    plain = own.encode(TEXTS[0]).ids
    file = write_byte_level(tmp_path / "a.gguf", own, "gpt-2", add_bos_token=True, add_eos_token=True)
    assert gguf_tokenizer(file)(TEXTS[0]).input_ids == [1, *plain, 2]


def test_an_unknown_way_of_splitting_is_announced(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="called 'mystery'"):
        gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", byte_level("gpt-2"), "mystery"))


def test_llama3_digits_are_split_in_threes(tmp_path: Path) -> None:
    own = byte_level("gpt-2")
    mine = gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", own, "llama-bpe"))
    pieces = mine.backend_tokenizer.pre_tokenizer.pre_tokenize_str("give 150000 IU, don't")
    assert [piece for piece, _ in pieces] == ["give", "Ġ", "150", "000", "ĠIU", ",", "Ġdon", "'t"]


def sentencepiece(path: Path, *, prefix: bool) -> GGUFFile:
    """A vocabulary in which "▁takes" is built from "▁ta" + "kes", with bytes for what has no token."""
    pieces = "▁ t a k e s d r u g ta ke kes ▁ta ▁takes ▁d ru ▁dru ▁drug rug".split()  # noqa: SIM905
    tokens = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    scores = [0.0] * 259 + [-float(number) for number in range(len(pieces))]
    ids = {"bos_token_id": 1, "eos_token_id": 2, "unk_token_id": 0}
    return write(path, "llama", tokens, token_types=types, token_scores=scores, add_space_prefix=prefix, **ids)


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_merges_best_scored_first_and_falls_back_to_bytes(prefix: bool, tmp_path: Path) -> None:
    file = sentencepiece(tmp_path / "m.gguf", prefix=prefix)
    mine = gguf_tokenizer(file)
    first = ["▁takes"] if prefix else ["ta", "kes"]
    assert mine.convert_ids_to_tokens(mine("takes drug").input_ids) == ["<s>", *first, "▁drug"]
    assert mine.convert_ids_to_tokens(mine("takes é").input_ids) == ["<s>", *first, "▁", "<0xC3>", "<0xA9>"]
    for text in ("takes drug", "é 漢", "  a  b"):
        assert mine.decode(mine(text).input_ids, skip_special_tokens=True) == text


def test_sentencepiece_is_what_tokenizers_makes_of_the_same_vocabulary(tmp_path: Path) -> None:
    file = sentencepiece(tmp_path / "m.gguf", prefix=True)
    tokens = file.metadata["tokenizer.ggml.tokens"]
    vocab = {token: number for number, token in enumerate(tokens)}
    merges = [("t", "a"), ("k", "e"), ("ke", "s"), ("▁", "ta"), ("▁ta", "kes"), ("▁", "d"), ("r", "u"), ("▁d", "ru")]
    merges += [("▁dru", "g"), ("ru", "g")]
    reference = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    reference.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    mine = gguf_tokenizer(file)
    for text in ("takes drug", "drugs take a rug", "aaa  ta", "keske"):
        assert mine(text, add_special_tokens=False).input_ids == reference.encode(text).ids


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_engine_encodes_as_the_tokenizer_of_transformers_does(kind: str, tmp_path: Path) -> None:
    """One reads the file with the tokenizers library alone, the other is transformers' object."""
    path = tmp_path / "m.gguf"
    if kind == "gpt2":
        write_byte_level(path, byte_level("gpt-2"), "gpt-2", chat_template="{{ bos_token }}" + CHAT, add_bos_token=True)
    else:
        sentencepiece(path, prefix=True)
    files = resolve_model(path)
    full, fast = load_tokenizer(files), load_text_tokenizer(files)
    assert isinstance(fast, FastTokenizer)
    assert fast.backend_tokenizer.to_str() == full.backend_tokenizer.to_str()
    assert fast.special_tokens == full.special_tokens_map
    assert fast.eos_token_id == full.eos_token_id
    for text in [*TEXTS, "<s>takes drug</s> <|im_start|>"]:
        ids = fast.encode(text)
        assert ids == full(text).input_ids
        assert fast.decode(ids, skip_special_tokens=True) == full.decode(ids, skip_special_tokens=True)
    if kind == "gpt2":
        ask = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "take <it> & don't?\n"}]
        assert apply_chat_template(fast, ask) == apply_chat_template(full, ask)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bos_token_id": 100000}, "the bos token is 100000, and the vocabulary has 388"),
        ({"token_merges": ["a nothing-there"]}, "do not fit together"),
        ({"token_types": [1, 1]}, "expected a type for each of 388 tokens, got 2"),
    ],
)
def test_vocabularies_that_do_not_fit(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = byte_level("gpt-2")
    with pytest.raises(MedvllmError, match=message):
        gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", own, "gpt-2", **fields))


def test_other_kinds_of_tokenizer_are_named(tmp_path: Path) -> None:
    with pytest.raises(MedvllmError, match="must be one of gpt2, llama, got 'bert'"):
        gguf_tokenizer(write(tmp_path / "m.gguf", "bert", ["a"]))


def test_a_folder_without_a_tokenizer_or_with_a_damaged_one(tiny: Callable[..., Any]) -> None:
    folder = tiny("llama").folder
    files = resolve_model(str(folder))
    assert load_tokenizer(files)("w5 w9").input_ids == [5, 9]
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(MedvllmError, match="can't read the tokenizer in"):
        load_tokenizer(files)
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    with pytest.raises(MedvllmError, match=r"runs code of its own \(evil.Tokenizer\)"):
        load_tokenizer(files)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(MedvllmError, match=r"no tokenizer in .*expected tokenizer.json"):
        load_tokenizer(files)


def test_chat_templates(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", byte_level("gpt-2"), "gpt-2", chat_template=CHAT))
    ask = [{"role": "user", "content": "take it?"}]

    def text(messages: Any, **options: Any) -> str:
        return str(tokenizer.decode(apply_chat_template(tokenizer, messages, **options)))

    user = "<|im_start|>user\ntake it?<|im_end|>\n"
    assert text(ask) == user + "<|im_start|>assistant\n"
    assert text(ask, add_generation_prompt=False) == user
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert text(ask, system="Be brief.").startswith(system + user)
    own = [{"role": "system", "content": "Mine."}, *ask]
    assert text(own, system="Be brief.").startswith("<|im_start|>system\nMine.")
    merged = text(ask, system="Be brief.", template=NO_SYSTEM)
    assert merged == "<|im_start|>user\nBe brief.\n\ntake it?<|im_end|>\n<|im_start|>assistant\n"
    ids = apply_chat_template(tokenizer, ask)
    assert ids[0] == 1  # the markers are single tokens
    assert 2 in ids


def test_chat_errors(tmp_path: Path) -> None:
    tokenizer = gguf_tokenizer(write_byte_level(tmp_path / "m.gguf", byte_level("gpt-2"), "gpt-2"))
    ask = [{"role": "user", "content": "x"}]
    with pytest.raises(MedvllmError, match="has no chat template"):
        apply_chat_template(tokenizer, ask)
    with pytest.raises(MedvllmError, match="at least one chat message"):
        apply_chat_template(tokenizer, [], template=CHAT)
    with pytest.raises(MedvllmError, match="expected a chat message"):
        apply_chat_template(tokenizer, [{"role": "user"}], template=CHAT)
    with pytest.raises(MedvllmError, match="refuses this conversation"):
        apply_chat_template(tokenizer, ask, template="{{ raise_exception('never') }}")
    with pytest.raises(MedvllmError, match="refuses this conversation"):
        apply_chat_template(tokenizer, ask, template="{% for %}")
    unsafe = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(MedvllmError, match="refuses this conversation"):
        apply_chat_template(tokenizer, ask, template=unsafe)
