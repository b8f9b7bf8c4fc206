"""Dataclasses as schemas: their fields with dotted keys, and values made of text and of plain data by their types.

Types: bool, int, float, str, Path, None, Any, Enum, Literal, Optional and other unions, list, tuple, set, dict, and
dataclasses in each other. A wrong value raises FieldError, which names the key; the caller adds the file and line.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

from nemotron.kit.errors import KitError

__all__ = [
    "MISSING",
    "FieldError",
    "Key",
    "Leaf",
    "MissingFields",
    "check_schema",
    "choices",
    "convert",
    "did_you_mean",
    "field_type",
    "is_bool",
    "is_many",
    "leaves",
    "own_fields",
    "parse_text",
    "parse_texts",
    "type_name",
]

MISSING = dataclasses.MISSING
Key = tuple[str, ...]
_LISTS: dict[Any, type] = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
    collections.abc.Iterable: list,
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_SCALARS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Path: "a path"}


class FieldError(KitError):
    """A value that does not fit its field. `key` is the path of the field, `problem` what is wrong with it."""

    def __init__(self, key: Key, problem: str) -> None:
        self.key = key
        self.problem = problem
        super().__init__(f"{'.'.join(key)}: {problem}" if key else problem)


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """A field that holds a value, not further fields."""

    key: Key  # ("optimizer", "lr")
    type: Any
    default: Any  # MISSING where a value is required
    owner: type  # the dataclass that declares it
    metadata: Mapping[str, Any]


def check_schema(cls: Any) -> None:
    """Refuses what is no dataclass.

    Raises:
        KitError: `cls` is no dataclass type.
    """
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise KitError(f"a configuration class must be a dataclass, got {cls!r}; decorate it with @dataclass")


@functools.lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise KitError(f"{cls.__name__}: the type of a field is not known: {error}; import it in its module") from error


def bare(hint: Any) -> Any:
    """The type behind Annotated, NewType, ClassVar-like wrappers and `type X = …` names."""
    while True:
        if get_origin(hint) in (Annotated, typing.Final):
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    hint = bare(hint)
    return tuple(map(bare, get_args(hint))) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def nested(hint: Any) -> type | None:
    """The dataclass that a field holds, where it holds one (or None)."""
    kinds = [kind for kind in members(hint) if kind is not type(None)]
    if len(kinds) == 1 and isinstance(kinds[0], type) and dataclasses.is_dataclass(kinds[0]):
        return kinds[0]
    return None


def own_fields(cls: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """(field, type) of each field that the constructor takes."""
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        if field.init:
            yield field, hints[field.name]


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default, made where it has a factory; MISSING where it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def leaves(cls: type, prefix: Key = (), default: Any = MISSING) -> list[Leaf]:
    """All fields with values, nested ones with dotted keys, in the order of declaration.

    Raises:
        KitError: the dataclass contains itself, or a type is not known.
    """
    if len(prefix) > 16:
        raise KitError(f"{cls.__name__} contains itself ({'.'.join(prefix[:3])}…); a configuration must be a tree")
    found = []
    for field, hint in own_fields(cls):
        value = default_of(field)
        if default is not MISSING and default is not None:
            value = getattr(default, field.name)
        inner = nested(hint)
        if inner is not None:
            found += leaves(inner, (*prefix, field.name), value)
        else:
            found.append(Leaf((*prefix, field.name), hint, value, cls, field.metadata))
    return found


def field_type(cls: type, key: Key) -> Any:
    """The type at a dotted key; `Any` inside of free-form dictionaries.

    Raises:
        FieldError: there is no such field; names the nearest ones.
    """
    kind: Any = cls
    for depth, name in enumerate(key):
        inner = nested(kind)
        if inner is None:
            maps = [part for part in members(kind) if part is Any or _is_mapping(part)]
            if not maps:
                problem = f"{'.'.join(key[:depth])} is {type_name(kind)}, it has no keys of its own"
                raise FieldError(key, problem)
            arguments = get_args(maps[0])
            kind = arguments[1] if len(arguments) == 2 else Any
            continue
        known = {field.name: hint for field, hint in own_fields(inner)}
        if name not in known:
            raise FieldError(key, f"no such field in {inner.__name__}.{did_you_mean(name, known)}")
        kind = known[name]
    return kind


def did_you_mean(name: str, known: Iterable[str], *, what: str = "Known") -> str:
    """' Did you mean x?' where a known name is near, else the names there are."""
    import difflib

    known = list(known)
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=2, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f" {what}: {shown or 'none'}."


def _is_mapping(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, collections.abc.Mapping)


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint) or hint
    return origin in _LISTS or origin is tuple


def is_many(hint: Any) -> bool:
    """Whether a field's option may be repeated: a list, tuple, set or dictionary."""
    kinds = [kind for kind in members(hint) if kind is not type(None)]
    return len(kinds) == 1 and (_is_list(kinds[0]) or _is_mapping(kinds[0]))


