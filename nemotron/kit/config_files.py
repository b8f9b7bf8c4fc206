"""Configuration files: YAML, TOML and JSON as plain data, with the line of every key; and where they are looked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medvllm_programs import config_text
from medvllm_programs.config_text import ConfigFile, Key
from medvllm_programs.files import shown
from nemotron.kit.errors import KitError

__all__ = ["SUFFIXES", "find_config", "load_file", "stems"]

SUFFIXES = (".yaml", ".yml", ".toml", ".json")


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
    try:
        data, lines = (config_text.parse_json if path.suffix == ".json" else config_text.parse_yaml)(text)
    except config_text.BrokenText as error:
        raise KitError(f"{shown(path)}{f':{error.line}' if error.line else ''}: {error}") from error
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
