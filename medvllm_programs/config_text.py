"""YAML and JSON that users write, as plain data with the line of every key; and plain data as YAML.

Stricter than YAML's own rules: a key that is there twice is refused, 14:30, 010 and 2024-03-07 are text. 1e-3 is a
number.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

from medvllm_programs.errors import first_line
from medvllm_programs.files import shown

__all__ = ["BrokenText", "ConfigFile", "Key", "parse_json", "parse_value", "parse_yaml", "to_yaml"]

MAX_KEYS = 100_000
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's data and the line of each key."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    def where(self, key: Key) -> str | None:
        """`file:line` of a key or of the nearest one around it; None where the file says nothing of it."""
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return f"{shown(self.path)}:{self.lines[key[:end]]}"
        return None


class BrokenText(Exception):
    """A text that can't be read. `line` and `column` count from 1; None where they are not known."""

    def __init__(self, problem: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(problem)
        self.line = line
        self.column = column


def parse_json(text: str) -> tuple[Any, dict[Key, int]]:
    """(the data, key → line).

    Raises:
        BrokenText: it is no JSON, or a key is there twice.
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise BrokenText(f"broken JSON: {error.msg}", line=error.lineno, column=error.colno) from error
    except RecursionError as error:
        raise BrokenText("broken JSON: nested too deep") from error
    except ValueError as error:  # a number of too many digits
        raise BrokenText(f"broken JSON: {first_line(error)}") from error
    return parse_yaml(text.replace("\t", " "))  # JSON is YAML but for tabs between tokens


def parse_yaml(text: str) -> tuple[Any, dict[Key, int]]:
    """(the data, key → line); (None, {}) for a text of nothing.

    Raises:
        BrokenText: it is no YAML, has tags that are not plain data's, or a key is there twice.
    """
    import yaml

    lines: dict[Key, int] = {}
    try:
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            _note_lines(node, (), lines)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        if mark and error.context_mark and error.context_mark.line < mark.line:
            hint += f" ({error.context}, which begins in line {error.context_mark.line + 1})"
        place = {"line": mark.line + 1, "column": mark.column + 1} if mark else {}
        raise BrokenText(f"broken YAML: {error.problem or error.context}{hint}", **place) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        problem = f"broken YAML: character {error.character!r} is not allowed"
        raise BrokenText(problem, line=line, column=column) from error
    except (ValueError, RecursionError) as error:
        raise BrokenText(f"broken YAML: {error}") from error


def _note_lines(node: Any, key: Key, lines: dict[Key, int]) -> None:
    """Notes the line of each key, and refuses one that is there twice."""
    if len(lines) > MAX_KEYS:  # aliases of aliases grow without end
        raise BrokenText(f"more than {MAX_KEYS} keys; that is no configuration")
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            lines[(*key, str(index))] = item.start_mark.line + 1
            _note_lines(item, (*key, str(index)), lines)
    if node.id != "mapping":
        return
    seen: set[str] = set()
    for label, value in node.value:
        if label.id != "scalar" or label.tag == "tag:yaml.org,2002:merge":
            continue
        mark = label.start_mark
        if label.value in seen:
            full = ".".join((*key, label.value))
            problem = f"the key {full} is there twice; keep one"
            raise BrokenText(problem, line=mark.line + 1, column=mark.column + 1)
        seen.add(label.value)
        lines[(*key, label.value)] = mark.line + 1
        _note_lines(value, (*key, label.value), lines)


def parse_value(text: str) -> Any:
    """One value in YAML's notation, as on a command line.

    Raises:
        ValueError: it is none.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(getattr(error, "problem", None) or str(error)) from error


def to_yaml(data: Any) -> str:
    """Plain data as YAML, keys in their order; `parse_yaml` reads the same from it."""
    import yaml

    how = {"Dumper": _dumper(), "sort_keys": False, "width": 1000}
    text = str(yaml.dump(data, allow_unicode=True, **how))
    if any(char in text for char in "\x85\u2028\u2029"):  # PyYAML takes them for ends of lines
        text = str(yaml.dump(data, allow_unicode=False, **how))
    return text


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader without what surprises: 14:30 as 870, dates, 010 as 8; and with 1e-3 as a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    replaced = [f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")]
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in replaced]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _add_numbers(Loader)
    return Loader


@functools.cache
def _dumper() -> Any:
    """PyYAML's safe dumper, quoting what this loader or PyYAML's own would take for something else than text."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    _add_numbers(Dumper)
    return Dumper


def _add_numbers(cls: Any) -> None:
    whole = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
    fraction = r"[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE])"
    number = re.compile(rf"^[-+]?(?:{fraction})(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$")
    cls.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    cls.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
