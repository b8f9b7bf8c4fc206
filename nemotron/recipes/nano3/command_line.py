"""The configuration of a stage that is run as a script or by torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from nemotron.kit.train_script import load_omegaconf_yaml, omegaconf_to_dataclass, parse_config_and_overrides

__all__ = ["configured"]

T = TypeVar("T")


def configured(kind: type[T], default: Path) -> T:
    """The configuration that `--config FILE KEY=VALUE …` describes, from `default` without a file."""
    path, _ = parse_config_and_overrides(default)  # the overrides travel with the path
    return omegaconf_to_dataclass(load_omegaconf_yaml(path), kind)
