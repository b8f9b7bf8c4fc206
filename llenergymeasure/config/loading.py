"""Configuration files: YAML and JSON as plain data with the place of every key, and their `_extends`."""

from __future__ import annotations

from pathlib import Path

from llenergymeasure.errors import LemError
from medvllm_programs import config_text
from medvllm_programs.config_text import Key
from medvllm_programs.files import shown

__all__ = ["SUFFIXES", "ConfigFile", "load_chain", "load_file"]

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 4 << 20  # of one file; a configuration has a few KiB


class ConfigFile(config_text.ConfigFile):
    """A file's own data and the line of each of its keys."""

    def where(self, key: Key) -> str:
        """`file:line` of a key, or of the nearest one around it."""
        return super().where(key) or f"{shown(self.path)}:1"


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
    try:
        data, lines = (config_text.parse_json if path.suffix.lower() == ".json" else config_text.parse_yaml)(text)
    except config_text.BrokenText as error:
        place = "".join(f":{number}" for number in (error.line, error.column) if number is not None)
        raise LemError(f"{name}{place}: {error}") from error
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
