"""The options of a recipe: a frozen dataclass made from the JSON object of `training train --config`."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from medvllm.errors import MedvllmError

__all__ = ["from_config"]

T = TypeVar("T")
_NAMES = {
    int: "an integer",
    float: "a number",
    str: "a string",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def from_config(cls: type[T], config: Mapping[str, Any] | None, *, recipe: str) -> T:
    """An instance of the dataclass `cls` with the values of `config`.

    Raises:
        MedvllmError: an option is unknown, lacking, or of another type than its field.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in (config or {}).items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; the options are {', '.join(fields)}"
            raise MedvllmError(f"the {recipe} recipe has no option '{name}'{hint}")
        values[name] = _checked(name, value, hints[name], recipe)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise MedvllmError(f"the {recipe} recipe needs the option '{name}'; give it in --config FILE.json")
    return cls(**values)


def _checked(name: str, value: Any, hint: Any, recipe: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = [typing.get_origin(kind) or kind for kind in kinds]
    if value is None and types.NoneType in plain:
        return None
    if isinstance(value, bool):
        good = bool in plain
    elif isinstance(value, int) and int not in plain and float in plain:
        return float(value)
    else:
        good = any(isinstance(value, kind) for kind in plain if kind is not types.NoneType)
        if isinstance(value, dict) and good:
            _check_values(name, value, kinds, recipe)
    if not good:
        wanted = " or ".join(_NAMES.get(kind, str(kind)) for kind in plain if kind is not types.NoneType)
        raise MedvllmError(f"the option '{name}' of the {recipe} recipe must be {wanted}, got {value!r}")
    return value


def _check_values(name: str, value: dict[str, Any], kinds: tuple[Any, ...], recipe: str) -> None:
    """Refuses an object with a value that is not of its field's type."""
    wanted = next((typing.get_args(kind)[1] for kind in kinds if typing.get_origin(kind) is dict), None)
    for key, one in value.items():
        good = isinstance(one, int | float) and not isinstance(one, bool) if wanted is float else isinstance(one, str)
        if not good:
            raise MedvllmError(
                f"the option '{name}' of the {recipe} recipe must have {_NAMES[wanted or str]} for '{key}', got {one!r}"
            )