def is_bool(hint: Any) -> bool:
    """Whether a field is a switch."""
    return [kind for kind in members(hint) if kind is not type(None)] == [bool]


def choices(hint: Any) -> list[str] | None:
    """The texts that a Literal or Enum field takes."""
    found: list[str] = []
    for kind in members(hint):
        if get_origin(kind) is Literal:
            found += [str(value) for value in get_args(kind)]
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            found += [member.name for member in kind]
        elif kind is not type(None):
            return None
    return found


def type_name(hint: Any) -> str:
    """A type as a user reads it."""
    hint = bare(hint)
    kinds = members(hint)
    if len(kinds) > 1:
        return " or ".join("null" if kind is type(None) else type_name(kind) for kind in kinds)
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is type(None):
        return "null"
    values = choices(hint)
    if values is not None:
        return f"one of {', '.join(values)}"
    if _is_mapping(hint):
        return "a mapping"
    if _is_list(hint):
        inner = [part for part in get_args(hint) if part is not ...]
        return f"a list ({type_name(inner[0])} each)" if len(set(inner)) == 1 else "a list"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"a mapping of {hint.__name__}'s fields"
    return getattr(hint, "__name__", str(hint))


def parse_text(text: str, hint: Any, key: Key = ()) -> Any:
    """A value of type `hint` from what was typed on a command line.

    Raises:
        FieldError: the text is no such value.
    """
    kinds = sorted(members(hint), key=lambda kind: (kind is str or kind is Any, kind is Path))  # text takes anything
    for kind in kinds:
        try:
            return _parse_one(text, kind, key)
        except FieldError as error:
            if len(error.key) > len(key) or isinstance(error, _NotYaml):  # the detail says more
                raise
    raise FieldError(key, f"expected {type_name(hint)}, got {text!r}")


def _parse_one(text: str, kind: Any, key: Key) -> Any:
    if kind is type(None):
        if text.lower() in ("null", "none", "~"):
            return None
        raise FieldError(key, "")
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        raise FieldError(key, f"expected true or false, got {text!r}")
    if kind is Any or _is_list(kind) or _is_mapping(kind) or nested(kind):
        return convert(_flow(text, key), kind, key)
    return convert(text, kind, key)


def _flow(text: str, key: Key) -> Any:
    from medvllm_programs.config_text import parse_value

    try:
        return parse_value(text)
    except ValueError as error:
        raise _NotYaml(key, f"{text!r} is no YAML value: {error}") from error


def parse_texts(texts: list[str], hint: Any, key: Key = ()) -> Any:
    """The value of an option that may be repeated: items of a list, or KEY=VALUE of a mapping, or one YAML value.

    Raises:
        FieldError: a text is no such value.
    """
    kind = next(kind for kind in members(hint) if kind is not type(None))
    arguments = [part for part in get_args(kind) if part is not ...]
    if len(texts) == 1 and texts[0].lstrip().startswith("{" if _is_mapping(kind) else "["):
        return parse_text(texts[0], kind, key)
    if not _is_mapping(kind):
        fixed = get_origin(kind) is tuple and len(set(arguments)) > 1
        item = arguments[0] if arguments and not fixed else Any
        return convert([text if fixed else parse_text(text, item, key) for text in texts], kind, key)
    made = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise FieldError(key, f"expected KEY=VALUE, got {text!r}")
        made[name] = parse_text(value, arguments[1] if len(arguments) == 2 else Any, (*key, name))
    return convert(made, kind, key)


def convert(value: Any, hint: Any, key: Key = ()) -> Any:
    """A value of type `hint` from plain data: what YAML, TOML and JSON hold, with dataclasses as mappings.

    Text becomes a number or a switch where the field is one, as environment variables give text only; numbers do not
    become text.

    Raises:
        FieldError: the value does not fit, a key is unknown, or a required one is missing.
    """
    kinds = members(hint)
    if len(kinds) == 1:
        return _convert_one(value, kinds[0], key)
    exact = [kind for kind in kinds if _is_exact(value, kind)]
    failures = []
    for kind in [*exact, *sorted(kinds, key=lambda kind: kind is str)]:
        try:
            return _convert_one(value, kind, key)
        except FieldError as error:
            failures.append(error)
    deep = [failure for failure in failures if len(failure.key) > len(key)]
    raise deep[0] if deep else FieldError(key, _mismatch(value, hint))


def _is_exact(value: Any, kind: Any) -> bool:
    return kind is type(value) or (kind is Any)


def _mismatch(value: Any, hint: Any) -> str:
    problem = f"expected {type_name(hint)}, got {_shown(value)}"
    if str in members(hint) and isinstance(value, bool | int | float):
        problem += f"; put it in quotes: '{str(value).lower() if isinstance(value, bool) else value}'"
    return problem


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return "null" if value is None else repr(value)


