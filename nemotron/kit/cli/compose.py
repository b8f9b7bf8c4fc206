"""The configuration of one call: the file, the artifacts, what was typed, put together and checked."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvllm_programs.commands import note
from medvllm_programs.config_text import ConfigFile
from medvllm_programs.files import shown
from nemotron.kit.cli.recipe import CommandSpec, Request
from nemotron.kit.config import build, get_at, merged, resolve, set_at, split_run
from nemotron.kit.config_files import find_config, load_file
from nemotron.kit.config_schema import FieldError, Key, did_you_mean, field_type
from nemotron.kit.errors import KitError, KitUsageError

__all__ = ["Composed", "art_resolver", "compose", "correct_pwd", "read_run_section"]


@dataclasses.dataclass(frozen=True, slots=True)
class Composed:
    """A call's configuration in its three forms."""

    file: ConfigFile | None
    data: dict[str, Any]  # with `run` and with interpolations: what a job's script reads
    resolved: dict[str, Any]  # without `run`, interpolations replaced
    config: Any  # the dataclass; None where a dry run can't make it yet
    references: dict[str, str]  # artifact name → reference


def compose(spec: CommandSpec, request: Request, *, env: dict[str, Any] | None = None) -> Composed:
    """Puts the configuration together.

    Lowest first: the dataclass's defaults, an artifact by its default name, the file, an artifact that was chosen
    (`--art`, a pipe, the file's `run` section), options, overrides.

    Args:
        spec: the command.
        request: what was typed.
        env: the profile, as the configuration's `run.env`.

    Raises:
        KitUsageError: a value that was typed does not fit, or a required one is missing.
        KitError: a file, an artifact or an interpolation is wrong.
    """
    correct_pwd()
    schema = spec.schema()
    file = _file(spec, request, schema, tell=True)
    overrides = [each for each in request.overrides if each.key[0] != "run"]
    whole = merged(file.data if file else {}, [each for each in request.overrides if each.key[0] == "run"])
    data, run = split_run(whole, file)
    run = dict(run)
    if env is not None:
        run["env"] = env
    typed = {each.key for each in [*request.flags, *overrides]}
    chosen, default = _references(spec, request, run)
    for name, source in spec.artifacts.items():
        for field, target in source.mappings.items():
            key = tuple(target.split("."))
            _check_mapping(schema, key, name)
            explicit = name in chosen
            if key in typed or (not explicit and (name not in default or get_at(data, key) is not None)):
                continue
            set_at(data, key, f"${{art:{name},{field}}}")
    run.update(default | chosen)
    data = merged(data, [*request.flags, *overrides])
    whole = {**data, "run": run} if run else data
    pending: list[str] = []
    # A preview must not ask for what an earlier step is yet to make; what was typed must be there.
    lenient = ({*default, *chosen} - {*request.artifacts}) if request.dry_run else set()
    resolved = resolve(copy.deepcopy(whole), {"art": art_resolver(lenient, pending)}, file)
    resolved.pop("run", None)
    for each in dict.fromkeys(pending):
        note(each)
    try:
        config: Any = build(resolved, schema, file)
    except KitError:
        if not pending:
            raise
        config = None  # a dry run shows what is known
    return Composed(file, whole, resolved, config, {**default, **chosen})


def read_run_section(spec: CommandSpec, request: Request) -> dict[str, Any]:
    """The `run` section of the file, with what was typed for it over it."""
    file = _file(spec, request, spec.schema(), tell=False)  # `compose` reads the same, and tells
    whole = merged(file.data if file else {}, [each for each in request.overrides if each.key[0] == "run"])
    return split_run(whole, file)[1]


def correct_pwd() -> None:
    """Makes $PWD, which configurations use, the working folder: programs that start others leave it behind."""
    told = os.environ.get("PWD")
    if not told or not os.path.isdir(told) or not os.path.samefile(told, os.curdir):
        os.environ["PWD"] = os.getcwd()


