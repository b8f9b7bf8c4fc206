"""Configuration files that are broken, and how YAML's and JSON's values are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llenergymeasure.config.loading import load_file, parse_value, to_yaml
from llenergymeasure.errors import LemError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.yaml", b"a: 1\nb: [1,\nc: 2\n", r"^a.yaml:4:1: broken YAML: .*which begins in line 2"),
        ("a.yaml", b"a: 1\n\tb: 2\n", r"^a.yaml:2:1: broken YAML: .*indent with spaces"),
        ("a.yaml", b"a: 'x\n", r"^a.yaml:2:1: broken YAML: "),
        ("a.yaml", b"a: 1\nb: x\x01y\n", r"^a.yaml:2:5: broken YAML: "),
        ("a.yaml", b"a: 1\nb: 2\na: 3\n", r"^a.yaml:3:1: the key a is there twice"),
        ("a.yaml", b"a: !!python/object:os.system {}\n", r"^a.yaml:1:4: broken YAML: "),
        ("a.yaml", b"- 1\n", r"^a.yaml:1:1: expected keys with values, got a list"),
        ("a.yaml", b"", r"^a.yaml:1:1: expected keys with values, got nothing"),
        ("a.yaml", b"\xff\xfea", r"^a.yaml: not UTF-8 at byte 0"),
        ("a.json", b'{"a": 1,}', r"^a.json:1:8: broken JSON: |^a.json:1:9: broken JSON: "),
        ("a.json", b'{\n\t"a": 1\n\t"b": 2}', r"^a.json:3:2: broken JSON: "),
        ("a.toml", b"a = 1", r"^a.toml: expected a file ending in .yaml, .yml, .json"),
    ],
)
def test_a_broken_file_is_named_with_line_and_column(name: str, content: bytes, problem: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(LemError, match=problem):
        load_file(Path(name))


def test_a_missing_file_names_the_nearest() -> None:
    Path("llama2.yaml").write_text("a: 1")
    with pytest.raises(LemError, match=r"^there is no configuration file lama2.yaml. Did you mean llama2.yaml\?$"):
        load_file(Path("lama2.yaml"))
    with pytest.raises(LemError, match="is a folder"):
        load_file(Path())


def test_aliases_that_grow_without_end_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    Path("bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(LemError, match="more than 100000 keys"):
        load_file(Path("bomb.yaml"))
    Path("round.yaml").write_text("a: &a [*a]\n")
    with pytest.raises(LemError, match="broken YAML"):
        load_file(Path("round.yaml"))


def test_json_with_tabs_and_lines() -> None:
    Path("a.json").write_text('{\n\t"a": {\n\t\t"b": 1e-3\n\t}\n}')
    file = load_file(Path("a.json"))
    assert file.data == {"a": {"b": 0.001}}
    assert file.where(("a", "b")) == "a.json:3"
    assert file.where(("a", "c")) == "a.json:2"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2E5", 2e5),
        ("14:30", "14:30"),
        ("2024-03-07", "2024-03-07"),
        ("010", "010"),
        ("0", 0),
        ("-5", -5),
        ("1_000", 1000),
        (".5", 0.5),
        ("1.", 1.0),
        ("true", True),
        ("null", None),
        ("[0, 1]", [0, 1]),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
    ],
)
def test_yaml_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


scalars = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.text(max_size=12)
scalars |= st.floats(allow_nan=False, allow_infinity=False)
documents: Any = st.dictionaries(
    st.text(min_size=1, max_size=8), st.recursive(scalars, lambda each: st.lists(each, max_size=3), max_leaves=6)
)


@settings(max_examples=50, deadline=None)  # a loaded machine takes long over one
@given(documents)
def test_what_is_written_is_read_again(data: dict[str, Any]) -> None:
    text = to_yaml(data)
    assert _normal(parse_value(text)) == _normal(data)


def _normal(data: object) -> str:
    return json.dumps(data, sort_keys=True)
