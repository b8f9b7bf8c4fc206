"""Configuration files that are broken: each fault is named with its place; and JSON with tabs."""

from __future__ import annotations

from pathlib import Path

import pytest

from llenergymeasure.config.loading import load_file
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


def test_json_with_tabs_and_lines() -> None:
    Path("a.json").write_text('{\n\t"a": {\n\t\t"b": 1e-3\n\t}\n}')
    file = load_file(Path("a.json"))
    assert file.data == {"a": {"b": 0.001}}
    assert file.where(("a", "b")) == "a.json:3"
    assert file.where(("a", "c")) == "a.json:2"
