"""Configuration files: YAML and JSON as plain data with the place of every key, and their `_extends`."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

from llenergymeasure.errors import LemError, first_line
from llenergymeasure.files import shown

__all__ = ["SUFFIXES", "ConfigFile", "Key", "load_chain", "load_file", "parse_value", "to_yaml"]

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 4 << 20  # of one file; a configuration has a few KiB
MAX_KEYS = 100_000
Key = tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's own data and the line of each of its keys."""

    path: Path
    data: dict[str, Any]
    lines: dict[Key, int]

    def where(self, key: Key) -> str:
        """`file:line` of a key, or of the nearest one around it."""
        line = next((self.lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.lines), 1)
        return f"{shown(self.path)}:{line}"


def load_chain(path: Path) -> list[ConfigFile]:
    """A file and those it extends, the farthest first, each without its `_extends`.

    Raises:
        LemError: a file can't be read, or they extend each other in a circle.
    """
    chain: list[ConfigFile] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        real = following.resolve()
        if real in seen:
            circle = " → ".join(shown(each) for each in [*seen[seen.index(real) :], real])
            raise LemError(f"{chain[-1].where(('_extends',))}: _extends goes in a circle: {circle}")
        if following is not path and not following.exists():
            raise LemError(f"{chain[-1].where(('_extends',))}: _extends names {shown(following)}, which is not there")
        seen.append(real)
        file = load_file(following)
        chain.append(file)
        parent = file.data.pop("_extends", None)
        if parent is not None and not (isinstance(parent, str) and parent):
            problem = f"_extends takes one path, relative to this file, got {parent!r}"
            raise LemError(f"{file.where(('_extends',))}: {problem}")
        following = (following.parent / Path(parent).expanduser()) if parent else None
    return chain[::-1]


def load_file(path: Path) -> ConfigFile:
    """Reads one file by its suffix.

    Raises:
        LemError: it is missing, too large, no UTF-8, broken (with line and column), or no mapping at the top.
    """
    name = shown(path)
    if path.is_dir():
        raise LemError(f"{name} is a folder; give a YAML or JSON file in it")
    if path.suffix.lower() not in SUFFIXES and path.exists():
        raise LemError(f"{name}: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        raw = path.read_bytes()[: MAX_BYTES + 1]
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise LemError(f"there is no configuration file {name}{_near(path)}") from error
    except UnicodeDecodeError as error:
        raise LemError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise LemError(f"can't read {name}: {(error.strerror or str(error)).lower()}") from error
    if len(raw) > MAX_BYTES:
        raise LemError(f"{name}: more than {MAX_BYTES >> 20} MiB; that is no configuration")
    if path.suffix.lower() == ".json":
        text = _checked_json(text, name)
    data, lines = _parse_yaml(text, name)
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise LemError(f"{name}:1:1: expected keys with values, got {kind}; start with config_name: …")
    return ConfigFile(path, data, lines)


def _near(path: Path) -> str:
    import difflib

    folder = path.parent
    there = {each.stem: each for each in folder.iterdir() if each.suffix in SUFFIXES} if folder.is_dir() else {}
    near = difflib.get_close_matches(path.stem, there, n=1, cutoff=0.6)
    return f". Did you mean {shown(there[near[0]])}?" if near else ""


def _checked_json(text: str, name: str) -> str:
    """JSON that is right, in the part of its notation that YAML shares."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise LemError(f"{name}:{error.lineno}:{error.colno}: broken JSON: {error.msg}") from error
    except RecursionError as error:
        raise LemError(f"{name}: broken JSON: nested too deep") from error
    except ValueError as error:  # a number of too many digits
        raise LemError(f"{name}: broken JSON: {first_line(error)}") from error
    return text.replace("\t", " ")


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
    whole = re.compile(r"^[-+]?(?:0x[0-9a-fA-F]+|0|[1-9][0-9_]*)$")
    number = re.compile(r"^[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d+(?=[eE]))(?:[eE][-+]?\d+)?$|^[-+]?\.inf$|^\.nan$")
    cls.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    cls.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))


def _parse_yaml(text: str, name: str) -> tuple[Any, dict[Key, int]]:
    import yaml

    lines: dict[Key, int] = {}
    try:
        loader = _loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            _note_lines(node, (), lines, name)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        hint = "; indent with spaces" if "'\\t'" in str(error.problem) else ""
        if mark and error.context_mark and error.context_mark.line < mark.line:
            hint += f" ({error.context}, which begins in line {error.context_mark.line + 1})"
        raise LemError(f"{place}: broken YAML: {error.problem or error.context}{hint}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise LemError(f"{name}:{line}:{column}: broken YAML: character {error.character!r} is not allowed") from error
    except (ValueError, RecursionError) as error:
        raise LemError(f"{name}: broken YAML: {error}") from error


def _note_lines(node: Any, key: Key, lines: dict[Key, int], name: str) -> None:
    """Notes the line of each key, and refuses one that is there twice."""
    if len(lines) > MAX_KEYS:  # aliases of aliases grow without end
        raise LemError(f"{name}: more than {MAX_KEYS} keys; that is no configuration")
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            lines[(*key, str(index))] = item.start_mark.line + 1
            _note_lines(item, (*key, str(index)), lines, name)
    if node.id != "mapping":
        return
    seen: set[str] = set()
    for label, value in node.value:
        if label.id != "scalar" or label.tag == "tag:yaml.org,2002:merge":
            continue
        mark = label.start_mark
        if label.value in seen:
            full = ".".join((*key, label.value))
            raise LemError(f"{name}:{mark.line + 1}:{mark.column + 1}: the key {full} is there twice; keep one")
        seen.add(label.value)
        lines[(*key, label.value)] = mark.line + 1
        _note_lines(value, (*key, label.value), lines, name)


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
    """Plain data as YAML, keys in their order; `load_file` reads the same from it."""
    import yaml

    how = {"Dumper": _dumper(), "sort_keys": False, "width": 1000}
    text = str(yaml.dump(data, allow_unicode=True, **how))
    if any(char in text for char in "\x85\u2028\u2029"):  # PyYAML takes them for ends of lines
        text = str(yaml.dump(data, allow_unicode=False, **how))
    return text
