"""Every combination of some values over a base configuration, each as a file of its own."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llenergymeasure.config.builder import Layer, known_keys, nearest, resolve_layers
from llenergymeasure.config.loading import load_chain
from llenergymeasure.errors import LemError, LemUsageError
from llenergymeasure.files import make_folder, write_atomically
from medvllm_programs.config_text import parse_value, to_yaml
from medvllm_programs.files import shown

__all__ = ["HEADER", "MAX_CONFIGS", "GridConfig", "combinations", "full_key", "parse_vary", "write_grid"]

HEADER = "# Made by `lem config generate-grid` of "
MAX_CONFIGS = 10_000
_SHORT = {
    "precision": "fp_precision",
    "model": "model_name",
    "max_tokens": "max_output_tokens",
    "seed": "random_seed",
    "cycles": "num_cycles",
}


@dataclasses.dataclass(frozen=True, slots=True)
class GridConfig:
    """One combination: its values, its file's text, and what is wrong with it."""

    name: str
    values: dict[str, Any]  # dotted key → value
    text: str
    problem: str | None


def full_key(name: str) -> str:
    """The dotted key that a short name means: `batch_size` is batching.batch_size.

    Raises:
        LemUsageError: there is none, or there are several.
    """
    keys = known_keys()
    if name in _SHORT:
        return _SHORT[name]
    if name in keys or ("." in name and name.split(".")[0] in ("pytorch", "medvllm", "vllm", "tensorrt")):
        return name
    found = [key for key in keys if key.endswith(f".{name}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise LemUsageError(f"--vary {name}: that may be {' or '.join(found)}; give the whole key")
    raise LemUsageError(f"--vary {name}: no such key.{nearest(name)}")


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Dotted key → values of `key=value,value` texts; a value in brackets or quotes may hold commas.

    Raises:
        LemUsageError: a text is not of this form, or a key is unknown or there twice.
    """
    varied: dict[str, list[Any]] = {}
    for text in texts:
        name, sign, listed = text.partition("=")
        if not (sign and name.strip() and listed.strip()):
            raise LemUsageError(f"--vary takes KEY=VALUE,VALUE, such as batch_size=1,2,4, got {text!r}")
        key = full_key(name.strip())
        if key in varied:
            raise LemUsageError(f"--vary {key} is there twice; list all its values in one")
        try:
            values = [parse_value(part) for part in _split(listed)]
        except ValueError as error:
            raise LemUsageError(f"--vary {text}: {error}") from error
        for index, value in enumerate(values):
            if value in values[:index]:
                raise LemUsageError(f"--vary {text}: the value {value} is there twice")
        varied[key] = values
    return varied


def _split(text: str) -> list[str]:
    """Parts between commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if char == "," and depth == 0 and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        depth += (char in "[{") - (char in "]}") if not quote else 0
        parts[-1] += char
    return [part.strip() for part in parts]


def combinations(base: Path, varied: Mapping[str, Sequence[Any]]) -> list[GridConfig]:
    """The base with each combination of values, in the order of the product; each is checked.

    Raises:
        LemError: the base can't be read, or there are too many combinations.
    """
    layers = [Layer(file.data, file=file) for file in load_chain(base)]
    plain: dict[str, Any] = {}
    for layer in layers:
        plain = _over(plain, layer.data)
    count = math.prod(map(len, varied.values()))
    if count > MAX_CONFIGS:
        raise LemError(f"{count} combinations; at most {MAX_CONFIGS} are made: vary fewer values at once")
    base_name = str(plain.get("config_name") or base.stem)
    made = []
    for chosen in itertools.product(*varied.values()):
        values = dict(zip(varied, chosen, strict=True))
        name = base_name + "".join(f"_{_label(key)}-{_short(value)}" for key, value in values.items())
        made.append(_made(name, base, plain, layers, values))
    names = [config.name for config in made]
    twice = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if twice:
        raise LemError(f"two combinations would have the name {twice}; vary values that differ in more than signs")
    return made


def _made(name: str, base: Path, plain: Mapping[str, Any], layers: list[Layer], values: dict[str, Any]) -> GridConfig:
    overrides = {key: (value, "cli --vary") for key, value in values.items()}
    overrides["config_name"] = (name, "cli --vary")
    problem = None
    try:
        findings = resolve_layers(layers, overrides=overrides, path=base).findings
        problem = "; ".join(str(each) for each in findings if each.severity == "error") or None
    except LemUsageError as error:
        problem = str(error)
    data = {"config_name": name} | {key: value for key, value in plain.items() if key != "config_name"}
    for key, value in values.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        data = _over(data, nested)
    said = ", ".join(f"{key}={value}" for key, value in values.items())
    return GridConfig(name, values, f"{HEADER}{base.name}: {said}\n{to_yaml(data)}", problem)


def _over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _over(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _label(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[-60:] or "empty"


def write_grid(folder: Path, configs: Sequence[GridConfig]) -> list[Path]:
    """Writes the configurations as `NAME.yaml`, all or none of them; files of earlier grids are replaced.

    Raises:
        LemError: a file of that name was not made by generate-grid, or the folder can't be written.
    """
    make_folder(folder)
    paths = [folder / f"{config.name}.yaml" for config in configs]
    before: dict[Path, bytes | None] = {}
    for path in paths:
        before[path] = path.read_bytes() if path.is_file() else None
        if path.exists() and not (before[path] or b"").startswith(HEADER.encode()):
            raise LemError(f"{shown(path)} is there and was not made by generate-grid; give another --output-dir")
    written = []
    try:
        for path, config in zip(paths, configs, strict=True):
            write_atomically(path, config.text.encode())
            written.append(path)
    except BaseException:
        for path in written:
            old = before[path]
            path.unlink() if old is None else path.write_bytes(old)
        raise
    return paths
