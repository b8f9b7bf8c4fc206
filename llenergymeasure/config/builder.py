"""Sources of values, one over the other, made into a checked configuration that knows where each value came from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from llenergymeasure.config.choices import BACKENDS
from llenergymeasure.config.findings import Finding, find
from llenergymeasure.config.loading import ConfigFile, load_chain
from llenergymeasure.config.models import ExperimentConfig, settle_section
from llenergymeasure.config.presets import preset_values
from llenergymeasure.env import RESULTS_DIR, origin
from llenergymeasure.errors import LemUsageError
from medvllm_programs.config_text import Key
from medvllm_programs.files import shown

__all__ = ["ConfigError", "Resolved", "dotted", "known_keys", "nearest", "resolve", "resolve_layers"]

# What names an experiment or says where its files go, but does not change what is measured.
_NOT_HASHED = ("config_name", "extra_metadata", "io", "schedule")
_FREE = ("extra_metadata", *BACKENDS)
_SETTLED = ("batching", "decoder", "quantization")
DEFAULT_DATASET = "ai-energy-score"


class ConfigError(LemUsageError):
    """Values that make no configuration; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        super().__init__("; ".join(problems[:3]) + more)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A configuration, where each value came from, and the remarks on it."""

    config: ExperimentConfig
    provenance: dict[str, str]  # dotted key → "default", "env X", "preset x", "file:line", "cli --x"
    findings: tuple[Finding, ...]
    path: Path | None

    def config_hash(self) -> str:
        """SHA-256 of what the measurement depends on: not of names, metadata, times and result folders."""
        data = self.config.model_dump(mode="json", exclude=set(_NOT_HASHED))
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One source of values: nested data, and where a key of it was said."""

    data: dict[str, Any]
    origin: str = ""
    origins: Mapping[Key, str] = dataclasses.field(default_factory=dict)
    file: ConfigFile | None = None

    def where(self, key: Key) -> str:
        """The provenance of a key of this source."""
        if self.file:
            return self.file.where(key)
        found = (self.origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.origins)
        return next(found, self.origin)


