"""YAML and JSON as plain data: values without surprises, the place of each key and of each fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvllm_programs.config_text import BrokenText, ConfigFile, parse_json, parse_value, parse_yaml, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2E5", 2e5),
        ("1_0e1", 100.0),
        ("14:30", "14:30"),
        ("2024-03-07", "2024-03-07"),
        ("010", "010"),
        ("0x1F", 31),
        ("0b101", 5),
        ("0", 0),
        ("-5", -5),
        ("1_000", 1000),
        (".5", 0.5),
        ("1.", 1.0),
        ("٣.٥", "٣.٥"),
        ("true", True),
        ("null", None),
        ("[0, 1]", [0, 1]),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["[1", "a: b: c", "!!python/name:os.system", "\x01"])
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_value(text)


@pytest.mark.parametrize(
    ("parse", "text", "line", "column", "problem"),
    [
        (parse_yaml, "a: 1\nb: [1,\nc: 2\n", 4, 1, "broken YAML: .*which begins in line 2"),
        (parse_yaml, "a: 1\n\tb: 2\n", 2, 1, "broken YAML: .*indent with spaces"),
        (parse_yaml, "a: 1\nb: x\x01y\n", 2, 5, "broken YAML: character "),
        (parse_yaml, "a:\n  b: 2\n  b: 3\n", 3, 3, "^the key a.b is there twice; keep one$"),
        (parse_yaml, "a: !!python/object:os.system {}\n", 1, 4, "broken YAML: "),
        (parse_yaml, "a: &a [*a]\n", None, None, "broken YAML: "),
        (parse_json, '{\n\t"a": 1\n\t"b": 2}', 3, 2, "broken JSON: "),
        (parse_json, '{"a": 1,\n"a": 2}', 2, 1, "the key a is there twice"),
        (parse_json, "[" * 100_000, None, None, "^broken JSON: nested too deep$"),
        (parse_json, "9" * 5000, None, None, "^broken JSON: "),
    ],
)
def test_faults_have_their_place(parse: Any, text: str, line: int | None, column: int | None, problem: str) -> None:
    with pytest.raises(BrokenText, match=problem) as raised:
        parse(text)
    assert (raised.value.line, raised.value.column) == (line, column)


def test_aliases_that_grow_without_end_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(BrokenText, match="more than 100000 keys"):
        parse_yaml("\n".join(lines))


def test_every_key_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = ConfigFile(tmp_path / "c.json", *parse_json('{\n\t"a": {\n\t\t"b": [1,\n 1e-3]\n\t}\n}'))
    assert file.data == {"a": {"b": [1, 0.001]}}
    assert file.where(("a", "b")) == "c.json:3"
    assert file.where(("a", "b", "1")) == "c.json:4"
    assert file.where(("a", "c")) == "c.json:2"
    assert file.where(("c",)) is None
    assert parse_yaml("# nothing\n") == (None, {})


scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=12)
scalars |= st.floats(allow_nan=False, allow_infinity=False) | st.from_regex(r"[-+]?[0-9._:eEx]{1,8}", fullmatch=True)
documents: Any = st.dictionaries(
    st.text(min_size=1, max_size=8), st.recursive(scalars, lambda each: st.lists(each, max_size=3), max_leaves=6)
)


@pytest.mark.parametrize("text", ["x\x85y", "a\u2028b \u2029", "\u2028"])
def test_other_ends_of_lines_stay_in_their_text(text: str) -> None:
    assert parse_value(to_yaml({"a": text})) == {"a": text}


@settings(max_examples=50, deadline=None)  # a loaded machine takes long over one
@given(documents)
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    assert _normal(parse_value(to_yaml(data))) == _normal(data)


def _normal(data: object) -> str:
    return json.dumps(data, sort_keys=True)
