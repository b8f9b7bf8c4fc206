"""Recipe framework: typed nested commands, configuration, artifacts with lineage, local and remote execution.

    from nemotron.kit import App

Every name is imported from its module when it is first used, so that `--help` loads only what it shows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nemotron.kit.app import App
    from nemotron.kit.artifacts import (
        Artifact,
        ArtifactRegistry,
        ModelArtifact,
        PretrainBlendsArtifact,
        print_step_complete,
        read_piped_artifacts,
        resolve_artifact,
    )
    from nemotron.kit.cli.recipe import ArtifactInput
    from nemotron.kit.errors import KitError, KitUsageError
    from nemotron.kit.execution import RunConfig, build_executor, load_run_profile

__all__ = [
    "App",
    "Artifact",
    "ArtifactInput",
    "ArtifactRegistry",
    "KitError",
    "KitUsageError",
    "ModelArtifact",
    "PretrainBlendsArtifact",
    "RunConfig",
    "build_executor",
    "load_run_profile",
    "print_step_complete",
    "read_piped_artifacts",
    "resolve_artifact",
]

_HOMES = {
    "App": "nemotron.kit.app",
    "Artifact": "nemotron.kit.artifacts",
    "ArtifactInput": "nemotron.kit.cli.recipe",
    "ArtifactRegistry": "nemotron.kit.artifacts",
    "KitError": "nemotron.kit.errors",
    "KitUsageError": "nemotron.kit.errors",
    "ModelArtifact": "nemotron.kit.artifacts",
    "PretrainBlendsArtifact": "nemotron.kit.artifacts",
    "RunConfig": "nemotron.kit.execution",
    "build_executor": "nemotron.kit.execution",
    "load_run_profile": "nemotron.kit.execution",
    "print_step_complete": "nemotron.kit.artifacts",
    "read_piped_artifacts": "nemotron.kit.artifacts",
    "resolve_artifact": "nemotron.kit.artifacts",
}


def __getattr__(name: str) -> Any:
    """The exported name, from its module."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """What `dir()` and completion in a shell show."""
    return sorted(__all__)