def resolve(
    path: Path | None,
    *,
    preset: str | None = None,
    overrides: Mapping[str, tuple[object, str]] = types.MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> Resolved:
    """Builds a configuration: command line over file over preset over environment over defaults.

    Args:
        path: a YAML or JSON file, with those it extends; None for a preset alone.
        preset: a built-in preset's name.
        overrides: dotted key → (value, where it was given, such as "cli --max-tokens").
        environ: the environment; of it, LLM_ENERGY_RESULTS_DIR.

    Raises:
        ConfigError: an unknown key (names the nearest), a value that does not fit, or a required one missing.
        LemError: a file can't be read or is broken.
    """
    layers = []
    if environ.get(RESULTS_DIR):
        layers.append(Layer({"io": {"results_dir": environ[RESULTS_DIR]}}, origin(RESULTS_DIR, environ[RESULTS_DIR])))
    if preset is not None:
        named = {} if path else {"config_name": preset}
        layers.append(Layer({**named, **preset_values(preset)}, f"preset {preset}"))
    if path is not None:
        layers += [Layer(file.data, file=file) for file in load_chain(path)]
    return resolve_layers(layers, overrides=overrides, path=path, preset=preset)


def resolve_layers(
    layers: list[Layer],
    *,
    overrides: Mapping[str, tuple[object, str]] = types.MappingProxyType({}),
    path: Path | None = None,
    preset: str | None = None,
) -> Resolved:
    """As `resolve`, over sources that are given, the weakest first."""
    problems = [problem for layer in layers for problem in _unknown_keys(layer)]
    problems += [
        f"{_option(said)}: {key}: no such key.{nearest(key)}"
        for key, (_, said) in overrides.items()
        if not is_known(key)
    ]
    if problems:
        raise ConfigError(problems)
    data: dict[str, Any] = {}
    places: dict[Key, str] = {}
    for layer in layers:
        _merge(data, _settled(layer.data), layer, places)
    if overrides:
        layer = _override_layer(data, overrides)
        _merge(data, _settled(layer.data), layer, places)
    config = _build(data, places, path=path, preset=preset)
    provenance = {".".join(key): _place(places, key) for key, _ in _flatten(config.model_dump(mode="json"))}
    return Resolved(config, provenance, find(config), path)


def _place(places: Mapping[Key, str], key: Key) -> str:
    return next((places[key[:end]] for end in range(len(key), 0, -1) if key[:end] in places), "default")


def _settled(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: settle_section(name, value) if name in _SETTLED and isinstance(value, Mapping) else value
        for name, value in data.items()
    }


def _merge(into: dict[str, Any], data: Mapping[str, Any], layer: Layer, places: dict[Key, str], at: Key = ()) -> None:
    """Puts a source over what is there: mappings are merged, everything else is replaced."""
    for name, value in data.items():
        key = (*at, str(name))
        if value is None and not at and name in _sections():
            continue  # `batching:` with nothing below it
        if isinstance(value, Mapping) and value:
            inner = into.get(name)
            if not isinstance(inner, dict) or _other_kind(inner, value):
                inner = into[name] = {}
                _forget(places, key)
            _merge(inner, value, layer, places, key)
        elif not (isinstance(value, Mapping) and isinstance(into.get(name), dict)):  # {} adds nothing to a section
            into[name] = value
            _forget(places, key)
            places[key] = layer.where(key)


@functools.cache
def _sections() -> frozenset[str]:
    """The sections that are always there."""
    fields = ExperimentConfig.model_fields
    return frozenset(name for name, inner in known_fields(ExperimentConfig).items() if inner and fields[name].default)


def _other_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `prompts` changes from a file to the hub or back: what belonged to the other is no value of it."""
    return "type" in new and "type" in old and old["type"] != new["type"]


def _forget(places: dict[Key, str], key: Key) -> None:
    for other in [each for each in places if each[: len(key)] == key]:
        del places[other]


def _override_layer(data: Mapping[str, Any], overrides: Mapping[str, tuple[object, str]]) -> Layer:
    """The command line's values as one source."""
    nested: dict[str, Any] = {}
    origins: dict[Key, str] = {}
    for dotted, (value, said) in _with_prompt_rules(data, overrides).items():
        key = tuple(dotted.split("."))
        place = nested
        for section in key[:-1]:
            place = place.setdefault(section, {})
        place[key[-1]] = value
        origins[key] = said
        origins.setdefault(key[:1], said)  # of what follows from it
    return Layer(nested, origins=origins)


def _with_prompt_rules(
    data: Mapping[str, Any], overrides: Mapping[str, tuple[object, str]]
) -> dict[str, tuple[object, str]]:
    """The overrides, and what those that choose prompts entail.

    A data set named here leaves behind the split and column of the file's; a prompts file leaves behind its data set;
    a limit replaces that of the source, whichever it is.
    """
    found = dict(overrides)
    section, prompts = data.get("dataset"), data.get("prompts")
    narrowing = [key for key in ("dataset.split", "dataset.column") if key in found]
    if "dataset.name" in found:
        for key in ("dataset.split", "dataset.column"):
            found.setdefault(key, (None, found["dataset.name"][1]))
    elif narrowing and ("prompts.path" in found or not section):
        said = found[narrowing[0]][1]
        kind = "file" if "prompts.path" in found else prompts.get("type") if isinstance(prompts, Mapping) else None
        if kind == "file":
            raise LemUsageError(f"{_option(said)}: a prompts file has no split or column; name a --dataset")
        if kind is None:
            found["dataset.name"] = (DEFAULT_DATASET, said)
        for key in narrowing if kind else ():
            found[key.replace("dataset", "prompts")] = found.pop(key)
    if "prompts.path" in found:
        said = found["prompts.path"][1]
        found["prompts.type"] = ("file", said)
        if "dataset.name" not in found:
            found["dataset"] = (None, said)
    if "num_input_prompts" in found:
        said = found["num_input_prompts"][1]
        for name, values in (("dataset", section), ("prompts", prompts)):
            if isinstance(values, Mapping) and "sample_size" in values and name not in found:
                found[f"{name}.sample_size"] = (None, said)
    return found


def _option(said: str) -> str:
    """An origin as an error names it: the option itself, or the file and line."""
    return said.removeprefix("cli ")


def _build(
    data: dict[str, Any], places: Mapping[Key, str], *, path: Path | None, preset: str | None
) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        problems = [_problem(each, places, path, preset) for each in error.errors(include_url=False)]
        raise ConfigError(problems) from error


def _problem(error: Any, places: Mapping[Key, str], path: Path | None, preset: str | None) -> str:
    """One line about one value: where it was given, its key, what was expected and what came."""
    loc = [str(part) for part in error["loc"]]
    if loc[:1] == ["prompts"] and len(loc) > 1:
        del loc[1]  # the kind of prompts, which is no key
    key = ".".join(loc)
    if error["type"] == "missing":
        if key == "model_name":
            source = f"preset {preset} needs a model" if path is None else f"{shown(path)}: model_name is missing"
            return f"{source}; give --model (a name on the hub or a folder)"
        return f"{shown(path) if path else 'the configuration'}: {key} is missing"
    inside = (said for at, said in places.items() if at[: len(loc)] == tuple(loc))
    place = next(inside, _place(places, tuple(loc)))
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "union_tag_not_found":
        said = "type is missing: file or huggingface"
    came = "" if ", got " in said or isinstance(error["input"], Mapping) else f", got {error['input']!r}"
    return f"{_option(place)}: {key}: {said}{came}"


def _unknown_keys(layer: Layer) -> Iterator[str]:
    for key in _walk(layer.data, ExperimentConfig, ()):
        yield f"{_option(layer.where(key))}: {'.'.join(key)}: no such key.{nearest('.'.join(key))}"


def _walk(data: Mapping[str, Any], model: type[BaseModel], at: Key) -> Iterator[Key]:
    fields = known_fields(model)
    for name, value in data.items():
        if name not in fields:
            yield (*at, str(name))
        elif isinstance(value, Mapping) and len(fields[name]) == 1:
            yield from _walk(value, fields[name][0], (*at, name))
        elif isinstance(value, Mapping) and fields[name]:
            yield from _walk_any(value, fields[name], (*at, name))


def _walk_any(data: Mapping[str, Any], models: list[type[BaseModel]], at: Key) -> Iterator[Key]:
    """Keys that none of several models has: of prompts, whose type may be missing or wrong."""
    chosen = [model for model in models if data.get("type") in get_args(model.model_fields["type"].annotation)]
    names = {name for model in chosen or models for name in model.model_fields}
    yield from ((*at, str(name)) for name in data if name not in names)


def known_fields(model: type[BaseModel]) -> dict[str, list[type[BaseModel]]]:
    """A model's fields, each with the models that it may hold."""
    return {name: list(_models(field.annotation)) for name, field in model.model_fields.items()}


def _models(hint: Any) -> Iterator[type[BaseModel]]:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield hint
    elif get_origin(hint) is Annotated:
        yield from _models(get_args(hint)[0])
    elif get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _models(part)


@functools.cache
def known_keys() -> tuple[str, ...]:
    """Every key that holds a value, dotted, in the order of declaration."""

    def keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, inner in known_fields(model).items():
            if not inner:
                yield prefix + name
            for each in inner:
                yield from keys(each, f"{prefix}{name}.")

    return tuple(dict.fromkeys(keys(ExperimentConfig, "")))


def is_known(key: str) -> bool:
    """Whether a dotted key is a value, a section, or lies in a section of free keys."""
    free = any(key.startswith(f"{name}.") for name in _FREE)
    return free or any(each == key or each.startswith(f"{key}.") for each in known_keys())


def nearest(key: str) -> str:
    """' Did you mean x?' for a key that is not there: the same name in another section, or one spelt like it."""
    import difflib

    here, _, last = key.rpartition(".")
    leaves = {each: each.rpartition(".") for each in known_keys()}
    if same := [each for each, (_, _, name) in leaves.items() if name == last]:
        return f" Did you mean {' or '.join(same[:2])}?"
    inside = [each for each, (section, _, _) in leaves.items() if section == here]
    sections = list(dict.fromkeys(each.split(".")[0] for each in leaves))
    names = dict.fromkeys(inside + sections) | {name: None for _, _, name in leaves.values()}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6) or difflib.get_close_matches(last, names, n=1)
    if near:
        full = [each for each, (_, _, name) in leaves.items() if name == near[0] and near[0] not in leaves]
        return f" Did you mean {' or '.join((full or near)[:2])}?"
    if inside and here:
        return f" There are: {', '.join(leaves[each][2] for each in inside)}."
    return " `lem config show` lists the keys there are."


def dotted(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested data by dotted keys; an empty mapping is a value."""
    return {".".join(key): value for key, value in _flatten(data)}


def _flatten(data: Mapping[str, Any], at: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in data.items():
        key = (*at, str(name))
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, key)
        else:
            yield key, value
