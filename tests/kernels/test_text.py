"""Phrases in text: the rules of matching, native against Python, and tables that are damaged."""

from __future__ import annotations

import os
import random
import re
import struct
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medvllm_kernels import chars, native, phrase_writer, tokens
from medvllm_kernels.phrase_nodes import is_checkpoint
from medvllm_kernels.text import (
    CASED,
    MAX_PHRASE_TOKENS,
    PhraseTable,
    PhraseTableError,
    PhraseTableWriter,
    tokenize,
)

PATHS = ["python", "native"]


def use(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Choose the path for the rest of the test; skips where there is no native library."""
    if path == "python":
        monkeypatch.setattr(native, "_probe", lambda: (None, "Python (chosen by the test)"))
    elif native.library() is None:
        pytest.skip(f"no native library: {native.status()}")


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    use(monkeypatch, name)
    return name


def both(act: Callable[[], object]) -> tuple[object, object]:
    """What `act` returns by Python and by native code."""
    results = []
    for name in PATHS:
        with pytest.MonkeyPatch.context() as patch:
            use(patch, name)
            results.append(act())
    return results[0], results[1]


def surfaces(phrases: dict[str, int], text: str, *, overlapping: bool = False) -> list[tuple[str, int]]:
    table = PhraseTable.from_phrases(phrases.items())
    return [(text[start:end], payload) for start, end, payload in table.find(text, overlapping=overlapping)]


def found(phrase: str, text: str) -> list[str]:
    return [surface for surface, _ in surfaces({phrase: 1}, text)]


# Rules of matching


@pytest.mark.parametrize(
    ("phrase", "text", "expected"),
    [
        ("fever", "Fever, FEVER; fever.", ["Fever", "FEVER", "fever"]),
        ("chest pain", "chest \t pain and chest\npain, chest\r\npain",
         ["chest \t pain", "chest\npain", "chest\r\npain"]),
        ("chest pain", "chest\n\npain. chest\r\n\r\npain. chest \n \n pain", []),
        ("stroke", "heatstroke strokes stroke2 2stroke x-stroke (stroke)", ["stroke", "stroke"]),
        ("B12", "B12, B 12, B-12, B123, AB12", ["B12", "B 12", "B-12"]),
        ("beta blocker", "Beta-blocker beta\u2010blocker beta\u2013blocker",
         ["Beta-blocker", "beta\u2010blocker", "beta\u2013blocker"]),
        ("type-2 diabetes", "type 2 diabetes, type-2-diabetes", ["type 2 diabetes", "type-2-diabetes"]),
        ("pain fever", "pain - fever; pain--fever; pain\u2014fever; pain\n-fever", []),
        ("pain fever", "pain-\nfever", ["pain-\nfever"]),
        ("Crohn disease", "Crohn's disease, Crohn\u2019s disease, CROHN'S DISEASE, Crohns disease",
         ["Crohn's disease", "Crohn\u2019s disease", "CROHN'S DISEASE"]),
        ("Crohn's disease", "Crohn disease", ["Crohn disease"]),
        ("Graves disease", "Graves' disease", ["Graves' disease"]),
        ("don t", "don't", []),
        ("5'-nucleotidase", "5'-nucleotidase 5 nucleotidase", ["5'-nucleotidase"]),
        ("Sjögren syndrome", "SJOGREN SYNDROME, Sjøgren's syndrome, Sjo\u0308gren syndrome",
         ["SJOGREN SYNDROME", "Sjøgren's syndrome", "Sjo\u0308gren syndrome"]),
        ("oesophagus", "œsophagus Œsophagus", ["œsophagus", "Œsophagus"]),
        ("fibrosis", "ﬁbrosis fibro\u00adsis", ["ﬁbrosis", "fibro\u00adsis"]),
        ("CO2", "CO₂", ["CO₂"]),
        ("aspirin", "aspirin¹ Aspirin® \ufeffaspirin", ["aspirin", "Aspirin", "aspirin"]),
        ("fever", "😀fever🔥 _fever_ fever\x00", ["fever", "fever", "fever"]),
        ("β-blocker", "Β-Blocker", ["Β-Blocker"]),
        ("(+)-x", "given (+)-X.", ["(+)-X"]),
    ],
)  # fmt: skip
def test_find_follows_the_rules(path: str, phrase: str, text: str, expected: list[str]) -> None:
    assert found(phrase, text) == expected


def test_find_prefers_the_leftmost_longest(path: str) -> None:
    phrases = {"diabetes": 1, "diabetes mellitus": 2, "type 2 diabetes": 3, "mellitus type 2": 4}
    text = "Type 2 diabetes mellitus type 2, diabetes insipidus"
    assert surfaces(phrases, text) == [("Type 2 diabetes", 3), ("mellitus type 2", 4), ("diabetes", 1)]
    assert surfaces(phrases, text, overlapping=True) == [
        ("Type 2 diabetes", 3),
        ("diabetes", 1),
        ("diabetes mellitus", 2),
        ("mellitus type 2", 4),
        ("diabetes", 1),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AIDS and aids, Aids", ["AIDS"]),
        ("CT, CTs, cts, Cts, ct", ["CT", "CTs"]),
        ("As of now IT is; it is; Its; ITs", ["IT", "ITs"]),
        ("AIDS\u2019s", ["AIDS"]),
        ("A1C a1c", ["A1C"]),
    ],
)
def test_cased_phrases_match_capitals_only(path: str, text: str, expected: list[str]) -> None:
    phrases = dict.fromkeys(["AIDS", "CT", "CTs", "AS", "IT", "ITs", "A1C"], CASED | 7)
    assert [surface for surface, _ in surfaces(phrases, text)] == expected


def test_a_refused_cased_phrase_gives_way_to_a_shorter_one(path: str) -> None:
    phrases = {"lung": 1, "lung all": CASED | 2}
    assert surfaces(phrases, "lung all clear") == [("lung", 1)]
    assert surfaces(phrases, "LUNG ALL") == [("LUNG ALL", CASED | 2)]
    assert surfaces({"pain": 1, "pain b": 2}, "pain b2") == [("pain", 1)]


def test_long_phrases_are_found_between_stored_prefixes(path: str) -> None:
    words = [f"w{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(MAX_PHRASE_TOKENS)]
    for length in (1, 4, 5, 7, 9, 31, 97, MAX_PHRASE_TOKENS):
        phrase = " ".join(words[:length])
        assert found(phrase, f"x {phrase} y") == [phrase]
    assert [depth for depth in range(1, 50) if is_checkpoint(depth)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]


def test_get_is_exact(path: str) -> None:
    table = PhraseTable.from_phrases(
        [("Chest pain", 5), ("chest pain on exertion", CASED | 6), ("fever", 7), ("FEVER", 8)]
    )
    assert table.get("chest-pain") == 5
    assert table.get("chest pain on exertion") == CASED | 6
    assert table.get("fever") == 8  # the last payload counts
    for absent in ("chest", "chest pain on", "chest pain on exertion now", "", "-", " \n", "a " * 500):
        assert table.get(absent) is None
    assert (len(table), table.nodes) == (3, 5)


def test_an_empty_table_finds_nothing(path: str, tmp_path: Path) -> None:
    with PhraseTableWriter(tmp_path / "empty.bin"):
        pass
    for table in (PhraseTable.from_phrases([]), PhraseTable.open(tmp_path / "empty.bin")):
        assert table.find("some text") == []
        assert table.get("some") is None


@pytest.mark.parametrize("payload", [0, -1, 1 << 32])
def test_payloads_out_of_range_are_refused(payload: int, tmp_path: Path) -> None:
    with pytest.raises(PhraseTableError, match="payload must be in 1"):
        PhraseTable.from_phrases([("x", payload)])
    with (
        pytest.raises(PhraseTableError, match="payload must be in 1"),
        PhraseTableWriter(tmp_path / "t") as writer,
    ):
        writer.add("x", payload)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("phrase", ["", " \n", "a " * (MAX_PHRASE_TOKENS + 1)])
def test_phrases_that_cannot_be_stored(path: str, phrase: str, tmp_path: Path) -> None:
    with pytest.raises(PhraseTableError, match="1 to 128 tokens"):
        PhraseTable.from_phrases([("fever", 1), (phrase, 2)])
    with PhraseTableWriter(tmp_path / "t") as writer:
        writer.add("fever", 1)
        writer.add(phrase, 2)
    assert writer.skipped == 1
    assert len(PhraseTable.open(tmp_path / "t")) == 1


# Tokens


def test_tokens_have_positions_classes_and_context(path: str) -> None:
    text = "Na 137,\n\n😀mRNA"
    result = tokenize(text)
    assert [text[start:end] for start, end in zip(result.starts, result.ends, strict=True)] == [
        "Na",
        "137",
        ",",
        "😀",
        "mRNA",
    ]
    classes = [flags & tokens.CLASS_MASK for flags in result.flags]
    assert classes == [chars.LETTER, chars.DIGIT, chars.OTHER, chars.OTHER, chars.LETTER]
    context = tokens.SPACE_BEFORE | tokens.NEWLINE_BEFORE | tokens.BREAK_BEFORE
    assert [flags & context for flags in result.flags] == [context, tokens.SPACE_BEFORE, 0, context, 0]
    cases = [flags & (tokens.HAS_LOWER | tokens.HAS_UPPER) for flags in result.flags]
    assert cases == [tokens.HAS_LOWER | tokens.HAS_UPPER, 0, 0, 0, tokens.HAS_LOWER | tokens.HAS_UPPER]
    assert list(tokenize("NA").hashes) == list(tokenize("na").hashes) == [result.hashes[0]]


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the table was made from Unicode 14")
def test_character_table_is_what_its_rule_makes() -> None:
    assert chars.generate() == chars.load()


# Native against Python

ALPHABET = "aAbsS1 2-\u2013'\u2019.,(\n\r\x0b\x00éßﬁµ\u0301\u00ad\u200b₂²中\u2029😀\ud800\udfff"
WORDS = st.sampled_from(["a", "A", "b", "AB", "ABs", "s", "1", "é", "E", "-", "'s", "'", "aß", "😀", "."])
PHRASES = st.one_of(
    st.lists(WORDS, min_size=1, max_size=9).map(" ".join),
    st.lists(WORDS, min_size=1, max_size=4).map("".join),
)
TEXTS = st.one_of(
    st.text(st.sampled_from(ALPHABET), max_size=80),
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.lists(st.tuples(WORDS, st.sampled_from(["", " ", "\n", "-", "\n\n"])).map("".join), max_size=40).map("".join),
)


@settings(max_examples=250, deadline=None)
@given(text=TEXTS)
def test_both_paths_tokenize_alike(text: str) -> None:
    def act() -> object:
        result = tokenize(text)
        return result.starts, result.ends, result.hashes, result.flags

    python, by_native = both(act)
    assert by_native == python


@settings(max_examples=250, deadline=None)
@given(
    phrases=st.lists(st.tuples(PHRASES, st.integers(1, 2**32 - 1)), max_size=20),
    text=TEXTS,
    overlapping=st.booleans(),
)
def test_both_paths_find_alike(phrases: list[tuple[str, int]], text: str, overlapping: bool) -> None:
    def act() -> object:
        table = PhraseTable.from_phrases(phrases)
        gets = [table.get(phrase) for phrase, _ in phrases]
        return bytes(table._data), table.find(text, overlapping=overlapping), gets, table.get(text)

    python, by_native = both(act)
    assert by_native == python
    assert isinstance(python, tuple)
    last = {tuple(tokens.phrase_tokens(phrase)): payload for phrase, payload in phrases}
    assert python[2] == [last[tuple(tokens.phrase_tokens(phrase))] for phrase, _ in phrases]


@settings(max_examples=200, deadline=None)
@given(phrases=st.lists(PHRASES, min_size=1, max_size=8), text=TEXTS)
def test_find_agrees_with_a_search_of_every_span(phrases: list[str], text: str) -> None:
    """An oracle without hashes: compare the tokens of every span with those of every phrase."""
    table = PhraseTable.from_phrases([(phrase, 1) for phrase in phrases])
    wanted = {tuple(tokens.phrase_tokens(phrase)) for phrase in phrases}
    result = tokenize(text)
    ignored = [bool(flags & tokens.IGNORED) for flags in result.flags]
    expected = []
    for first in range(len(result)):
        for last in range(first, len(result)):
            if last > first and result.flags[last] & tokens.BREAK_BEFORE:
                break
            span = tuple(result.hashes[at] for at in range(first, last + 1) if not ignored[at])
            inside = _cuts_run(text, result.starts[first]) or _cuts_run(text, result.ends[last])
            if span in wanted and not (ignored[first] or ignored[last] or inside):
                expected.append((result.starts[first], result.ends[last], 1))
    assert table.find(text, overlapping=True) == expected


def _cuts_run(text: str, at: int) -> bool:
    around = [tokens.class_of(char) in (chars.LETTER, chars.DIGIT) for char in text[max(at - 1, 0) : at + 1]]
    return 0 < at < len(text) and all(around)


@pytest.mark.parametrize("run_nodes", [1, 7, 1 << 21])
def test_written_tables_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_nodes: int) -> None:
    """By either path, in one run or many, as a file or in memory, and in any order."""
    chooser = random.Random(run_nodes)
    words = ["alpha", "beta", "gamma", "delta", "1", "2", "acid", "chloride"]
    phrases = sorted({" ".join(chooser.choices(words, k=chooser.randint(1, 9))) for _ in range(300)})
    given_phrases = [(phrase, number + 1) for number, phrase in enumerate(phrases)]
    monkeypatch.setattr(phrase_writer, "_RUN_NODES", run_nodes)
    monkeypatch.setattr(phrase_writer, "_FLUSH_PHRASES", 16)

    def write() -> bytes:
        with PhraseTableWriter(tmp_path / "table.bin") as writer:
            for phrase, payload in given_phrases:
                writer.add(phrase, payload)
        PhraseTable.open(tmp_path / "table.bin").verify()
        return (tmp_path / "table.bin").read_bytes()

    python, by_native = both(write)
    assert by_native == python == bytes(PhraseTable.from_phrases(given_phrases)._data)
    chooser.shuffle(given_phrases)
    assert write() == python
    assert os.listdir(tmp_path) == ["table.bin"]


def test_of_a_phrase_written_twice_the_last_payload_counts(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phrase_writer, "_RUN_NODES", 1)
    monkeypatch.setattr(phrase_writer, "_FLUSH_PHRASES", 1)
    with PhraseTableWriter(tmp_path / "t") as writer:
        for phrase, payload in (("a b", 3), ("a b c", 4), ("A-B", 2), ("a", 9)):
            writer.add(phrase, payload)
    table = PhraseTable.open(tmp_path / "t")
    assert [table.get(phrase) for phrase in ("a b", "a b c", "a")] == [2, 4, 9]


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> Iterator[None]:
        with PhraseTableWriter(tmp_path / "t") as writer:
            writer.add("fever", 1)
            raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        list(fail())
    assert os.listdir(tmp_path) == []


# Input of any kind, in linear time

HOSTILE = {
    "one long word": "a" * 1_000_000,
    "one letter words": "a " * 500_000,
    "dashes": "-" * 1_000_000,
    "apostrophes": "a'" * 500_000,
    "possessives": "a's " * 250_000,
    "nothing but lines": "\n" * 1_000_000,
    "NUL": "\x00" * 1_000_000,
    "digits and letters": "a1" * 500_000,
    "surrogates": "\ud800" * 1_000_000,
    "astral": "\U0001f600\U00020000" * 500_000,
    "diacritics": "\u0301" * 1_000_000,
    "capitals with s": "A" * 999_999 + "s",
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_texts_take_linear_time(name: str) -> None:
    """A million characters (Python: 50,000) in seconds, against phrases of the greatest length too."""
    phrases = [
        ("a " * MAX_PHRASE_TOKENS, 1),
        ("a " * 90, 2),
        ("a1 a1", 3),
        ("AAAs", CASED | 4),
        ("- " * 60, 5),
    ]
    table = PhraseTable.from_phrases(phrases)
    text = HOSTILE[name] if native.library() is not None else HOSTILE[name][:50_000]
    start = time.process_time()
    table.find(text)
    tokenize(text)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_both_paths_agree_on_hostile_texts(name: str) -> None:
    text = HOSTILE[name][:20_000] + HOSTILE[name][-1:]
    table = PhraseTable.from_phrases([("a " * 90, 2), ("a a a", 1), ("a1 a1", 3), ("- " * 60, 5), ("b a", 6)])
    python, by_native = both(lambda: (table.find(text), list(tokenize(text).flags)))
    assert by_native == python


def test_random_bytes_are_text(path: str) -> None:
    noise = random.Random(5).randbytes(50_000).decode("latin-1")
    table = PhraseTable.from_phrases([("a", 1), ("é", 2), ("\x00", 3)])
    for start, end, payload in table.find(noise):
        assert {
            1: re.compile("[aA\xaa\xc0-\xc5\xe0-\xe5]\xad*"),
            2: re.compile("[eE\xc8-\xcb\xe8-\xeb]"),
            3: re.compile("\x00"),
        }[payload].match(noise[start:end].strip("\xad"))


# Damaged and foreign files


@pytest.fixture
def table_bytes(tmp_path: Path) -> bytes:
    with PhraseTableWriter(tmp_path / "good.bin") as writer:
        for number in range(50):
            writer.add(f"phrase number {number}", number + 1)
    return (tmp_path / "good.bin").read_bytes()


def refused(tmp_path: Path, data: bytes) -> str:
    bad = tmp_path / "bad.bin"
    bad.write_bytes(data)
    with pytest.raises(PhraseTableError) as caught:
        PhraseTable.open(bad)
    message = str(caught.value)
    assert "bad.bin" in message
    assert "\n" not in message
    return message


def test_damaged_files_are_refused_by_one_clear_line(tmp_path: Path, table_bytes: bytes) -> None:
    assert "0 bytes" in refused(tmp_path, b"")
    assert "is not a phrase table" in refused(tmp_path, b"SQLite format 3\x00" * 100)
    assert "bytes expected" in refused(tmp_path, table_bytes[:-1])
    assert "bytes expected" in refused(tmp_path, table_bytes + b"\x00")
    assert "format version 2" in refused(tmp_path, table_bytes[:8] + struct.pack("<I", 2) + table_bytes[12:])
    for at in range(12, 56):
        assert "damaged" in refused(tmp_path, table_bytes[:at] + bytes([table_bytes[at] ^ 1]) + table_bytes[at + 1 :])


def test_a_table_of_another_character_table_is_refused(
    tmp_path: Path, table_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chars, "fingerprint", lambda: 1)
    assert "another character table" in refused(tmp_path, table_bytes)


def test_noise_in_the_slots_neither_crashes_nor_passes_verify(path: str, tmp_path: Path, table_bytes: bytes) -> None:
    noise = random.Random(3)
    for fill in (noise.randbytes(len(table_bytes) - 64), b"\xff" * (len(table_bytes) - 64)):
        (tmp_path / "noise.bin").write_bytes(table_bytes[:64] + fill)
        table = PhraseTable.open(tmp_path / "noise.bin")
        assert isinstance(table.find("phrase number 7 " * 50), list)
        with pytest.raises(PhraseTableError, match="is damaged: checksum"):
            table.verify()


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PhraseTable.open(tmp_path / "absent.bin")


# Choosing the path


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MEDVLLM_")}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


STATUS = "from medvllm_kernels import native; print(native.status())"


def test_the_environment_chooses_the_path(tmp_path: Path) -> None:
    assert run_python(STATUS, MEDVLLM_DISABLE_NATIVE="1").stdout.startswith("Python (MEDVLLM_DISABLE_NATIVE")
    (tmp_path / "not_a_library.so").write_text("text")
    for name in ("absent.so", "not_a_library.so"):
        named = str(tmp_path / name)
        result = run_python(STATUS, MEDVLLM_NATIVE_LIB=named)
        assert result.returncode != 0
        assert f"NativeLibraryError: MEDVLLM_NATIVE_LIB={named} cannot be used" in result.stderr


def test_import_loads_no_heavy_module() -> None:
    show = "; print(sorted({'numpy', 'torch', 'tempfile', 'dataclasses', 'pathlib'} & set(sys.modules)))"
    assert run_python("import sys, medvllm_kernels.text" + show).stdout == run_python("import sys" + show).stdout
