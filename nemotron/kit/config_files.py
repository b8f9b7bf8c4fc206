"""Configuration files: YAML, TOML and JSON as plain data, with the line of every key; and where they are looked for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemotron.kit.config_schema import Key
from nemotron.kit.errors import KitError

__all__ = ["SUFFIXES", "ConfigFile", "find_config", "load_file", "parse_yaml_value", "to_yaml"]

SUFFIXES = (".yaml", ".yml", ".toml", ".json")


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


def shown(path: Path) -> str:
    """A path as a message shows it: relative to the working folder where it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def find_config(given: str | None, folders: Iterable[Path]) -> Path | None:
    """The file that `-c` means.

    A bare stem is looked up in `folders`; what has a `/` or a suffix is a path, from the working folder or else from
    beside one of `folders`. With nothing given it is `default.yaml` of the first folder that has one, else None.

    Raises:
        KitError: there is no such file; names what was looked for, and the near ones.
    """
    folders = list(folders)
    if given is None:
        return next((found for folder in folders if (found := _stem(folder, "default"))), None)
    path = Path(given).expanduser()
    if "/" in given or path.suffix in SUFFIXES:
        places = [
            path,
            *(base / path for folder in folders for base in (folder.parent, folder) if not path.is_absolute()),
        ]
        for place in places:
            if place.is_file():
                return place.resolve()
        if path.is_dir():
            raise KitError(f"{given} is a folder; give a file in it, such as -c {path / 'default.yaml'}")
        raise KitError(f"there is no configuration file {given}{_near(path.stem, folders)}")
    for folder in folders:
        found = _stem(folder, given)
        if found:
            return found
    places_text = " or ".join(shown(folder) for folder in folders) or "a config/ folder of the command"
    raise KitError(f"there is no configuration {given!r} in {places_text}{_near(given, folders)}")


def _stem(folder: Path, stem: str) -> Path | None:
    return next((path.resolve() for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _near(stem: str, folders: list[Path]) -> str:
    import difflib

    known = stems(folders)
    near = difflib.get_close_matches(stem, known, n=2, cutoff=0.6)
    if near:
        return f". Did you mean -c {' or '.join(near)}?"
    return f". There are: {', '.join(known)}" if known else ""


def stems(folders: Iterable[Path]) -> list[str]:
    """What `-c` takes as a bare stem."""
    files = (path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return sorted({path.stem for path in files if path.suffix in SUFFIXES})


def load_file(path: Path) -> ConfigFile:
    """Reads a file by its suffix.

    Raises:
        KitError: it is missing, is no UTF-8, is broken (with the line), or holds no mapping at the top.
    """
    if path.suffix not in SUFFIXES:
        raise KitError(f"{shown(path)}: expected a file ending in {', '.join(SUFFIXES)}")
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise KitError(f"there is no configuration file {shown(path)}") from error
    except UnicodeDecodeError as error:
        raise KitError(f"{shown(path)}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise KitError(f"{shown(path)}: {error.strerror}") from error
    if path.suffix == ".toml":
        return ConfigFile(path, _parse_toml(text, path), toml_lines(text))
    if path.suffix == ".json":
        _check_json(text, path)
        text = text.replace("\t", " ")  # JSON is YAML but for tabs between tokens
    data, lines = _parse_yaml(text, path)
    if data is None:
        return ConfigFile(path, {}, {})
    if not isinstance(data, dict):
        raise KitError(f"{shown(path)}:1: expected keys with values at the top, got {type(data).__name__}")
    return ConfigFile(path, data, lines)


def _parse_toml(text: str, path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
        found = re.search(r"^(.*?) \(at (?:line (\d+)|end of document)", problem)
        line = found.group(2) if found and found.group(2) else text.count("\n") + 1
        raise KitError(f"{shown(path)}:{line}: broken TOML: {found.group(1) if found else problem}") from error


def toml_lines(text: str) -> dict[Key, int]:
    """The line of each key and table of a TOML text that parses."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$", line)
        pair = re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=", line)
        if header:
            table = _toml_key(header.group(1))
            lines.setdefault(table, number)
        elif pair:
            lines.setdefault((*table, *_toml_key(pair.group(1))), number)
    return lines


def _toml_key(text: str) -> Key:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", text))


def _check_json(text: str, path: Path) -> None:
    import json

    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise KitError(f"{shown(path)}:{error.lineno}: broken JSON: {error.msg}") from error


def _yaml_loader() -> Any:
    """PyYAML's safe loader, without what surprises: dates, and 1:30:00 as a number; with 1e-3 as one."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    replaced = [f"tag:yaml.org,2002:{name}" for name in ("int", "float", "timestamp")]
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag not in replaced]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    whole = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", whole, list("-+0123456789"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


def _parse_yaml(text: str, path: Path) -> tuple[Any, dict[Key, int]]:
    import yaml

    lines: dict[Key, int] = {}
    try:
        loader = _yaml_loader()(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            _walk(node, (), lines, path)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise KitError(f"{shown(path)}:{line}: broken YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise KitError(f"{shown(path)}: broken YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:
        raise KitError(f"{shown(path)}: broken YAML: {error}") from error


def _walk(node: Any, key: Key, lines: dict[Key, int], path: Path) -> None:
    """Notes the line of each key, and refuses one that is there twice."""
    if node.id == "sequence":
        for index, item in enumerate(node.value):
            lines[(*key, str(index))] = item.start_mark.line + 1
            _walk(item, (*key, str(index)), lines, path)
    if node.id != "mapping":
        return
    seen: set[str] = set()
    for name, value in node.value:
        if name.id != "scalar" or name.tag == "tag:yaml.org,2002:merge":
            continue
        line = name.start_mark.line + 1
        if name.value in seen:
            raise KitError(f"{shown(path)}:{line}: the key {'.'.join((*key, name.value))} is there twice")
        seen.add(name.value)
        lines[(*key, name.value)] = line
        _walk(value, (*key, name.value), lines, path)


def parse_yaml_value(text: str) -> Any:
    """One value in YAML's notation, as on a command line.

    Raises:
        ValueError: it is none.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.MarkedYAMLError as error:
        raise ValueError(error.problem or str(error)) from error


def to_yaml(data: Any) -> str:
    """Plain data as YAML, keys in their order."""
    import yaml

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000))
