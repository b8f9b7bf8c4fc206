"""One configuration out of a file, artifacts and the command line, checked against a dataclass.

Precedence, lowest first: the dataclass's defaults, the file, options, dotted overrides. A file's `run` section is no
part of the dataclass: it names artifacts (`run.data: Name:version`) and the execution environment (`run.env`).
Interpolations are OmegaConf's, `${oc.env:HOME}`, `${run.data}`, and `${art:data,path}` for a field of an artifact;
OmegaConf is imported only where a value has one.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from medvllm_programs.config_text import ConfigFile
from medvllm_programs.files import shown
from nemotron.kit.config_schema import (
    FieldError,
    Key,
    MissingFields,
    convert,
    field_type,
    leaves,
    parse_text,
)
from nemotron.kit.errors import KitError, KitUsageError

__all__ = [
    "Assignment",
    "build",
    "get_at",
    "has_interpolation",
    "merged",
    "parse_override",
    "plain",
    "register_resolver",
    "resolve",
    "set_at",
    "split_run",
]

T = TypeVar("T")
Resolver = Callable[..., Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """A value given on the command line, and how it was written there, for messages."""

    key: Key
    value: Any
    written: str


def has_interpolation(data: Any) -> bool:
    """Whether any text of the data holds `${`."""
    if isinstance(data, dict):
        return any(map(has_interpolation, data.values()))
    if isinstance(data, list | tuple):
        return any(map(has_interpolation, data))
    return isinstance(data, str) and "${" in data


def parse_override(text: str, cls: type | None) -> Assignment:
    """`a.b=value`, typed by the dataclass where there is one; keys of `run` are text.

    Raises:
        KitUsageError: it has no `=`, the key is unknown, or the value is not of its type.
    """
    name, sign, value = text.partition("=")
    key = tuple(name.replace("-", "_").split(".")) if name.split(".")[0] != "run" else tuple(name.split("."))
    if not sign or not all(key):
        raise KitUsageError(f"expected an override KEY=VALUE, got {text!r}")
    if key[0] == "run" or "${" in value:
        if key[0] != "run":
            _known(key, cls, text)
        return Assignment(key, value, text)
    hint = _known(key, cls, text)
    try:
        return Assignment(key, parse_text(value, hint, key), text)
    except MissingFields as error:
        raise KitUsageError(f"{text}: {error.problem}") from error
    except FieldError as error:
        raise KitUsageError(f"{'.'.join(error.key)}: {error.problem} (in {text!r})") from error


def _known(key: Key, cls: type | None, text: str) -> Any:
    if cls is None:
        return Any
    try:
        return field_type(cls, key)
    except FieldError as error:
        near = ""
        if len(key) == 1:  # a nested field may be meant
            tails = [".".join(leaf.key) for leaf in leaves(cls) if leaf.key[-1] == key[0] and len(leaf.key) > 1]
            near = f" Did you mean {tails[0]}?" if tails else ""
        raise KitUsageError(f"{'.'.join(key)}: {error.problem if not near else 'no such field.' + near}") from error


def set_at(data: dict[str, Any], key: Key, value: Any) -> None:
    """Sets a value at a dotted key, making the mappings on the way."""
    for name in key[:-1]:
        inner = data.get(name)
        if not isinstance(inner, dict):
            inner = {}
            data[name] = inner
        data = inner
    data[key[-1]] = value


def get_at(data: Any, key: Key) -> Any:
    """The value at a dotted key, or None."""
    for name in key:
        if not isinstance(data, dict) or name not in data:
            return None
        data = data[name]
    return data


def merged(data: dict[str, Any], assignments: Iterable[Assignment]) -> dict[str, Any]:
    """A copy of the data with the assignments over it, in their order."""
    made = copy.deepcopy(data)
    for assignment in assignments:
        set_at(made, assignment.key, plain(assignment.value))
    return made


def split_run(data: dict[str, Any], file: ConfigFile | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the configuration, its `run` section).

    Raises:
        KitError: `run` is no mapping.
    """
    rest = {key: value for key, value in data.items() if key != "run"}
    section = data.get("run")
    if section is None:
        return rest, {}
    if not isinstance(section, dict):
        where = file.where(("run",)) if file else None
        raise KitError(f"{where + ': ' if where else ''}run: expected a mapping of artifacts, got {section!r}")
    return rest, section


def resolve(data: dict[str, Any], resolvers: dict[str, Resolver], file: ConfigFile | None = None) -> dict[str, Any]:
    """The data with every interpolation replaced by its value.

    Raises:
        KitError: one can't be resolved; names the file, the line and the key.
    """
    if not has_interpolation(data):
        return data
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for name, resolver in resolvers.items():
        register_resolver(name, resolver)
    try:
        made = OmegaConf.create(data)
        found = OmegaConf.to_container(made, resolve=True)
    except OmegaConfBaseException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KitError):
            cause = cause.__cause__ or cause.__context__
        key = _key_of(getattr(error, "full_key", None))
        problem = str(cause) if cause else str(error).splitlines()[0]
        raise KitError(_located(key, problem, file)) from error
    finally:
        for name in resolvers:
            OmegaConf.clear_resolver(name)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def register_resolver(name: str, resolver: Resolver) -> None:
    """Makes `${name:…}` call the function, in OmegaConf 2.3 and from 2.4 on."""
    from omegaconf import OmegaConf

    try:
        OmegaConf.register_resolver(name, resolver, replace=True, use_cache=False)
    except TypeError:  # before 2.4 this was the name of an older function
        OmegaConf.register_new_resolver(name, resolver, replace=True, use_cache=False)


def _key_of(text: str | None) -> Key:
    return tuple((text or "").replace("[", ".").replace("]", "").split(".")) if text else ()


def _located(key: Key, problem: str, file: ConfigFile | None) -> str:
    where = file.where(key) if file and key else None
    parts = [where or (str(file.path) if file and not key else ""), ".".join(key), problem]
    return ": ".join(part for part in parts if part)


def build(data: dict[str, Any], cls: type[T], file: ConfigFile | None = None, *, options: bool = True) -> T:
    """The dataclass instance that resolved data holds.

    Args:
        data: plain data without interpolations.
        cls: the dataclass.
        file: where the data came from, for messages.
        options: whether the command line has an option for each field, for messages.

    Raises:
        KitUsageError: required fields have no value; says where each can be given.
        KitError: an unknown key or a wrong type; names the file, the line and the key.
    """
    try:
        made: T = convert(data, cls)
        return made
    except MissingFields as error:
        first = error.names[0]
        ways = [f"--{first.replace('_', '-')} …"] if options else []
        ways += [f"{first}=…", f"{first}: in {shown(file.path) if file else 'a file by -c'}"]
        raise KitUsageError(f"no value for {', '.join(error.names)}; give {' or '.join(ways)}") from error
    except FieldError as error:
        raise KitError(_located(error.key, error.problem, file)) from error


def plain(value: Any) -> Any:
    """A configuration as plain data: dataclasses as mappings, paths and enums as text."""
    import enum
    from pathlib import PurePath

    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key.name if isinstance(key, enum.Enum) else key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=repr)
    if isinstance(value, enum.Enum):
        return value.name
    return str(value) if isinstance(value, PurePath) else value
