"""What a recipe's script needs to be run by itself: `python train.py --config tiny train.steps=100`, or under torchrun.

    config_path, overrides = parse_config_and_overrides(DEFAULT_CONFIG)
    cfg = omegaconf_to_dataclass(load_omegaconf_yaml(config_path), TrainConfig)

The overrides travel with the path, so that they are in the configuration that is loaded from it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from nemotron.kit.errors import KitError, KitUsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig

__all__ = [
    "ConfigPath",
    "load_omegaconf_yaml",
    "omegaconf_to_dataclass",
    "parse_config_and_overrides",
    "start_tracking",
]

T = TypeVar("T")


class ConfigPath(type(Path())):  # type: ignore[misc]  # the path class of this system
    """A configuration file's path, with what the command line sets over it."""

    overrides: tuple[str, ...] = ()


def parse_config_and_overrides(
    default_config: str | Path | None = None, argv: list[str] | None = None
) -> tuple[ConfigPath, list[str]]:
    """The script's command line: `[--config FILE] [KEY=VALUE]…`.

    FILE is a path from the working folder or from beside the default, or the name of a file in the default's folder.
    From here on a KitError that ends the script is printed as one line.

    Args:
        default_config: the file without `--config`.
        argv: the arguments; `sys.argv` without it.

    Returns:
        (the file, the overrides as typed). `load_omegaconf_yaml` of the path applies the overrides.

    Raises:
        SystemExit: wrong usage, with code 2; `--help`, with code 0.
    """
    _install_hook()
    arguments = sys.argv[1:] if argv is None else argv
    try:
        return _parse(arguments, Path(default_config) if default_config is not None else None)
    except KitUsageError as error:
        _print(error)
        raise SystemExit(2) from error
    except KitError as error:
        _print(error)
        raise SystemExit(1) from error


def _parse(arguments: list[str], default: Path | None) -> tuple[ConfigPath, list[str]]:
    from nemotron.kit.config_files import find_config

    given, overrides = None, []
    rest = iter(arguments)
    for argument in rest:
        flag, sign, value = argument.partition("=")
        if flag in ("--config", "--config-file", "-c"):
            given = value if sign else next(rest, None)
            if not given:
                raise KitUsageError(f"{flag} needs a file")
        elif argument in ("-h", "--help"):
            print(
                f"usage: {Path(sys.argv[0]).name} [--config FILE] [KEY=VALUE]...\n\ndefault FILE: {default or 'none'}"
            )
            raise SystemExit(0)
        elif argument.startswith("-") or not sign:
            raise KitUsageError(f"expected --config FILE and KEY=VALUE, got {argument!r}")
        else:
            overrides.append(argument)
    folders = [default.parent] if default is not None else []
    found = find_config(given, folders) if given is not None else default
    if found is None:
        raise KitUsageError("the script needs --config FILE")
    path = ConfigPath(found)
    path.overrides = tuple(overrides)
    return path, overrides


def load_omegaconf_yaml(path: str | Path, overrides: Sequence[str] | None = None) -> DictConfig:
    """The file as an OmegaConf configuration with its interpolations, `${art:…}` among them; YAML, TOML or JSON.

    Args:
        path: the file.
        overrides: KEY=VALUE texts over it; without them those that came with the path.

    Raises:
        KitError: the file is missing or broken (with the line), or an override can't be meant so.
    """
    from omegaconf import OmegaConf

    from nemotron.kit.cli.compose import art_resolver, correct_pwd
    from nemotron.kit.config import merged, parse_override, register_resolver
    from nemotron.kit.config_files import load_file

    correct_pwd()
    file = load_file(Path(path))
    given = getattr(path, "overrides", ()) if overrides is None else overrides
    assignments = [parse_override(text, None) for text in given]
    register_resolver("art", art_resolver(set(), []))
    config = OmegaConf.create(merged(file.data, assignments))
    object.__setattr__(config, "_nemotron_file", file)
    return config


def omegaconf_to_dataclass(config: DictConfig | dict[str, Any], config_cls: type[T]) -> T:
    """The dataclass that a configuration holds, checked: unknown keys, wrong types and missing values are errors.

    Its `run` section, where it has one, is not part of the dataclass.

    Raises:
        KitError: the configuration does not fit; names the file, the line and the key.
    """
    from nemotron.kit.cli.compose import art_resolver
    from nemotron.kit.config import build, resolve
    from nemotron.kit.config_schema import check_schema

    check_schema(config_cls)
    file = None
    if not isinstance(config, dict):
        from omegaconf import OmegaConf

        file = config.__dict__.get("_nemotron_file")
        config = OmegaConf.to_container(config, resolve=False)
    assert isinstance(config, dict)
    resolved = resolve(config, {"art": art_resolver(set(), [])}, file)
    run = resolved.pop("run", None) or {}
    made = build(resolved, config_cls, file, options=False)
    start_tracking(run)
    return made


def start_tracking(run: dict[str, Any]) -> None:
    """Opens the tracker that `run.wandb` asks for: `{project, entity, …}`; once in a process."""
    wandb = run.get("wandb")
    if not isinstance(wandb, dict) or not wandb.get("project"):
        return
    from nemotron.kit.tracking import WandbTracker, get_tracker, set_tracker

    if get_tracker() is None:
        set_tracker(WandbTracker(project=wandb["project"], entity=wandb.get("entity"), mode=wandb.get("mode")))


def _print(error: BaseException) -> None:
    from medvllm_programs.commands import one_line

    print(f"Error: {one_line(str(error))}", file=sys.stderr)


def _install_hook() -> None:
    """An uncaught KitError is a user's matter: one line, no traceback."""
    before = sys.excepthook
    if getattr(before, "prints_kit_errors", False):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KitError):
            _print(error)
        else:
            before(kind, error, trace)

    hook.prints_kit_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