def _convert_one(value: Any, kind: Any, key: Key) -> Any:
    if kind is Any:
        return value
    if kind is None or kind is type(None):
        if value is None:
            return None
    elif kind in _SCALARS:
        made = _scalar(value, kind)
        if made is not None:
            return made
    elif get_origin(kind) is Literal:
        for allowed in get_args(kind):
            if (value == allowed and type(value) is type(allowed)) or (
                isinstance(value, str) and value == str(allowed)
            ):
                return allowed
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _enum(value, kind, key)
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(value, kind, key)
    elif _is_mapping(kind):
        return _mapping(value, kind, key)
    elif _is_list(kind):
        return _list(value, kind, key)
    elif not isinstance(kind, type) or isinstance(value, kind):
        return value
    raise FieldError(key, _mismatch(value, kind))


def _scalar(value: Any, kind: type) -> Any:
    """The value as bool, int, float, str or Path, or None where it is not one without loss."""
    if kind is Path:
        return Path(value) if isinstance(value, str | Path) else None
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool:
        text = value.lower() if isinstance(value, str) else ""
        return value if isinstance(value, bool) else True if text in _TRUE else False if text in _FALSE else None
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if kind is float or not isinstance(value, int | str) else int(value)
    except (TypeError, ValueError):
        try:
            number = float(value)  # 1e9 for an integer
        except (TypeError, ValueError):
            return None
    if kind is int and not isinstance(number, int):
        return int(number) if number.is_integer() else None
    return number


def _enum(value: Any, kind: type[enum.Enum], key: Key) -> enum.Enum:
    for member in kind:
        if value in (member, member.name, member.value) or (isinstance(value, str) and value == str(member.value)):
            return member
    for member in kind:
        if isinstance(value, str) and value.lower() == member.name.lower():
            return member
    raise FieldError(key, _mismatch(value, kind))


def _mapping(value: Any, kind: Any, key: Key) -> Any:
    if not isinstance(value, Mapping):
        raise FieldError(key, _mismatch(value, kind))
    arguments = get_args(kind)
    if len(arguments) != 2:
        return dict(value)
    names, values = arguments
    return {
        convert(name if names is not str else str(name), names, (*key, str(name))): convert(
            item, values, (*key, str(name))
        )
        for name, item in value.items()
    }


def _list(value: Any, kind: Any, key: Key) -> Any:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, collections.abc.Iterable):
        raise FieldError(key, _mismatch(value, kind))
    items, arguments = list(value), get_args(kind)
    if (get_origin(kind) or kind) is tuple:
        fixed = arguments and not (len(arguments) == 2 and arguments[1] is ...)
        if fixed and len(items) != len(arguments):
            raise FieldError(key, f"expected {len(arguments)} values, got {len(items)}")
        each = arguments if fixed else (arguments[0] if arguments else Any,) * len(items)
        return tuple(
            convert(item, hint, (*key, str(i))) for i, (item, hint) in enumerate(zip(items, each, strict=True))
        )
    hint = arguments[0] if arguments else Any
    made = [convert(item, hint, (*key, str(i))) for i, item in enumerate(items)]
    return _LISTS[get_origin(kind) or kind](made)


def _dataclass(value: Any, kind: type, key: Key) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise FieldError(key, _mismatch(value, kind))
    known = dict((field.name, (field, hint)) for field, hint in own_fields(kind))
    for name in value:
        if name not in known:
            raise FieldError((*key, str(name)), f"no such field in {kind.__name__}.{did_you_mean(str(name), known)}")
    made: dict[str, Any] = {}
    missing = []
    for name, (field, hint) in known.items():
        if name in value and not (isinstance(value[name], str) and value[name] == "???"):  # OmegaConf's "to be given"
            inner = nested(hint)
            item = value[name]
            if inner is not None and isinstance(item, Mapping):
                item = _over_default(default_of(field), item, inner)
            made[name] = convert(item, hint, (*key, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            missing.append(".".join((*key, name)))
    if missing:
        raise MissingFields(key, missing)
    try:
        return kind(**made)
    except (ValueError, TypeError, AssertionError) as error:  # the dataclass's own __post_init__
        raise FieldError(key, f"{kind.__name__}: {error}") from error


def _over_default(default: Any, given: Mapping[str, Any], kind: type) -> Mapping[str, Any]:
    """What is given of a nested dataclass over the value that its parent's default holds."""
    if not isinstance(default, kind):
        return given
    hints = {field.name: hint for field, hint in own_fields(kind)}
    merged = {name: getattr(default, name) for name in hints}
    for name, value in given.items():
        inner = nested(hints.get(name))
        deep = inner is not None and isinstance(value, Mapping)
        merged[name] = _over_default(merged[name], value, inner) if deep and inner else value
    return merged


class _NotYaml(FieldError):
    """A text that should hold a list or mapping and is no YAML."""


class MissingFields(FieldError):
    """Required fields without a value; `names` are their dotted keys."""

    def __init__(self, key: Key, names: list[str]) -> None:
        super().__init__(key, f"no value for {', '.join(names)}")
        self.names = names