def _file(spec: CommandSpec, request: Request, schema: type, *, tell: bool) -> ConfigFile | None:
    """The file that `-c` or the default means. A default.yaml that is another command's, by its keys, is left to it,
    which a note says if `tell`."""
    path = find_config(request.config, spec.config_folders())
    if path is None:
        return None
    file = load_file(path)
    if request.config is None and _misfit(file, schema):
        beside = [other for other in spec.siblings() if other.config_folders() == spec.config_folders()]
        owner = next((other for other in beside if not _misfit(file, other.schema())), None)
        if owner is not None:
            if tell:
                note(f"{shown(path)} is the configuration of {' '.join(owner.path)}; not used here")
            return None
    return file


def _misfit(file: ConfigFile, schema: type) -> bool:
    """Whether the file has a key at its top that the dataclass does not have."""
    for key in file.data:
        if key == "run":
            continue
        try:
            field_type(schema, (str(key),))
        except FieldError:
            return True
    return False


def _check_mapping(schema: type, key: Key, name: str) -> None:
    try:
        field_type(schema, key)
    except FieldError as error:
        raise KitError(f"the mapping of artifact {name!r}: {error}") from error


def _references(spec: CommandSpec, request: Request, run: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """(references that were chosen, references by default name); both name → reference."""
    from nemotron.kit.artifacts.reference import qualified

    in_file = {name: value for name, value in run.items() if isinstance(value, str)}
    for name in request.artifacts:
        if name not in spec.artifacts and name not in in_file:
            known = [*spec.artifacts, *(name for name in in_file if name not in spec.artifacts)]
            raise KitUsageError(f"--art.{name}: the command reads no such artifact.{did_you_mean(name, known)}")
    chosen = {**in_file, **_piped(spec, request), **request.artifacts}
    for name in chosen.keys() & spec.artifacts.keys():  # a version alone is one of the input's artifact
        chosen[name] = qualified(chosen[name], spec.artifacts[name].default_name)
    default = {
        name: each.default_name
        for name, each in spec.artifacts.items()
        if name not in chosen and each.default_name is not None
    }
    return chosen, default


def _piped(spec: CommandSpec, request: Request) -> dict[str, str]:
    """What a command before this one in a pipe has made; not asked for where `--art` says it all."""
    inputs = {name: each.default_name or "" for name, each in spec.artifacts.items() if name not in request.artifacts}
    if not inputs:
        return {}
    from nemotron.kit.artifacts import match_piped, read_piped_artifacts

    piped = read_piped_artifacts()
    matched = match_piped(piped, inputs)
    if not matched and len(piped) == 1 and len(inputs) == 1:
        matched = {next(iter(inputs)): next(iter(piped.values()))}
    return {name: artifact.reference or str(Path(artifact.path).resolve()) for name, artifact in matched.items()}


def art_resolver(lenient: set[str], pending: list[str]) -> Callable[..., Any]:
    """`${art:name,field}`: a field of the artifact that `run.<name>` names.

    Args:
        lenient: names that may be missing; their interpolation stays as it is.
        pending: takes a note for each of them.
    """

    def art(name: str, field: str = "path", *, _root_: Any) -> Any:
        from nemotron.kit.artifacts import resolve_artifact

        run = _root_.get("run") or {}
        reference = run.get(name)
        if not isinstance(reference, str):
            known = [key for key, value in run.items() if isinstance(value, str)]
            raise KitError(
                f"${{art:{name}}}: there is no artifact run.{name}; give --art.{name} NAME:VERSION, or set it in the "
                f"file's run section.{did_you_mean(name, known)}"
            )
        try:
            return resolve_artifact(reference).value(field)
        except KitError as error:
            if name not in lenient:
                raise KitError(f"artifact {name}: {error}") from error
            pending.append(f"artifact {name} is not there yet: {error}")
            return f"${{art:{name},{field}}}"

    return art
