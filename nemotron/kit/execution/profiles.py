"""Profiles of env.toml: found upward from the working folder, chained by `extends`, checked against RunConfig."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvllm_programs.config_text import ConfigFile
from medvllm_programs.files import shown
from nemotron.kit.config_files import load_file
from nemotron.kit.config_schema import FieldError, convert, did_you_mean
from nemotron.kit.errors import KitError
from nemotron.kit.execution.run_config import RunConfig

__all__ = ["RESERVED_TABLES", "find_env_file", "load_run_profile", "load_table", "make_run_config", "profile_names"]

RESERVED_TABLES = ("wandb", "cli")


def find_env_file(start: Path | None = None) -> Path | None:
    """The env.toml of `start` (the working folder) or nearest above it, up to the folder with pyproject.toml."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "env.toml").is_file():
            return folder / "env.toml"
        if (folder / "pyproject.toml").is_file():
            break
    return None


def _load(path: Path | None) -> ConfigFile:
    found = path or find_env_file()
    if found is None:
        raise KitError(
            f"there is no env.toml in {Path.cwd()} or above it, up to pyproject.toml; write one that has the profile"
        )
    return load_file(found)


def profile_names(path: Path | None = None) -> list[str]:
    """The profiles of env.toml; none where there is no file.

    Raises:
        KitError: the file is broken.
    """
    if path is None and find_env_file() is None:
        return []
    data = _load(path).data
    return [name for name, table in data.items() if isinstance(table, dict) and name not in RESERVED_TABLES]


def load_table(name: str, path: Path | None = None) -> dict[str, Any]:
    """A reserved table of env.toml, such as `wandb`; empty where there is none.

    Raises:
        KitError: the file is broken, or the name is no table.
    """
    if path is None and find_env_file() is None:
        return {}
    file = _load(path)
    table = file.data.get(name, {})
    if not isinstance(table, dict):
        raise KitError(f"{file.where((name,))}: {name}: expected a table [{name}], got {table!r}")
    return table


def load_run_profile(
    name: str,
    *,
    path: str | Path | None = None,
    base: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The profile `[name]` of env.toml with what it extends.

    Args:
        name: the table.
        path: an env.toml; without one it is searched for upward from the working folder.
        base: values under the profile's: a configuration's `run.env`.
        overrides: values over them: `--run.<key>`.

    Raises:
        KitError: no env.toml, no such profile, a cycle of `extends`, an unknown key, a wrong type; names the line.
    """
    file = _load(Path(path) if path else None)
    values = dict(base or {})
    origin: dict[str, str | None] = dict.fromkeys(values, "run.env")
    for table in reversed(_chain(name, file)):
        for key, value in file.data[table].items():
            if key == "extends":
                continue
            values[key] = {**values[key], **value} if _both_tables(values.get(key), value) else value
            origin[key] = file.where((table, key))
    values.update(overrides or {})
    return make_run_config(values, origin)


def _both_tables(first: Any, second: Any) -> bool:
    return isinstance(first, dict) and isinstance(second, dict)


def make_run_config(values: Mapping[str, Any], origin: Mapping[str, str | None] | None = None) -> RunConfig:
    """A checked RunConfig; `${VAR}` in texts is replaced from the environment.

    Raises:
        KitError: an unknown key, a wrong type, or a variable that is not set.
    """
    origin = origin or {}
    known = [field.name for field in dataclasses.fields(RunConfig)]
    expanded: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{origin[key]}: " if origin.get(key) else ""
        if key not in known:
            raise KitError(f"{where}{key}: no such key of a profile.{did_you_mean(key, known)}")
        try:
            expanded[key] = _expanded(value)
        except KeyError as error:
            raise KitError(f"{where}{key}: the environment variable {error.args[0]} is not set") from error
    try:
        made: RunConfig = convert(expanded, RunConfig)
        return made
    except FieldError as error:
        key = error.key[0] if error.key else ""
        where = f"{origin[key]}: " if origin.get(key) else ""
        raise KitError(f"{where}{error}") from error


def _expanded(value: Any) -> Any:
    import re

    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", lambda found: os.environ[found.group(1)], value)
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return value


def _chain(name: str, file: ConfigFile) -> list[str]:
    """The profile and what it extends, nearest first.

    Raises:
        KitError: a name is unknown or reserved, or the chain comes back to itself.
    """
    known = [table for table, value in file.data.items() if isinstance(value, dict) and table not in RESERVED_TABLES]
    chain: list[str] = []
    at: str = name
    while True:
        said = f"{file.where((chain[-1], 'extends'))}: extends: " if chain else f"{shown(file.path)}: "
        if at in chain:
            raise KitError(f"{said}cyclic: {' → '.join([*chain, at])}; take one of them out")
        if at in RESERVED_TABLES:
            raise KitError(f"{said}[{at}] is reserved and no profile{_listed(known)}")
        if at not in known:
            near = did_you_mean(at, known, what="Profiles")
            raise KitError(f"{said}there is no profile {at!r}.{near}")
        chain.append(at)
        following = file.data[at].get("extends")
        if following is None:
            return chain
        if not isinstance(following, str):
            raise KitError(f"{file.where((at, 'extends'))}: extends: expected the name of a profile, got {following!r}")
        at = following


def _listed(known: list[str]) -> str:
    return f"; profiles: {', '.join(known)}" if known else "; there are no profiles yet"
