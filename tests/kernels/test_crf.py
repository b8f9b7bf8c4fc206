"""The linear-chain model: native against Python on any text, spans that its weights ask for, damaged files."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medvllm_kernels import native
from medvllm_kernels.crf import KINDS, LABELS, LinearModel, LinearModelError, Tagging, pack_model
from medvllm_kernels.crf_features import Document, PhraseClasses, feature, topic_key, word_key
from medvllm_kernels.text import PhraseTable
from medvllm_kernels.tokens import phrase_hash, phrase_tokens, tokenize

CONDITION, CHEMICAL = 1 << 27, 4 << 27
TABLE = PhraseTable.from_phrases(
    [
        ("heart failure", CONDITION | 1),
        ("fever", 2 << 27 | 2),
        ("aspirin", CHEMICAL | 3),
        ("ALL", 1 << 31 | CONDITION | 4),
    ]
)
WORDS = [
    *["Heart", "failure", "fever", "aspirin", "ALL", "all", "beta-blocker", "MI", "(", ")", ".", ",", "\n", "\n\n"],
    *["gene", "mutation", "Crohn's", "Sjögren", "x" * 70, "12", "5-HT(2A)", "ﬁ", "Ⅳ", "İ"],
    *["\U0001f600", "\ud800", "-", "--", "e\u0301"],
]


def single(phrase: str) -> int:
    return phrase_hash(phrase_tokens(phrase))


def classes() -> PhraseClasses:
    word = {text: tokenize(text).hashes[0] for text in ("gene", "mutation", "failure", "aspirin")}
    return PhraseClasses.build(
        [
            (single("fever aspirin"), 1),
            (single("beta blocker"), 2),
            (single("MI"), 3),
            (word_key(word["failure"]), 1),
            (word_key(word["aspirin"]), 2),
            (topic_key(word["gene"]), 1),
            (topic_key(word["mutation"]), 1),
        ]
    )


def random_model(seed: int) -> LinearModel:
    """Random weights for half of the features of a text with all of WORDS in it."""
    drawn = random.Random(seed)
    text = " ".join(drawn.choice(WORDS) for _ in range(400)) + " " + "".join(drawn.choice(WORDS) for _ in range(200))
    text = text.replace("\ud800", "")
    document = Document(text, TABLE, {}, [], classes())
    found = {
        value
        for first, last in document.sequences()
        for at in range(first, last)
        for value in document.features(at, first, last)
    }
    labels = len(KINDS) * len(LABELS)
    features = {
        value: {label: drawn.uniform(-2, 2) for label in drawn.sample(range(labels), drawn.randint(1, 4))}
        for value in sorted(found)
        if drawn.random() < 0.5
    }
    steps = [[[drawn.uniform(-2, 2) for _ in LABELS] for _ in LABELS] for _ in KINDS]
    return LinearModel.from_bytes(pack_model(features, steps, classes(), {}))


MODELS = [random_model(seed) for seed in (1, 2)]


def both(act: Callable[[], Tagging]) -> tuple[Tagging, Tagging]:
    """What `act` returns natively and by Python; skips where there is no native library."""
    if native.library() is None:
        pytest.skip(f"no native library: {native.status()}")
    first = act()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
        return first, act()


def check_same(model: LinearModel, text: str) -> Tagging:
    at = text.find("MI")
    definitions = [(at, at + 2, 0, at)] if at > 0 else []
    fast, plain = both(lambda: model.tag(text, TABLE, definitions))
    assert fast.starts == plain.starts
    assert fast.margins == plain.margins
    assert fast.rows == plain.rows
    return fast


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from(["", " ", "  "]), st.sampled_from(MODELS))
def test_native_and_python_agree_on_words(words: list[str], space: str, model: LinearModel) -> None:
    check_same(model, space.join(words))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=120), st.sampled_from(MODELS))
def test_native_and_python_agree_on_any_text(text: str, model: LinearModel) -> None:
    check_same(model, text)


@pytest.mark.parametrize("separator", [" ", "", ". X", "\n\n"])
def test_native_and_python_agree_across_sequences_and_blocks(separator: str) -> None:
    drawn = random.Random(7)
    found = check_same(MODELS[0], separator.join(drawn.choice(WORDS[:20]) for _ in range(2500)))
    assert len(found.starts) > 1024, "the text must not fit one block"
    assert len(found.rows) > 0


def test_spans_follow_the_weights() -> None:
    """A word whose feature favours one label is a span of its kind, with the margin that its weight gives."""
    fever = feature(1, tokenize("fever").hashes[0])
    no_steps = [[[0.0] * 5 for _ in range(5)] for _ in KINDS]
    model = LinearModel.from_bytes(pack_model({fever: {LABELS.index("S"): 2.5}}, no_steps, PhraseClasses.build([]), {}))
    text = "A fever, then aspirin."
    tagging = model.tag(text, TABLE)
    rows = [
        (text[start:end], kind, payload & 3, disease, chemical)
        for start, end, kind, payload, disease, chemical in tagging.findings()
    ]
    assert rows == [("fever", 0, 2, 2560, 0), ("aspirin", 0, 3, 0, 0), ("fever", 1, 0, 2560, 0)]
    assert tagging.phrases().starts == [2, 14]
    assert tagging.spans() == ([2], [7], [1], [0], [2560], [0])
    assert tagging.margin(2, 7) == (2560, 0)
    assert tagging.margin(7, 7) is None


@pytest.mark.parametrize(
    ("text", "elsewhere"),
    [
        ("aching fever", [0]),
        ("aching Fever, aching fever", [0, 0]),
        ("FEVER and no aching fever", [1]),
        ("fever aching fever. aching chills", [1, 0]),
    ],
)
def test_a_span_tells_whether_its_first_word_stands_elsewhere(text: str, elsewhere: list[int]) -> None:
    """The weights make a span of each word after "aching"."""
    aching = feature(10, tokenize("aching").hashes[0])
    no_steps = [[[0.0] * 5 for _ in range(5)] for _ in KINDS]
    model = LinearModel.from_bytes(
        pack_model({aching: {LABELS.index("S"): 2.5}}, no_steps, PhraseClasses.build([]), {})
    )
    assert model.tag(text, TABLE).spans().payloads == elsewhere
    check_same(model, text)


def test_labels_stay_well_formed_against_the_weights() -> None:
    """Weights that ask for I everywhere give spans that begin and end, never past the end of the text."""
    greedy = {feature(0, 0): {LABELS.index("I"): 5.0}}
    model = LinearModel.from_bytes(
        pack_model(greedy, [[[0.0] * 5 for _ in range(5)] for _ in KINDS], PhraseClasses.build([]), {})
    )
    for text in ("one", "one two", "one two three four"):
        spans = [(start, end) for start, end, kind, *_ in model.tag(text, TABLE).findings() if kind]
        assert spans in ([], [(0, len(text))])
        assert len(text.split()) < 3 or spans


def test_the_same_weights_give_the_same_bytes_in_any_order() -> None:
    features = {feature(1, n): {n % 10: n / 7 - 3} for n in range(50)}
    steps = [[[0.5] * 5 for _ in range(5)] for _ in KINDS]
    data = pack_model(features, steps, classes(), {"a": 1})
    assert data == pack_model(dict(reversed(features.items())), steps, classes(), {"a": 1})
    assert LinearModel.from_bytes(data).extra() == {"a": 1}


def test_damage_is_reported(tmp_path: Path) -> None:
    data = pack_model({feature(1, 1): {0: 1.0}}, [[[0.0] * 5 for _ in range(5)] for _ in KINDS], classes(), {})
    path = tmp_path / "model.bin"
    for broken, message in (
        (b"short", "not a linear model"),
        (b"X" + data[1:], "not a linear model"),
        (data[:-1], "damaged"),
    ):
        path.write_bytes(broken)
        with pytest.raises(LinearModelError, match=message):
            LinearModel.open(path)
    path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    with pytest.raises(LinearModelError, match="damaged"):
        LinearModel.open(path).verify()
    path.write_bytes(data)
    LinearModel.open(path).verify()


def test_time_is_linear_in_a_text_without_punctuation() -> None:
    if native.library() is None:
        pytest.skip(f"no native library: {native.status()}")
    times = []
    for size in (100_000, 400_000):
        text = "heart failure and more " * (size // 23)
        MODELS[0].tag(text, TABLE)
        started = time.process_time()
        MODELS[0].tag(text, TABLE)
        times.append(time.process_time() - started)
    assert times[1] < 12 * times[0] + 0.05


def test_importing_needs_no_numpy() -> None:
    code = "import sys, medvllm_kernels.crf; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "False"
